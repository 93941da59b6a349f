"""Why a text gets its label: what each teacher says of it, who is heard, and what the student makes of that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from muki.config import IN_MEMORY, RunConfig
from muki.engines.work import ScoringSettings
from muki.errors import ConfigError
from muki.evaluation.method_words import cause, estimates_routing
from muki.explanation import Explanation, assemble
from muki.formulas import Array
from muki.integration.pool import scored_pool
from muki.integration.store import average_weight, lowest_score
from muki.integration.supervision import raw_weights, right_probability
from muki.predict import Classifier
from muki.preparation import load_from_config
from muki.run_folder import RunFolder
from muki.scored import scored_teachers, scored_texts
from muki.stale import require_student, require_supervision
from muki.teachers.outputs import TeacherOutputs, teacher_predictions
from muki.teachers.records import TeacherRecord
from muki.teachers.scoring import score_texts
from muki.texts import Text
from muki.view import Encoder


def explain(config: RunConfig, texts: Sequence[Text]) -> list[Explanation]:
    """Ask every teacher and the student about some texts; nothing is written.

    Args:
        config: of a run whose texts are scored and whose supervision is made.
        texts: any, pairs if the run's are; those of the pool get the scores that they got in the run.

    Raises:
        RunFolderError: the run has no supervision yet.
        ConfigError: there is no text; a teacher was given as a loaded object and cannot be loaded again; or a single
            text was given where the run's are pairs, or a pair where they are not.
    """
    run = RunFolder(Path(config.output))
    (records, space), pool = scored_teachers(run), scored_texts(run, "pool")
    if config.method.needs_gold:
        raise ConfigError("explain: this run's method routes by gold labels, so there is nothing to explain")
    if not texts:
        raise ConfigError("explain: no text to explain was found; give a file with at least one")
    _check_pairs(config.texts.text_pair, texts)
    asked = _as_in_pool(texts, pool)
    require_supervision(config, run)
    outputs = _teachers_say(config, records, asked)
    student = _student_says(config, run, asked)
    router = scored_pool(config, run).fitted(config.method)
    view = Encoder(config.student, config.trust_remote_code).encode(asked) if router.reads_view else None
    routing = router(outputs, view)
    predictions, refined = teacher_predictions(outputs, space), router.refinement is not None
    weights = raw_weights(routing, predictions, config.method, lowest_score(run.supervision))
    weights = weights / average_weight(run.supervision)
    estimated = refined and estimates_routing(config.method)
    return assemble(
        asked, outputs, router.distributions(outputs), space, routing.weights, weights, student,
        right=right_probability(routing.probabilities, predictions) if estimated else None,
        why=cause(config.method, refined, router.names is not None),
        foreign=routing.foreign if refined else None,
    )  # fmt: skip


def _teachers_say(config: RunConfig, records: Sequence[TeacherRecord], texts: list[Text]) -> list[TeacherOutputs]:
    """What each teacher says of the texts, read as the scoring stage reads them."""
    formats = {record.name: record.settings.get("passes_dtype") for record in records}
    settings = ScoringSettings.of(config)
    outputs = []
    for teacher in config.teachers:
        if teacher.model == IN_MEMORY:
            raise ConfigError(
                f"teacher '{teacher.name}': was given as a loaded object, so it cannot be asked again; save it and "
                "name its folder in the run file"
            )
        loaded = load_from_config(teacher, config.trust_remote_code, passes_dtype=formats[teacher.name or ""])
        outputs.append(
            score_texts(loaded, texts, passes=settings.passes, batch_tokens=settings.batch_tokens, keep=settings.keep)
        )
    return outputs


def _student_says(config: RunConfig, run: RunFolder, texts: list[Text]) -> Array | None:
    """The student's probabilities, shape (n, C); None where there is no student yet."""
    if not (run.student / "config.json").exists():
        return None
    require_student(config, run)
    prefix, trust = config.student.prefix, config.trust_remote_code
    return Classifier.load(run.student, prefix=prefix, trust_remote_code=trust).probabilities(texts)


def _check_pairs(column: str | None, texts: Sequence[Text]) -> None:
    """Refuse texts that are not pairs exactly where those of the run are; `column` is of the run's second texts."""
    if column is not None and any(one.text_pair is None for one in texts):
        raise ConfigError(
            f"explain: this run's texts are pairs (text_pair: {column}), but a single text was given; give its second "
            "text with --pair, or pairs with --texts FILE"
        )
    if column is None and any(one.text_pair is not None for one in texts):
        raise ConfigError("explain: this run's texts are no pairs, but a second text was given; leave --pair out")


def _as_in_pool(texts: Sequence[Text], pool: Iterable[Text]) -> list[Text]:
    """The texts with their rows in the pool, and negative ones where they are not there."""
    wanted = {(one.text, one.text_pair) for one in texts}
    rows = {(one.text, one.text_pair): one.row for one in pool if (one.text, one.text_pair) in wanted}
    return [replace(one, row=rows.get((one.text, one.text_pair), -1 - i)) for i, one in enumerate(texts)]
