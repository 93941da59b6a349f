"""The order in which texts are read: random, with texts of similar length together; and which are held out."""

from __future__ import annotations

import numpy as np
import pytest
from torch.utils.data import BatchSampler

from muki.student.data import LengthGrouped, split_holdout

LENGTHS = np.random.default_rng(0).geometric(0.05, size=1003)


def batches(sampler: LengthGrouped) -> list[list[int]]:
    return list(BatchSampler(sampler, sampler.batch_size, drop_last=False))


@pytest.mark.parametrize("n", [1, 7, 8, 9, 64, 65, 1003])
def test_each_text_is_read_once_an_epoch_and_only_the_last_batch_is_smaller(n: int):
    found = batches(LengthGrouped(LENGTHS[:n], 8))
    assert sorted(i for batch in found for i in batch) == list(range(n))
    assert all(len(batch) == 8 for batch in found[:-1])


def test_little_is_padding():
    def padded(order: list[list[int]]) -> int:
        return sum(len(batch) * int(LENGTHS[batch].max()) for batch in order)

    random = np.random.default_rng(1).permutation(len(LENGTHS)).tolist()
    plain = [random[i : i + 8] for i in range(0, len(random), 8)]
    assert padded(plain) > 2.0 * LENGTHS.sum()
    assert padded(batches(LengthGrouped(LENGTHS, 8))) < 1.4 * LENGTHS.sum()


def test_short_and_long_batches_take_turns():
    longest = np.array([LENGTHS[batch].max() for batch in batches(LengthGrouped(LENGTHS, 8))])
    assert abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 0.2
    assert (np.diff(longest) > 0).mean() == pytest.approx(0.5, abs=0.1)


def test_an_epochs_order_depends_on_seed_and_epoch_alone():
    first, again, other = (
        LengthGrouped(LENGTHS, 8, seed=1),
        LengthGrouped(LENGTHS, 8, seed=1),
        LengthGrouped(LENGTHS, 8),
    )
    start = list(first)
    assert list(first) == start == list(again)
    assert list(other) != start
    first.set_epoch(3)
    assert list(first) != start
    again.set_epoch(3)
    assert list(again) == list(first)


def test_a_tenth_is_held_out_and_the_rest_is_taught():
    taught, held_out = split_holdout(np.arange(40), 0.1, seed=1)
    assert len(held_out) == 4
    assert sorted([*taught, *held_out]) == list(range(40))
    assert (np.diff(taught) > 0).all()
    assert (np.diff(held_out) > 0).all()


def test_which_texts_are_held_out_depends_on_their_ids_and_the_seed_alone():
    rows = np.arange(100, 140)
    shuffled = np.random.default_rng(0).permutation(rows)

    def ids(rows: np.ndarray, seed: int) -> set[int]:
        return set(rows[split_holdout(rows, 0.1, seed)[1]].tolist())

    assert ids(shuffled, 1) == ids(rows, 1) != ids(rows, 2)
