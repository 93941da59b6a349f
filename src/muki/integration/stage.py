"""From stored teacher outputs to stored supervision, shard by shard; only scores of the whole pool are in memory."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from muki.arrow import matrix, vectors
from muki.errors import RunFolderError
from muki.files import digests, read_json, replacing, unchanged, write_json
from muki.formulas import Array, union_answers
from muki.integration.pool import GoldRouter, ScoredPool
from muki.integration.router import Router, Routing
from muki.integration.supervision import integrate_distributions, mean_one, one_hot
from muki.labels import LabelSpace
from muki.methods import Method
from muki.routing.weights import margin
from muki.teachers.outputs import TeacherOutputs

logger = logging.getLogger(__name__)

SUPERVISION_VERSION = 10  # raise when the numbers for the same scores and method change


@dataclass(frozen=True)
class Supervision:
    """Supervision of n texts over C labels by N teachers.

    Attributes:
        rows: row ids, shape (n,).
        target: what the student is to predict, shape (n, C), rows sum to 1.
        weight: how much each text counts, shape (n,), mean 1 over the pool.
        routing: routing weights, shape (n, N), rows sum to 1.
        scores: routing scores, shape (n, N).
        foreign: how likely a text belongs to nobody, shape (n,); only where the method looks for it.
        teachers: the teachers' own distributions side by side, shape (n, Σ C_i); only for objectives that learn them.
        states: mean hidden states of each teacher, shapes (n, layers + 1, H_i); only for objectives that imitate them.
    """

    rows: NDArray[np.int64]
    target: NDArray[np.float32]
    weight: NDArray[np.float32]
    routing: NDArray[np.float32]
    scores: NDArray[np.float32]
    foreign: NDArray[np.float32] | None = None
    teachers: NDArray[np.float32] | None = None
    states: tuple[NDArray[np.float16], ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, position: int) -> dict[str, Any]:
        """What the student's loss reads of one text."""
        found = {"target": self.target[position], "weight": self.weight[position]}
        if self.teachers is not None:
            found["teachers"] = self.teachers[position]
        return found | {f"states_{i}": states[position] for i, states in enumerate(self.states)}


def raw_weights(routing: Routing, predictions: NDArray[np.int64], method: Method) -> Array:
    """How much each text counts before scaling, shape (n,): by margin, by the routing's probability, or all alike."""
    if method.needs_gold:
        result: Array = routing.scores.max(axis=-1)  # a text that belongs to nobody teaches nothing
        return result
    if method.reweight == "margin":
        return margin(routing.scores, predictions)
    if method.reweight == "probability":
        return right_probability(routing.probabilities, predictions) * (1 - routing.foreign)
    return np.ones(len(predictions))


def right_probability(weights: Array, predictions: NDArray[np.int64]) -> Array:
    """How likely the target's class is a right teacher's: the weight of all teachers that give it, shape (n,).

    Args:
        weights: routing weights that are probabilities, shape (n, N).
        predictions: each teacher's top class as an index into the union, shape (n, N).
    """
    best = np.take_along_axis(predictions, weights.argmax(axis=-1)[:, None], axis=-1)
    result: Array = (weights * (predictions == best)).sum(axis=-1)
    return result


def union_predictions(outputs: list[TeacherOutputs], space: LabelSpace) -> NDArray[np.int64]:
    """Each teacher's top class as an index into the union, shape (n, N)."""
    return union_answers([one.logits for one in outputs], list(space.columns.values()))


def supervise(pool: ScoredPool, method: Method, folder: Path) -> str:
    """Write the supervision of all shards, unless the same lies there already.

    Args:
        pool: the texts' scores.
        method: how supervision is made.
        folder: where it goes; written whole or not at all.

    Returns:
        the fingerprint of this supervision.

    Raises:
        RunFolderError: scores are missing, damaged or stale.
    """
    key = pool.fingerprint(SUPERVISION_VERSION, method)
    known = read_json(folder / "supervision.json")
    if known is not None and known.get("fingerprint") == key and unchanged(folder, known["files"]):
        logger.info("supervision: reusing %d texts (same scores and method)", known["rows"])
        return key

    router = pool.router(method)
    routing, raw = route_pool(pool, router, method)
    with replacing(folder) as temporary:
        temporary.mkdir()
        write_supervision(temporary, pool, router, routing, mean_one(raw), method)
        summary = {
            "fingerprint": key,
            "rows": len(routing.scores),
            "average_weight": float(raw.mean()),
            "findings": router.findings or {},
            **_temperatures_by_name(router, pool.space),
            "method": method.model_dump(),
            "files": digests(temporary, pool.shards),
        }
        write_json(temporary / "supervision.json", summary)
    logger.info("supervision: %d texts, %s", len(routing.scores), method.spelled_out())
    return key


def _temperatures_by_name(router: Router | GoldRouter, space: LabelSpace) -> dict[str, dict[str, float]]:
    """Each teacher's temperature by name, where the method looks for it."""
    if isinstance(router, GoldRouter) or not router.method.sharpens:
        return {}
    return {"teacher_temperature": dict(zip(space.columns, router.temperatures.tolist(), strict=True))}


def route_pool(pool: ScoredPool, router: Router | GoldRouter, method: Method) -> tuple[Routing, Array]:
    """The whole pool's routing, and how much each text counts before scaling, shape (n,)."""
    routed, predictions = [], []
    for number, outputs in enumerate(pool.outputs()):
        routed.append(router(outputs, pool.view(number) if pool.view else None))
        predictions.append(union_predictions(outputs, pool.space))
    routing = Routing.concatenate(routed)
    return routing, raw_weights(routing, np.concatenate(predictions), method)


def write_supervision(
    folder: Path, pool: ScoredPool, router: Router | GoldRouter, routing: Routing, weights: Array, method: Method
) -> None:
    """Write one file for each shard, from the whole pool's routing and instance weights, shape (n,)."""
    columns, n_labels = list(pool.space.columns.values()), len(pool.space.labels)
    start = 0
    for name, outputs in zip(pool.shards, pool.outputs(), strict=True):
        here = slice(start, start + len(outputs[0]))
        start = here.stop
        answers = router.answers(outputs)
        if isinstance(router, GoldRouter) and method.target == "gold":
            target = one_hot(router.gold(outputs), n_labels)
        else:
            target = integrate_distributions(routing.weights[here], answers, columns, n_labels)
        part = Supervision(
            rows=outputs[0].rows,
            target=target.astype(np.float32),
            weight=weights[here].astype(np.float32),
            routing=routing.weights[here].astype(np.float32),
            scores=routing.scores[here].astype(np.float32),
            foreign=routing.foreign[here].astype(np.float32) if router.refinement else None,
            teachers=np.hstack(answers).astype(np.float32) if method.objective == "uhc" else None,
            states=tuple(one.states for one in outputs if one.states is not None) if "states" in method.keep else (),
        )
        _write(folder / name, part)


def average_weight(folder: Path) -> float:
    """What the pool's instance weights were divided by, so that their mean is 1.

    Raises:
        RunFolderError: the stage is not finished.
    """
    return float(_summary(folder)["average_weight"])


def load_supervision(folder: Path) -> tuple[Supervision, str]:
    """Read the whole supervision and its fingerprint.

    Raises:
        RunFolderError: the stage is not finished.
    """
    summary = _summary(folder)
    tables = [pq.read_table(folder / name) for name in summary["files"]]
    table = pa.concat_tables(tables).combine_chunks()

    states = sorted(name for name in table.column_names if name.startswith("states_"))
    supervision = Supervision(
        rows=table["row"].to_numpy(),
        target=matrix(table["target"]),
        weight=table["weight"].to_numpy(),
        routing=matrix(table["routing"]),
        scores=matrix(table["scores"]),
        foreign=table["foreign"].to_numpy() if "foreign" in table.column_names else None,
        teachers=matrix(table["teachers"]) if "teachers" in table.column_names else None,
        states=tuple(matrix(table[name]) for name in states),
    )
    return supervision, str(summary["fingerprint"])


def _summary(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] | None = read_json(folder / "supervision.json")
    if summary is None:
        raise RunFolderError(f"{folder}: no finished supervision; run `muki supervise {folder.parent}` first")
    return summary


def _write(path: Path, part: Supervision) -> None:
    columns = {
        "row": pa.array(part.rows),
        "target": vectors(part.target),
        "weight": pa.array(part.weight),
        "routing": vectors(part.routing),
        "scores": vectors(part.scores),
        **({"foreign": pa.array(part.foreign)} if part.foreign is not None else {}),
        **({"teachers": vectors(part.teachers)} if part.teachers is not None else {}),
        **{f"states_{i}": vectors(states) for i, states in enumerate(part.states)},
    }
    pq.write_table(pa.table(columns), path, compression="zstd")
