"""The student's answers to the run's own texts, kept beside the metrics: predicted once, read by all who come later."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from muki.arrow import matrix, vectors
from muki.checkpoints import folder_fingerprint
from muki.config import RunConfig
from muki.errors import RunFolderError
from muki.files import fingerprint, replacing
from muki.hashing import splitmix64
from muki.predict import Classifier, stream
from muki.progress import progress
from muki.run_folder import RunFolder, Split
from muki.student.data import split_holdout
from muki.texts import Text, TextShards

MOST_OF_POOL = 20_000


@dataclass
class StudentAnswers:
    """A run's student, loaded only when an answer is not in the run folder yet."""

    run: RunFolder
    config: RunConfig

    @cached_property
    def classifier(self) -> Classifier:
        """The loaded student."""
        student = self.config.student
        return Classifier.load(self.run.student, prefix=student.prefix, trust_remote_code=self.config.trust_remote_code)

    def require(self) -> None:
        """Raise `RunFolderError` where there is no student yet."""
        if not (self.run.student / "config.json").exists():
            raise RunFolderError(f"{self.run.student}: no student yet; run `muki train {self.run.root}` first")

    @cached_property
    def fingerprint(self) -> str:
        """Of the student's files, and of what is put before each text."""
        self.require()
        return fingerprint(folder_fingerprint(str(self.run.student)), self.config.student.prefix)

    def of(self, split: Split, texts: TextShards, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The student's probabilities for some rows of a split, shape (n, C), in the order of `rows` (ascending)."""
        path = answers_file(self.run, split)
        key = fingerprint(self.fingerprint, texts.fingerprint, rows.tolist())
        known = _read(path, key)
        if known is not None:
            return known
        title = f"student on {len(rows)} {'test texts' if split == 'test' else 'texts of the pool'}"
        probabilities = predict(self.classifier, pick(texts, rows), title).astype(np.float32)
        table = pa.table({"row": pa.array(rows), "probabilities": vectors(probabilities)})
        with replacing(path) as temporary:
            pq.write_table(table.replace_schema_metadata({"muki.key": json.dumps(key)}), temporary, compression="zstd")
        return probabilities


def answers_file(run: RunFolder, split: Split) -> Path:
    """Where the answers for a split lie."""
    return run.metrics.parent / f"answers-{split}.parquet"


def asked_rows(rows: NDArray[np.int64], holdout: float, seed: int) -> NDArray[np.int64]:
    """The pool's rows whose answers are wanted: all of a small pool; of a large one the held-out rows and a sample.

    Args:
        rows: of the pool, shape (n,).
        holdout: share of held-out texts, as in training.
        seed: of the hold-out, as in training.

    Returns:
        ascending, at most 20,000.
    """
    if len(rows) <= MOST_OF_POOL:
        return np.sort(rows)
    _, held_out = split_holdout(rows, holdout, seed)
    others = np.setdiff1d(rows, rows[held_out])
    order = np.argsort(splitmix64(others.astype(np.uint64)), kind="stable")
    return np.sort(np.concatenate([rows[held_out], others[order[: MOST_OF_POOL - len(held_out)]]]))


def pick(texts: TextShards, rows: NDArray[np.int64]) -> list[Text]:
    """The texts of some rows, in the order of the shards; only shards that hold one of them are kept in memory."""
    wanted = set(rows.tolist())
    return [text for text in texts if text.row in wanted]


def predict(classifier: Classifier, texts: list[Text], title: str) -> NDArray[np.float64]:
    """Probabilities, shape (n, C), with a progress line."""
    with progress(title, len(texts), "texts") as advance:
        return np.stack([probabilities for _, probabilities in stream(classifier, texts, advance)])


def _read(path: Path, key: str) -> NDArray[np.float32] | None:
    """Stored answers made from the same student and rows; None where there are none or the file is damaged."""
    try:
        table = pq.read_table(path)
        if (table.schema.metadata or {}).get(b"muki.key") != json.dumps(key).encode():
            return None
        return matrix(table["probabilities"])
    except (OSError, pa.ArrowException, KeyError):
        return None
