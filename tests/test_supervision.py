"""The supervision of a pool, written shard by shard, is that of the whole pool at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from test_routing import PLUS, InMemory, pool, right

from muki.files import file_fingerprint, write_json
from muki.formulas import integrate_distributions
from muki.integration.fitting import fit_router
from muki.integration.pool import ScoredPool
from muki.integration.stage import supervise
from muki.integration.store import SUMMARY, Supervision, load_supervision, save_supervision
from muki.teachers.outputs import TeacherOutputs

TEXTS, SHARD = 600, 100


@dataclass(frozen=True)
class View(InMemory):
    """A neutral view in memory, with the fingerprint that a stored one has."""

    fingerprint: str = "of this test"


@dataclass(frozen=True)
class PoolInMemory(ScoredPool):
    """A scored pool whose outputs were never on disk."""

    whole: list[TeacherOutputs] = field(default_factory=list)

    def outputs(self) -> Iterator[list[TeacherOutputs]]:
        for start in range(0, TEXTS, SHARD):
            yield [one.take(slice(start, start + SHARD)) for one in self.whole]


def test_supervision_by_shards_is_that_of_the_whole_pool(tmp_path: Path):
    outputs, space, view, owner = pool(n=TEXTS)
    cut = PoolInMemory(
        space, shards=[f"{number}.parquet" for number in range(6)], folders=[], sources=[], rows=[SHARD] * 6,
        view=View(view, SHARD), whole=outputs,
    )  # fmt: skip
    key = supervise(cut, PLUS, tmp_path / "supervision")
    found = load_supervision(tmp_path / "supervision")

    router = fit_router(PLUS, outputs, space, view)
    expected = router(outputs, view)
    target = integrate_distributions(
        expected.weights, router.distributions(outputs), list(space.columns.values()), len(space.labels)
    )
    # The two teachers share no class, so how likely the most heard one is right is its own weight.
    counts = expected.weights.max(axis=-1) * (1 - expected.foreign)
    assert found.foreign is not None
    assert found.foreign.max() > 0.01  # zeros would say nothing
    assert found.fingerprint == key
    assert found.rows.tolist() == list(range(TEXTS))
    np.testing.assert_allclose(found.routing, expected.weights, atol=1e-6)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_allclose(found.foreign, expected.foreign, atol=1e-6)
    np.testing.assert_allclose(found.target, target, atol=1e-6)
    np.testing.assert_allclose(found.weight, counts / counts.mean(), atol=1e-6)
    assert found.weight.mean() == pytest.approx(1.0, abs=1e-6)
    assert right(found.routing, owner) > 0.97


def test_hidden_states_come_back_in_the_order_of_the_teachers_however_many(tmp_path: Path):
    one = np.zeros((2, 1), dtype=np.float32)
    states = tuple(np.full((2, 3, 4), i, dtype=np.float16) for i in range(12))
    save_supervision(tmp_path / "a.parquet", Supervision(np.arange(2), one, one[:, 0], one, one, states=states))
    summary = {"files": {"a.parquet": file_fingerprint(tmp_path / "a.parquet")}, "fingerprint": ""}
    write_json(tmp_path / SUMMARY, summary)
    assert [float(found.mean()) for found in load_supervision(tmp_path).states] == list(range(12))
