"""Golden supervision: the distribution over the union that gold labels would have given, rebuilt from the teachers.

g(y|x) = Σ_i w_i(x) · pad_i( p_i(y|x) )                         (METHOD: Li et al. 2022, arXiv 2210.05230)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from muki.errors import TextsError
from muki.formulas import Array


def pad(probabilities: ArrayLike, columns: Sequence[int], n_labels: int) -> Array:
    """Put a teacher's distribution into the union of labels, zeros elsewhere.

    Args:
        probabilities: shape (n, C_i).
        columns: union index of each of the teacher's columns, C_i different numbers.
        n_labels: size of the union, C.

    Returns:
        shape (n, C).
    """
    p = np.asarray(probabilities, dtype=np.float64)
    padded = np.zeros((*p.shape[:-1], n_labels))
    padded[..., list(columns)] = p
    return padded


def integrate_distributions(
    weights: ArrayLike, probabilities: Sequence[ArrayLike], columns: Sequence[Sequence[int]], n_labels: int
) -> Array:
    """`g = Σ_i w_i pad_i(p_i)`. Where teachers share a class, their shares add up in its column.

    Args:
        weights: routing weights, shape (n, N), rows sum to 1.
        probabilities: each teacher's distribution, shapes (n, C_i).
        columns: each teacher's columns in the union.
        n_labels: size of the union, C.

    Returns:
        shape (n, C), rows sum to 1.
    """
    w = np.asarray(weights, dtype=np.float64)
    target = np.zeros((len(w), n_labels))
    for teacher, (p, where) in enumerate(zip(probabilities, columns, strict=True)):
        target += w[:, teacher, None] * pad(p, where, n_labels)
    return target


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
