"""`muki finetune` makes teachers: of which labels, in which order, from Python too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import works
from conftest import write_jsonl
from safetensors.torch import load_file
from transformers import pipeline

import muki
from muki.config import TrainingConfig

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


def test_finetune_leaves_out_texts_without_a_label_and_takes_spaces_off(
    tmp_path: Path, encoder: Path, caplog: pytest.LogCaptureFixture
):
    lines = ["text,label", "a late goal,sports", "the match,sports ", "a new phone,", "parliament, politics", "tax,  "]
    (tmp_path / "labelled.csv").write_text("\n".join(lines), encoding="utf-8")
    output = muki.finetune(
        str(encoder), str(tmp_path / "labelled.csv"), tmp_path / "teacher", training=TrainingConfig(max_steps=1)
    )
    assert json.loads((output / "config.json").read_text())["id2label"] == {"0": "politics", "1": "sports"}
    assert "2 texts without a label are left out" in caplog.text


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
