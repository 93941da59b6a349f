"""Random numbers that belong to a row: the same whatever stands beside it; and samples that are drawn with them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix 64-bit integers (Steele, Lea and Flood, 2014): a bijection whose outputs look independent."""
    z = x + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def one_of_each_block(first: int, count: int, step: int) -> NDArray[np.int64]:
    """An even sample: of every `step` places in a row one at random, so that no order of the rows can favour some.

    Args:
        first: place of the first row in the whole, from 0.
        count: how many rows there are.
        step: places in a block, at least 1.

    Returns:
        which of the rows are taken, ascending, in 0..count − 1; of a last block that is cut short perhaps none.
    """
    place, size = np.arange(first, first + count, dtype=np.uint64), np.uint64(step)
    return np.flatnonzero(place % size == splitmix64(place // size) % size)
