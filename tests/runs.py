"""The finished run that many tests look at, how its folder is read with nothing of muki, and its formulas."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import Result
from commands import works
from conftest import write_jsonl
from transformers import pipeline

NEWS, CULTURE = ("sports", "politics", "business"), ("technology", "health", "film")
FLOAT32 = {"bf16": False}  # whatever this machine computes faster
QUICK = {"method": "muki-no-mc", "epochs": 1, "batch_size": 8, "max_length": 32}


# --- to run, and to read what lies in a run folder -------------------------------------------------------------------


def write_yaml(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@dataclass
class Folder:
    """A run folder, read with nothing of muki."""

    root: Path

    def json(self, name: str) -> Any:
        return json.loads((self.root / name).read_text(encoding="utf-8"))

    def table(self, name: str) -> dict[str, np.ndarray]:
        """All shards of a folder, joined."""
        table = pa.concat_tables([pq.read_table(path) for path in sorted((self.root / name).glob("shard-*.parquet"))])
        return {column: np.array(table[column].to_pylist()) for column in table.column_names}

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return self.json("report/metrics.json")

    @cached_property
    def space(self) -> dict[str, Any]:
        return self.json("labels.json")

    def scores(self, split: str = "") -> list[dict[str, np.ndarray]]:
        """Each teacher's outputs, in the order of the label space."""
        return [self.table(f"{split}scores/{name}") for name in self.space["teachers"]]

    def bytes_of(self, name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((self.root / name).glob("shard-*.parquet"))}

    def classify(self, texts: Sequence[str]) -> np.ndarray:
        """The student's probabilities, by transformers alone, in the order of its labels."""
        answers = pipeline("text-classification", model=str(self.root / "student"), top_k=None)(
            list(texts), batch_size=8
        )
        columns = [{one["label"]: one["score"] for one in answer} for answer in answers]
        return np.array([[answer[label] for label in self.space["labels"]] for answer in columns])


@pytest.fixture(scope="session")
def labelled_texts(pool_texts: list[str]) -> list[dict[str, str]]:
    """Thirty texts with some label of the union, and two whose label no teacher knows."""
    labels = [*NEWS, *CULTURE]
    rows = [{"text": f"{text} .", "label": labels[i * i % 6]} for i, text in enumerate(pool_texts[:30])]
    return [
        *rows[:10],
        {"text": "rain at night", "label": "weather"},
        *rows[10:],
        {"text": "a storm", "label": "weather"},
    ]


@pytest.fixture(scope="session")
def run_file(
    tmp_path_factory: pytest.TempPathFactory,
    teachers: list[Path],
    encoder: Path,
    pool_texts: list[str],
    labelled_texts: list[dict[str, str]],
) -> Path:
    """A run file with a test file; the run's folder is beside it."""
    folder = tmp_path_factory.mktemp("whole")
    pool = write_jsonl(folder / "pool.jsonl", [{"text": text} for text in [*pool_texts[:20], " ", *pool_texts[20:]]])
    test = write_jsonl(folder / "test.jsonl", labelled_texts)
    content = {
        "teachers": [{"model": str(path), "max_length": 32, "dtype": "float32"} for path in teachers],
        "student": {"model": str(encoder), "max_length": 32},
        "texts": {"path": str(pool), "shard_rows": 20},
        "test": {"path": str(test)},
        "method": {"passes": 4},
        "training": {"epochs": 2, "batch_size": 8, "learning_rate": 0.005, **FLOAT32},
        "output": str(folder / "finished"),
    }
    return write_yaml(folder / "run.yaml", content)


@pytest.fixture(scope="session")
def run_said(run_file: Path) -> Result:
    """What `muki run run.yaml` said."""
    return works("run", run_file)


@pytest.fixture(scope="session")
def finished(run_file: Path, run_said: Result) -> Folder:
    """The run folder that it made. Never changed by a test."""
    return Folder(run_file.parent / "finished")


# --- formulas, written once more -------------------------------------------------------------------------------------


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    z = np.exp(np.asarray(logits, dtype=np.float64) / temperature)
    return z / z.sum(axis=1, keepdims=True)


def certainty(p: np.ndarray) -> np.ndarray:
    p = np.asarray(p, dtype=np.float64)
    return 1 + (p * np.log(p)).sum(axis=1) / np.log(p.shape[1])


def in_union(distributions: list[np.ndarray], weights: np.ndarray, space: dict[str, Any]) -> np.ndarray:
    target = np.zeros((len(weights), len(space["labels"])))
    for i, columns in enumerate(space["teachers"].values()):
        for j, column in enumerate(columns):
            target[:, column] += weights[:, i] * distributions[i][:, j]
    return target


def hard(scores: np.ndarray) -> np.ndarray:
    return (np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None]).astype(float)


def margins(scores: np.ndarray, outputs: list[dict[str, np.ndarray]], space: dict[str, Any]) -> np.ndarray:
    """Best score minus the best among the teachers that name another class, text by text."""
    columns = list(space["teachers"].values())
    result = []
    for text, row in enumerate(scores):
        says = [columns[i][int(one["logits"][text].argmax())] for i, one in enumerate(outputs)]
        best = int(row.argmax())
        others = [score for i, score in enumerate(row) if says[i] != says[best]]
        result.append(row[best] - (max(others) if others else 0.0) + 1e-6)
    return np.array(result) / np.mean(result)
