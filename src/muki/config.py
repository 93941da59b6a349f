"""The run file as typed models: unknown keys are refused with the nearest known one, all errors are shown at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from muki.errors import ConfigError
from muki.files import require_local, write_text
from muki.methods import DEFAULT_METHOD, PRESETS, Method, changed, preset_name
from muki.overrides import apply_overrides
from muki.validation import nearest, validated

IN_MEMORY = "(in memory)"
RUN_MARK = "# Resolved settings, written by muki: the folder of this file is a run folder.\n"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class _Named(_Section):
    """A section that may be written as its one needed setting alone: `student: BASE`."""

    needed: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return {cls.needed: value} if isinstance(value, str) else value


class TeacherConfig(_Named):
    """One teacher."""

    needed = "model"
    model: str = Field(description="folder, Hub id, or PEFT adapter folder")
    name: str | None = Field(None, min_length=1, description="name in the run; the folder's name by default")
    labels: dict[str, str] = Field(default_factory=dict, description="own label name to wanted name")
    prefix: str = Field("", description='put before each text, e.g. "query: "')
    max_length: int = Field(128, ge=2, description="tokens per text")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: float32, and dropout passes in bfloat16 where this machine computes it faster"
    )
    revision: str | None = Field(None, description="of a Hub repository")
    dropout_override: float | None = Field(None, gt=0, lt=1, description="set all dropout rates to this")

    @field_validator("labels", mode="before")
    @classmethod
    def _names_are_text(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        for key, name in value.items():
            if name is None or isinstance(name, bool):
                raise ValueError(
                    f"the name for '{key}' is {name}, expected text; put words like yes, no, on and off in quotes"
                )
        return {str(k): str(v) for k, v in value.items()}


class StudentConfig(_Named):
    """What the student starts from."""

    needed = "model"
    model: str = Field(description="folder or Hub id of an encoder or a classifier")
    max_length: int = Field(128, ge=2, description="tokens per text")
    prefix: str = Field("", description="put before each text, in training and prediction")


class TextsConfig(_Named):
    """The unlabelled pool."""

    needed = "path"
    path: str = Field(
        description="jsonl, csv, tsv, txt (also .gz), parquet, a folder of these, a URL, or a Hub data set "
        "(`org/name` or `org/name:configuration`)"
    )
    text: str = Field("text", description="column of the text")
    text_pair: str | None = Field(None, description="column of the second text of a pair")
    label: str | None = Field(None, description="column of the gold label; read by oracle and supervised only")
    id: str | None = Field(None, description="column of an id; 'id' is used where it is there")
    split: str = Field("train", description="of a Hub data set")
    limit: int | None = Field(None, ge=1, description="only the first texts")
    shard_rows: int = Field(1024, ge=1, description="texts per shard; an interruption costs one shard at most")


class TestConfig(_Named):
    """Labelled texts, used for nothing but evaluation."""

    needed = "path"
    __test__ = False  # not a test case, whatever its name says to pytest

    path: str = Field(description="same forms as the pool")
    text: str | None = Field(None, description="column of the text; the pool's by default")
    text_pair: str | None = Field(None, description="column of the second text; the pool's by default")
    label: str = Field("label", description="column of the gold label, by name")
    split: str = Field("test", description="of a Hub data set")
    limit: int | None = Field(None, ge=1, description="only the first texts")


class ScoringConfig(_Section):
    """How teachers are run; decides speed and memory, and the seed of the dropout masks."""

    seed: int = Field(0, ge=0, description="of the dropout masks")
    processes: int = Field(1, ge=1, description="processes on this machine that share the work")
    batch_tokens: int = Field(2048, ge=1, description="tokens per batch, padding included")
    keep: Literal["", "features", "states", "features+states"] = Field(
        "", description="what else of the deterministic passes is kept; a method adds what it needs"
    )


FEWEST_STEPS = 500  # a student of a few hundred texts would otherwise stop before it has learned much


class TrainingConfig(BaseModel):
    """How the student is trained. Every other field of transformers' `TrainingArguments` passes through by name."""

    model_config = ConfigDict(extra="allow", validate_default=True)

    epochs: float | None = Field(
        None, gt=0, description=f"by default 3, or as many as make {FEWEST_STEPS} steps of a small pool"
    )
    learning_rate: float = Field(5e-5, gt=0, description="at its highest, after a tenth of the steps")
    batch_size: int = Field(32, ge=1, description="texts a step and device")
    seed: int = Field(
        1, ge=0, description="of a new head, the order of texts, dropout and the choice of held-out texts"
    )
    holdout: float = Field(0.1, ge=0, lt=1, description="share of the pool kept unlabelled to choose the checkpoint by")
    head: Literal["probe", "random"] = Field(
        "probe", description="the student's first head: the best for its encoder as it is, or small random numbers"
    )
    patience: int | None = Field(None, ge=1, description="stop after so many evaluations without a better loss")

    def epochs_of(self, steps_per_epoch: int) -> float:
        """How often the texts are read: what was asked for, or enough for a new head to learn."""
        if self.epochs is not None:
            return self.epochs
        return max(3.0, float(math.ceil(FEWEST_STEPS / max(1, steps_per_epoch))))

    @property
    def passed_through(self) -> dict[str, Any]:
        """The fields meant for `TrainingArguments`."""
        extra = dict(self.model_extra or {})
        # YAML reads an unquoted `no` as False; for a strategy it can only mean the word.
        return {k: "no" if v is False and k.endswith("_strategy") else v for k, v in extra.items()}

    @model_validator(mode="wrap")
    @classmethod
    def _known_to_transformers(cls, values: Any, handler: ModelWrapValidatorHandler[TrainingConfig]) -> TrainingConfig:
        """Check the names of passed-through fields, and show what is wrong with them beside what is wrong elsewhere."""
        problems = cls._unknown(values) if isinstance(values, dict) else []
        found: list[InitErrorDetails] = []
        try:
            result = handler(values)
        except ValidationError as error:
            found = [
                {"type": PydanticCustomError(e["type"], e["msg"]), "loc": e["loc"], "input": e["input"]}
                for e in error.errors()
            ]
            if not problems:
                raise
        if problems:
            said = PydanticCustomError("value_error", "{said}", {"said": "; ".join(problems)})
            raise ValidationError.from_exception_data(cls.__name__, [*found, {"type": said, "loc": (), "input": None}])
        return result

    @classmethod
    def _unknown(cls, values: dict[str, Any]) -> list[str]:
        extra = [key for key in values if key not in cls.model_fields]
        if not extra:
            return []
        from transformers import TrainingArguments

        ours = {
            "num_train_epochs": "epochs", "per_device_train_batch_size": "batch_size", "output_dir": "the run's output",
            "metric_for_best_model": "nothing (the integration loss on held-out texts)",
            "label_names": "nothing", "remove_unused_columns": "nothing",
        }  # fmt: skip
        known = set(TrainingArguments.__dataclass_fields__) | set(cls.model_fields)
        return [
            f"'{key}': set {ours[key]} instead" if key in known else f"unknown key '{key}'{nearest(str(key), known)}"
            for key in extra
            if key not in known or key in ours
        ]


class RunConfig(_Section):
    """A whole run."""

    teachers: list[TeacherConfig] = Field(description="two or more")
    student: StudentConfig = Field(description="what it starts from")
    texts: TextsConfig = Field(description="the unlabelled pool")
    test: TestConfig | None = Field(None, description="labelled texts, for evaluation only")
    method: Method = Field(PRESETS[DEFAULT_METHOD], description="how supervision is made, and what is trained with it")
    scoring: ScoringConfig = Field(default_factory=ScoringConfig, description="how teachers are run")
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="how the student is trained")
    output: str = Field(description="the run folder; a second call continues or reuses what is there")
    trust_remote_code: bool = Field(False, description="run code that comes with a checkpoint")

    @field_validator("method", mode="before")
    @classmethod
    def _preset(cls, value: object) -> object:
        if isinstance(value, str):
            return changed(value, {})
        if isinstance(value, Mapping) and "preset" in value:
            return changed(value["preset"], {key: part for key, part in value.items() if key != "preset"})
        return value

    @field_validator("teachers")
    @classmethod
    def _two_or_more(cls, teachers: list[TeacherConfig]) -> list[TeacherConfig]:
        if len(teachers) < 2:
            raise ValueError(f"two or more teachers are needed, found {len(teachers)}")
        return teachers

    @model_validator(mode="after")
    def _gold_for_ceilings(self) -> RunConfig:
        if self.method.needs_gold and self.texts.label is None:
            raise ValueError(
                f"method: '{preset_name(self.method)}' is a ceiling that reads the pool's gold labels; name their "
                "column (texts: {label: label}), or choose a method for unlabelled texts such as muki"
            )
        return self

    @model_validator(mode="after")
    def _name_teachers(self) -> RunConfig:
        """Give every teacher a name of its own, from its folder's."""
        given = [teacher.name for teacher in self.teachers if teacher.name]
        folded = [name.casefold() for name in given]  # each names a folder, and some systems tell no case
        twice = sorted({name for name, plain in zip(given, folded, strict=True) if folded.count(plain) > 1})
        if twice:
            raise ValueError(
                f"teachers: name '{twice[0]}' is given twice; names must differ, and not in upper and lower case alone"
            )
        taken = set(folded)
        for teacher in self.teachers:
            if teacher.name is None:
                base = Path(teacher.model).name or "teacher"
                choices = [
                    base,
                    f"{Path(teacher.model).parent.name}-{base}".strip("-"),
                    *(f"{base}-{i}" for i in range(2, 99)),
                ]
                teacher.name = next(name for name in choices if name.casefold() not in taken)
                taken.add(teacher.name.casefold())
            if teacher.name != Path(teacher.name).name or teacher.name.startswith("."):
                raise ValueError(
                    f"teachers: name '{teacher.name}' cannot name a folder; leave out '/' and a leading '.'"
                )
        return self

    @model_validator(mode="after")
    def _prefix_of_merged(self) -> RunConfig:
        """A student that is the average of its teachers reads texts as they all do."""
        prefixes = {teacher.prefix for teacher in self.teachers}
        if self.method.student == "merged" and not self.student.prefix and len(prefixes) == 1:
            self.student.prefix = prefixes.pop()
        return self

    @property
    def names(self) -> list[str]:
        """The teachers' names, in order."""
        return [teacher.name or "" for teacher in self.teachers]

    def absolute(self) -> RunConfig:
        """The same run with local paths made absolute, so that it can be continued from any folder."""
        copy = self.model_copy(deep=True)
        for section, key in [
            *((teacher, "model") for teacher in copy.teachers), (copy.student, "model"), (copy.texts, "path"),
            *([(copy.test, "path")] if copy.test else []),
        ]:  # fmt: skip
            path = Path(getattr(section, key)).expanduser()
            if path.exists():
                setattr(section, key, str(path.resolve()))
        require_local(copy.output)
        copy.output = str(Path(copy.output).expanduser().resolve())
        return copy

    def save(self, path: Path) -> None:
        """Write the resolved run file, with absolute paths: whoever continues the run may be in another folder."""
        content = yaml.safe_dump(
            self.absolute().model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120
        )
        write_text(path, RUN_MARK + content)


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a run file, apply `key.sub=value` overrides, check it, and make local paths absolute.

    Raises:
        ConfigError: the file is missing or not YAML, or keys or values are wrong; all problems in one message.
    """
    source = Path(path)
    if not source.is_file():
        raise ConfigError(f"{source}: no such run file")
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: not readable YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"{source}: found {type(content).__name__}, expected keys such as teachers, student, texts, output"
        )
    return make_config(apply_overrides(content, overrides), str(source)).absolute()


def make_config(content: Mapping[str, Any], source: str) -> RunConfig:
    """Check the content of a run file; `source` names it in messages."""
    return validated(RunConfig, content, source)
