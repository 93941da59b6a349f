"""A teacher's temperature: how sure it really is among its own labels, found without labels.

A teacher that was trained briefly may be right on half of its texts and give the class that it chooses 0.06. Its
routing can be perfect and the target still says only which teacher knows the text, nothing of the class. With gold
labels one would divide its logits by the temperature T that predicts these best (temperature scaling: Guo et al. 2017,
arXiv 1706.04599). Here two other judges choose among the teacher's labels, on the texts that it is heard on:

    T_i = argmin_T  − Σ_x log softmax( z_i(x) / T )[ choice(x) ]

The labels' names know nothing of the teacher: their mistakes make T too large. The pool's classes learned from the
teacher itself and repeat some of its mistakes: they make T too small. The geometric mean of the two is close to what
gold labels give. Mistakes of judges are no reason to flatten a target, so that T is at most 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from muki.formulas import Array, log_softmax

LOWEST = 0.05  # a teacher that is always borne out would have no lowest one
_FEWEST = 30  # texts of a teacher; fewer do not tell


def fit_temperature(logits: ArrayLike, choices: NDArray[np.int64]) -> float:
    """The T in [0.05, 20] with which `softmax(z / T)` predicts choices best.

    Args:
        logits: shape (n, C).
        choices: shape (n,), in 0..C − 1.
    """
    z, rows = np.asarray(logits, dtype=np.float64), np.arange(len(choices))

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(z, np.exp(log_temperature))[rows, choices].mean())

    widest = -np.log(LOWEST)
    return float(np.exp(minimize_scalar(loss, bounds=(-widest, widest), method="bounded").x))


def teacher_temperatures(
    logits: Sequence[ArrayLike], judges: Sequence[Array], weights: Array, columns: Sequence[Sequence[int]]
) -> Array:
    """Each teacher's temperature in [0.05, 1], shape (N,); 1 without judges, or for a teacher of too few texts.

    A teacher that gives all texts of the pool one label stays as it is too: the classes that the pool learned from it
    would bear it out whatever it says.

    Args:
        logits: each teacher's, shapes (n, C_i).
        judges: log P(y | x) of each judge, shapes (n, C).
        weights: routing weights, shape (n, N): a teacher is judged on the texts that it is heard most on.
        columns: each teacher's columns in the union.
    """
    heard, found = weights.argmax(axis=-1), np.ones(len(logits))
    for i, (z, own) in enumerate(zip(logits, columns, strict=True)):
        said, mine = np.asarray(z).argmax(axis=-1), heard == i
        if judges and mine.sum() >= _FEWEST and (said != said[0]).any():
            choices = [judge[mine][:, list(own)].argmax(axis=-1) for judge in judges]
            asked = [fit_temperature(np.asarray(z)[mine], one) for one in choices]
            found[i] = np.exp(np.log(asked).mean())
    result: Array = np.clip(found, LOWEST, 1.0)
    return result
