"""Routing scores: how sure is a teacher about each text? One number a text, higher is surer.

Each function takes one teacher's outputs and gives an array of shape (n,). They are found by name in `SCORES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muki.certainty import certainty
from muki.formulas import Array, logsumexp, softmax
from muki.teachers.outputs import TeacherOutputs


def mc_entropy(outputs: TeacherOutputs) -> Array:
    """Certainty of the mean over Monte-Carlo dropout passes: the score of MUKI (Li et al., 2022)."""
    return certainty(outputs.mc_mean)


def deterministic_entropy(outputs: TeacherOutputs) -> Array:
    """Certainty of the deterministic pass: MUKI without Monte-Carlo."""
    return certainty(softmax(outputs.logits))


def energy(outputs: TeacherOutputs) -> Array:
    """`log Σ exp z`, unbounded; softmax over teachers at temperature 1 makes it the routing of vanilla distillation."""
    return logsumexp(outputs.logits)


@dataclass(frozen=True)
class RoutingScore:
    """A routing score with what it needs and where it comes from."""

    function: Callable[[TeacherOutputs], Array]
    needs_passes: bool
    description: str
    reference: str


SCORES: dict[str, RoutingScore] = {
    "mc-entropy": RoutingScore(
        mc_entropy, True, "1 − normalised entropy of the mean over dropout passes", "Li et al. 2022, arXiv 2210.05230"
    ),
    "entropy": RoutingScore(
        deterministic_entropy, False, "1 − normalised entropy of the deterministic pass", "Li et al. 2022, without MC"
    ),
    "energy": RoutingScore(
        energy, False, "log-sum-exp of the logits", "Liu et al. 2020, arXiv 2010.03759; equals vanilla KD's routing"
    ),
}


def gold_scores(gold: NDArray[np.int64], columns: Sequence[Sequence[int]]) -> Array:
    """1 for a teacher that knows the text's gold label, else 0; shape (n, N): the ceiling of every routing.

    Args:
        gold: index of the gold label in the union, shape (n,); negative for a label outside it.
        columns: each teacher's columns in the union.
    """
    return np.stack([np.isin(gold, list(own)).astype(np.float64) for own in columns], axis=-1)


def routing_scores(outputs: list[TeacherOutputs], score: str) -> Array:
    """One score for each text and teacher, shape (n, N), teachers in the given order.

    Raises:
        ValueError: the score needs dropout passes, and a text has none.
    """
    if SCORES[score].needs_passes and any((one.passes == 0).any() for one in outputs):
        raise ValueError(f"score '{score}' needs dropout passes, and these outputs have none")
    return np.stack([SCORES[score].function(one) for one in outputs], axis=-1)
