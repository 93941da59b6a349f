"""Evidence: two judges of each text, the teachers' own scores and the neutral view, each calibrated by the other.

The view's weights are over-confident, the scores know nothing of probabilities. Their mistakes have different causes,
so each can be measured against the other: the view is tempered until it predicts what the scores choose, and a logistic
model turns scores into the probabilities that the view implies. Their product is the routing weight, and its largest
entry is the probability that the routing is right. (Co-training: Blum and Mitchell 1998.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from muki.formulas import Array, log_softmax, softmax

_FEWEST = 30  # texts that only one teacher answers so, to fit on them alone
_REGULARISATION = 0.1  # scikit-learn's C: strong, the scores are few and the judge is noisy


@dataclass(frozen=True)
class Evidence:
    """How both judges are weighed.

    Attributes:
        kappa: inverse temperature of the view's log weights.
        slope: of the logistic model of the scores, shape (N, F).
        intercept: of that model, shape (N,).
        log_shares: each teacher's share of the pool, which both judges have counted, shape (N,).
    """

    kappa: float
    slope: Array
    intercept: Array
    log_shares: Array

    @classmethod
    def fit(cls, view: Array, scores: Array, answers: NDArray[np.int64]) -> Evidence:
        """Weigh the judges against each other, on texts whose answer hangs on the choice of the teacher.

        Args:
            view: log weights by the neutral view, shape (n, N).
            scores: calibrated scores of all teachers side by side, shape (n, F).
            answers: each teacher's top class as an index into the union, shape (n, N).
        """
        shares = softmax(view).mean(axis=0)
        best = np.take_along_axis(answers, view.argmax(axis=-1)[:, None], axis=-1)
        alone = (answers == best).sum(axis=-1) == 1
        if alone.sum() > _FEWEST:
            view, scores = view[alone], scores[alone]
        slope, intercept = _logistic(scores, softmax(view))
        kappa = temper(view, log_softmax(scores @ slope.T + intercept).argmax(axis=-1))
        return cls(kappa, slope, intercept, np.log(shares + 1e-6))

    def log_weights(self, view: Array, scores: Array) -> Array:
        """Log of the routing weights, shape (n, N)."""
        by_scores = log_softmax(scores @ self.slope.T + self.intercept)
        return log_softmax(self.kappa * view + by_scores - self.log_shares)


def temper(log_weights: Array, choices: NDArray[np.int64]) -> float:
    """The κ in (0, 3] with which `softmax(κ · log w)` predicts an independent judge's choices best.

    Args:
        log_weights: shape (n, N).
        choices: shape (n,), in 0..N − 1.
    """

    def loss(log_kappa: float) -> float:
        p = softmax(np.exp(log_kappa) * log_weights)
        return float(-np.log(p[np.arange(len(choices)), choices] + 1e-12).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-6.0, 1.0), method="bounded").x))


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
