"""Labels that several teachers know: what hangs on a text then, and how much of the pool is whose to begin with.

The labels that the very same teachers know are a group (`knower_groups`); where no label is shared, a group is a
teacher. Which teacher a text should go to is a question with several right answers where labels are shared. Which group
its label is of has one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from muki.formulas import Array, knower_groups
from muki.routing.calibration import match_shares

Columns = Sequence[Sequence[int]]


def decided_groups(columns: Columns, n_labels: int) -> list[list[int]]:
    """The groups of labels between which a choice of teacher decides: where all know all labels, the labels themselves.

    Args:
        columns: each teacher's columns in the union.
        n_labels: size of the union.
    """
    groups = knower_groups(columns, n_labels)
    return groups if len(groups) > 1 else [[label] for label in range(n_labels)]


def expected_shares(columns: Columns) -> Array:
    """How much of a pool is each teacher's before anything is known of it, shape (N,), sums to 1.

    Equal shares where no label is shared; a teacher of labels that k others know too expects 1 / (k + 1) of that, for
    others can answer these texts as well.

    Args:
        columns: each teacher's columns in the union.
    """
    knowers = Counter(label for own in columns for label in own)
    alone = np.array([np.mean([1 / knowers[label] for label in own]) for own in columns])
    result: Array = alone / alone.sum()
    return result


def first_offsets(scores: Array, columns: Columns, sharpness: float) -> Array:
    """Offsets of scores (n, N) with which the pool falls to the teachers in `expected_shares`; shape (N,).

    Standardised scores give equal shares by themselves, so that without shared labels there is nothing to shift.

    Args:
        scores: standardised, shape (n, N).
        columns: each teacher's columns in the union.
        sharpness: inverse temperature of the softmax that makes weights of the scores.
    """
    shares = expected_shares(columns)
    if np.allclose(shares, shares[0]):
        return np.zeros(len(shares))
    return match_shares(scores, shares, sharpness)


def group_scores(scores: Array, predictions: NDArray[np.int64], groups: Sequence[Sequence[int]]) -> Array:
    """For each group the best score of a teacher that names one of its labels, −∞ where none does; shape (n, G).

    Args:
        scores: shape (n, N).
        predictions: each teacher's top class as an index into the union, shape (n, N).
        groups: a partition of the union's columns.
    """
    named = [np.where(np.isin(predictions, list(group)), scores, -np.inf).max(axis=-1) for group in groups]
    return np.stack(named, axis=-1)


def group_probabilities(probabilities: Array, groups: Sequence[Sequence[int]]) -> Array:
    """Probabilities of groups, shape (n, G), from those of classes, shape (n, C)."""
    return np.stack([probabilities[:, list(group)].sum(axis=-1) for group in groups], axis=-1)
