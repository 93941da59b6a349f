"""The numbers of a run are the ones that the formulas give from what lies in its folder."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import works
from runs import Folder, certainty, in_union, softmax, write_yaml
from scipy.stats import entropy
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from muki.evaluation.metrics import accuracy_interval
from muki.evaluation.table import summary


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
