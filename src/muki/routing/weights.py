"""Routing weights: from one score for each text and teacher to how much each teacher is heard."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from muki.formulas import Array, logsumexp, softmax

MARGIN_FLOOR = 1e-6


def soft_weights(scores: ArrayLike, temperature: float = 0.2) -> Array:
    """`softmax(s / τ)` over the teachers.

    Args:
        scores: shape (n, N).
        temperature: τ > 0; small values approach `hard_weights`, large ones hear all teachers alike.

    Returns:
        shape (n, N), rows sum to 1.
    """
    return softmax(scores, temperature)


def hard_weights(scores: ArrayLike) -> Array:
    """All weight on the surest teacher (the first of equals); shape (n, N), one 1 in each row."""
    s = np.asarray(scores, dtype=np.float64)
    result: Array = np.eye(s.shape[-1])[s.argmax(axis=-1)]
    return result


def surest(scores: ArrayLike) -> list[NDArray[np.int64]]:
    """For each teacher, of the texts that fall to it by `scores` (n, N), those on which it leads most: half of them."""
    s = np.asarray(scores, dtype=np.float64)
    chosen, top = s.argmax(axis=-1), np.sort(s, axis=-1)
    lead = top[:, -1] - top[:, -2]
    owned = [np.flatnonzero(chosen == teacher) for teacher in range(s.shape[1])]
    return [own[np.argsort(-lead[own])[: -(-len(own) // 2)]] for own in owned]


def log_agreement(log_class: Array, distributions: Sequence[Array], columns: Sequence[Sequence[int]]) -> Array:
    """Log of how much a classifier over the union agrees with each teacher, `log Σ_{y ∈ L_i} P(y | x) p_i(y | x)`.

    Args:
        log_class: log P(y | x) of that classifier, shape (n, C).
        distributions: each teacher's softmax, shapes (n, C_i).
        columns: each teacher's columns in the union.

    Returns:
        shape (n, N).
    """
    agreement = [
        logsumexp(log_class[:, list(own)] + np.log(np.maximum(p, 1e-300)))
        for own, p in zip(columns, distributions, strict=True)
    ]
    return np.stack(agreement, axis=-1)


def margin(scores: ArrayLike, predictions: NDArray[np.int64] | None = None, nothing: float = 0.0) -> Array:
    """How clearly one teacher is surer than those that contradict it: `s₍₁₎ − s₍₂₎ + 1e-6`.

    Args:
        scores: shape (n, N).
        predictions: each teacher's top class as an index into the union, shape (n, N). Where label sets overlap, a
            teacher that gives the same class as the surest one does not contradict it, so the second best is looked
            for among the others; if all agree, it counts as `nothing`. Without shared classes this is the plain margin.
        nothing: the score of a teacher that knows nothing: 0 for a certainty, else the lowest in the pool.

    Returns:
        shape (n,), positive.
    """
    s = np.asarray(scores, dtype=np.float64)
    best = s.argmax(axis=-1)
    first = s.max(axis=-1)
    if predictions is None:
        conflicts = np.arange(s.shape[-1]) != best[:, None]
    else:
        conflicts = predictions != np.take_along_axis(predictions, best[:, None], axis=-1)
    second = np.where(conflicts, s, -np.inf).max(axis=-1)
    second = np.where(conflicts.any(axis=-1), second, nothing)
    result: Array = first - second + MARGIN_FLOOR
    return result
