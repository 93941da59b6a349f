"""The work of scoring: (teacher, shard) pairs. Every engine runs the same `score_shard` over the pending ones.

Processes share the work by files alone: each owns the pairs of its part, and looks once more before it starts a pair.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from muki.config import RunConfig
from muki.errors import ConfigError, TeacherError
from muki.files import fingerprint
from muki.progress import Advance
from muki.teachers.loading import Teacher
from muki.teachers.records import TeacherRecord
from muki.teachers.scoring import SCORING_VERSION, Passes, score_texts
from muki.teachers.store import MadeFrom, why_pending, write_outputs
from muki.texts import Shard, TextShards

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoringSettings:
    """How teachers are to be run."""

    passes: Passes
    batch_tokens: int
    keep: str = ""

    @classmethod
    def of(cls, config: RunConfig) -> ScoringSettings:
        """What a run's config says about scoring, and what its method needs."""
        passes = Passes(config.method.passes, config.method.tolerance, seed=config.scoring.seed)
        keep = {what for wanted in (config.scoring.keep, config.method.keep) for what in wanted.split("+")} - {""}
        return cls(passes, config.scoring.batch_tokens, "+".join(sorted(keep)))


@dataclass(frozen=True)
class Job:
    """One text source to be scored by one teacher into one folder."""

    texts: TextShards
    folder: Path


@dataclass(frozen=True)
class Part:
    """One process's share of the pairs: `number` of `count`, counted from 1."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str, option: str = "--shard-of") -> Part:
        """Read `3/16`.

        Args:
            text: of this form.
            option: where it was given, for the error.

        Raises:
            ConfigError: not of this form, or the number is not in 1..count.
        """
        number, _, count = text.partition("/")
        if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
            raise ConfigError(f"{option} {text}: expected a part and a count such as 3/16, parts counted from 1")
        return cls(int(number), int(count))

    def owns(self, pair: int) -> bool:
        """Whether this part does the pair at this place in the list of all pairs."""
        return pair % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class Pair:
    """One shard to be scored by one teacher into one file, and what that file must have been made from."""

    texts: TextShards
    shard: Shard
    path: Path
    source: MadeFrom

    @property
    def pending(self) -> str | None:
        """Why this pair must be scored; None where its file can be used."""
        return why_pending(self.path, self.source)


def shard_source(record: TeacherRecord, shard: Shard, settings: ScoringSettings) -> MadeFrom:
    """What a shard's outputs are keyed by."""
    return MadeFrom(
        teacher=record.fingerprint,
        texts=shard.fingerprint,
        settings=fingerprint(SCORING_VERSION, record.settings, settings.passes.seed),
        passes=settings.passes.label(),
        keep=settings.keep,
    )


def pairs_of(record: TeacherRecord, jobs: list[Job], settings: ScoringSettings) -> list[Pair]:
    """All pairs of one teacher, in a fixed order."""
    return [
        Pair(job.texts, shard, job.folder / shard.name, shard_source(record, shard, settings))
        for job in jobs
        for shard in job.texts.shards
    ]


def pending_pairs(record: TeacherRecord, pairs: list[Pair]) -> list[Pair]:
    """The pairs that have no usable file yet; says what is reused and why others are not."""
    reasons = [(pair, pair.pending) for pair in pairs]
    counts = Counter(reason for _, reason in reasons)
    if counts[None]:
        logger.info(
            "scores of %s: reusing %d of %d shards (same teacher, texts and settings)",
            record.name, counts[None], len(pairs),
        )  # fmt: skip
    for reason, count in counts.items():
        if reason not in (None, "absent"):
            logger.info("scores of %s: %d shards to be scored again (%s)", record.name, count, reason)
    return [pair for pair, reason in reasons if reason]


def score_shard(
    teacher: Teacher, record: TeacherRecord, pair: Pair, settings: ScoringSettings, advance: Advance | None = None
) -> None:
    """Score one pair into its file: the unit of all engines.

    Raises:
        TeacherError: the teacher is not the one that the run has looked at.
    """
    if teacher.fingerprint != record.fingerprint:
        raise TeacherError(f"teacher '{record.name}': has changed since this run looked at it; run `muki score` again")
    outputs = score_texts(
        teacher,
        pair.texts.read(pair.shard),
        passes=settings.passes,
        batch_tokens=settings.batch_tokens,
        keep=settings.keep,
        advance=advance,
    )
    write_outputs(pair.path, outputs, pair.source)
