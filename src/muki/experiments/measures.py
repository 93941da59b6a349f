"""What is measured of a cell. Gold labels come in here, after all supervision is made, and nowhere earlier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from muki.config import RunConfig
from muki.evaluation.evaluate import ensemble, route_test
from muki.evaluation.metrics import (
    accuracy,
    calibration_error,
    classification_metrics,
    rightly_routed,
    routing_accuracy,
)
from muki.evaluation.outlook import foreign_outlook
from muki.formulas import Array
from muki.integration.pool import load_outputs
from muki.integration.store import Supervision, load_supervision
from muki.integration.supervision import right_probability
from muki.labels import LabelSpace
from muki.predict import Classifier
from muki.run_folder import RunFolder
from muki.scored import scored_labels, scored_texts
from muki.teachers.outputs import teacher_predictions
from muki.texts import Text


def measure_pool(run: RunFolder, config: RunConfig, gold_labels: Sequence[str]) -> dict[str, Any]:
    """How good routing and target are on the pool's texts that belong to somebody.

    Args:
        run: with supervision, and the scores that it was made from.
        config: the run's; the scores may hold more dropout passes than its method reads.
        gold_labels: of the pool's texts, in order; labels outside the union belong to nobody.
    """
    space = scored_labels(run)
    supervision = load_supervision(run.supervision)
    outputs = load_outputs(config, run, "pool")
    said = right_probability(supervision.routing.astype(np.float64), teacher_predictions(outputs, space))
    columns = list(space.columns.values())
    gold = _index(gold_labels, space.label2id)
    known = gold >= 0
    routing, target = supervision.routing[known], supervision.target[known].argmax(axis=-1)
    parts = [np.isin(gold[known], list(own)) for own in columns]
    shares = [routing_accuracy(routing[own], gold[known][own], columns) for own in parts if own.any()]
    right = rightly_routed(routing, gold[known], columns)
    drawn = bool(config.method.passes) and not config.method.needs_gold
    return {
        "pool": len(gold),
        "passes": 1 + (float(np.mean([one.passes for one in outputs])) if drawn else 0),
        "foreign": int((~known).sum()),
        "routing_accuracy": float(right.mean()),
        "routing_calibration_error": calibration_error(said[known], right),
        "balanced_routing_accuracy": float(np.mean(shares)),
        "target_accuracy": accuracy(target, gold[known]),
        **foreign_outlook(supervision.foreign),
        **_found_foreign(supervision, known),
    }


def _found_foreign(supervision: Supervision, known: NDArray[np.bool_]) -> dict[str, float]:
    """Area under the ROC curve of telling foreign texts, where the pool has both kinds.

    Methods that do not look for them are taken at one minus the surest teacher's score.
    """
    if known.all() or not known.any():
        return {}
    foreign = supervision.foreign
    evidence = -supervision.scores.max(axis=-1) if foreign is None else foreign
    ranks = rankdata(evidence)
    outside = len(known) - int(known.sum())
    area = (ranks[~known].sum() - outside * (outside + 1) / 2) / (outside * int(known.sum()))
    return {"foreign_auroc": float(area)}


def measure_answers(run: RunFolder, config: RunConfig, rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Accuracy, macro-F1, calibration, and which test texts are right, of the student or the ensemble.

    Args:
        run: with a student, or with the teachers' outputs for the test where the method has none.
        config: the run's.
        rows: the test, `text` and `label`; labels outside the union are left out.
    """
    space = scored_labels(run)
    known = [row for row in rows if row["label"] in space.label2id]
    gold = _index([row["label"] for row in known], space.label2id)
    if config.method.student != "none":
        classifier = Classifier.load(run.student, prefix=config.student.prefix)
        answers = classifier.probabilities([Text(i, row["text"]) for i, row in enumerate(known)])
    else:
        answers = _ensemble(run, config, space, gold)
    found = classification_metrics(answers, gold, space.labels)
    correct = answers.argmax(axis=-1) == gold
    wanted = ("accuracy", "macro_f1", "expected_calibration_error", "n")
    return {**{key: found[key] for key in wanted}, "correct": np.packbits(correct).tobytes().hex()}


def _ensemble(run: RunFolder, config: RunConfig, space: LabelSpace, gold: NDArray[np.int64]) -> Array:
    """The teachers' answers to the test, shape (n, C)."""
    test = scored_texts(run, "test")
    known = np.array([text.label in space.label2id for text in test])
    outputs = [one.take(np.flatnonzero(known)) for one in load_outputs(config, run, "test", features=True)]
    routing, answers = route_test(run, config, space, outputs, gold)
    return ensemble(answers, routing.weights, space)


def correct_of(record: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Which test texts a cell got right, shape (n,)."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(record["correct"]), dtype=np.uint8))
    return bits[: record["n"]].astype(bool)


def _index(labels: Sequence[str], index: Mapping[str, int]) -> NDArray[np.int64]:
    """Union index of each label; -1 outside it."""
    return np.array([index.get(label, -1) for label in labels], dtype=np.int64)
