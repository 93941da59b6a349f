"""The whole way, top to bottom. Each stage writes files and can be stopped, repeated, or run alone.

texts ─┐
├─> score ─> supervise ─> train ─> evaluate
teachers┘
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from muki.checkpoints import quiet_transformers
from muki.config import RunConfig
from muki.files import read_json, write_json
from muki.labels import LabelSpace
from muki.preparation import Sources, factories_of, prepare
from muki.processes import is_first, rank, world_size
from muki.run_folder import RunFolder, Split
from muki.scored import scored_teachers, scored_texts
from muki.texts import TextShards

if TYPE_CHECKING:
    from muki.engines.work import Part
    from muki.teachers.records import TeacherRecord

logger = logging.getLogger(__name__)

Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class Result:
    """A finished run."""

    folder: Path
    metrics: dict[str, Any]

    @property
    def student(self) -> Path:
        """The `save_pretrained` folder."""
        return self.folder / "student"

    @property
    def report(self) -> Path:
        """The page for people."""
        return RunFolder(self.folder).report


def run_all(config: RunConfig, sources: Sources | None = None) -> Result:
    """From teachers and texts to an evaluated student; finished stages are not repeated."""
    score(config, sources)
    supervise(config)
    train(config, sources)
    return Result(Path(config.output), evaluate(config))


def score(
    config: RunConfig,
    sources: Sources | None = None,
    part: Part | None = None,
    *,
    prepared: bool = False,
    engine: Engine = "local",
    address: str | None = None,
) -> None:
    """Cut the texts, look at every teacher, and score the pairs that are not scored yet.

    Args:
        config: the run.
        sources: loaded objects that stand in for what the config names.
        part: score only this part of the (teacher, shard) pairs; all by default, or what `torchrun` says.
        prepared: texts are cut and teachers are looked at already.
        engine: who runs the pairs: `local` (this machine) or `ray` (a cluster).
        address: of the Ray cluster; None starts one on this machine.
    """
    run = RunFolder(Path(config.output))
    whole = part is None and not prepared  # the time of parts says nothing: other machines do the rest
    with _timed(run, "score") if whole else nullcontext():
        _score(config, sources or Sources(), part, prepared, engine, address)


def _score(
    config: RunConfig, sources: Sources, part: Part | None, prepared: bool, engine: Engine, address: str | None
) -> None:
    from muki.engines.local import score_here, score_in_processes
    from muki.engines.work import Job, Part, ScoringSettings

    run = RunFolder(Path(config.output))
    part = part or Part(rank() + 1, world_size())
    if not prepared:
        prepare(config, run, sources)
    if engine == "local" and config.scoring.processes > 1 and part.count == 1:
        if sources == Sources():
            return score_in_processes(run.root, config.scoring.processes)
        logger.warning("scoring.processes: models and texts in memory cannot be sent to others; one process scores")
    run, records, _ = _scored(config)
    texts: dict[Split, TextShards] = {"pool": scored_texts(run, "pool")}
    if config.test and (test := TextShards.load(run.texts("test"))):
        texts["test"] = test
    factories = factories_of(config, sources, keep=("passes_dtype", "max_length"))  # cut down, and warned of, already
    for record in records:
        jobs = [Job(shards, run.scores(split, record.name)) for split, shards in texts.items()]
        if engine == "ray":
            from muki.engines.ray import score_on_ray

            score_on_ray(record, factories[record.name], jobs, ScoringSettings.of(config), address)
        else:
            score_here(record, factories[record.name], jobs, ScoringSettings.of(config), part)
    return None


def supervise(config: RunConfig, run: RunFolder | None = None) -> str:
    """Make supervision of the scores. Returns its fingerprint.

    Args:
        config: the run.
        run: its folder, where supervision or scores lie elsewhere than the config says.
    """
    from muki.integration.pool import scored_pool
    from muki.integration.stage import supervise as supervise_stage
    from muki.stale import require_texts

    own = run is None
    run, _, _ = _scored(config, run)
    require_texts(config, run)
    with run.lock("supervise"), _timed(run, "supervise"):
        made = supervise_stage(scored_pool(config, run), config.method, run.supervision)
        if own:
            run.keep_settings(config, "method")
    return made


@quiet_transformers()
def train(config: RunConfig, sources: Sources | None = None, run: RunFolder | None = None) -> str:
    """Train the student on the supervision. Returns its fingerprint; "" for a method without a student."""
    from muki.integration.store import load_supervision
    from muki.stale import require_supervision
    from muki.student.training import train_student

    own = run is None
    run, records, space = _scored(config, run)
    if config.method.student == "none":
        return ""
    if config.method.student == "merged":
        from muki.student.merging import merge_fingerprint, merge_teachers
        from muki.student.saving import is_saved

        key = merge_fingerprint([one.fingerprint for one in records], space, records[0].settings["max_length"])
        if is_saved(key, run.student, run.training):
            return key
        factories = factories_of(config, sources or Sources())
        return merge_teachers(factories, space, folder=run.student, record=run.training)
    require_supervision(config, run)
    supervision = load_supervision(run.supervision)
    with run.lock("train") if is_first() else nullcontext(), _timed(run, "train"):
        if own and is_first():
            run.keep_settings(config, "method", "student", "training")  # before: a stopped one goes on with them
        return train_student(config, run, scored_texts(run, "pool"), supervision, space)


def evaluate(config: RunConfig, run: RunFolder | None = None) -> dict[str, Any]:
    """Evaluate the student, write `metrics.json`, the model card and the report."""
    from muki.evaluation.card import write_card
    from muki.evaluation.evaluate import evaluate as evaluate_stage
    from muki.report.make import write_report
    from muki.stale import require_current, require_texts

    run, records, space = _scored(config, run)
    require_texts(config, run)
    require_current(config, run)
    with _timed(run, "evaluate"):
        metrics = evaluate_stage(run, config, space)
    write_json(run.metrics, metrics)
    if config.method.student != "none":
        write_card(run, config, space, records, metrics)
        write_report(run, config)
    return metrics


def evaluate_labelled(config: RunConfig, path: str) -> dict[str, Any]:
    """What labels that a person has filled in say of student and teachers; the report then says it too."""
    from muki.evaluation.labelled import evaluate_labelled as evaluate_stage
    from muki.report.make import write_report
    from muki.stale import require_described

    run, _, space = _scored(config)
    require_described(config, run)
    metrics = evaluate_stage(run, config, space, path)
    write_json(run.labelled, metrics)
    write_report(run, config)
    return metrics


# --- helpers -----------------------------------------------------------------------------------------------------


@contextmanager
def _timed(run: RunFolder, stage: str) -> Iterator[None]:
    """Add the time spent here to what the run's folder says about this stage; for the report."""
    start = time.monotonic()
    try:
        yield
    except KeyboardInterrupt:  # has taken its time too; a refusal leaves the folder as it is
        _spent(run, stage, time.monotonic() - start)
        raise
    _spent(run, stage, time.monotonic() - start)


def _spent(run: RunFolder, stage: str, seconds: float) -> None:
    if is_first():
        times = read_json(run.times) or {}
        write_json(run.times, {**times, stage: round(times.get(stage, 0.0) + seconds, 1)})


def _scored(config: RunConfig, run: RunFolder | None = None) -> tuple[RunFolder, list[TeacherRecord], LabelSpace]:
    """What the scoring stage left for later stages."""
    from muki.stale import require_teachers

    run = run or RunFolder(Path(config.output))
    records, space = scored_teachers(run)
    require_teachers(config, run)
    return run, records, space
