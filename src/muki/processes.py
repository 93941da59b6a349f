"""Which of several processes this one is, as `torchrun` and `accelerate launch` say it in the environment."""

from __future__ import annotations

import os


def launched() -> bool:
    """Whether a launcher started this process, perhaps beside others."""
    return "RANK" in os.environ


def rank() -> int:
    """The number of this process, from 0; 0 without a launcher."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """The number of this process among those of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0))


def world_size() -> int:
    """How many processes work together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Whether this is the process that writes what is written once."""
    return rank() == 0
