"""What a method itself expects, without labels: of its routing, and of texts that belong to none of the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from muki.evaluation.method_words import estimates_routing
from muki.evaluation.metrics import calibration_error, rightly_routed
from muki.integration.supervision import right_probability
from muki.methods import Method

_WORTH_A_WORD = 0.01  # of the pool
_JUDGES = ("view_accuracy", "score_accuracy")


def routing_outlook(
    method: Method, weights: ArrayLike, predictions: NDArray[np.int64], findings: Mapping[str, float]
) -> dict[str, Any]:
    """How often a right teacher was heard, by the method's own estimate, and what it found out about its two judges.

    Args:
        method: the method.
        weights: routing weights of the pool, shape (n, N).
        predictions: each teacher's top class as an index into the union, shape (n, N).
        findings: of the fit over the pool (`Router.findings`); none where there was no neutral view.

    Returns:
        `expected_accuracy`, the mean probability in [0, 1] that a text's label comes from a teacher that knows it;
        `refined`, whether the view was trusted to correct the scores; the estimated `view_accuracy` and
        `score_accuracy` that decided it; and `names_heard`, whether the labels' names were, where they were looked at.
        Empty for a method whose weights are not meant as probabilities.
    """
    if not estimates_routing(method):
        return {}
    judged = {name: float(np.clip(findings[name], 0, 1)) for name in _JUDGES if name in findings}
    names = {name: bool(findings[name]) for name in ("names_heard",) if name in findings}
    refined = {"refined": bool(findings.get("refined"))}
    return {"expected_accuracy": _expected(weights, predictions), **refined, **judged, **names}


def foreign_outlook(foreign: ArrayLike | None) -> dict[str, float]:
    """How much of the pool seems to belong to none of the labels, by the method's own estimate.

    Args:
        foreign: probability for each text, shape (n,), in [0, 1]; None where the method made no estimate.

    Returns:
        `foreign_share`, the mean, in [0, 1]; empty without an estimate.
    """
    return {} if foreign is None else {"foreign_share": float(np.asarray(foreign, dtype=np.float64).mean())}


def notable_foreign_share(metrics: Mapping[str, Any]) -> float | None:
    """`pool.foreign_share` of `metrics.json` where it is more than 1 %, so that a reader should know; else None."""
    share = float(metrics["pool"].get("foreign_share", 0.0))
    return share if share > _WORTH_A_WORD else None


def checked_outlook(
    method: Method,
    weights: ArrayLike,
    predictions: NDArray[np.int64],
    gold: NDArray[np.int64],
    columns: Sequence[Sequence[int]],
) -> dict[str, float]:
    """The same estimate for test texts, beside the truth.

    Args:
        method: the method.
        weights: routing weights, shape (n, N).
        predictions: as above.
        gold: index of the gold label in the union, shape (n,).
        columns: each teacher's columns in the union.

    Returns:
        `expected_accuracy` and its `expected_calibration_error`; empty for a method that estimates nothing.
    """
    if not estimates_routing(method):
        return {}
    said = right_probability(np.asarray(weights), predictions)
    error = calibration_error(said, rightly_routed(weights, gold, columns))
    return {"expected_accuracy": _expected(weights, predictions), "expected_calibration_error": error}


def _expected(weights: ArrayLike, predictions: NDArray[np.int64]) -> float:
    return float(right_probability(np.asarray(weights), predictions).mean())
