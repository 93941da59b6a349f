"""Labels that a person has filled in for texts of the pool: what they say of student, target and teachers."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muki.config import RunConfig
from muki.errors import MissingColumnError, TextsError
from muki.evaluation.answers import StudentAnswers, asked_rows, pick, predict
from muki.evaluation.metrics import accuracy, classification_metrics, routing_accuracy
from muki.evaluation.table import table
from muki.integration.pool import load_outputs
from muki.integration.store import load_supervision
from muki.labels import LabelSpace
from muki.run_folder import RunFolder
from muki.teachers.outputs import teacher_predictions
from muki.texts import Columns, Text, TextShards, read
from muki.validation import nearest

logger = logging.getLogger(__name__)


def evaluate_labelled(run: RunFolder, config: RunConfig, space: LabelSpace, path: str) -> dict[str, Any]:
    """Metrics on texts of the pool that a person has labelled, e.g. in `to-label.csv`; no model is loaded for them.

    Args:
        run: a finished run.
        config: its config.
        space: its labels.
        path: a file with `label`, and `row` (of the pool) or `text`. Lines without a label are skipped.

    Returns:
        what `report/labelled.json` holds.

    Raises:
        TextsError: no label is filled in, none is of the union, or a line is no text of this run's pool.
    """
    pool = TextShards.load(run.texts("pool"))
    supervision = load_supervision(run.supervision)
    assert pool is not None  # there is supervision
    filled = _filled(path)
    outside = Counter(label for _, label in filled if label not in space.label2id)
    known = {row: label for row, label in _rows(path, filled, pool).items() if label in space.label2id}
    if not known:
        first = next(iter(outside))
        raise TextsError(
            f"labels '{path}': none is a label of the run; found {', '.join(map(repr, sorted(outside)[:5]))}"
            f"{nearest(first, space.labels)}; known are {', '.join(space.labels)}"
        )
    if outside:
        count = sum(outside.values())
        logger.warning("labels: %d texts left out, no teacher knows their label: %s", count, dict(outside))
    rows = np.array(sorted(known), dtype=np.int64)
    gold = np.array([space.label2id[known[row]] for row in rows.tolist()])
    at = np.searchsorted(supervision.rows, rows)
    outputs = [one.take(at) for one in load_outputs(config, run, "pool")]
    predictions = teacher_predictions(outputs, space)
    columns = list(space.columns.values())
    teachers = {}
    for i, (name, knows) in enumerate(space.columns.items()):
        own = np.isin(gold, knows)
        right = accuracy(predictions[own, i], gold[own]) if own.any() else None
        teachers[name] = {"accuracy": right, "n": int(own.sum())}
    student = _student(run, config, pool, supervision.rows, rows)
    return {
        "source": Path(path).name,
        "supervision": supervision.fingerprint,
        "texts": len(rows),
        "left_out": dict(outside),
        "student": classification_metrics(student, gold, space.labels),
        "target": {"accuracy": accuracy(supervision.target[at].argmax(axis=-1), gold)},
        "teachers": teachers,
        "routing": {"accuracy": routing_accuracy(supervision.routing[at], gold, columns)},
    }


def labelled_summary(metrics: dict[str, Any]) -> str:
    """The same as a table in plain text."""
    rows = [("", "accuracy", "texts")]
    for name, one in metrics["teachers"].items():
        shown = "–" if one["accuracy"] is None else f"{one['accuracy']:.3f}"
        rows.append((f"teacher {name}, its own labels", shown, str(one["n"])))
    rows.append(("target", f"{metrics['target']['accuracy']:.3f}", str(metrics["texts"])))
    rows.append(("student", f"{metrics['student']['accuracy']:.3f}", str(metrics["texts"])))
    low, high = metrics["student"]["accuracy_interval"]
    return (
        f"{table(rows)}\n\nstudent accuracy, 95 % interval: {low:.3f} to {high:.3f}\n"
        f"routing accuracy (the most heard teacher knows the label): {metrics['routing']['accuracy']:.3f}\n"
        "texts that were chosen because they are hard say nothing about the accuracy on others"
    )


def _filled(path: str) -> list[tuple[Text, str]]:
    """The lines with a label; `id` of each text is the `row` column where there is one."""
    try:
        texts = list(read(path, Columns(label="label", id="row")))
    except MissingColumnError as error:
        if error.column != "row":
            raise
        texts = [Text(one.row, one.text, one.text_pair, None, one.label) for one in read(path, Columns(label="label"))]
    filled = [(text, (text.label or "").strip()) for text in texts]
    filled = [(text, label) for text, label in filled if label]
    if not filled:
        raise TextsError(
            f"labels '{path}': no label is filled in ({len(texts)} lines); write one in the column 'label'"
        )
    return filled


def _rows(path: str, filled: list[tuple[Text, str]], pool: TextShards) -> dict[int, str]:
    """The pool's row of each labelled text, by its row number or else by its text."""
    by_text = _by_text(path, pool) if any(text.id is None for text, _ in filled) else {}
    wanted = np.array([int(text.id) for text, _ in filled if text.id and text.id.isdigit()], dtype=np.int64)
    by_row = {text.row: _plain(text.text) for text in pick(pool, wanted)}
    result = {}
    for text, label in filled:
        plain = _plain(text.text)
        row = by_text.get(plain) if text.id is None else int(text.id) if text.id.isdigit() else None
        if row is None or (text.id is not None and by_row.get(row) != plain):
            where = f"row {text.id}" if text.id is not None else f"line {text.row + 2}"
            raise TextsError(
                f"labels '{path}', {where}: '{text.text[:40]}' is no such text of this run's pool; give a file "
                "made from this run's report, or texts of its pool"
            )
        result[row] = label
    return result


def _by_text(path: str, pool: TextShards) -> dict[str, int]:
    """The row of each text; of a pool of pairs only if the first text alone tells them apart."""
    rows: dict[str, int] = {}
    pairs: dict[str, str | None] = {}
    for text in pool:
        plain = _plain(text.text)
        if pairs.setdefault(plain, text.text_pair) != text.text_pair:
            raise TextsError(
                f"labels '{path}': the pool has several pairs that begin with '{text.text[:40]}'; keep the column "
                "'row' of this run's to-label.csv, which tells them apart"
            )
        rows[plain] = text.row
    return rows


def _plain(text: str) -> str:
    """A text as it comes back from a spreadsheet: without the mark that keeps it from being a formula."""
    return " ".join(text.removeprefix("'").split())


def _student(
    run: RunFolder, config: RunConfig, pool: TextShards, all_rows: NDArray[np.int64], rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    answers = StudentAnswers(run, config)
    asked = asked_rows(all_rows, config.training.holdout, config.training.seed)
    if np.isin(rows, asked).all():
        return answers.of("pool", pool, asked)[np.searchsorted(asked, rows)].astype(np.float64)
    return predict(answers.classifier, pick(pool, rows), "student on the labelled texts")
