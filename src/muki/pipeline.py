"""The whole way, top to bottom. Each stage writes files and can be stopped, repeated, or run alone.

texts ─┐
├─> score ─> supervise ─> train ─> evaluate
teachers┘
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from muki.checkpoints import quiet_transformers
from muki.config import RunConfig, TeacherConfig
from muki.files import clear_leftovers, read_json, write_json
from muki.labels import LabelSpace, alike
from muki.processes import is_first, launched, rank, world_size
from muki.run_folder import RunFolder, Split
from muki.scored import scored_teachers, scored_texts
from muki.texts import Columns, TextShards, cutting

if TYPE_CHECKING:
    from muki.engines.work import Part
    from muki.teachers.loading import Teacher
    from muki.teachers.records import TeacherRecord
    from muki.teachers.survey import TeacherFactory

logger = logging.getLogger(__name__)

Engine = Literal["local", "ray"]


@dataclass
class Sources:
    """Loaded objects that stand in for what the config names: teachers by name, texts as sequences.

    A teacher's function takes what an earlier look at it found out, by name, as `load_from_config` does.
    """

    teachers: Mapping[str, Callable[..., Teacher]] = field(default_factory=dict)
    pool: Sequence[Any] | None = None
    test: Sequence[Any] | None = None


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
    factories = _factories(config, sources, keep=("passes_dtype", "max_length"))  # cut down, and warned of, already
    for record in records:
        jobs = [Job(shards, run.scores(split, record.name)) for split, shards in texts.items()]
        if engine == "ray":
            from muki.engines.ray import score_on_ray

            score_on_ray(record, factories[record.name], jobs, ScoringSettings.of(config), address)
        else:
            score_here(record, factories[record.name], jobs, ScoringSettings.of(config), part)
    return None


def prepare(config: RunConfig, run: RunFolder, sources: Sources) -> None:
    """Claim the run folder, cut the texts, look at every teacher: one process at a time."""
    from muki.engines.work import ScoringSettings
    from muki.teachers.records import label_space, save_records
    from muki.teachers.survey import survey

    run.claim(config)
    with run.lock():
        clear_leftovers(run.root)
        factories = _factories(config, sources)  # reads what a process that held the lock before has recorded
        models = {teacher.name or "": teacher.model for teacher in config.teachers}
        keep, one_base = ScoringSettings.of(config).keep, config.method.student == "merged"
        records = survey(factories, models, passes=config.method.passes, keep=keep, one_base=one_base)
        space = label_space(records)
        check_ahead(config, space)
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


def check_ahead(config: RunConfig, space: LabelSpace) -> None:
    """Find now what would stop the training, after hours of scoring.

    Raises:
        StudentError: the student cannot be loaded, or transformers refuses the training settings.
    """
    from muki.student.model import load_student
    from muki.student.trainer import training_arguments

    if config.method.student == "trained" or config.method.refines:
        with quiet_transformers():
            load_student(config.student.model, space.labels, seed=0, trust_remote_code=config.trust_remote_code)
    if not launched():  # they would start a process group and wait for each other
        training_arguments(
            config.training, Path(config.output) / "checkpoints", 1, evaluate=config.training.holdout > 0
        )


def cut_texts(config: RunConfig, run: RunFolder, sources: Sources, space: LabelSpace) -> dict[Split, TextShards]:
    """The pool, and the test texts if there are any, as shards; earlier ones are replaced if all can be used.

    Raises:
        TextsError: texts cannot be read, or no test text has a label of the union.
    """
    from muki.evaluation.evaluate import require_known_labels

    pool, test = config.texts, config.test
    texts: dict[Split, TextShards] = {}
    with ExitStack() as accepted:
        columns = Columns(pool.text, pool.text_pair, pool.label, pool.id)
        source = pool.path if sources.pool is None else sources.pool
        texts["pool"] = accepted.enter_context(
            cutting(source, run.texts("pool"), columns, split=pool.split, shard_rows=pool.shard_rows, limit=pool.limit)
        )
        if test:
            columns = Columns(test.text or pool.text, test.text_pair or pool.text_pair, test.label)
            source = test.path if sources.test is None else sources.test
            texts["test"] = accepted.enter_context(
                cutting(
                    source, run.texts("test"), columns, split=test.split, shard_rows=pool.shard_rows, limit=test.limit
                )
            )
            require_known_labels(texts["test"].source, (text.label for text in texts["test"]), space)
    return {split: replace(shards, folder=run.texts(split)) for split, shards in texts.items()}


def supervise(config: RunConfig, run: RunFolder | None = None) -> str:
    """Make supervision of the scores. Returns its fingerprint.

    Args:
        config: the run.
        run: its folder, where supervision or scores lie elsewhere than the config says.
    """
    from muki.integration.pool import scored_pool
    from muki.integration.stage import supervise as supervise_stage

    own = run is None
    run, _, _ = _scored(config, run)
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
        factories = _factories(config, sources or Sources())
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
    from muki.stale import require_current

    run, records, space = _scored(config, run)
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


def load_from_config(teacher: TeacherConfig, trust_remote_code: bool = False, **known: Any) -> Teacher:
    """Load the teacher that a config names; `known` is what an earlier look at it found out (see `_factories`)."""
    from muki.teachers.loading import load_teacher

    return load_teacher(**{**teacher.model_dump(), **known}, trust_remote_code=trust_remote_code)


def _factories(
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
    run = run or RunFolder(Path(config.output))
    return run, *scored_teachers(run)


def _overlap(space: LabelSpace) -> str:
    if not space.shared:
        return ""
    return "; shared: " + ", ".join(f"{label} ({', '.join(names)})" for label, names in space.shared.items())
