"""Several processes on one grid: each group has one process at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from muki.experiments.grid import Grid, Group

logger = logging.getLogger(__name__)


def in_turn(grid: Grid, groups: Sequence[Group]) -> Iterator[Group]:
    """Each group, locked while the caller works on it; those that another process works on come last.

    What is locked is what `groups_of` deals: a data set with a seed.
    """
    taken = []
    for group in groups:
        try:
            with lock(grid, f"{group.data}/.seed-{group.seed}.lock").acquire(timeout=0):
                yield group
        except Timeout:
            taken.append(group)
    for group in taken:
        logger.info("%s: waiting until another process has left it", group)
        with lock(grid, f"{group.data}/.seed-{group.seed}.lock"):
            yield group


def lock(grid: Grid, name: str) -> FileLock:
    """What one process at a time can hold, a file of this name below the grid's output."""
    path = Path(grid.output) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)
