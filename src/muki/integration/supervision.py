"""Golden supervision: the distribution over the union that gold labels would have given, rebuilt from the teachers.

    g(y|x) = Σ_i w_i(x) · pad_i( p_i(y|x) )                     (Li et al. 2022, arXiv 2210.05230)

is `muki.formulas.integrate_distributions`; here is how much each text counts when a student learns it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from muki.errors import TextsError
from muki.formulas import Array
from muki.integration.router import Routing
from muki.methods import Method
from muki.routing.scores import SCORES
from muki.routing.weights import margin


def one_hot(gold: NDArray[np.int64], n_labels: int) -> Array:
    """Gold labels as distributions, shape (n, C); all zeros for a label outside the union (negative)."""
    result: Array = np.eye(n_labels)[gold] * (gold >= 0)[:, None]
    return result


def mean_one(weights: ArrayLike) -> Array:
    """Scale instance weights to mean 1 over the pool, so that the learning rate keeps its meaning.

    Raises:
        TextsError: no text counts at all.
    """
    w = np.asarray(weights, dtype=np.float64)
    if not w.mean() > 0:
        raise TextsError(
            "pool: no text counts, so there is nothing to learn from; for a method that reads gold labels, "
            "none of the pool's labels is a teacher's"
        )
    result: Array = w / w.mean()
    return result


def raw_weights(routing: Routing, predictions: NDArray[np.int64], method: Method, lowest: float | None = None) -> Array:
    """How much each text counts before scaling, shape (n,): by margin, by the routing's probability, or all alike.

    Args:
        routing: of the texts.
        predictions: each teacher's top class as an index into the union, shape (n, N).
        method: says which.
        lowest: of the pool's scores, where these texts are not the whole pool.
    """
    if method.needs_gold:
        result: Array = routing.scores.max(axis=-1)  # a text that belongs to nobody teaches nothing
        return result
    if method.reweight == "margin":
        certain = method.calibration == "none" and SCORES[method.score].is_certainty
        floor = routing.scores.min() if lowest is None else lowest
        return margin(routing.scores, predictions, nothing=0.0 if certain else float(floor))
    if method.reweight == "probability":
        return right_probability(routing.probabilities, predictions) * (1 - routing.foreign)
    return np.ones(len(predictions))


def right_probability(weights: Array, predictions: NDArray[np.int64]) -> Array:
    """How likely the most heard teacher's class is a right teacher's: the weight of all that give it, shape (n,).

    Args:
        weights: routing weights that are probabilities, shape (n, N).
        predictions: each teacher's top class as an index into the union, shape (n, N).
    """
    best = np.take_along_axis(predictions, weights.argmax(axis=-1)[:, None], axis=-1)
    result: Array = (weights * (predictions == best)).sum(axis=-1)
    return result
