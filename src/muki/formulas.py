"""Small formulas on arrays of distributions. Natural logarithms; the last axis is the classes."""

from __future__ import annotations

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


def _xlogy(x: Array, y: Array) -> Any:
    """`x log y` with `0 log y = 0` for every y."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x == 0.0, 0.0, x * np.log(y))
