"""Texts in every form that is read: files, folders, pairs, texts in memory, data sets."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from commands import works
from conftest import write_jsonl
from runs import QUICK, Folder, write_yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import muki
from muki import pipeline as stages
from muki.config import make_config
from muki.texts import Columns, TextShards, read

ODD_TEXTS = ['a "quoted" goal, and a comma', "Fußball – 3:2 im Stadion", "tax law voted", "line\u2028separator", "x"]


def write_csv(path: Path, delimiter: str) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([["number", "text"], *enumerate(ODD_TEXTS)])
    return path


def write_source(folder: Path, form: str) -> Path:
    """The same texts in one of the forms."""
    rows: list[dict[str, object]] = [{"text": text} for text in ODD_TEXTS]
    if form == "csv":
        return write_csv(folder / "pool.csv", ",")
    if form == "tsv":
        return write_csv(folder / "pool.tsv", "\t")
    if form == "txt":
        (folder / "pool.txt").write_text("".join(f"{text}\n" for text in ODD_TEXTS), encoding="utf-8")
        return folder / "pool.txt"
    if form == "parquet":
        pq.write_table(pa.table({"text": ODD_TEXTS}), folder / "pool.parquet")
        return folder / "pool.parquet"
    if form.endswith(".gz"):
        unpacked = write_source(folder, form.removesuffix(".gz"))
        Path(f"{unpacked}.gz").write_bytes(gzip.compress(unpacked.read_bytes()))
        return Path(f"{unpacked}.gz")
    if form == "folder":
        (folder / "pool" / "later").mkdir(parents=True)
        write_jsonl(folder / "pool" / "a.jsonl", rows[:2])
        (folder / "pool" / "b.txt").write_text(f"{ODD_TEXTS[2]}\n{ODD_TEXTS[3]}\n", encoding="utf-8")
        pq.write_table(pa.table({"text": ODD_TEXTS[4:]}), folder / "pool" / "later" / "c.parquet")
        (folder / "pool" / "notes.md").write_text("not a text file of the pool")
        return folder / "pool"
    return write_jsonl(folder / "pool.jsonl", rows)


@pytest.mark.parametrize("form", ["csv", "tsv", "txt", "parquet", "jsonl.gz", "csv.gz", "txt.gz", "folder"])
def test_every_form_of_the_pool_gives_the_same_texts_and_scores(
    tmp_path: Path, teachers: list[Path], encoder: Path, form: str
):
    for name in ("jsonl", form):
        folder = tmp_path / f"as-{name}"
        folder.mkdir()
        content = {
            "teachers": [{"model": str(path), "max_length": 32} for path in teachers],
            "student": {"model": str(encoder)},
            "texts": {"path": str(write_source(folder, name)), "shard_rows": 2},
            "method": "muki-no-mc",
            "output": str(tmp_path / f"run-{name}"),
        }
        works("score", write_yaml(tmp_path / f"{name}.yaml", content))
    expected, found = Folder(tmp_path / "run-jsonl"), Folder(tmp_path / f"run-{form}")
    assert found.table("texts")["text"].tolist() == ODD_TEXTS
    assert found.table("texts")["id"].tolist() == ["0", "1", "2", "3", "4"]
    for name in ("texts", "scores/news", "scores/culture"):
        assert len(found.bytes_of(name)) == 3
        assert found.bytes_of(name) == expected.bytes_of(name)


def test_text_pairs_are_read_as_pairs_by_teachers_student_and_evaluation(
    tmp_path: Path, teachers: list[Path], encoder: Path, pool_texts: list[str]
):
    rows: list[dict[str, object]] = [{"a": text, "b": pool_texts[-i]} for i, text in enumerate(pool_texts[:20])]
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    test = write_jsonl(tmp_path / "test.jsonl", [{**row, "gold": "film"} for row in rows[:6]])
    content = {
        "teachers": [{"model": str(path), "max_length": 24} for path in teachers],
        "student": {"model": str(encoder), "max_length": 24},
        "texts": {"path": str(pool), "text": "a", "text_pair": "b"},
        "test": {"path": str(test), "label": "gold"},
        "method": "muki-no-mc",
        "training": {"epochs": 1, "batch_size": 8},
        "output": str(tmp_path / "run"),
    }
    works("run", write_yaml(tmp_path / "run.yaml", content))
    run = Folder(tmp_path / "run")
    for folder, stored in zip(teachers, run.scores(), strict=True):
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for row, logits in zip(rows, stored["logits"], strict=True):
            inputs = tokenizer(row["a"], row["b"], truncation=True, max_length=24, return_tensors="pt")
            with torch.no_grad():
                np.testing.assert_allclose(logits, model(**inputs).logits[0].numpy(), atol=1e-4)
    use = pipeline("text-classification", model=str(run.root / "student"))
    answers = [use({"text": row["a"], "text_pair": row["b"]}, truncation=True) for row in rows[:6]]
    answers = [answer[0] if isinstance(answer, list) else answer for answer in answers]
    assert run.metrics["student"]["accuracy"] == np.mean([answer["label"] == "film" for answer in answers])


def test_texts_in_memory_may_have_columns_of_their_own_and_may_be_a_stream(
    tmp_path: Path, teachers: list[Path], encoder: Path, pool_texts: list[str]
):
    rows = [{"sentence": text} for text in pool_texts]
    test = [{"sentence": "a late goal", "topic": "sports"}]
    run = muki.integrate(
        list(map(str, teachers)), str(encoder), {"path": (row for row in rows), "text": "sentence"},
        test={"path": test, "label": "topic"}, output=tmp_path / "run", **QUICK,
    )  # fmt: skip
    assert [text.text for text in TextShards.load(run.folder / "texts") or []] == pool_texts
    assert run.metrics["test"]["texts"] == 1


@pytest.mark.parametrize("form", ["strings", "mappings", "dataset"])
def test_texts_in_memory_are_the_same_pool_as_a_file(
    tmp_path: Path, teachers: list[Path], encoder: Path, pool: Path, pool_texts: list[str], form: str
):
    rows = [{"text": text} for text in pool_texts]
    texts: Any = {"strings": pool_texts, "mappings": rows}.get(form)
    if form == "dataset":
        texts = pytest.importorskip("datasets").Dataset.from_list(rows)
    test = [{"text": "a late goal", "label": "sports"}, {"text": "a quiet drama", "label": "film"}]
    memory = muki.integrate(teachers, str(encoder), texts, output=tmp_path / "m", test=test, **QUICK)
    assert memory.metrics["student"]["n"] == 2
    content = yaml.safe_load((memory.folder / "config.yaml").read_text(encoding="utf-8"))
    del content["test"]
    stages.score(make_config({**content, "texts": {"path": str(pool)}, "output": str(tmp_path / "f")}, "test"))
    for name in ("texts", "scores/news", "scores/culture"):
        assert Folder(memory.folder).bytes_of(name) == Folder(tmp_path / "f").bytes_of(name)


class Numbered(list[dict[str, Any]]):
    """Rows as `datasets` gives them: classes are numbers, and their names are among the features."""

    features: ClassVar = {"text": SimpleNamespace(dtype="string"), "label": SimpleNamespace(names=["film", "sports"])}


@pytest.mark.parametrize("real", [False, True])
def test_classes_of_a_data_set_are_read_by_name(real: bool):
    rows = [{"text": "a late goal", "label": 1}, {"text": "a quiet drama", "label": 0}, {"text": "who?", "label": -1}]
    source: Any = Numbered(rows)
    if real:
        datasets = pytest.importorskip("datasets")
        features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["film", "sports"])}
        source = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    assert [text.label for text in read(source, Columns(label="label"))] == ["sports", "film", None]
    assert [text.label for text in read(source)] == [None, None, None]
    assert [text.label for text in read([{"text": "a late goal", "label": 1}], Columns(label="label"))] == ["1"]


def test_labels_in_the_pool_are_never_read(tmp_path: Path, teachers: list[Path], encoder: Path, pool_texts: list[str]):
    odd: list[object] = ["sports", "no such label", None, 7, {"a": 1}]
    pools = {
        "without": [{"text": text} for text in pool_texts],
        "wrong": [{"text": text, "label": odd[i % 5]} for i, text in enumerate(pool_texts)],
    }
    for name, rows in pools.items():
        path = write_jsonl(tmp_path / f"{name}.jsonl", rows)
        muki.integrate(teachers, str(encoder), path, output=tmp_path / name, **QUICK)
    without, wrong = Folder(tmp_path / "without"), Folder(tmp_path / "wrong")
    assert set(wrong.table("texts")["label"]) == {None}
    for name in ("scores/news", "scores/culture", "supervision"):
        assert wrong.bytes_of(name) == without.bytes_of(name)
    assert (wrong.root / "student/model.safetensors").read_bytes() == (
        without.root / "student/model.safetensors"
    ).read_bytes()
