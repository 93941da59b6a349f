"""The grid file: which data sets, settings, methods and seeds are compared, as typed models."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from muki.config import TrainingConfig
from muki.errors import ConfigError
from muki.methods import PRESETS, Method, changed
from muki.validation import validated


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class Foreign(_Section):
    """Texts in the pool that belong to nobody."""

    data: str = Field(description="the data set that they come from")
    share: float = Field(0.2, gt=0, lt=1, description="of the pool")


class Setting(_Section):
    """How a data set becomes teachers, a pool and a test. Unset numbers are the grid's."""

    teachers: int = Field(2, ge=2, description="contiguous groups of the sorted labels, one teacher each")
    overlap: int = Field(0, ge=0, description="classes at each border that both neighbours know")
    spans: list[tuple[float, float]] | None = Field(
        None,
        description="which part of the sorted labels each teacher knows, e.g. [[0, 0.5], [0, 1]]: narrow and broad",
    )
    own_texts: bool = Field(False, description="the pool is what the teachers were trained on (it flatters)")
    shares: list[float] | None = Field(None, description="of each teacher's own classes in the pool, e.g. [0.9, 0.1]")
    foreign: Foreign | None = Field(None, description="texts in the pool that belong to nobody")
    encoders: list[str] = Field(default_factory=list, description="of the teachers in turn; the grid's by default")
    student: str | None = Field(None, description="what the student starts from; the grid's by default")
    prefix: str = Field("", description='put before each text by everybody, e.g. "query: "')
    teach: int | None = Field(None, ge=2, description="labelled texts for all teachers together")
    pool: int | None = Field(None, ge=2, description="texts in the pool, as far as they reach")
    training: TrainingConfig | None = Field(None, description="of the student: changes to the grid's")
    only: list[str] | None = Field(
        None, description="data sets that this setting is for; by default all that serve no setting as foreign texts"
    )

    @model_validator(mode="after")
    def _one_for_each_teacher(self) -> Setting:
        for name in ("shares", "spans"):
            given = getattr(self, name)
            if given is not None and len(given) != self.teachers:
                raise ValueError(f"{name}: found {len(given)} for {self.teachers} teachers; give one each")
        if self.shares and (min(self.shares) < 0 or not math.isclose(sum(self.shares), 1, abs_tol=1e-6)):
            raise ValueError(f"shares: found {self.shares}; give shares of 0 and more that sum to 1")
        return self

    @model_validator(mode="after")
    def _spans_reach_every_label(self) -> Setting:
        known = 0.0
        for start, stop in sorted(self.spans or [(0.0, 1.0)]):
            if not known >= start >= 0 or not start < stop <= 1:
                raise ValueError(f"spans: found {self.spans}; give parts of 0 to 1 that leave no label out")
            known = max(known, stop)
        if known < 1 or (self.spans and self.overlap):
            raise ValueError(f"spans: found {self.spans}; together they must reach 1, and go without overlap")
        return self


class Grid(_Section):
    """A whole comparison."""

    data: dict[str, str] = Field(
        description="name to folder or Hub data set, or a list of these; a name may join two: en+zh: {a}+{b}"
    )
    settings: dict[str, Setting] = Field(
        default_factory=lambda: {"two-teachers": Setting()}, description="how each data set becomes a task"
    )
    methods: dict[str, Method] = Field(
        description="a list of presets, or of a name with a preset (muki where none is named) and changes"
    )
    routing_only: dict[str, Method] = Field(default_factory=dict, description="methods without training a student")
    seeds: list[int] = Field(
        default_factory=lambda: [0, 1, 2],
        min_length=1,
        description="of texts, teachers, masks and students; those of training sections are not read",
    )
    encoder: str = Field(description="what teachers start from")
    student: str | None = Field(None, description="what students start from; the encoder by default")
    teach: int = Field(3000, ge=2, description="labelled texts for all teachers together")
    pool: int = Field(2000, ge=2, description="texts in the pool")
    test: int = Field(2000, ge=1, description="texts in the test")
    max_length: int = Field(64, ge=2, description="tokens per text, for teachers and students")
    teacher_training: TrainingConfig = Field(
        default_factory=TrainingConfig, description="how teachers are fine-tuned (without holdout, patience, head)"
    )
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="how students are trained")
    output: str = Field(description="folder of teachers, scores and cells")
    results: str | None = Field(None, description="folder of tables and plots; the output by default")

    @field_validator("data", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        """A list of folders is named by the folders."""
        if not isinstance(value, list):
            return value
        _require_unique([Path(item).name for item in value], "name them yourself: {first: x/news, second: y/news}")
        return {Path(item).name: item for item in value}

    @field_validator("methods", "routing_only", mode="before")
    @classmethod
    def _presets(cls, value: object) -> object:
        if isinstance(value, dict):
            value = [{name: changes} for name, changes in value.items()]
        if not isinstance(value, list):
            raise ValueError(
                "expected a list of presets, or of a name with changes: - slow: {preset: muki, passes: 32}"
            )
        methods = [_method(item) for item in value]
        _require_unique([name for name, _ in methods], "give each a name: - slow: {preset: muki, passes: 32}")
        return dict(methods)

    @field_validator("seeds")
    @classmethod
    def _different_seeds(cls, value: list[int]) -> list[int]:
        _require_unique(value, "give each once")
        return value

    @model_validator(mode="after")
    def _methods_once(self) -> Grid:
        _require_unique(
            [*self.methods, *self.routing_only], "methods and routing_only: give each method to one of them"
        )
        return self

    @model_validator(mode="after")
    def _known_data(self) -> Grid:
        for name, setting in self.settings.items():
            for data in [*(setting.only or []), *([setting.foreign.data] if setting.foreign else [])]:
                if data not in self.data:
                    raise ValueError(f"settings: '{name}' names data set '{data}'; known: {', '.join(self.data)}")
        return self

    def encoders_in(self, setting: Setting) -> list[str]:
        """What teachers start from in a setting, in turn."""
        return setting.encoders or [self.encoder]

    def student_in(self, setting: Setting) -> str:
        """What students start from in a setting."""
        return setting.student or self.student or self.encoder

    def training_in(self, setting: Setting) -> TrainingConfig:
        """How students are trained in a setting."""
        changes = setting.training.model_dump(exclude_unset=True) if setting.training else {}
        return TrainingConfig(**{**self.training.model_dump(), **changes})

    def groups(self) -> Iterator[Group]:
        """Everything that shares scores, seed by seed; groups of one data set and seed may share teachers too."""
        foreign = {setting.foreign.data for setting in self.settings.values() if setting.foreign}
        for seed in self.seeds:
            for name, setting in self.settings.items():
                for data in self.data:
                    if data in setting.only if setting.only is not None else data not in foreign:
                        yield Group(data=data, setting=name, seed=seed)

    def sources(self, group: Group) -> list[str]:
        """Where a group's texts come from: its data set, and that of its foreign texts."""
        foreign = self.settings[group.setting].foreign
        return [self.data[name] for name in (group.data, foreign and foreign.data) if name]

    def methods_that_differ_in(self, number: str) -> list[dict[str, float]]:
        """Families of two or more methods that are equal but for `passes` or `temperature`: name to number."""
        methods = {**self.methods, **self.routing_only}
        families = _families({name: method.model_dump(exclude={number}) for name, method in methods.items()})
        numbers = [{name: float(getattr(methods[name], number)) for name in family} for family in families]
        return [family for family in numbers if len(set(family.values())) > 1]

    def settings_that_differ_in_pool(self) -> list[list[str]]:
        """Families of two or more settings that are equal but for the size of the pool."""
        return _families({name: one.model_dump(exclude={"pool", "only"}) for name, one in self.settings.items()})

    def portable(self) -> dict[str, Any]:
        """The content of a grid file that says the same on any machine: data and models lie beside it, by name."""
        content = self.model_dump(mode="json", exclude={"results"}, exclude_none=True)
        content["output"] = Path(self.output).name
        content["data"] = {
            name: "+".join(f"data/{Path(part).name}" if Path(part).is_absolute() else part for part in where.split("+"))
            for name, where in self.data.items()
        }
        for section in (content, *content["settings"].values()):
            for key in ("encoder", "student"):
                if key in section:
                    section[key] = _name(section[key])
        for name, setting in content["settings"].items():
            if changes := self.settings[name].training:
                setting["training"] = changes.model_dump(mode="json", exclude_unset=True)
            setting["encoders"] = [_name(encoder) for encoder in setting["encoders"]]
        for key in ("methods", "routing_only"):
            content[key] = [
                name if PRESETS.get(name) == method else {name: method.model_dump(mode="json", exclude_none=True)}
                for name, method in getattr(self, key).items()
            ]
        return content


class Group(_Section):
    """One data set in one setting with one seed."""

    model_config = ConfigDict(frozen=True)

    data: str
    setting: str
    seed: int

    def __str__(self) -> str:
        return f"{self.data}, {self.setting}, seed {self.seed}"


def load_grid(path: Path) -> Grid:
    """Read a grid file; relative paths in it are relative to it.

    Raises:
        ConfigError: missing, not YAML, or keys or values are wrong; all problems in one message.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such grid file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a readable grid file ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path}: found {type(content).__name__}, expected keys such as data, methods, encoder, output"
        )
    grid = validated(Grid, content, str(path))
    here = path.resolve().parent
    grid.output = str(here / grid.output)
    grid.results = grid.results and str(here / grid.results)
    grid.data = {name: "+".join(_beside(here, part) for part in where.split("+")) for name, where in grid.data.items()}
    grid.encoder = _beside(here, grid.encoder)
    grid.student = grid.student and _beside(here, grid.student)
    for setting in grid.settings.values():
        setting.encoders = [_beside(here, encoder) for encoder in setting.encoders]
        setting.student = setting.student and _beside(here, setting.student)
    return grid


def _require_unique(names: Sequence[object], remedy: str) -> None:
    repeated = [str(name) for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"found more than once: {', '.join(repeated)}; {remedy}")


def _beside(folder: Path, path: str) -> str:
    """A path relative to the grid file where there is one, else as it is (absolute, or a Hub id)."""
    return str(folder / path) if (folder / path).exists() else path


def _name(path: str) -> str:
    """The last part of an absolute path; others as they are."""
    return Path(path).name if Path(path).is_absolute() else path


def _families(parts: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Names with equal parts together, where there are two or more."""
    families: dict[str, list[str]] = {}
    for name, content in parts.items():
        families.setdefault(repr(content), []).append(name)
    return [family for family in families.values() if len(family) > 1]


def _method(item: Any) -> tuple[str, Any]:
    if isinstance(item, str):
        name, changes = item, {"preset": item}
    elif isinstance(item, dict) and len(item) == 1 and isinstance(next(iter(item.values())), dict):
        name, changes = next(iter(item.items()))
    else:
        raise ValueError(f"found {item!r}, expected a preset, or a name with changes such as slow: {{passes: 32}}")
    changes = dict(changes)
    preset = changes.pop("preset", "muki")
    return name, changed(preset, changes)
