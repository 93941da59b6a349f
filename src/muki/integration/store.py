"""Supervision on disk: one Parquet file for each shard of the pool, and a summary of all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from muki.arrow import matrix, vectors
from muki.errors import RunFolderError
from muki.files import read_json, unchanged

SUMMARY = "supervision.json"


@dataclass(frozen=True)
class Supervision:
    """Supervision of n texts over C labels by N teachers.

    Attributes:
        rows: row ids, shape (n,).
        target: what the student is to predict, shape (n, C), rows sum to 1 (to 0 where a ceiling's gold label is no
            teacher's).
        weight: how much each text counts, shape (n,), mean 1 over the pool.
        routing: routing weights, shape (n, N), rows sum to 1.
        scores: routing scores, shape (n, N).
        foreign: how likely a text belongs to nobody, shape (n,); only where the method looks for it.
        teachers: the teachers' own distributions side by side, shape (n, Σ C_i); only for objectives that learn them.
        states: mean hidden states of each teacher, shapes (n, layers + 1, H_i); only for objectives that imitate them.
        fingerprint: of all that it was made from; empty for a part that is still to be written.
    """

    rows: NDArray[np.int64]
    target: NDArray[np.float32]
    weight: NDArray[np.float32]
    routing: NDArray[np.float32]
    scores: NDArray[np.float32]
    foreign: NDArray[np.float32] | None = None
    teachers: NDArray[np.float32] | None = None
    states: tuple[NDArray[np.float16], ...] = ()
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, position: int) -> dict[str, Any]:
        """What the student's loss reads of one text."""
        found = {"target": self.target[position], "weight": self.weight[position]}
        if self.teachers is not None:
            found["teachers"] = self.teachers[position]
        return found | {f"states_{i}": states[position] for i, states in enumerate(self.states)}


def save_supervision(path: Path, part: Supervision) -> None:
    """Write one file of a supervision's folder."""
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


def load_supervision(folder: Path) -> Supervision:
    """Read the whole supervision.

    Raises:
        RunFolderError: the stage is not finished, or its files are not what it wrote.
    """
    summary = _summary(folder)
    if not unchanged(folder, summary["files"]):
        raise RunFolderError(f"{folder}: files are missing or damaged; run `muki supervise {folder.parent}`")
    tables = [pq.read_table(folder / name) for name in summary["files"]]
    table = pa.concat_tables(tables).combine_chunks()

    states = [name for name in map("states_{}".format, range(len(table.column_names))) if name in table.column_names]
    return Supervision(
        rows=table["row"].to_numpy(),
        target=matrix(table["target"]),
        weight=table["weight"].to_numpy(),
        routing=matrix(table["routing"]),
        scores=matrix(table["scores"]),
        foreign=table["foreign"].to_numpy() if "foreign" in table.column_names else None,
        teachers=matrix(table["teachers"]) if "teachers" in table.column_names else None,
        states=tuple(matrix(table[name]) for name in states),
        fingerprint=str(summary["fingerprint"]),
    )


def average_weight(folder: Path) -> float:
    """What the pool's instance weights were divided by, so that their mean is 1.

    Raises:
        RunFolderError: the stage is not finished.
    """
    return float(_summary(folder)["average_weight"])


def lowest_score(folder: Path) -> float:
    """The lowest routing score of the pool, by which the margins of single texts are measured too.

    Raises:
        RunFolderError: the stage is not finished.
    """
    return float(_summary(folder).get("lowest_score", 0.0))


def _summary(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] | None = read_json(folder / SUMMARY)
    if summary is None:
        raise RunFolderError(f"{folder}: no finished supervision; run `muki supervise {folder.parent}` first")
    return summary
