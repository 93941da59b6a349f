"""Golden supervision: the distribution over the union that gold labels would have given, rebuilt from the teachers.

g(y|x) = Σ_i w_i(x) · pad_i( p_i(y|x) )                         (METHOD: Li et al. 2022, arXiv 2210.05230)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from muki.errors import TextsError
from muki.formulas import Array, integrate_distributions, pad

__all__ = ["integrate_distributions", "mean_one", "one_hot", "pad"]


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
