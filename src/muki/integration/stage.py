"""From stored teacher outputs to stored supervision, shard by shard; only scores of the whole pool are in memory."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from muki.arrow import matrix, vectors
from muki.errors import RunFolderError
from muki.files import digests, fingerprint, read_json, replacing, unchanged, write_json
from muki.formulas import Array, softmax, union_answers
from muki.integration.router import FIT_ROWS, Router, Routing, fit_router, gold_routing, needs_pool
from muki.integration.supervision import integrate_distributions, mean_one, one_hot
from muki.labels import LabelSpace
from muki.methods import Method
from muki.routing.weights import margin
from muki.teachers.outputs import TeacherOutputs
from muki.teachers.store import Source, read_outputs

logger = logging.getLogger(__name__)

SUPERVISION_VERSION = 3  # raise when the numbers for the same scores and method change

View = Callable[[int], NDArray[np.float16]]  # number of a shard -> (rows of the shard, H)


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


def supervise(
    shards: list[str],
    score_folders: list[Path],
    sources: list[list[Source]],
    space: LabelSpace,
    method: Method,
    folder: Path,
    *,
    rows: list[int],
    view: View | None = None,
    view_key: str = "",
    gold: list[NDArray[np.int64]] | None = None,
) -> str:
    """Write the supervision of all shards.

    Args:
        shards: file names, the same in each folder of scores.
        score_folders: one folder for each teacher, in the order of the label space.
        sources: what each teacher's scores of each shard must have been made from.
        space: the label space.
        method: how supervision is made.
        folder: where it goes; written whole or not at all.
        rows: texts in each shard.
        view: gives the neutral view of the shard with this number, for methods that refine.
        view_key: fingerprint of the view.
        gold: of each shard, the texts' gold labels as indices into the union, negative outside it; for methods that
            are ceilings.

    Returns:
        the fingerprint of this supervision.

    Raises:
        RunFolderError: scores are missing, damaged or stale.
    """
    content = [[asdict(source) for source in own] for own in sources]
    known_gold = None if gold is None else [part.tolist() for part in gold]
    key = fingerprint(SUPERVISION_VERSION, content, shards, asdict(space), method.model_dump(), known_gold, view_key)
    known = read_json(folder / "supervision.json")
    if known is not None and known.get("fingerprint") == key and unchanged(folder, known["files"]):
        logger.info("supervision: reusing %d texts (same scores and method)", known["rows"])
        return key

    shard_outputs = partial(_outputs, shards, score_folders, sources)
    router = None if gold is not None else fit_on_pool(shard_outputs(), sum(rows), view, method, space)
    routed, predictions = [], []
    for number, outputs in enumerate(shard_outputs()):
        if router is None:
            routed.append(gold_routing((gold or [])[number], list(space.columns.values())))
        else:
            routed.append(router(outputs, view(number) if view else None))
        predictions.append(union_predictions(outputs, space))
    routing = Routing.concatenate(routed)
    raw = raw_weights(routing, np.concatenate(predictions), method)
    weights = mean_one(raw)

    with replacing(folder) as temporary:
        temporary.mkdir()
        start = 0
        for number, outputs in enumerate(shard_outputs()):
            here = slice(start, start + len(outputs[0]))
            start = here.stop
            distributions = [softmax(one.logits) for one in outputs]
            if gold is not None and method.target == "gold":
                target = one_hot(gold[number], len(space.labels))
            else:
                target = integrate_distributions(
                    routing.weights[here], distributions, list(space.columns.values()), len(space.labels)
                )
            part = Supervision(
                rows=outputs[0].rows,
                target=target.astype(np.float32),
                weight=weights[here].astype(np.float32),
                routing=routing.weights[here].astype(np.float32),
                scores=routing.scores[here].astype(np.float32),
                foreign=routing.foreign[here].astype(np.float32) if router and router.foreign else None,
                teachers=np.hstack(distributions).astype(np.float32) if method.objective == "uhc" else None,
                states=tuple(one.states for one in outputs if one.states is not None) if method.keep else (),
            )
            _write(temporary / shards[number], part)
        summary = {
            "fingerprint": key,
            "rows": len(routing.scores),
            "average_weight": float(raw.mean()),
            "findings": (router and router.findings) or {},
            "method": method.model_dump(),
            "files": digests(temporary, shards),
        }
        write_json(temporary / "supervision.json", summary)
    logger.info("supervision: %d texts, %s", len(routing.scores), method.spelled_out())
    return key


def fit_on_pool(
    shards: Iterable[list[TeacherOutputs]], total: int, view: View | None, method: Method, space: LabelSpace
) -> Router:
    """Fit a method's router on the pool, or on an even sample of a large one.

    Args:
        shards: each shard's outputs of all teachers.
        total: texts in the pool.
        view: neutral view of a shard by its number, where the method refines.
        method: the method.
        space: the label space.
    """
    if not needs_pool(method):
        shards = itertools.islice(shards, 1)
    step = max(1, -(-total // FIT_ROWS))
    kept: list[list[TeacherOutputs]] = []
    views = []
    start = 0
    for number, outputs in enumerate(shards):
        index = np.arange(-start % step, len(outputs[0]), step)
        start += len(outputs[0])
        kept.append([one.take(index) for one in outputs])
        if view is not None:
            views.append(view(number)[index])
    pooled = [TeacherOutputs.concatenate(list(parts)) for parts in zip(*kept, strict=True)]
    return fit_router(method, pooled, space, np.concatenate(views) if views else None)


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


def _outputs(shards: list[str], folders: list[Path], sources: list[list[Source]]) -> Iterator[list[TeacherOutputs]]:
    """Each shard's outputs of all teachers, one shard in memory at a time."""
    for number, name in enumerate(shards):
        outputs = []
        for folder, wanted in zip(folders, sources, strict=True):
            found = read_outputs(folder / name)
            problem = "missing or damaged" if found is None else found[1].serves(wanted[number])
            if found is None or problem:
                raise RunFolderError(f"{folder / name}: scores cannot be used ({problem}); run `muki score` first")
            outputs.append(found[0])
        yield outputs


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
