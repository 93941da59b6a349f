"""A look at every teacher before time is spent: load each in turn, check it, prove its dropout, note what it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from muki.errors import TeacherError
from muki.files import read_json, write_json
from muki.labels import LabelSpace, union
from muki.teachers.bases import Base, base_of, require_one_base
from muki.teachers.dropout import dropout_rates
from muki.teachers.loading import Teacher
from muki.teachers.scoring import probe_dropout, probe_kept

logger = logging.getLogger(__name__)

TeacherFactory = Callable[[], Teacher]


@dataclass(frozen=True)
class TeacherRecord:
    """What later stages may know of a teacher, without loading it."""

    name: str
    source: str
    fingerprint: str
    labels: tuple[str, ...]
    architecture: str
    parameters: int
    settings: dict[str, Any]
    dropout: dict[str, float]


def survey(
    factories: Mapping[str, TeacherFactory],
    sources: Mapping[str, str],
    *,
    passes: int,
    keep: str = "",
    one_base: bool = False,
) -> list[TeacherRecord]:
    """Load each teacher once, one in memory at a time.

    Args:
        factories: each teacher's name and a function that loads it.
        sources: each teacher's name and where it comes from, for the record.
        passes: dropout passes the method wants; if any, each teacher must prove that its passes differ.
        keep: what else of a pass the method needs; each teacher must show it.
        one_base: the method averages the teachers' weights, so all must be copies of one base.

    Raises:
        TeacherError: a teacher cannot be used, two are the same model, or their bases differ where they must not.
        DropoutError: dropout passes are wanted and do not differ.
    """
    records: list[TeacherRecord] = []
    base: Base | None = None
    for name, factory in factories.items():
        teacher = factory()
        twin = next((r.name for r in records if r.fingerprint == teacher.fingerprint), None)
        if twin:
            raise TeacherError(
                f"teachers '{twin}' and '{name}': the same model twice (equal weights, labels and tokenizer); "
                "give each teacher once"
            )
        if one_base:
            base = base or base_of(teacher)
            require_one_base(base, base_of(teacher))
        if passes:
            probe_dropout(teacher)
        probe_kept(teacher, keep)
        records.append(
            TeacherRecord(
                name=name,
                source=sources[name],
                fingerprint=teacher.fingerprint,
                labels=teacher.labels,
                architecture=type(teacher.model).__name__,
                parameters=teacher.parameters,
                settings=teacher.settings(),
                dropout=dropout_rates(teacher.model),
            )
        )
        logger.info(
            "teacher %s: %s, %.1fM parameters, labels %s",
            name, records[-1].architecture, teacher.parameters / 1e6, ", ".join(teacher.labels),
        )  # fmt: skip
        del teacher  # before the next one is loaded
    return records


def label_space(records: list[TeacherRecord]) -> LabelSpace:
    """The union of the teachers' labels."""
    return union({record.name: record.labels for record in records})


def save_records(path: Path, records: list[TeacherRecord]) -> None:
    """Write the records as JSON."""
    write_json(path, [asdict(record) for record in records])


def load_records(path: Path) -> list[TeacherRecord] | None:
    """Read what `save_records` wrote; None where it is absent, or of another version of muki."""
    content = read_json(path)
    if content is None:
        return None
    try:
        return [TeacherRecord(**{**item, "labels": tuple(item["labels"])}) for item in content]
    except (KeyError, TypeError):
        logger.warning("teachers: %s is of another version of muki; they have to be looked at again", path)
        return None
