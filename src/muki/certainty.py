"""Certainty: how far a distribution is from the uniform law, and how well Monte-Carlo passes have pinned it down."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from muki.formulas import Array, entropy


def certainty(probabilities: ArrayLike) -> Array:
    """Certainty of a distribution: `1 − H(p) / log C`, in [0, 1]; 0 for the uniform law, 1 for a sure answer.

    Applied to the mean over dropout passes this is MUKI's score (Li et al. 2022, arXiv 2210.05230).

    Args:
        probabilities: shape (..., C) with C ≥ 2.

    Raises:
        ValueError: one class only, for which the normaliser `log C` is 0.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.shape[-1] < 2:
        raise ValueError(f"certainty needs two or more classes, found {p.shape[-1]}")
    result: Array = np.clip(1.0 - entropy(p) / np.log(p.shape[-1]), 0.0, 1.0)
    return result


def certainty_error(draws: ArrayLike) -> Array:
    """Jackknife standard error of the certainty of the mean over K passes: how far K more passes might move it.

    `σ² = (K − 1) / K · Σ_k (s₋ₖ − s̄)²`, with s₋ₖ the certainty of the mean without pass k and s̄ their mean.

    Args:
        draws: softmax of each pass, shape (n, K, C) with K ≥ 2.

    Returns:
        shape (n,), in units of certainty. Conservative on average for smooth statistics, but noisy for small K: the
        estimate of an estimate. Source: Efron and Stein 1981, The jackknife estimate of variance.
    """
    p = np.asarray(draws, dtype=np.float64)
    k = p.shape[1]
    if k < 2:
        raise ValueError(f"a standard error needs two or more passes, found {k}")
    without = (p.sum(axis=1, keepdims=True) - p) / (k - 1)  # (n, K, C)
    scores = certainty(np.clip(without, 0.0, 1.0))
    result: Array = np.sqrt((k - 1) / k * ((scores - scores.mean(axis=1, keepdims=True)) ** 2).sum(axis=1))
    return result
