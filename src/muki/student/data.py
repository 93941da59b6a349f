"""What the student reads: texts through its own tokenizer, with their targets and weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from muki.batches import Encoding
from muki.hashing import splitmix64
from muki.integration.store import Supervision

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_HOLDOUT = 2000
_FEWEST_FOR_HOLDOUT = 10
_SORTED_TOGETHER = 8  # batches


class SupervisedTexts(Dataset[dict[str, Any]]):
    """Token ids of texts with their supervision."""

    def __init__(self, encodings: Sequence[Encoding], supervision: Supervision, index: NDArray[np.int64]) -> None:
        self.encodings = encodings
        self.supervision = supervision
        self.index = index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """One text's model inputs, and as `supervision` what the loss reads."""
        i = int(self.index[position])
        return {**self.encodings[i], "supervision": self.supervision.item(i)}


class SupervisionCollator:
    """Pads token ids to the longest text of the batch; stacks what the loss reads, as `supervision`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        from transformers import DataCollatorWithPadding

        self.pad = DataCollatorWithPadding(tokenizer)

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate a batch."""
        inputs = self.pad([{k: v for k, v in item.items() if k != "supervision"} for item in items])
        return {**inputs, "supervision": stacked_supervision(items)}


class LengthGrouped(Sampler[int]):
    """Texts in random order, but with texts of similar length in each batch, so that batches contain little padding.

    Each epoch deals the texts at random into groups of eight batches, sorts each group by length, and shuffles the
    batches. What an epoch's order is depends on seed and epoch alone, so that a training that was stopped goes on with
    the texts that it had not read.

    Args:
        lengths: tokens of each text.
        batch_size: texts per batch.
        seed: of the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int = 0) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        random, size = np.random.default_rng([self.seed, self.epoch]), self.batch_size
        order = random.permutation(len(self.lengths))
        for start in range(0, len(order), _SORTED_TOGETHER * size):
            group = order[start : start + _SORTED_TOGETHER * size]  # a view: sorted in place
            group[:] = group[np.argsort(self.lengths[group], kind="stable")]
        full = len(order) - len(order) % size
        batches = random.permutation(order[:full].reshape(-1, size))  # the last, smaller batch stays the last
        return iter([*batches.ravel().tolist(), *order[full:].tolist()])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is given next."""
        self.epoch = epoch


def stacked_supervision(items: Sequence[dict[str, Any]], *, states: bool = True) -> dict[str, torch.Tensor]:
    """What the loss reads of several texts, each part of shape (n, …).

    Args:
        items: of `SupervisedTexts`.
        states: with the teachers' hidden states, if there are any; they are large.
    """
    parts = [item["supervision"] for item in items]
    wanted = [name for name in parts[0] if states or not name.startswith("states_")]
    return {name: torch.from_numpy(np.stack([part[name] for part in parts])) for name in wanted}


def holdout_size(n: int, share: float) -> int:
    """How many of n texts are held out: a share in [0, 1), at most 2,000, none of fewer than ten, and never all."""
    return min(MAX_HOLDOUT, n - 1, max(1, round(share * n))) if share > 0 and n >= _FEWEST_FOR_HOLDOUT else 0


def split_holdout(rows: NDArray[np.int64], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split positions into training and held-out texts, by a hash of the row ids.

    Args:
        rows: row ids, shape (n,).
        share: of the held-out texts, in [0, 1), see `holdout_size`.
        seed: another seed holds out other texts.

    Returns:
        positions to train on and positions held out, both ascending.
    """
    n = len(rows)
    count = holdout_size(n, share)
    order = np.argsort(splitmix64(splitmix64(rows.astype(np.uint64)) ^ np.uint64(seed)), kind="stable")
    return np.sort(order[count:]), np.sort(order[:count])
