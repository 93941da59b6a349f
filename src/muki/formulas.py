"""Small formulas on arrays of distributions. Natural logarithms; the last axis is the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def softmax(logits: ArrayLike, temperature: float = 1.0) -> Array:
    """Softmax over the last axis, `exp(z/T) / Σ exp(z/T)`, without overflow."""
    return np.exp(log_softmax(logits, temperature))


def log_softmax(logits: ArrayLike, temperature: float = 1.0) -> Array:
    """Logarithm of the softmax over the last axis."""
    z = np.asarray(logits, dtype=np.float64) / temperature
    result: Array = z - logsumexp(z)[..., None]
    return result


def logsumexp(logits: ArrayLike) -> Array:
    """`log Σ exp z` over the last axis: the negative free energy of the logits."""
    z = np.asarray(logits, dtype=np.float64)
    top = z.max(axis=-1, keepdims=True)
    result: Array = (top + np.log(np.exp(z - top).sum(axis=-1, keepdims=True)))[..., 0]
    return result


def entropy(probabilities: ArrayLike) -> Array:
    """Entropy in nats over the last axis, in [0, log C]; a probability of 0 contributes 0."""
    p = np.asarray(probabilities, dtype=np.float64)
    result: Array = np.maximum(-_xlogy(p, p).sum(axis=-1), 0.0)
    return result


def kl_divergence(g: ArrayLike, q: ArrayLike) -> Array:
    """`KL(g ‖ q) = Σ g log(g / q)` in nats over the last axis; classes with g = 0 contribute 0."""
    p, r = np.asarray(g, dtype=np.float64), np.asarray(q, dtype=np.float64)
    result: Array = (_xlogy(p, p) - _xlogy(p, r)).sum(axis=-1)
    return result


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
        target[:, list(where)] += w[:, teacher, None] * np.asarray(p, dtype=np.float64)
    return target


def union_predictions(distributions: Sequence[ArrayLike], columns: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Each teacher's top class as an index into the union, shape (n, N).

    Args:
        distributions: each teacher's distribution or logits, shapes (n, C_i).
        columns: each teacher's columns in the union.
    """
    tops = [np.asarray(own)[np.asarray(p).argmax(axis=-1)] for own, p in zip(columns, distributions, strict=True)]
    return np.stack(tops, axis=-1)


def knower_groups(columns: Sequence[Sequence[int]], n_labels: int) -> list[list[int]]:
    """The union cut into labels that the very same teachers know: without shared labels, one group for each teacher.

    Args:
        columns: each teacher's columns in the union.
        n_labels: size of the union, each label of which some teacher knows.
    """
    knowers: list[list[int]] = [[] for _ in range(n_labels)]
    for teacher, own in enumerate(columns):
        for label in own:
            knowers[label].append(teacher)
    groups: dict[tuple[int, ...], list[int]] = {}
    for label, teachers in enumerate(knowers):
        groups.setdefault(tuple(teachers), []).append(label)
    return list(groups.values())


def cohens_kappa(a: ArrayLike, b: ArrayLike, n_choices: int) -> float:
    """Agreement of two judges beyond chance, 1 for always; 0 where chance alone makes them agree, or without texts.

    Args:
        a: choices in 0..n_choices − 1, shape (n,).
        b: the other judge's, shape (n,).
        n_choices: how many there are.
    """
    first, second = np.asarray(a), np.asarray(b)
    if len(first) == 0:
        return 0.0
    shares = [np.bincount(judge, minlength=n_choices) / len(judge) for judge in (first, second)]
    chance = float(shares[0] @ shares[1])
    return (float((first == second).mean()) - chance) / (1 - chance) if chance < 1 else 0.0


def _xlogy(x: Array, y: Array) -> Any:
    """`x log y` with `0 log y = 0` for every y."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x == 0.0, 0.0, x * np.log(y))
