"""Calibration: scores of different teachers are on different scales; here they become comparable.

Each function is fitted on one teacher's scores for the pool and gives a function of its scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from muki.formulas import Array, softmax

Scale = Callable[[Array], Array]
_ROUNDING = 1e-9  # of their size, by which equal scores may differ


def standardise(pool: Array) -> Scale:
    """Mean 0 and standard deviation 1 over the pool; 0 for all where the pool's differ by rounding alone."""
    center, spread = pool.mean(), float(pool.std())
    if spread <= _ROUNDING * np.abs(pool).max():
        return np.zeros_like
    return lambda scores: (scores - center) / spread


def normal_ranks(pool: Array) -> Scale:
    """The pool's distribution becomes the standard normal: for scores with long tails, such as distances.

    Equal scores get the middle of their ranks; a score beyond the pool's gets the pool's extreme.
    """
    known, counts = np.unique(pool, return_counts=True)
    places = norm.ppf((np.cumsum(counts) - counts / 2) / len(pool))
    return lambda scores: np.interp(scores, known, places)


def mixture(pool: Array) -> Scale:
    """Log odds that a score is of the higher of two Gaussians of one variance, fitted on the pool.

    The higher one should be the texts that the teacher knows. Unlike `standardise` this assumes no shares, but that the
    pool's scores show two humps; on real pools most do not (docs/method.md).
    """
    from sklearn.mixture import GaussianMixture

    scale = standardise(pool)
    z = scale(pool)
    if not z.any():  # one score for all: no humps
        return scale
    means = np.percentile(z, [20, 80])
    humps: Any = GaussianMixture(2, covariance_type="tied", means_init=means[:, None], reg_covar=1e-3, random_state=0)
    model = humps.fit(z[:, None])
    low, high = np.argsort(model.means_[:, 0])
    slope = (model.means_[high, 0] - model.means_[low, 0]) / model.covariances_[0, 0]
    middle = (model.means_[high, 0] + model.means_[low, 0]) / 2
    share = float(np.log(model.weights_[high] / model.weights_[low]))
    return lambda scores: slope * (scale(scores) - middle) + share


def match_shares(scores: ArrayLike, shares: ArrayLike, sharpness: float, rounds: int = 200) -> Array:
    """Offsets for the teachers, shape (N,), with which the pool falls to them in the given shares.

    Standardising assumes that each teacher owns a similar part of the pool; once better shares are known, this takes
    the assumption back.

    Args:
        scores: shape (n, N).
        shares: wanted mean of `softmax(sharpness · (scores + offsets))`, shape (N,).
        sharpness: inverse temperature of that softmax.
        rounds: of the fixed-point iteration.
    """
    s = np.asarray(scores, dtype=np.float64)
    wanted = np.log(np.asarray(shares, dtype=np.float64) + 1e-4)
    offsets = np.zeros(s.shape[1])
    for _ in range(rounds):
        found = np.log(softmax(sharpness * (s + offsets)).mean(axis=0) + 1e-4)
        step = 0.5 * (wanted - found) / sharpness
        offsets += step
        if np.abs(step).max() < 1e-4:
            break
    result: Array = offsets - offsets.mean()
    return result
