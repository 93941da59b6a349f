"""Which texts a person should see: pure functions on the arrays of the pool."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muki.evaluation.contest import Contest, seems_foreign
from muki.formulas import Array

TO_LABEL = 50


@dataclass(frozen=True)
class PairOfClasses:
    """Two classes of different teachers that claim the same texts.

    Attributes:
        first: (teacher, class), both as indices.
        second: the other.
        positions: of the contested texts, most contested first.
        first_wins: on how many of them the first is heard more.
    """

    first: tuple[int, int]
    second: tuple[int, int]
    positions: list[int]
    first_wins: int


def conflicting_pairs(found: Contest, predictions: NDArray[np.int64], most: int = 12) -> list[PairOfClasses]:
    """The class pairs that teachers contest most often, most texts first."""
    where: dict[tuple[tuple[int, int], tuple[int, int]], list[int]] = defaultdict(list)
    order = np.argsort(-found.strength, kind="stable")
    for i in order[found.contested[order]].tolist():
        sides = [(int(t), int(predictions[i, t])) for t in (found.winner[i], found.rival[i])]
        first, second = sorted(sides)
        where[first, second].append(i)
    ranked = sorted(where.items(), key=lambda item: (-len(item[1]), item[0]))[:most]
    return [
        PairOfClasses(first, second, positions, sum(int(found.winner[i]) == first[0] for i in positions))
        for (first, second), positions in ranked
    ]


@dataclass(frozen=True)
class Pick:
    """A text worth a person's label, and why."""

    position: int
    reasons: tuple[str, ...]


def worth_labelling(
    texts_key: Sequence[str],
    found: Contest,
    predictions: NDArray[np.int64],
    foreign: Array,
    student: NDArray[np.float32],
    asked: NDArray[np.int64],
    target: NDArray[np.float32],
    most: int = TO_LABEL,
    estimated: bool = False,
) -> list[Pick]:
    """The texts whose labels would teach most: contested ones, foreign ones, and those where the student dissents.

    Each kind is taken in turn, and within a kind each pair of classes, so that no single confusion fills the list.

    Args:
        texts_key: something that equal texts share, for each of n positions; only one of equals is taken.
        found: contests, n texts.
        predictions: each teacher's class, shape (n, N).
        foreign: how far each text seems to belong to no label, in [0, 1], shape (n,).
        student: probabilities, shape (m, C).
        asked: positions of those m.
        target: shape (n, C).
        most: how many.
        estimated: what `foreign` is, see `seems_foreign`.
    """
    own = np.arange(len(target))
    sides = [
        tuple(sorted((int(predictions[i, found.winner[i]]), int(predictions[i, found.rival[i]])))) for i in own.tolist()
    ]
    contested = own[found.contested]
    strange = own[seems_foreign(foreign, estimated)]
    says, wanted = student.argmax(axis=-1), target[asked].argmax(axis=-1)
    dissent = np.zeros(len(target))
    dissent[asked] = np.where(
        says != wanted, student.max(axis=-1) * np.take_along_axis(target[asked], wanted[:, None], -1)[:, 0], 0.0
    )
    answer = np.full(len(target), -1)
    answer[asked] = says
    dissents = [(int(a), int(t)) for a, t in zip(answer, target.argmax(axis=-1), strict=True)]
    queues = {
        "contested": _in_turn(_best_first(contested, found.strength), sides),
        "student against target": _in_turn(_best_first(own[dissent > 0], dissent), dissents),
        "foreign": _best_first(strange, foreign),
    }
    kinds = {"contested": set(contested.tolist()), "foreign": set(strange.tolist())}
    kinds["student against target"] = set(own[dissent > 0].tolist())
    picks: list[Pick] = []
    taken: set[str] = set()
    for i in _in_turn_queues(queues.values()):
        if len(picks) == most:
            break
        if texts_key[i] not in taken:
            taken.add(texts_key[i])
            picks.append(Pick(i, tuple(name for name, members in kinds.items() if i in members)))
    return picks


def _best_first(positions: NDArray[np.int64], strength: Array) -> list[int]:
    return positions[np.argsort(-strength[positions], kind="stable")].tolist()  # type: ignore[no-any-return]


def _in_turn(positions: list[int], group: Sequence[tuple[int, ...]]) -> list[int]:
    """Reorder so that each group gives one in turn; within a group the order stays."""
    queues: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i in positions:
        queues[group[i]].append(i)
    return list(_in_turn_queues(queues.values()))


def _in_turn_queues(queues: Iterable[list[int]]) -> Iterable[int]:
    """One of each queue in turn until all are empty; each position once."""
    left = [list(reversed(queue)) for queue in queues]
    seen: set[int] = set()
    while left:
        for queue in left:
            while queue and queue[-1] in seen:
                queue.pop()
            if queue:
                seen.add(queue[-1])
                yield queue.pop()
        left = [queue for queue in left if queue]
