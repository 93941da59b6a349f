"""The default engine: a loop over the pending pairs in this process, or in several."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

from muki.compute import one_gpu_each
from muki.engines.work import Job, Pair, Part, ScoringSettings, pairs_of, pending_pairs, score_shard
from muki.errors import TeacherError
from muki.progress import progress
from muki.teachers.records import TeacherRecord
from muki.teachers.survey import TeacherFactory

logger = logging.getLogger(__name__)


def score_here(
    record: TeacherRecord, factory: TeacherFactory, jobs: list[Job], settings: ScoringSettings, part: Part
) -> int:
    """Score this part's pending pairs of one teacher. Returns how many were scored."""
    own = [pair for place, pair in enumerate(pairs_of(record, jobs, settings)) if part.owns(place)]
    pending = pending_pairs(record, own)
    if pending:
        _score(record, factory, pending, settings, part)
    return len(pending)


def _score(
    record: TeacherRecord, factory: TeacherFactory, pending: list[Pair], settings: ScoringSettings, part: Part
) -> None:
    teacher = factory()
    passes = 1 + settings.passes.most
    title = f"scoring with {record.name}" + (f" (part {part})" if part.count > 1 else "")
    with progress(title, sum(pair.shard.rows for pair in pending) * passes, "passes") as advance:
        for pair in pending:
            if pair.path.exists() and pair.pending is None:  # another process was faster
                advance(pair.shard.rows * passes)
                continue
            score_shard(teacher, record, pair, settings, advance)


def score_in_processes(run: Path, processes: int) -> None:
    """Start `processes` processes that each score one part of the run's pairs, and wait for them.

    Raises:
        TeacherError: one of them failed; its own message is above this one.
    """
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **os.environ}
    command = [sys.executable, "-m", "muki", "score", str(run), "--prepared", "--shard-of"]
    workers = [
        subprocess.Popen([*command, str(Part(number, processes))], env=environment | own_gpu)
        for number, own_gpu in enumerate(one_gpu_each(processes), 1)
    ]
    try:
        codes = [worker.wait() for worker in workers]
    except BaseException:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
        raise
    failed = [number for number, code in enumerate(codes, 1) if code]
    if failed:
        raise TeacherError(
            f"scoring: process {', '.join(map(str, failed))} of {processes} failed, see its message above; "
            "finished shards stay, run the same command again"
        )
