"""The default engine: a loop over the pending (teacher, shard) pairs in this process, one teacher in memory."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from muki.files import fingerprint
from muki.progress import Advance, progress
from muki.teachers.loading import Teacher
from muki.teachers.scoring import SCORING_VERSION, Passes, score_texts
from muki.teachers.store import Source, why_pending, write_outputs
from muki.teachers.survey import TeacherFactory, TeacherRecord
from muki.texts import Shard, TextShards

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoringSettings:
    """What one scoring pass is to do."""

    passes: Passes
    batch_tokens: int


@dataclass(frozen=True)
class Job:
    """One text source to be scored by one teacher into one folder."""

    texts: TextShards
    folder: Path


def shard_source(record: TeacherRecord, shard: Shard, settings: ScoringSettings) -> Source:
    """What a shard's outputs are keyed by."""
    return Source(
        teacher=record.fingerprint,
        texts=shard.fingerprint,
        settings=fingerprint(SCORING_VERSION, record.settings, settings.passes.seed),
        passes=settings.passes.label(),
    )


def score_pending(record: TeacherRecord, factory: TeacherFactory, jobs: list[Job], settings: ScoringSettings) -> int:
    """Score the shards that have no usable file yet, each into one file. Returns how many were scored."""
    pending: list[tuple[Job, Shard]] = []
    reasons: Counter[str] = Counter()
    for job in jobs:
        for shard in job.texts.shards:
            reason = why_pending(job.folder / shard.name, shard_source(record, shard, settings))
            if reason:
                pending.append((job, shard))
                reasons[reason] += 1
    total = sum(len(job.texts.shards) for job in jobs)
    reused = total - len(pending)
    if reused:
        logger.info(
            "scores of %s: reusing %d of %d shards (same teacher, texts and settings)", record.name, reused, total
        )
    if not pending:
        return 0
    stale = {reason: count for reason, count in reasons.items() if reason != "absent"}
    for reason, count in stale.items():
        logger.info("scores of %s: %d shards to be scored again (%s)", record.name, count, reason)
    teacher = factory()
    _score_all(teacher, record, pending, settings)
    return len(pending)


def _score_all(
    teacher: Teacher, record: TeacherRecord, pending: list[tuple[Job, Shard]], settings: ScoringSettings
) -> None:
    work = sum(shard.rows for _, shard in pending) * (1 + settings.passes.most)
    with progress(f"scoring with {teacher.name}", work, "passes") as advance:
        for job, shard in pending:
            score_shard(teacher, record, job, shard, settings, advance)


def score_shard(
    teacher: Teacher,
    record: TeacherRecord,
    job: Job,
    shard: Shard,
    settings: ScoringSettings,
    advance: Advance | None = None,
) -> None:
    """Score one shard with one teacher into one file: the unit of all engines."""
    outputs = score_texts(
        teacher,
        job.texts.read(shard),
        passes=settings.passes,
        batch_tokens=settings.batch_tokens,
        advance=advance,
    )
    write_outputs(job.folder / shard.name, outputs, shard_source(record, shard, settings))
