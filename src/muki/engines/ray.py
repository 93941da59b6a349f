"""Ray as the engine for a cluster: the same `score_shard` over the pending pairs, on a pool of actors.

Each actor holds one teacher and keeps it. Our files are the checkpoint, so that a lost worker costs the shard it was
working on; Ray starts another and gives it that pair again. The run folder must be one that all machines see.
"""

from __future__ import annotations

import logging
import os
import socket
from functools import cached_property
from typing import Any

from muki.engines.work import Job, Pair, ScoringSettings, pairs_of, pending_pairs, score_shard
from muki.errors import ConfigError, MukiError, TeacherError
from muki.progress import progress
from muki.teachers.loading import Teacher
from muki.teachers.records import TeacherRecord
from muki.teachers.survey import TeacherFactory

logger = logging.getLogger(__name__)


class _Scorer:
    """An actor: one teacher, loaded once."""

    def __init__(
        self, factory: TeacherFactory, record: TeacherRecord, settings: ScoringSettings, pairs: list[Pair]
    ) -> None:
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
        self.factory, self.record, self.settings, self.pairs = factory, record, settings, pairs

    @cached_property
    def teacher(self) -> Teacher:
        return self.factory()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Score the pair at this place, unless another actor has finished it before it was lost."""
        import ray

        pair = self.pairs[row["place"]]
        error = ""
        try:
            if pair.pending:
                score_shard(self.teacher, self.record, pair, self.settings)
        except MukiError as found:  # raised here, it would reach the user as a page of Ray's stack
            error = f"{found} (on {socket.gethostname()})"
        machine = ray.get_runtime_context().get_node_id()
        return {"rows": pair.shard.rows, "worker": os.getpid(), "machine": machine, "error": error}


def connect(address: str | None) -> Any:
    """Join the cluster at `address` (`auto` for the one this machine belongs to), or start one on this machine.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at this address.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError("--engine ray: Ray is not installed; pip install 'muki[ray]'") from None
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False, include_dashboard=False)
        except (ConnectionError, ValueError) as error:
            raise ConfigError(f"--address {address}: no Ray cluster can be reached there ({error})") from None
    return ray


def score_on_ray(
    record: TeacherRecord, factory: TeacherFactory, jobs: list[Job], settings: ScoringSettings, address: str | None
) -> int:
    """Score all pending pairs of one teacher on a Ray cluster. Returns how many were scored.

    Raises:
        TeacherError: a worker cannot load the teacher or score with it; says on which machine.
    """
    pending = pending_pairs(record, pairs_of(record, jobs, settings))
    if not pending:
        return 0
    ray = connect(address)
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    actors = max(1, min(len(pending), gpus or int(resources.get("CPU", 1))))
    rows = ray.data.from_items([{"place": place} for place in range(len(pending))], override_num_blocks=len(pending))
    scored = rows.map(
        _Scorer,
        fn_constructor_args=(factory, record, settings, pending),
        # A pool of fixed size: with one task in flight for each actor, Ray would never make one grow.
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
        num_gpus=1 if gpus else None,
        num_cpus=None if gpus else 1,
    )
    _patient(scored)
    passes = 1 + settings.passes.most
    title = f"scoring with {record.name} on {actors} Ray actors"
    workers = set()
    with progress(title, sum(pair.shard.rows for pair in pending) * passes, "passes") as advance:
        for row in scored.iter_rows():
            if row["error"]:
                raise TeacherError(row["error"])
            workers.add((row["machine"], row["worker"]))
            advance(row["rows"] * passes)
    machines = len({machine for machine, _ in workers})
    logger.info(
        "scores of %s: %d shards by %d workers on %d machines", record.name, len(pending), len(workers), machines
    )
    return len(pending)


def _patient(dataset: Any) -> None:
    """Ray gives up where nothing is finished for half an hour: a shard may take longer, a full cluster too.

    What it says of its own plans and progress is left to its log files; ours is shown.
    """
    dataset.context.execution_no_progress_timeout_s = -1
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
