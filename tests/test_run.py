"""The whole run: what goes in, what lies in the run folder, and that its numbers are the ones the formulas give."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from click.testing import Result
from commands import QUIET, invoke, works
from conftest import write_jsonl
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from scipy.stats import entropy
from sklearn.metrics import f1_score
from tiny import WORDS, save_teacher
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import muki
from muki import pipeline as stages
from muki.config import TrainingConfig, apply_overrides, load_config, make_config
from muki.errors import RunFolderError, StaleError, StudentError
from muki.evaluation.card import _card_data
from muki.evaluation.metrics import accuracy_interval
from muki.evaluation.table import summary
from muki.labels import LabelSpace
from muki.predict import saved_length
from muki.progress import progress
from muki.run_folder import RunFolder
from muki.stale import require_supervision
from muki.student.data import holdout_size, split_holdout
from muki.student.trainer import steps_per_epoch, training_arguments
from muki.texts import Columns, TextShards, read

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


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def said(run_file: Path) -> Result:
    """What `muki run run.yaml` said."""
    return works("run", run_file)


@pytest.fixture(scope="module")
def finished(run_file: Path, said: Result) -> Folder:
    """The run folder that it made."""
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


# --- the run folder and its result -----------------------------------------------------------------------------------


def test_the_run_folder_holds_what_the_readme_says_and_no_checkpoints(finished: Folder):
    names = {path.name for path in finished.root.iterdir() if not path.name.endswith(".lock")}
    assert names == {
        "config.yaml", "teachers.json", "labels.json", "texts", "scores", "supervision", "training.json", "student",
        "test", "report",
    }  # fmt: skip
    shards = {"shard-00000.parquet", "shard-00001.parquet"}
    assert {path.name for path in (finished.root / "texts").iterdir()} == {*shards, "texts.json"}
    assert {path.name for path in (finished.root / "supervision").iterdir()} == {*shards, "supervision.json"}
    for split in ("", "test/"):
        assert {path.name for path in (finished.root / f"{split}scores").iterdir()} == {"news", "culture"}
        for name in ("news", "culture"):
            assert {path.name for path in (finished.root / f"{split}scores/{name}").iterdir()} == shards
    assert {path.name for path in (finished.root / "test").iterdir()} == {"texts", "scores"}
    assert {path.name for path in (finished.root / "student").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md",
    }  # fmt: skip


def test_the_command_shows_the_results_and_where_they_lie(said: Result, finished: Folder):
    accuracy = finished.metrics["student"]["accuracy"]
    assert re.search(rf"^student +{accuracy:.3f} ", said.stdout, re.MULTILINE)
    assert (
        f"routing accuracy (the most heard teacher knows the gold label): {finished.metrics['routing']['accuracy']:.3f}"
        in said.stdout
    )
    assert (
        f"student: {finished.root / 'student'}\nmetrics: {finished.root / 'report' / 'metrics.json'}\n" in said.stdout
    )
    assert said.stdout.endswith(
        f'pipeline("text-classification", model="{finished.root / "student"}", truncation=True)\n'
    )


def test_transformers_alone_uses_the_student_with_the_unions_label_names(finished: Folder):
    answers = pipeline("text-classification", model=str(finished.root / "student"), top_k=None)(
        ["the match ended after a late goal", "a new phone"]
    )
    for answer in answers:
        assert {one["label"] for one in answer} == {*NEWS, *CULTURE}
        assert sum(one["score"] for one in answer) == pytest.approx(1, abs=1e-5)


def test_the_student_is_a_single_label_classifier_in_float32(finished: Folder):
    config = finished.json("student/config.json")
    assert config["problem_type"] == "single_label_classification"
    assert config["id2label"] == {str(i): label for i, label in enumerate([*NEWS, *CULTURE])}
    assert config["label2id"] == {label: i for i, label in enumerate([*NEWS, *CULTURE])}
    weights = load_file(finished.root / "student" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert weights["classifier.weight"].shape == (6, 32)


def test_the_students_tokenizer_cuts_where_training_did(finished: Folder):
    tokenizer = AutoTokenizer.from_pretrained(finished.root / "student")
    assert len(tokenizer("goal " * 100, truncation=True)["input_ids"]) == 32


def test_the_same_settings_on_the_command_line_make_the_same_student(
    tmp_path: Path, run_file: Path, finished: Folder, teachers: list[Path], encoder: Path
):
    settings = [
        "method.passes=4", "texts.shard_rows=20", "training.epochs=2", "training.batch_size=8",
        "training.learning_rate=0.005", "training.bf16=false", "teachers.0.dtype=float32", "teachers.1.dtype=float32",
    ]  # fmt: skip
    works(
        "integrate", "--teacher", teachers[0], "-t", teachers[1], "--student", encoder, "--max-length", 32,
        "--texts", run_file.parent / "pool.jsonl", "--test", run_file.parent / "test.jsonl", "-o", tmp_path / "run",
        "--method", "muki",
        *(part for item in settings for part in ("--set", item)),
    )  # fmt: skip
    other = Folder(tmp_path / "run")
    for name in ("scores/news", "scores/culture", "test/scores/news", "supervision"):
        assert other.bytes_of(name) == finished.bytes_of(name)
    ours, theirs = (load_file(folder.root / "student" / "model.safetensors") for folder in (other, finished))
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key])
    assert other.metrics["student"] == finished.metrics["student"]


def test_the_resolved_settings_are_saved_with_every_default(finished: Folder, run_file: Path):
    saved = yaml.safe_load((finished.root / "config.yaml").read_text(encoding="utf-8"))
    assert muki.load_config(run_file).absolute().model_dump(mode="json") == saved
    assert saved["teachers"][0]["name"] == "news"
    assert saved["method"]["temperature"] == 0.2


def test_settings_as_a_dict_make_a_run_from_python(tmp_path: Path, settings: Callable[..., dict[str, object]]):
    result = stages.run_all(make_config(settings(method="muki-hard"), "test"))
    run = Folder(tmp_path / "run")
    assert result == stages.Result(run.root, run.metrics)
    assert result.student == run.root / "student"
    assert result.metrics["method"]["name"] == "muki-hard"
    assert result.metrics["pool"]["texts"] == 40
    assert run.classify(["a late goal"]).sum() == pytest.approx(1, abs=1e-5)


# --- its numbers -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gold(finished: Folder, labelled_texts: list[dict[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the test texts whose label is in the union, and those labels' numbers."""
    labels = finished.space["labels"]
    rows = [i for i, row in enumerate(labelled_texts) if row["label"] in labels]
    return np.array(rows), np.array([labels.index(labelled_texts[i]["label"]) for i in rows])


def test_every_scored_logit_is_the_one_the_teachers_own_pipeline_computes(
    finished: Folder, teachers: list[Path], labelled_texts: list[dict[str, str]]
):
    for folder, stored in zip(teachers, finished.scores("test/"), strict=True):
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert stored["row"].tolist() == list(range(len(labelled_texts)))
        for row, logits in zip(labelled_texts, stored["logits"], strict=True):
            with torch.no_grad():
                own = model(**tokenizer(row["text"], truncation=True, max_length=32, return_tensors="pt")).logits[0]
            np.testing.assert_allclose(logits, own.numpy(), atol=1e-4)


def test_student_metrics_are_those_of_its_answers(
    finished: Folder, labelled_texts: list[dict[str, str]], gold: tuple[np.ndarray, np.ndarray]
):
    rows, labels = gold
    predicted = finished.classify([labelled_texts[i]["text"] for i in rows]).argmax(axis=1)
    student = finished.metrics["student"]
    assert student["n"] == 30
    assert student["accuracy"] == pytest.approx((predicted == labels).mean())
    assert student["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))
    assert np.array(student["confusion_matrix"]).sum() == 30
    assert np.trace(student["confusion_matrix"]) == (predicted == labels).sum()


def test_each_teacher_is_measured_on_its_own_labels(finished: Folder, gold: tuple[np.ndarray, np.ndarray]):
    rows, labels = gold
    for name, stored in zip(finished.space["teachers"], finished.scores("test/"), strict=True):
        columns = np.array(finished.space["teachers"][name])
        predicted = columns[stored["logits"][rows].argmax(axis=1)]
        own = np.isin(labels, columns)
        assert 0 < own.sum() < 30
        metrics = finished.metrics["teachers"][name]
        assert metrics["accuracy"] == pytest.approx((predicted == labels)[own].mean())
        assert metrics["n"] == own.sum()
        assert metrics["accuracy_on_all"] == pytest.approx((predicted == labels).mean())


def test_the_ensemble_is_the_softmax_of_the_concatenated_logits(finished: Folder, gold: tuple[np.ndarray, np.ndarray]):
    rows, labels = gold
    concatenated = np.concatenate([one["logits"][rows] for one in finished.scores("test/")], axis=1)
    p = softmax(concatenated)  # the labels are disjoint and in the order of the union
    ensemble = finished.metrics["ensemble"]
    assert ensemble["accuracy"] == pytest.approx((p.argmax(axis=1) == labels).mean())
    assert ensemble["macro_f1"] == pytest.approx(f1_score(labels, p.argmax(axis=1), average="macro", zero_division=0))
    bins = np.minimum((p.max(axis=1) * 15).astype(int), 14)
    right = p.argmax(axis=1) == labels
    error = sum(
        (bins == b).mean() * abs(right[bins == b].mean() - p.max(axis=1)[bins == b].mean()) for b in np.unique(bins)
    )
    assert ensemble["expected_calibration_error"] == pytest.approx(error)


def test_routing_accuracy_is_how_often_the_surest_teacher_knows_the_gold_label(
    finished: Folder, gold: tuple[np.ndarray, np.ndarray]
):
    rows, labels = gold
    outputs = finished.scores("test/")
    columns = list(finished.space["teachers"].values())
    scores = {
        "mc-entropy": [certainty(one["mc_mean"][rows]) for one in outputs],
        "entropy": [certainty(softmax(one["logits"][rows])) for one in outputs],
        "bald": [one["pass_entropy"][rows] - entropy(one["mc_mean"][rows].astype(float), axis=1) for one in outputs],
        "energy": [np.log(np.exp(one["logits"][rows].astype(float)).sum(axis=1)) for one in outputs],
        "max-logit": [one["logits"][rows].max(axis=1) for one in outputs],
    }
    expected = {
        name: np.mean([labels[i] in columns[best] for i, best in enumerate(np.argmax(own, axis=0))])
        for name, own in scores.items()
    }
    assert finished.metrics["routing"]["by_score"] == pytest.approx(expected)
    assert finished.metrics["routing"]["accuracy"] == pytest.approx(expected["mc-entropy"])


def test_the_routed_ensemble_is_the_methods_target_on_the_test_texts(
    finished: Folder, gold: tuple[np.ndarray, np.ndarray]
):
    rows, labels = gold
    outputs = finished.scores("test/")
    weights = softmax(np.stack([certainty(one["mc_mean"][rows]) for one in outputs], axis=1), 0.2)
    p = in_union([softmax(one["logits"][rows]) for one in outputs], weights, finished.space)
    assert finished.metrics["routed_ensemble"]["accuracy"] == pytest.approx((p.argmax(axis=1) == labels).mean())


def test_texts_without_a_known_label_and_empty_texts_are_counted(finished: Folder):
    assert finished.metrics["test"]["left_out"] == {"weather": 2}
    assert finished.metrics["test"]["texts"] == 30
    assert finished.metrics["pool"]["texts"] == 40
    assert finished.metrics["pool"]["skipped"] == 1
    assert 20 not in finished.table("texts")["row"]  # the blank line keeps its number


def documented_metrics() -> list[str]:
    """The keys in the tables of docs/metrics.md; `.n` after `a.b` stands for `a.n`."""
    text = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    keys: list[str] = []
    for cell in re.findall(r"^\| (`.+?) \|", text, re.MULTILINE):
        for key in re.findall(r"`(.+?)`", cell):
            keys.append(keys[-1].rpartition(".")[0] + key if key.startswith(".") else key.removesuffix(".*"))
    return keys


def paths(content: Any, prefix: str = "") -> list[str]:
    """Every key of nested mappings, as a dotted path."""
    if not isinstance(content, dict):
        return []
    return [path for key, value in content.items() for path in [f"{prefix}{key}", *paths(value, f"{prefix}{key}.")]]


def test_every_documented_metric_is_there_and_every_metric_is_documented(finished: Folder):
    found = paths(finished.metrics)
    assert {
        "student.accuracy", "student.macro_f1", "routing.accuracy", "ensemble.accuracy", "routed_ensemble.accuracy",
        "teachers.news.accuracy", "teachers.culture.accuracy",
    } <= set(found)  # fmt: skip
    known = [re.compile(re.sub(r"<\w+>", "[^.]+", re.escape(key)) + r"(\..+)?") for key in documented_metrics()]
    assert len(known) > 20
    assert [pattern.pattern for pattern in known if not any(map(pattern.fullmatch, found))] == []
    leaves = [path for path in found if not any(other.startswith(f"{path}.") for other in found)]

    assert [path for path in leaves if not any(pattern.fullmatch(path) for pattern in known)] == []
    assert set(finished.metrics["ensemble"]) == set(finished.metrics["student"]) - {"per_teacher_part"}


def test_what_is_said_of_the_pool_needs_no_labels(finished: Folder):
    outputs = finished.scores()
    scores = np.stack([certainty(one["mc_mean"]) for one in outputs], axis=1)
    pool = finished.metrics["pool"]
    best = scores.argmax(axis=1)
    assert pool["teacher_share"] == pytest.approx({"news": (best == 0).mean(), "culture": (best == 1).mean()})
    supervision = finished.table("supervision")
    shares = dict(zip(finished.space["labels"], supervision["target"].mean(axis=0), strict=True))
    assert pool["label_share"] == pytest.approx(shares)
    assert pool["passes"] == {"news": 4, "culture": 4}
    assert pool["teachers_agree"] == 0  # they share no label
    assert pool["margin"]["median"] == pytest.approx(np.median(np.abs(scores[:, 0] - scores[:, 1])), abs=1e-6)


def test_without_a_test_file_the_accuracy_is_unknown_and_the_student_the_same(tmp_path: Path, finished: Folder):
    shutil.copytree(finished.root, tmp_path / "run")
    result = works("run", tmp_path / "run", "--set", "test=null")
    assert result.stdout.startswith("\nno test file: accuracy unknown\n")
    run = Folder(tmp_path / "run")
    assert set(run.metrics) == {"format", "labels", "method", "pool"}
    assert run.metrics["pool"] == finished.metrics["pool"]
    card = (run.root / "student" / "README.md").read_text(encoding="utf-8")
    assert "No labelled test texts were given, so its accuracy is **unknown**." in card


# --- supervision -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(
    tmp_path_factory: pytest.TempPathFactory, teachers: list[Path], encoder: Path, pool_texts: list[str]
) -> Folder:
    """Three teachers with three tokenizers; one label is shared as it is, one by an alias."""
    folder = tmp_path_factory.mktemp("three")
    desk = save_teacher(folder / "desk", "gpt2", ["soccer", "film", "weather", "travel"], seed=3)
    result = muki.integrate(
        [*teachers, {"model": str(desk), "labels": {"soccer": "sports"}}],
        str(encoder),
        pool_texts,
        output=folder / "run",
        method="muki",
        max_length=32,
        epochs=1,
        batch_size=8,
    )
    return Folder(result.folder)


def test_three_teachers_with_overlapping_labels_share_columns(three: Folder):
    assert three.space == {
        "labels": [*NEWS, *CULTURE, "weather", "travel"],
        "teachers": {"news": [0, 1, 2], "culture": [3, 4, 5], "desk": [0, 5, 6, 7]},
    }
    assert three.json("student/config.json")["id2label"] == {str(i): n for i, n in enumerate(three.space["labels"])}
    assert [one["logits"].shape for one in three.scores()] == [(40, 3), (40, 3), (40, 4)]
    card = (three.root / "student" / "README.md").read_text(encoding="utf-8")
    assert "| sports | news, desk |" in card
    assert "| film | culture, desk |" in card


def energy(outputs: list[dict[str, np.ndarray]]) -> np.ndarray:
    return np.stack([np.log(np.exp(one["logits"].astype(float)).sum(axis=1)) for one in outputs], axis=1)


def mc(outputs: list[dict[str, np.ndarray]]) -> np.ndarray:
    return np.stack([certainty(one["mc_mean"]) for one in outputs], axis=1)


def plain(outputs: list[dict[str, np.ndarray]]) -> np.ndarray:
    return np.stack([certainty(softmax(one["logits"])) for one in outputs], axis=1)


FORMULAS: dict[str, tuple[Callable[..., np.ndarray], Callable[..., np.ndarray], bool]] = {
    "muki": (mc, lambda s: softmax(s, 0.2), True),
    "muki-soft": (mc, lambda s: softmax(s, 0.2), False),
    "muki-hard": (mc, hard, False),
    "muki-hard-margin": (mc, hard, True),
    "muki-no-mc": (plain, lambda s: softmax(s, 0.2), True),
    "vanilla-kd": (energy, softmax, False),
}


@pytest.mark.parametrize("preset", FORMULAS)
def test_each_preset_makes_the_supervision_its_formula_gives_from_the_stored_scores(
    tmp_path: Path, three: Folder, preset: str
):
    shutil.copytree(three.root, tmp_path / "run")
    content = yaml.safe_load((three.root / "config.yaml").read_text(encoding="utf-8"))
    stages.supervise(make_config({**content, "method": preset, "output": str(tmp_path / "run")}, "test"))
    score, weights, reweight = FORMULAS[preset]
    outputs = three.scores()
    scores = score(outputs)
    found = Folder(tmp_path / "run").table("supervision")
    np.testing.assert_allclose(found["scores"], scores, atol=1e-5)
    np.testing.assert_allclose(found["routing"], weights(scores), atol=1e-5)
    target = in_union([softmax(one["logits"]) for one in outputs], weights(scores), three.space)
    np.testing.assert_allclose(found["target"], target, atol=1e-5)
    np.testing.assert_allclose(found["target"].sum(axis=1), 1, atol=1e-6)
    expected = margins(scores, outputs, three.space) if reweight else np.ones(40)
    np.testing.assert_allclose(found["weight"], expected, atol=1e-4)
    assert found["weight"].mean() == pytest.approx(1, abs=1e-6)
    assert found["row"].tolist() == list(range(40))


def test_vanilla_kd_is_the_softmax_of_concatenated_logits_where_shared_classes_add_up(tmp_path: Path, three: Folder):
    shutil.copytree(three.root, tmp_path / "run")
    content = yaml.safe_load((three.root / "config.yaml").read_text(encoding="utf-8"))
    stages.supervise(make_config({**content, "method": "vanilla-kd", "output": str(tmp_path / "run")}, "test"))
    p = softmax(np.concatenate([one["logits"] for one in three.scores()], axis=1))
    expected = p[:, :6].copy()
    expected[:, 0] += p[:, 6]  # desk's soccer
    expected[:, 5] += p[:, 7]  # desk's film
    expected = np.concatenate([expected, p[:, 8:]], axis=1)
    np.testing.assert_allclose(Folder(tmp_path / "run").table("supervision")["target"], expected, atol=1e-5)


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


# --- what goes in ----------------------------------------------------------------------------------------------------

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


def test_loaded_models_pipelines_and_teachers_are_teachers(
    tmp_path: Path, teachers: list[Path], encoder: Path, pool_texts: list[str]
):
    desk = save_teacher(tmp_path / "desk", "distilbert", ["film", "weather"], seed=5)
    folders = [*teachers, desk]
    pair = (AutoModelForSequenceClassification.from_pretrained(teachers[0]), AutoTokenizer.from_pretrained(teachers[0]))
    used = pipeline("text-classification", model=str(teachers[1]))
    used("a late goal", truncation=True, max_length=8)  # tokenizers remember how they were called last
    loaded = [
        pair,
        used,
        muki.load_teacher(str(desk), name="the desk", max_length=32),
    ]
    settings: dict[str, Any] = {**QUICK, "method": {"passes": 2}}

    # with every call, so no loaded tokenizer is the same after a look at it.
    memory = muki.integrate(loaded, str(encoder), pool_texts, output=tmp_path / "loaded", **settings)
    named = muki.integrate(folders, str(encoder), pool_texts, output=tmp_path / "named", **settings)
    ours, theirs = Folder(memory.folder), Folder(named.folder)
    assert list(ours.space["teachers"]) == ["teacher-1", "teacher-2", "the desk"]
    assert list(theirs.space["teachers"]) == ["news", "culture", "desk"]
    assert ours.space["labels"] == theirs.space["labels"]
    assert [one["fingerprint"] for one in ours.json("teachers.json")] == [
        one["fingerprint"] for one in theirs.json("teachers.json")
    ]
    for mine, other in zip(ours.scores(), theirs.scores(), strict=True):
        np.testing.assert_array_equal(mine["logits"], other["logits"])
        np.testing.assert_array_equal(mine["mc_mean"], other["mc_mean"])
    np.testing.assert_array_equal(ours.table("supervision")["target"], theirs.table("supervision")["target"])
    assert memory.student == tmp_path / "loaded" / "student"

    asked = yaml.safe_load((memory.folder / "config.yaml").read_text(encoding="utf-8"))["teachers"]
    assert [one["max_length"] for one in asked] == [32, 32, 32]
    assert "(in memory)" not in (memory.student / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("form", ["pair", "pipeline"])
def test_another_process_keeps_the_number_format_of_a_first_for_loaded_models(
    form: str, tmp_path: Path, teachers: list[Path], encoder: Path, pool_texts: list[str], monkeypatch: Any
):
    """A probe of speed may end otherwise in another process; then the scores must not be drawn again."""
    model = AutoModelForSequenceClassification.from_pretrained(teachers[0])
    tokenizer = AutoTokenizer.from_pretrained(teachers[0])
    loaded = (model, tokenizer)
    if form == "pipeline":
        loaded = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    settings: dict[str, Any] = {**QUICK, "method": {"passes": 2}}
    found = []
    for fastest in (torch.bfloat16, torch.float32):
        monkeypatch.setattr("muki.compute.fast_dtype", lambda _, fastest=fastest: fastest)
        run = muki.integrate([loaded, str(teachers[1])], str(encoder), pool_texts, output=tmp_path / "r", **settings)
        folder = Folder(run.folder)
        found.append([one["settings"]["passes_dtype"] for one in folder.json("teachers.json")])
        found.append({p: p.stat().st_mtime_ns for p in (run.folder / "scores").rglob("*.parquet")})
    assert found[0] == found[2] == ["bfloat16", "bfloat16"]
    assert found[1] == found[3]


def test_from_python_transformers_prints_nothing_and_keeps_its_voice(
    tmp_path: Path, teachers: list[Path], encoder: Path, pool_texts: list[str]
):
    """Bars and load reports of our own calls stay away; what the user does before and after prints as ever."""
    code = f"""
import sys, muki
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging
logging.set_verbosity(29)
load = lambda: AutoModelForSequenceClassification.from_pretrained({str(encoder)!r})
load()
print("=====", file=sys.stderr)
muki.integrate({[*map(str, teachers)]!r}, {str(encoder)!r}, {pool_texts!r}, output={str(tmp_path / "run")!r}, epochs=1,
               method={{"passes": 2}}, batch_size=8, max_length=32)
muki.Classifier.load({str(tmp_path / "run" / "student")!r})
texts = [{{"text": text, "label": text[0]}} for text in ("a late goal", "the new tax law") * 8]
muki.finetune({str(encoder)!r}, texts, {str(tmp_path / "tuned")!r}, max_length=32)
print("=====", file=sys.stderr)
load()
print(logging.get_verbosity() == 29, logging.is_progress_bar_enabled())
"""
    environment = {k: v for k, v in os.environ.items() if k not in QUIET}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    before, ours, after = done.stderr.split("=====\n")
    assert ours == ""
    for theirs in (before, after):
        assert "Loading weights" in theirs
        assert "LOAD REPORT" in theirs
    assert done.stdout == "True True\n"


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_whoever_the_umask_lets_read_can_read_all_files_of_a_run(
    umask: int, tmp_path: Path, teachers: list[Path], encoder: Path, pool_texts: list[str]
):
    before = os.umask(umask)
    try:
        run = muki.integrate([*map(str, teachers)], str(encoder), pool_texts, output=tmp_path / "r", **QUICK)
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in run.folder.rglob("*") if p.is_file() and p.suffix != ".lock"}
    assert "model.safetensors" in modes
    assert {name: oct(mode) for name, mode in modes.items() if mode != 0o666 & ~umask} == {}


@pytest.mark.parametrize("form", ["folder", "pair"])
def test_texts_that_are_cut_shorter_than_wanted_are_warned_of_once(
    form: str, tmp_path: Path, teachers: list[Path], encoder: Path, pool_texts: list[str], caplog: Any
):
    first: Any = str(teachers[0])
    if form == "pair":
        first = (AutoModelForSequenceClassification.from_pretrained(first), AutoTokenizer.from_pretrained(first))
    settings: dict[str, Any] = {**QUICK, "max_length": 100}
    run = muki.integrate([first, str(teachers[1])], str(encoder), pool_texts, output=tmp_path / "r", **settings)
    assert [r.message for r in caplog.records if "max_length" in r.message] == [
        f"'{name}': max_length 100 cut down to the 64 tokens that it can take"
        for name in ("news" if form == "folder" else "teacher-1", "culture", "student")
    ]
    assert [one["settings"]["max_length"] for one in Folder(run.folder).json("teachers.json")] == [64, 64]


def test_a_model_loaded_in_bfloat16_is_not_scored_in_what_was_found_for_a_float32_one(
    tmp_path: Path, teachers: list[Path], encoder: Path, pool_texts: list[str], monkeypatch: Any
):
    tokenizer = AutoTokenizer.from_pretrained(teachers[0])
    settings: dict[str, Any] = {**QUICK, "method": {"passes": 2}}
    monkeypatch.setattr("muki.compute.fast_dtype", lambda _: torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForSequenceClassification.from_pretrained(teachers[0], dtype=dtype)
        loaded = [(model, tokenizer), str(teachers[1])]
        run = muki.integrate(loaded, str(encoder), pool_texts, output=tmp_path / "r", **settings)
    formats = [one["settings"]["passes_dtype"] for one in Folder(run.folder).json("teachers.json")]
    assert formats == ["bfloat16", "float32"]


def test_a_number_format_that_was_asked_for_once_does_not_stick(
    tmp_path: Path, teachers: list[Path], encoder: Path, pool_texts: list[str], monkeypatch: Any
):
    settings: dict[str, Any] = {**QUICK, "method": {"passes": 2}}
    monkeypatch.setattr("muki.compute.fast_dtype", lambda _: torch.float32)
    for more in ({"dtype": "bfloat16"}, {}):
        given = [{"model": str(teachers[0]), **more}, str(teachers[1])]
        run = muki.integrate(given, str(encoder), pool_texts, output=tmp_path / "r", **settings)
    formats = [one["settings"]["passes_dtype"] for one in Folder(run.folder).json("teachers.json")]
    assert formats == ["float32", "float32"]


def test_a_loaded_model_keeps_its_weights_and_is_left_in_eval_mode(
    tmp_path: Path, teachers: list[Path], encoder: Path, pool_texts: list[str]
):
    model = AutoModelForSequenceClassification.from_pretrained(teachers[0])
    tokenizer = AutoTokenizer.from_pretrained(teachers[0])
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    settings: dict[str, Any] = {**QUICK, "method": {"passes": 2}}
    muki.integrate(
        [(model, tokenizer), str(teachers[1])], str(encoder), pool_texts[:16], output=tmp_path / "r", **settings
    )
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Path:
    """A LoRA adapter with a head for two labels, as `save_pretrained` writes it."""
    peft = pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("adapter") / "lora"
    torch.manual_seed(4)
    base = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_dropout=0.1, target_modules=["query", "value"])
    model = peft.get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "classifier" in name:
                parameter.normal_(0.0, 0.3)
    model.save_pretrained(folder)
    return folder


def test_a_peft_adapter_is_a_teacher(
    tmp_path: Path, adapter: Path, teachers: list[Path], encoder: Path, pool_texts: list[str]
):
    from peft import AutoPeftModelForSequenceClassification

    lora = {"model": str(adapter), "labels": {"LABEL_0": "travel", "LABEL_1": "weather"}}
    settings: dict[str, Any] = {**QUICK, "method": {"passes": 4}}

    result = muki.integrate([str(teachers[0]), lora], str(encoder), pool_texts, output=tmp_path / "run", **settings)
    run = Folder(result.folder)
    assert run.space["labels"] == [*NEWS, "travel", "weather"]
    assert run.json("teachers.json")[1]["labels"] == ["travel", "weather"]
    model = AutoPeftModelForSequenceClassification.from_pretrained(adapter, num_labels=2).eval()
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    stored = run.scores()[1]
    for text, logits in zip(pool_texts, stored["logits"], strict=True):
        with torch.no_grad():
            own = model(**tokenizer(text, truncation=True, max_length=32, return_tensors="pt")).logits[0]
        np.testing.assert_allclose(logits, own.numpy(), atol=1e-4)
    assert (stored["pass_spread"] > 0).all()  # the adapter's and the encoder's dropout are on


def test_a_peft_adapters_dropout_rates_can_be_set(
    tmp_path: Path, adapter: Path, teachers: list[Path], encoder: Path, pool_texts: list[str]
):
    lora = {"model": str(adapter), "labels": {"LABEL_0": "travel", "LABEL_1": "weather"}, "dropout_override": 0.2}
    settings: dict[str, Any] = {**QUICK, "method": {"passes": 2}}

    result = muki.integrate([str(teachers[0]), lora], str(encoder), pool_texts[:8], output=tmp_path / "run", **settings)
    assert Folder(result.folder).json("teachers.json")[1]["settings"]["dropout_override"] == 0.2


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({"gradient_accumulation_steps": 2}, 3),  # 36 texts, 8 at a time
        ({"max_steps": 2}, 2),
        (yaml.safe_load("{weight_decay: 1e-2}"), 5),  # which YAML reads as text
        ({"per_device_eval_batch_size": 1, "lr_scheduler_type": "constant", "weight_decay": 0.1}, 5),
        ({"holdout": 0}, 5),  # 40 texts
        # YAML reads the word `no` as false
        (yaml.safe_load("{save_strategy: no, load_best_model_at_end: false}"), 5),
    ],
)
def test_fields_of_training_arguments_pass_through(
    tmp_path: Path, finished: Folder, fields: dict[str, Any], steps: int
):
    shutil.copytree(finished.root, tmp_path / "run")
    content = yaml.safe_load((finished.root / "config.yaml").read_text(encoding="utf-8"))
    content |= {"training": {"epochs": 1, "batch_size": 8, **fields}, "output": str(tmp_path / "run")}
    stages.train(make_config(content, "test"))
    record = Folder(tmp_path / "run").json("training.json")
    assert record["steps"] == steps
    assert record["texts"] == (40 if "holdout" in fields else 36)
    assert record["held_out"] == 40 - record["texts"]


def test_the_checkpoint_is_chosen_by_the_integration_loss_on_held_out_texts(tmp_path: Path, finished: Folder):
    shutil.copytree(finished.root, tmp_path / "run")
    content = yaml.safe_load((finished.root / "config.yaml").read_text(encoding="utf-8"))
    training = {  # learns at first, then breaks
        "epochs": 8, "batch_size": 12, "learning_rate": 1.0, "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 24, "eval_steps": 2, "save_steps": 2, "holdout": 0.3, **FLOAT32,
    }  # fmt: skip
    stages.train(make_config({**content, "training": training, "output": str(tmp_path / "run")}, "test"))
    run = Folder(tmp_path / "run")
    record = run.json("training.json")
    curve = {one["step"]: one["loss"] for one in record["held_out_losses"]}
    assert record["best_step"] == min(curve, key=lambda step: curve[step])
    assert record["best_held_out_loss"] == min(curve.values())
    assert record["best_step"] < record["steps"]  # else this test shows nothing
    supervision = run.table("supervision")
    _, held_out = split_holdout(supervision["row"], 0.3, 1)
    assert len(held_out) == record["held_out"] == 12
    texts = run.table("texts")["text"]
    q = run.classify([texts[i] for i in held_out])
    g = supervision["target"][held_out].astype(float)
    loss = (supervision["weight"][held_out] * (g * np.log(g / q)).sum(axis=1)).mean()
    assert loss == pytest.approx(record["best_held_out_loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("steps_an_epoch", "epochs", "between"), [(9, 56, 26), (100, 5, 100), (4000, 3, 500), (1, 3, 1)]
)
def test_a_small_pool_that_is_read_many_times_is_not_saved_each_time(
    tmp_path: Path, steps_an_epoch: int, epochs: int, between: int
):
    args = training_arguments(TrainingConfig(epochs=epochs), tmp_path, steps_an_epoch, evaluate=True)
    assert args.save_steps == args.eval_steps == between


def test_steps_per_epoch_count_what_is_accumulated():
    assert steps_per_epoch(1600, TrainingConfig(batch_size=32)) == 50
    assert (
        steps_per_epoch(1600, TrainingConfig.model_validate({"batch_size": 32, "gradient_accumulation_steps": 4})) == 13
    )


def test_steps_per_epoch_count_the_gpus_of_one_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("muki.compute.device", lambda: "cuda")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert steps_per_epoch(1600, TrainingConfig(batch_size=32)) == 13
    monkeypatch.setenv("RANK", "0")  # a launcher gives each process one
    assert steps_per_epoch(1600, TrainingConfig(batch_size=32)) == 50


def test_looks_at_held_out_texts_need_some(tmp_path: Path):
    training = TrainingConfig.model_validate({"holdout": 0, "eval_strategy": "epoch"})
    with pytest.raises(StudentError, match=r"eval_strategy epoch needs held-out texts; set training\.holdout above 0"):
        training_arguments(training, tmp_path, 10, evaluate=False)


def test_a_part_of_the_texts_is_always_left_to_train_on():
    assert [holdout_size(n, 0.95) for n in (9, 10, 100, 100_000)] == [0, 9, 95, 2000]


def test_a_student_of_earlier_settings_is_not_evaluated_as_one_of_the_new(tmp_path: Path, finished: Folder):
    shutil.copytree(finished.root, tmp_path / "run")
    content = yaml.safe_load((finished.root / "config.yaml").read_text(encoding="utf-8"))
    changed = make_config({**content, "method": "vanilla-kd", "output": str(tmp_path / "run")}, "test")
    with pytest.raises(RunFolderError, match="made with other settings, scores or texts; run `muki supervise"):
        stages.train(changed)
    stages.supervise(changed)
    with pytest.raises(RunFolderError, match="was made with other settings or supervision; run `muki train"):
        stages.evaluate(changed)
    longer = make_config(
        {**content, "training": {**content["training"], "epochs": 9}, "output": str(tmp_path / "run")}, ""
    )
    stages.supervise(longer)
    with pytest.raises(RunFolderError, match="was made with other settings or supervision; run `muki train"):
        stages.evaluate(longer)
    result = invoke("evaluate", write_yaml(tmp_path / "longer.yaml", longer.model_dump(mode="json", exclude_none=True)))
    assert result.exit_code == 2
    assert result.stderr.endswith(  # and no hint to continue, which would name the settings of before
        f"muki: {tmp_path}/run/student: the student there was made with other settings or supervision; run `muki "
        "train` first, with the run file and settings that you gave here\n"
    )


def test_a_student_of_earlier_settings_is_not_reported_as_one_of_the_new(tmp_path: Path, finished: Folder):
    root = Path(shutil.copytree(finished.root, tmp_path / "run"))
    works("score", root, "--set", "method=vanilla-kd")
    for command in (["report", root], ["evaluate", root, "--labels", root / "report" / "to-label.csv"]):
        result = invoke(*command)
        assert result.exit_code == 2
        assert "the supervision there was made with other settings; run `muki supervise`" in result.stderr
    works("supervise", root)
    assert f"student: supervision or settings have changed; it is made anew and replaces the one in {root}/student" in (
        works("train", root, "--set", "training.epochs=1").stderr
    )
    works("evaluate", root)  # the folder knows of it
    works("report", root)
    content = yaml.safe_load((root / "config.yaml").read_text(encoding="utf-8"))
    write_yaml(root / "config.yaml", {**content, "training": {**content["training"], "epochs": 2}})
    assert "the student there was made with other settings; run `muki train`" in invoke("report", root).stderr


def test_a_report_needs_the_run_folder_alone(tmp_path: Path, finished: Folder):
    root = Path(shutil.copytree(finished.root, tmp_path / "run"))
    content = yaml.safe_load((root / "config.yaml").read_text(encoding="utf-8"))
    for one in (*content["teachers"], content["student"]):
        one["model"] = "/nowhere/" + Path(one["model"]).name
    write_yaml(root / "config.yaml", content)
    trained = json.loads((root / "training.json").read_text(encoding="utf-8"))
    trained["settings"]["student"]["model"] = content["student"]["model"]
    (root / "training.json").write_text(json.dumps(trained), encoding="utf-8")
    page = root / "report" / "report.html"
    page.unlink()
    assert works("report", root).stdout == f"report: {page}\n"
    assert "student" in page.read_text(encoding="utf-8")


def test_to_see_whether_supervision_is_stale_nothing_is_made_anew(tmp_path: Path, teachers: list[Path], encoder: Path):
    texts = [f"{word} {i}" for i, word in enumerate(WORDS.split() * 4)]
    settings: dict[str, Any] = {**QUICK, "method": "muki-plus"}
    root = muki.integrate(list(map(str, teachers)), str(encoder), texts, output=tmp_path / "run", **settings).folder
    view = {path: path.read_bytes() for path in (root / "view").rglob("*") if path.is_file()}
    assert view
    changed = load_config(root / "config.yaml", ["student.max_length=16"])
    with pytest.raises(StaleError):
        require_supervision(changed, RunFolder(root))
    assert {path: path.read_bytes() for path in (root / "view").rglob("*") if path.is_file()} == view


def test_an_interval_of_few_texts_does_not_pretend_to_be_sure():
    assert accuracy_interval([True] * 8) == (pytest.approx(0.676, abs=1e-3), 1.0)
    assert accuracy_interval([False] * 8) == (0.0, pytest.approx(0.324, abs=1e-3))


def test_a_student_behind_the_teachers_is_pointed_out():
    one = {
        "accuracy": 0.6,
        "macro_f1": 0.6,
        "expected_calibration_error": 0.1,
        "n": 40,
        "accuracy_interval": [0.5, 0.7],
    }
    metrics: dict[str, Any] = {
        "teachers": {}, "test": {"texts": 40}, "ensemble": one, "routed_ensemble": one, "student": {
            **one, "accuracy": 0.2, "accuracy_interval": [0.1, 0.35]
        },
        "routing": {"accuracy": 0.7}, "pool": {"texts": 9, "teacher_share": {"a": 1.0}, "margin": {"median": 1.0},
        "held_out": {}},
    }  # fmt: skip
    warned = "the student is behind the teachers' ensemble (0.600): train for longer, or give more texts"
    assert warned in summary(metrics)
    metrics["student"]["accuracy_interval"] = [0.4, 0.61]
    assert warned not in summary(metrics)


def test_a_section_may_be_its_one_needed_setting(tmp_path: Path, run_file: Path):
    content = yaml.safe_load(run_file.read_text(encoding="utf-8"))
    short = {"teachers": [one["model"] for one in content["teachers"]], "student": content["student"]["model"],
             "texts": "pool.jsonl", "test": "test.jsonl", "output": "run"}  # fmt: skip
    config = make_config(short, "short.yaml")
    assert [one.model for one in config.teachers] == short["teachers"]
    assert (config.student.max_length, config.texts.path, config.test and config.test.label) == (
        128, "pool.jsonl", "label",
    )  # fmt: skip
    overrides = ["student.max_length=16", "teachers.1.prefix=query", "texts.limit=3"]
    changed = make_config(apply_overrides(short, overrides), "short.yaml")
    assert (changed.student.model, changed.student.max_length) == (short["student"], 16)
    assert (changed.teachers[1].model, changed.teachers[1].prefix) == (short["teachers"][1], "query")
    assert (changed.texts.path, changed.texts.limit) == ("pool.jsonl", 3)


def test_labels_that_differ_in_spelling_are_warned_of_in_a_run(tmp_path: Path, teachers: list[Path], encoder: Path):
    other = save_teacher(tmp_path / "other", "bert", ["Sports", "rain"], seed=5)
    pool = write_jsonl(tmp_path / "pool.jsonl", [{"text": f"a late goal {i}"} for i in range(8)])
    content = {"teachers": [str(teachers[0]), str(other)], "student": str(encoder), "texts": str(pool),
               "method": "muki-no-mc", "training": {"epochs": 1}, "output": str(tmp_path / "run")}  # fmt: skip
    said = works("run", write_yaml(tmp_path / "run.yaml", content)).stderr
    assert (
        "labels: 'sports' of news and 'Sports' of other look like one class and stay two; `muki inspect` says how to "
        "merge them\n" in said
    )


def test_scores_of_earlier_test_texts_are_not_evaluated_as_those_of_the_new(tmp_path: Path, finished: Folder):
    shutil.copytree(finished.root, tmp_path / "run")
    content = yaml.safe_load((finished.root / "config.yaml").read_text(encoding="utf-8"))
    other = write_jsonl(tmp_path / "test.jsonl", [{"text": f"a late goal {i}", "label": "sports"} for i in range(8)])
    changed = make_config({**content, "test": {"path": str(other)}, "output": str(tmp_path / "run")}, "test")
    run = RunFolder(tmp_path / "run")
    space = LabelSpace.load(run.labels)
    assert space is not None
    stages.cut_texts(changed, run, stages.Sources(), space)  # as by a scoring that was stopped here
    with pytest.raises(RunFolderError, match=r"scores cannot be used \(changed: texts\); run `muki score` first"):
        stages.evaluate(changed)


def test_a_student_reads_as_many_tokens_as_it_was_trained_on():
    tokenizer = SimpleNamespace(model_max_length=1024)
    assert saved_length(tokenizer) == 1024
    tokenizer.model_max_length = int(1e30)  # what transformers writes for "unknown"
    assert saved_length(tokenizer) == 512


def test_progress_of_continued_work_does_not_count_what_was_done_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    clock = iter([0.0, 10.0, 10.0])  # start, after two steps, end
    monkeypatch.setattr("muki.progress.time.monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO, "muki"), progress("training", 104, "steps", done=100) as advance:
        advance(2)
    assert caplog.messages == ["training: 102/104 steps, 0.2/s, 0:10 left", "training: 2 steps in 0:10"]


def test_patience_stops_the_training(tmp_path: Path, finished: Folder):
    shutil.copytree(finished.root, tmp_path / "run")
    content = yaml.safe_load((finished.root / "config.yaml").read_text(encoding="utf-8"))
    training = {
        "epochs": 50, "batch_size": 12, "learning_rate": 1.0, "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 50, "patience": 1, "eval_steps": 1, "save_steps": 1, **FLOAT32,
    }  # fmt: skip
    stages.train(make_config({**content, "training": training, "output": str(tmp_path / "run")}, "test"))
    record = Folder(tmp_path / "run").json("training.json")
    assert 1 < record["steps"] < 100
    assert record["best_step"] == record["steps"] - 1


def test_a_classifier_as_a_start_keeps_its_encoder_and_loses_its_head(
    tmp_path: Path, finished: Folder, teachers: list[Path]
):
    shutil.copytree(finished.root, tmp_path / "run")
    content = yaml.safe_load((finished.root / "config.yaml").read_text(encoding="utf-8"))
    content |= {
        "student": {"model": str(teachers[0]), "max_length": 32}, "output": str(tmp_path / "run"),
        "training": {"max_steps": 1, "learning_rate": 1e-9, "head": "random"},
    }  # fmt: skip
    stages.train(make_config(content, "test"))
    start = load_file(teachers[0] / "model.safetensors")
    student = load_file(tmp_path / "run" / "student" / "model.safetensors")
    assert student["classifier.weight"].shape == (6, 32)
    assert student["classifier.weight"].std() < 0.03  # fresh; the old one's is 0.15
    for key, tensor in start.items():
        if key.startswith("bert."):
            torch.testing.assert_close(student[key], tensor, atol=1e-6, rtol=0)


# --- the model card --------------------------------------------------------------------------------------------------


def test_the_model_card_has_labels_bases_and_results_and_no_path_of_this_machine(
    finished: Folder, run_file: Path, teachers: list[Path]
):
    path = finished.root / "student" / "README.md"
    content = path.read_text(encoding="utf-8")
    card = ModelCard.load(path)
    assert card.data.base_model is None  # local folders are nothing that a Hub page can link to
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.eval_results[0].metric_value == pytest.approx(finished.metrics["student"]["accuracy"], abs=1e-4)
    shares = finished.metrics["pool"]["label_share"]
    for label in (*NEWS, *CULTURE):
        teacher = "news" if label in NEWS else "culture"
        assert f"| {label} | {teacher} | {100 * shares[label]:.1f} % |" in content
    for folder in (finished.root, run_file.parent, *teachers, Path.home(), Path.cwd()):
        assert str(folder) not in content
    assert not re.search(r"(?<![\w./:])/(tmp|home|root|work|var|usr|private|Users)\b", content)


def test_the_card_links_to_what_is_on_the_hub_and_to_nothing_else(finished: Folder, teachers: list[Path]):
    content = yaml.safe_load((finished.root / "config.yaml").read_text(encoding="utf-8"))
    content["teachers"][0]["model"] = "org/news"
    content["student"]["model"] = "distilbert-base-uncased"
    card = _card_data("name", make_config(content, "test"), {}, {})
    assert card.base_model == ["distilbert-base-uncased", "org/news"]


def test_no_file_of_the_student_names_a_path_of_this_machine(finished: Folder, run_file: Path, teachers: list[Path]):
    for path in (finished.root / "student").iterdir():
        for folder in (run_file.parent, teachers[0].parent):
            assert str(folder).encode() not in path.read_bytes(), path


# --- predict and finetune --------------------------------------------------------------------------------------------


def test_predict_keeps_ids_and_order_over_chunks_and_gives_the_pipelines_scores(tmp_path: Path, finished: Folder):
    words = WORDS.split()
    texts = [" ".join(words[i % 47 : i % 47 + 1 + i % 6]) for i in range(1100)]
    texts[500] = ""
    rows: list[dict[str, object]] = [{"id": f"no-{7 * i % 1100}", "text": text} for i, text in enumerate(texts)]
    output = tmp_path / "out.jsonl"
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    result = works("predict", finished.root / "student", "--texts", source, "--output", output)
    assert result.stdout == f"1100 predictions in {output}\n"
    predictions = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [one["id"] for one in predictions] == [row["id"] for row in rows]
    labels = finished.space["labels"]
    assert all(list(one["probabilities"]) == labels for one in predictions)
    found = np.array([list(one["probabilities"].values()) for one in predictions])
    np.testing.assert_allclose(found, finished.classify(texts), atol=1e-5)
    assert [one["label"] for one in predictions] == [labels[i] for i in found.argmax(axis=1)]
    np.testing.assert_allclose([one["score"] for one in predictions], found.max(axis=1))


def test_predictions_without_ids_are_numbered(tmp_path: Path, finished: Folder):
    (tmp_path / "in.txt").write_text("a late goal\n\nthe bank\n", encoding="utf-8")
    works(
        "predict", finished.root / "student", "--texts", tmp_path / "in.txt", "--output", tmp_path / "o" / "out.jsonl"
    )
    lines = (tmp_path / "o" / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["0", "1", "2"]


def test_predict_is_a_filter_too(tmp_path: Path, finished: Folder):
    lines = "a late goal\r\n\nthe bank, naïve\n".encode()
    (tmp_path / "in.txt").write_bytes(lines)
    student = finished.root / "student"
    works("predict", student, "--texts", tmp_path / "in.txt", "--output", tmp_path / "out.jsonl")
    result = works("-q", "predict", student, "--texts", "-", "--output", "-", stdin=lines)
    assert result.stdout == (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    assert not Path("-").exists()
    broken = invoke("predict", student, "--texts", "-", "--output", "-", stdin=b"fine\nna\xefve\n")
    assert broken.exit_code == 2
    assert "standard input, line 2: byte 3 (0xef) is not UTF-8" in broken.stderr


def test_predict_reads_text_pairs(tmp_path: Path, finished: Folder):
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": "a late goal", "text_pair": "the bank raised rates"}])
    output = tmp_path / "out.jsonl"

    works(
        "predict", finished.root / "student", "--texts", source, "--output", output, "--text-pair-column", "text_pair"
    )  # fmt: skip
    use = pipeline("text-classification", model=str(finished.root / "student"), top_k=None)
    expected = {
        one["label"]: one["score"] for one in use({"text": "a late goal", "text_pair": "the bank raised rates"})
    }
    assert json.loads(output.read_text())["probabilities"] == pytest.approx(expected, abs=1e-5)


LEARNABLE = [
    {"text": f"{word} {extra}", "label": label}
    for label, word in (("sports", "goal"), ("politics", "parliament"), ("film", "drama"))
    for extra in ("the match", "today", "a new phone", "doctors", "all night", "the film", "shares", "ended")
]


def test_finetune_learns_only_the_given_labels_in_the_given_order(tmp_path: Path, encoder: Path):
    source = write_jsonl(tmp_path / "labelled.jsonl", LEARNABLE)
    kept = write_jsonl(tmp_path / "kept.jsonl", [row for row in LEARNABLE if row["label"] != "politics"])
    options: list[object] = ["--base", encoder, "--max-length", 16]
    for item in ("epochs=6", "training.batch_size=4", "learning_rate=0.005", "bf16=false"):
        options += ["--set", item]
    named = works("finetune", *options, "--texts", source, "--labels", "sports,film", "-o", tmp_path / "sport")
    works("finetune", *options, "--texts", kept, "--labels", "sports,film", "-o", tmp_path / "kept")
    assert named.stdout == f"teacher: {tmp_path / 'sport'}\n"
    config = json.loads((tmp_path / "sport" / "config.json").read_text())
    assert config["id2label"] == {"0": "sports", "1": "film"}
    assert config["problem_type"] == "single_label_classification"
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("sport", "kept"))
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key])
    use = pipeline("text-classification", model=str(tmp_path / "sport"))
    rows = [row for row in LEARNABLE if row["label"] != "politics"]
    assert [one["label"] for one in use([row["text"] for row in rows])] == [row["label"] for row in rows]


def test_finetune_learns_all_labels_sorted_by_default_or_those_of_a_file(tmp_path: Path, encoder: Path):
    source = write_jsonl(tmp_path / "labelled.jsonl", LEARNABLE)
    options: list[object] = ["--base", encoder, "--texts", source, "--set", "max_steps=1", "-o"]
    works("finetune", *options, tmp_path / "all")
    labels = json.loads((tmp_path / "all/config.json").read_text())["id2label"]
    assert labels == {"0": "film", "1": "politics", "2": "sports"}
    (tmp_path / "labels.txt").write_text("politics\n\nfilm\n", encoding="utf-8")
    works("finetune", *options, tmp_path / "two", "--labels", f"@{tmp_path / 'labels.txt'}")
    assert json.loads((tmp_path / "two/config.json").read_text())["id2label"] == {"0": "politics", "1": "film"}


def test_muki_finetune_can_be_called_from_python_more_than_once(tmp_path: Path, encoder: Path):
    training = TrainingConfig(max_steps=1)
    for number in ("one", "two"):
        folder = muki.finetune(str(encoder), LEARNABLE, tmp_path / number, training=training, max_length=16)
        assert folder == tmp_path / number
    one, two = (load_file(tmp_path / number / "model.safetensors") for number in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_fine_tuned_teachers_can_be_integrated(tmp_path: Path, encoder: Path):
    source = write_jsonl(tmp_path / "labelled.jsonl", LEARNABLE)
    for labels in ("sports,film", "politics,film"):
        works(
            "finetune", "--base", encoder, "--texts", source, "--labels", labels, "-o", tmp_path / labels[:6],
            "--max-length", 16, "--set", "epochs=20", "--set", "learning_rate=0.003", "--set", "batch_size=4",
            "--set", "bf16=false",
        )  # fmt: skip
    result = muki.integrate(
        [tmp_path / "sports", tmp_path / "politi"], str(encoder), [row["text"] for row in LEARNABLE],
        output=tmp_path / "run", test=LEARNABLE, method="muki-no-mc", max_length=16,
        epochs=8, learning_rate=0.005, batch_size=4,
    )  # fmt: skip
    assert result.metrics["labels"] == ["sports", "film", "politics"]
    assert [one["accuracy"] for one in result.metrics["teachers"].values()] == [1, 1]  # they have read these texts
