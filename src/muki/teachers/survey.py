"""A look at every teacher before time is spent: load each in turn, check it, prove its dropout, note what it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from muki.errors import TeacherError
from muki.teachers.bases import Base, base_of, require_one_base
from muki.teachers.dropout import dropout_rates
from muki.teachers.loading import Teacher
from muki.teachers.records import TeacherRecord
from muki.teachers.scoring import probe_dropout, probe_kept

logger = logging.getLogger(__name__)

TeacherFactory = Callable[[], Teacher]


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
            own = base_of(teacher)
            base = base or own
            require_one_base(base, own)
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
                dropout=dropout_rates(teacher.model.config),
            )
        )
        logger.info(
            "teacher %s: %s, %.1fM parameters, labels %s",
            name, records[-1].architecture, teacher.parameters / 1e6, ", ".join(teacher.labels),
        )  # fmt: skip
        del teacher  # before the next one is loaded
    return records
