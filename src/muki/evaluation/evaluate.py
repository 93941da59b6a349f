"""Evaluation of a finished run: what can be said without labels, and with a test file what gold labels say.

Keys of `metrics.json` are stable; docs/metrics.md explains each.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muki.config import RunConfig
from muki.errors import TextsError
from muki.evaluation.answers import StudentAnswers, asked_rows
from muki.evaluation.metrics import (
    accuracy,
    classification_metrics,
    expected_calibration_error,
    quantiles,
    routing_accuracy,
)
from muki.evaluation.outlook import checked_outlook, foreign_outlook, routing_outlook
from muki.files import read_json
from muki.formulas import Array, integrate_distributions, softmax
from muki.integration.pool import load_outputs, scored_pool
from muki.integration.router import Routing, gold_routing, plain_distributions
from muki.integration.store import Supervision, load_supervision
from muki.labels import LabelSpace
from muki.methods import preset_name
from muki.routing.scores import available, fit_scores, routing_scores
from muki.routing.weights import soft_weights
from muki.run_folder import RunFolder
from muki.scored import scored_texts
from muki.student.data import split_holdout
from muki.teachers.outputs import TeacherOutputs, teacher_predictions
from muki.texts import TextShards
from muki.view import neutral_view

logger = logging.getLogger(__name__)

FORMAT = 1


def evaluate(run: RunFolder, config: RunConfig, space: LabelSpace) -> dict[str, Any]:
    """All metrics of a run.

    Raises:
        RunFolderError: the student or the scores are not there yet.
        TextsError: no test text has a label of the union.
    """
    student = StudentAnswers(run, config)
    if config.method.student != "none":
        student.require()
    pool = scored_texts(run, "pool")
    supervision = load_supervision(run.supervision)
    metrics: dict[str, Any] = {
        "format": FORMAT,
        "labels": list(space.labels),
        "method": {"name": preset_name(config.method), **config.method.model_dump()},
        "pool": pool_metrics(run, config, space, pool, supervision, student),
    }
    test = TextShards.load(run.texts("test")) if config.test else None
    if test is not None:
        metrics |= labelled_metrics(run, config, space, test, student)
    return metrics


def pool_metrics(
    run: RunFolder,
    config: RunConfig,
    space: LabelSpace,
    pool: TextShards,
    supervision: Supervision,
    student: StudentAnswers,
) -> dict[str, Any]:
    """What can be said without labels: agreement, shares, margins, passes."""
    names = list(space.columns)
    outputs = load_outputs(config, run, "pool")
    predictions = teacher_predictions(outputs, space)
    best = supervision.routing.argmax(axis=-1)
    _, holdout = split_holdout(supervision.rows, config.training.holdout, config.training.seed)
    holdout = holdout[supervision.target[holdout].any(axis=-1)]  # a ceiling has no target for labels that nobody knows
    held_out: dict[str, Any] = {"n": len(holdout)}
    if len(holdout) and config.method.student != "none":
        asked = asked_rows(supervision.rows, config.training.holdout, config.training.seed)
        said = student.of("pool", pool, asked)[np.searchsorted(asked, supervision.rows[holdout])].argmax(axis=-1)
        held_out["student_target_agreement"] = accuracy(said, supervision.target[holdout].argmax(axis=-1))
    top_two = np.sort(supervision.scores, axis=-1)[:, -2:]
    made = read_json(run.supervision_summary) or {}
    findings = made.get("findings") or {}
    outlook = routing_outlook(config.method, supervision.routing, predictions, findings)
    return {
        "texts": pool.rows,
        "skipped": pool.skipped,
        "teacher_share": {name: float((best == i).mean()) for i, name in enumerate(names)},
        "label_share": {
            label: float(share)
            for label, share in zip(space.labels, supervision.target.mean(axis=0, dtype=np.float64), strict=True)
        },
        "teachers_agree": float((predictions == predictions[:, :1]).all(axis=-1).mean()),
        "score": {name: quantiles(supervision.scores[:, i]) for i, name in enumerate(names)},
        "margin": quantiles(top_two[:, 1] - top_two[:, 0]),
        "passes": {name: float(one.passes.mean()) for name, one in zip(names, outputs, strict=True)},
        **{key: made[key] for key in ("teacher_temperature",) if key in made},
        "held_out": held_out,
        **({"routing": outlook} if outlook else {}),
        **({key: bool(findings.get(key)) for key in ("refined", "names_heard")} if config.method.refines else {}),
        **foreign_outlook(supervision.foreign),
    }


def labelled_metrics(
    run: RunFolder, config: RunConfig, space: LabelSpace, test: TextShards, answers: StudentAnswers
) -> dict[str, Any]:
    """What gold labels say: the student, each teacher on its own part, the ensembles, the routing."""
    names = list(space.columns)
    columns = list(space.columns.values())
    texts = list(test)
    known = np.array([text.label in space.label2id for text in texts])
    outside = require_known_labels(test.source, (text.label for text in texts), space)
    if outside:
        logger.warning(
            "test: %d texts left out, their labels are outside the union: %s", sum(outside.values()), dict(outside)
        )
    rows = np.array([text.row for text in texts])[known]
    texts = [text for text, keep in zip(texts, known, strict=True) if keep]
    gold = np.array([space.label2id[text.label or ""] for text in texts])
    outputs = [one.take(np.flatnonzero(known)) for one in load_outputs(config, run, "test", features=True)]

    own_parts = {name: np.isin(gold, columns[i]) for i, name in enumerate(names)}
    routing, calibrated = route_test(run, config, space, outputs, gold)
    teachers = {name: _teacher_alone(outputs[i], columns[i], gold) for i, name in enumerate(names)}
    found: dict[str, Any] = {"test": {"texts": len(texts), "left_out": dict(outside), "source": test.source}}
    if config.method.student != "none":
        student = answers.of("test", test, rows)
        found["student"] = {
            **classification_metrics(student, gold, space.labels),
            "per_teacher_part": {
                name: {"accuracy": accuracy(student[own].argmax(-1), gold[own]), "n": int(own.sum())}
                for name, own in own_parts.items()
                if own.any()
            },
        }
    return found | {
        "teachers": teachers,
        "ensemble": classification_metrics(
            ensemble(plain_distributions(outputs), soft_weights(routing_scores(outputs, "energy"), 1.0), space),
            gold,
            space.labels,
        ),
        "routed_ensemble": classification_metrics(ensemble(calibrated, routing.weights, space), gold, space.labels),
        "routing": {
            "accuracy": routing_accuracy(routing.weights, gold, columns),
            "by_label": _most_heard_by_label(routing.weights, gold, space),
            "by_score": _by_score(scored_pool(config, run, write=False).sample(), outputs, gold, columns),
            **checked_outlook(config.method, routing.weights, teacher_predictions(outputs, space), gold, columns),
        },
    }


def route_test(
    run: RunFolder, config: RunConfig, space: LabelSpace, outputs: list[TeacherOutputs], gold: NDArray[np.int64]
) -> tuple[Routing, list[Array]]:
    """Route test texts by the method's chain, fitted on the pool; gold labels are read by the ceilings only.

    Args:
        run: with scores of pool and test.
        config: the run's.
        space: the label space.
        outputs: each teacher's, for the test texts that are looked at.
        gold: of these texts, indices into the union.

    Returns:
        the routing, and each teacher's distribution as the chain takes it, shapes (n, C_i).
    """
    if config.method.needs_gold:
        return gold_routing(gold, list(space.columns.values())), plain_distributions(outputs)
    router = scored_pool(config, run).fitted(config.method)
    view, test = neutral_view(config, run, "test"), TextShards.load(run.texts("test"))
    distributions = router.distributions(outputs)
    if view is None or test is None:
        return router(outputs), distributions
    everything = np.concatenate([view(number) for number in range(len(test.shards))])
    rows = np.concatenate([[text.row for text in test.read(shard)] for shard in test.shards])
    return router(outputs, everything[np.searchsorted(rows, outputs[0].rows)]), distributions


def require_known_labels(source: str, labels: Iterable[str | None], space: LabelSpace) -> Counter[str]:
    """Count the gold labels outside the union.

    Raises:
        TextsError: no label is in the union.
    """
    counts = Counter(labels)
    outside = Counter({str(label): count for label, count in counts.items() if label not in space.label2id})
    if counts and sum(outside.values()) == sum(counts.values()):
        raise TextsError(
            f"test '{source}': no text has a label of the union; found {', '.join(sorted(outside)[:8])}, "
            f"known are {', '.join(space.labels)}; write the teachers' label names into the file (numbers are not "
            "looked up)"
        )
    return outside


def ensemble(distributions: list[Array], weights: Array, space: LabelSpace) -> Array:
    """The teachers themselves as one classifier, without a student; shape (n, C).

    With their softmax and the weights of vanilla distillation this is the softmax of the concatenated logits.

    Args:
        distributions: each teacher's over its own labels, shapes (n, C_i).
        weights: routing weights, shape (n, N).
        space: the label space.
    """
    return integrate_distributions(weights, distributions, list(space.columns.values()), len(space.labels))


def _by_score(
    pool: list[TeacherOutputs], outputs: list[TeacherOutputs], gold: NDArray[np.int64], columns: list[tuple[int, ...]]
) -> dict[str, float]:
    """Routing accuracy of every score alone, each fitted on the pool as the method's own is."""
    return {
        name: routing_accuracy(np.stack([s(o) for s, o in zip(fit_scores(pool, name), outputs, strict=True)], -1), gold,
                               columns)
        for name in available(outputs)
    }  # fmt: skip


def _teacher_alone(outputs: TeacherOutputs, own: tuple[int, ...], gold: NDArray[np.int64]) -> dict[str, Any]:
    """One teacher on the texts of its own classes, and over all texts, where it cannot know the others."""
    p = softmax(outputs.logits)
    predicted = np.asarray(own)[p.argmax(axis=-1)]
    mine = np.isin(gold, own)
    position = np.array([own.index(label) if label in own else -1 for label in gold])
    return {
        "accuracy": accuracy(predicted[mine], gold[mine]) if mine.any() else None,
        "n": int(mine.sum()),
        "accuracy_on_all": accuracy(predicted, gold),
        "expected_calibration_error": expected_calibration_error(p[mine], position[mine]) if mine.any() else None,
    }


def _most_heard_by_label(weights: Array, gold: NDArray[np.int64], space: LabelSpace) -> dict[str, dict[str, float]]:
    """For each gold label that occurs, the share of its texts on which each teacher is heard most."""
    best = weights.argmax(axis=-1)
    return {
        label: {name: float((best[gold == i] == teacher).mean()) for teacher, name in enumerate(space.columns)}
        for i, label in enumerate(space.labels)
        if (gold == i).any()
    }
