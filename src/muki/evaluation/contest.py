"""On which texts the teachers contradict each other, and which belong to none of them: pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muki.formulas import Array

CONTESTED = 0.5  # the runner-up is heard at least half as much as the winner
FOREIGN = 0.6  # no teacher is surer than 0.4
ESTIMATED_FOREIGN = 0.5  # likelier than not, where the method estimates it


@dataclass(frozen=True)
class Contest:
    """Winner and strongest contradiction of each of n texts.

    Attributes:
        winner: teacher with the largest routing weight, shape (n,).
        rival: the most heard teacher that names another class, shape (n,); the winner itself where all agree.
        strength: the rival's weight over the winner's, in [0, 1], shape (n,); 0 where all agree.
    """

    winner: NDArray[np.int64]
    rival: NDArray[np.int64]
    strength: Array

    @property
    def contested(self) -> NDArray[np.bool_]:
        """Where the rival is heard at least half as much as the winner, shape (n,)."""
        return self.strength >= CONTESTED


def contest(routing: Array, predictions: NDArray[np.int64]) -> Contest:
    """Who wins each text, and who contradicts the winner most.

    Args:
        routing: weights of the teachers, shape (n, N).
        predictions: each teacher's class as an index into the union, shape (n, N).
    """
    winner = routing.argmax(axis=-1)
    own = np.take_along_axis(predictions, winner[:, None], axis=-1)
    against = np.where(predictions != own, routing, -1.0)
    rival = np.where(against.max(axis=-1) < 0, winner, against.argmax(axis=-1))
    top = np.take_along_axis(routing, winner[:, None], axis=-1)[:, 0]
    strength = np.clip(against.max(axis=-1), 0.0, None) / np.maximum(top, 1e-12)
    return Contest(winner, rival, strength)


def seems_foreign(foreign: Array, estimated: bool) -> NDArray[np.bool_]:
    """Which texts seem to belong to none of the labels, shape (n,).

    Args:
        foreign: shape (n,), in [0, 1].
        estimated: whether it is the method's own probability; else one minus the certainty of the surest teacher.
    """
    return foreign >= (ESTIMATED_FOREIGN if estimated else FOREIGN)
