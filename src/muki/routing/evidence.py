"""Evidence: two judges of each text, the teachers' own scores and the neutral view, each calibrated by the other.

The view speaks by the classes of the pool and by the labels' names; both are over-confident. The scores know nothing of
probabilities. The mistakes of view and scores have different causes, so each can be measured against the other: what
the view says is tempered until it predicts what the scores choose, and a logistic model turns scores into the
probabilities that the tempered view implies. Their product is the routing weight, and its largest entry is the
probability that the routing is right. (Co-training: Blum and Mitchell 1998.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from muki.formulas import Array, log_softmax

_FEWEST = 30  # texts that only one teacher answers so, to fit on them alone
_REGULARISATION = 0.1  # scikit-learn's C: strong, the scores are few and the judge is noisy
_ROUNDS = 2  # of measuring each judge against the other
_FIRST_EXPONENT = 0.2  # where that begins: in hundreds of dimensions a view is some five times too sure
_LOG_EXPONENTS = (-6.0, 1.0)


@dataclass(frozen=True)
class Evidence:
    """How both judges are weighed.

    Attributes:
        exponents: inverse temperatures of what the view says, shape (J,) for J voices.
        slope: of the logistic model of the scores, shape (N, F).
        intercept: of that model, shape (N,).
        log_shares: each teacher's share of the pool, which both judges have counted, shape (N,).
    """

    exponents: Array
    slope: Array
    intercept: Array
    log_shares: Array

    @classmethod
    def fit(cls, voices: Sequence[Array], scores: Array, predictions: NDArray[np.int64]) -> Evidence:
        """Weigh the judges against each other, on texts whose answer hangs on the choice of the teacher.

        Args:
            voices: log weights by the neutral view, each of shape (n, N).
            scores: calibrated scores of all teachers side by side, shape (n, F).
            predictions: each teacher's top class as an index into the union, shape (n, N).
        """
        exponents = np.full(len(voices), _FIRST_EXPONENT)
        for _ in range(_ROUNDS):
            view = tempered(voices, exponents)
            shares = np.exp(view).mean(axis=0)
            best = np.take_along_axis(predictions, view.argmax(axis=-1)[:, None], axis=-1)
            alone = (predictions == best).sum(axis=-1) == 1
            if alone.sum() <= _FEWEST:
                alone = np.ones_like(alone)
            slope, intercept = _logistic(scores[alone], np.exp(view[alone]))
            choices = (scores[alone] @ slope.T + intercept).argmax(axis=-1)
            exponents = temper([voice[alone] for voice in voices], choices, exponents)
        return cls(exponents, slope, intercept, np.log(shares + 1e-6))

    def log_weights(self, voices: Sequence[Array], scores: Array) -> Array:
        """Log of the routing weights, shape (n, N); arguments as for `fit`."""
        by_scores = log_softmax(scores @ self.slope.T + self.intercept)
        return log_softmax(tempered(voices, self.exponents) + by_scores - self.log_shares)


def tempered(voices: Sequence[Array], exponents: Array) -> Array:
    """`log Π_j w_j^β_j`, normalised over the teachers; shape (n, N)."""
    return log_softmax(np.tensordot(exponents, np.stack(voices), axes=1))


def temper(voices: Sequence[Array], choices: NDArray[np.int64], start: Array) -> Array:
    """The β_j in [0.002, 2.7] with which `Π_j w_j^β_j` predicts an independent judge's choices best, shape (J,).

    Args:
        voices: log weights, each of shape (n, N).
        choices: shape (n,), in 0..N − 1.
        start: where the search begins, shape (J,).
    """
    rows = np.arange(len(choices))

    def loss(log_exponents: Array) -> float:
        return float(-tempered(voices, np.exp(log_exponents))[rows, choices].mean())

    first = np.clip(np.log(start), *_LOG_EXPONENTS)
    found: Array = np.exp(minimize(loss, first, bounds=[_LOG_EXPONENTS] * len(voices), method="L-BFGS-B").x)
    return found


def _logistic(x: Array, targets: Array) -> tuple[Array, Array]:
    """Logistic regression on soft targets (n, N): slope (N, F) and intercept (N,)."""
    from sklearn.linear_model import LogisticRegression

    n, n_teachers = targets.shape
    weight = targets.T.ravel()
    kept = weight > 1e-3
    teachers = np.repeat(np.arange(n_teachers), n)
    if len(np.unique(teachers[kept])) < 2:  # nothing to tell apart
        return np.zeros((n_teachers, x.shape[1])), np.log(targets.mean(axis=0) + 1e-6)
    model: Any = LogisticRegression(C=_REGULARISATION, max_iter=500)
    model.fit(np.tile(x, (n_teachers, 1))[kept], teachers[kept], sample_weight=weight[kept])
    if len(model.classes_) > 2:
        slope, intercept = model.coef_, model.intercept_
    else:  # one row: the log odds of the second of two
        slope, intercept = np.vstack([0 * model.coef_, model.coef_]), np.array([0.0, model.intercept_[0]])
    full, constant = np.zeros((n_teachers, x.shape[1])), np.full(n_teachers, -30.0)
    full[model.classes_], constant[model.classes_] = slope, intercept
    return full, constant
