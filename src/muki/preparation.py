"""Before the first text is scored: the run folder is claimed, every teacher looked at, the texts cut into shards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muki.config import IN_MEMORY, RunConfig, TeacherConfig, TestConfig, TextsConfig
from muki.errors import ConfigError
from muki.files import clear_leftovers
from muki.labels import LabelSpace, alike
from muki.run_folder import RunFolder, Split
from muki.scored import texts_of
from muki.texts import Columns, TextShards, cutting, read

if TYPE_CHECKING:
    from muki.teachers.loading import Teacher
    from muki.teachers.survey import TeacherFactory

logger = logging.getLogger(__name__)


@dataclass
class Sources:
    """Loaded objects that stand in for what the config names: teachers by name, texts as sequences.

    A teacher's function takes what an earlier look at it found out, by name, as `load_from_config` does.
    """

    teachers: Mapping[str, Callable[..., Teacher]] = field(default_factory=dict)
    pool: Sequence[Any] | None = None
    test: Sequence[Any] | None = None


def prepare(config: RunConfig, run: RunFolder, sources: Sources) -> None:
    """Claim the run folder, cut the texts, look at every teacher: one process at a time."""
    from muki.engines.work import ScoringSettings
    from muki.student.rehearsal import rehearse
    from muki.teachers.records import label_space, save_records
    from muki.teachers.survey import survey

    run.claim(config)
    for teacher in config.teachers:
        if teacher.model == IN_MEMORY and teacher.name not in sources.teachers:
            raise _gone(f"model and tokenizer of teacher '{teacher.name}'")
    with run.lock():
        clear_leftovers(run.root)
        for _, source, columns, part in _texts_of(config, sources):
            next(read(source, columns, split=part.split), None)  # a wrong path or column is answered at once
        factories = factories_of(config, sources)  # reads what a process that held the lock before has recorded
        models = {teacher.name or "": teacher.model for teacher in config.teachers}
        keep, one_base = ScoringSettings.of(config).keep, config.method.student == "merged"
        records = survey(factories, models, passes=config.method.passes, keep=keep, one_base=one_base)
        space = label_space(records)
        rehearse(config, space)
        cut_texts(config, run, sources, space)
        config.save(run.config)  # only now: what cannot work must not replace what finished work was made with
        save_records(run.teachers, records)
        space.save(run.labels)
    logger.info("label space: %d labels%s", len(space.labels), _overlap(space))
    for one in alike({record.name: record.labels for record in records}):
        logger.warning(
            "labels: '%s' of %s and '%s' of %s look like one class and stay two; `muki inspect` says how to merge them",
            one.first, one.by, one.label, one.teacher,
        )  # fmt: skip


def cut_texts(config: RunConfig, run: RunFolder, sources: Sources, space: LabelSpace) -> dict[Split, TextShards]:
    """The pool, and the test texts if there are any, as shards; earlier ones are replaced if all can be used.

    Raises:
        TextsError: texts cannot be read, or no test text has a label of the union.
    """
    from muki.evaluation.evaluate import require_known_labels

    rows = config.texts.shard_rows
    with ExitStack() as accepted:
        texts = {
            split: accepted.enter_context(
                cutting(source, run.texts(split), columns, split=part.split, shard_rows=rows, limit=part.limit)
            )
            for split, source, columns, part in _texts_of(config, sources)
        }
        if "test" in texts:
            require_known_labels(texts["test"].source, (text.label for text in texts["test"]), space)
    return {split: replace(shards, folder=run.texts(split)) for split, shards in texts.items()}


def _texts_of(
    config: RunConfig, sources: Sources
) -> Iterator[tuple[Split, str | Sequence[Any], Columns, TextsConfig | TestConfig]]:
    """Where the pool, and the test texts if there are any, come from, with their columns and section of the config.

    Raises:
        ConfigError: they were given as objects to another call.
    """
    for split, columns, part in texts_of(config):
        given = sources.pool if split == "pool" else sources.test
        if given is None and part.path == IN_MEMORY:
            raise _gone(f"the {split}'s texts")
        yield split, part.path if given is None else given, columns, part


def _gone(what: str) -> ConfigError:
    return ConfigError(
        f"{what} were given as objects to `muki.integrate`, and are not here; call it again with them, or give files"
    )


def load_from_config(teacher: TeacherConfig, trust_remote_code: bool = False, **known: Any) -> Teacher:
    """Load the teacher that a config names; `known` is what an earlier look at it found out (see `factories_of`)."""
    from muki.teachers.loading import load_teacher

    return load_teacher(**{**teacher.model_dump(), **known}, trust_remote_code=trust_remote_code)


def factories_of(
    config: RunConfig, sources: Sources, keep: tuple[str, ...] = ("passes_dtype",)
) -> dict[str, TeacherFactory]:
    """Functions that load the teachers, each with those of its recorded settings that are to be kept.

    The number format that a first call found fastest stays, so that a second call finds the scores of the first; one
    that was asked for then (`dtype`) does not.
    """
    from muki.teachers.records import load_records

    records = load_records(RunFolder(Path(config.output)).teachers) or []
    known = {record.name: {key: record.settings[key] for key in keep if key in record.settings} for record in records}
    for record in records:
        if record.settings["dtype"] != "float32":
            known[record.name].pop("passes_dtype", None)
    return {
        name: partial(
            sources.teachers.get(name) or partial(load_from_config, teacher, config.trust_remote_code),
            **known.get(name, {}),
        )
        for teacher in config.teachers
        for name in [teacher.name or ""]
    }


def _overlap(space: LabelSpace) -> str:
    if not space.shared:
        return ""
    return "; shared: " + ", ".join(f"{label} ({', '.join(names)})" for label, names in space.shared.items())
