"""Whatever is wrong with the student, or with its training, costs nothing that is finished."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from broken import copied, cut_short, gpt2, own_code, without
from refused import REMOTE, assert_refused, muki, work, works
from safetensors.torch import load_file

from muki.errors import StudentError
from muki.view import finite_unit_length

pytestmark = pytest.mark.usefixtures("alone")

BAD_STUDENTS: dict[str, tuple[Callable[[Path, Path], object], Callable[[Path], str]]] = {
    "missing": (
        lambda p, good: None, lambda p: f"student: no such folder: '{p}'; give a save_pretrained folder or a Hub id"
    ),

    "neither padding nor end token": (
        lambda p, good: gpt2(p, eos=False),
        lambda p: (
            "student: its tokenizer has neither a padding token nor an end token; set one (tokenizer.pad_token = ...) "
            "and save the tokenizer in that folder"
        ),
    ),

    "weights cut short": (
        lambda p, good: cut_short(copied(good, p)),
        lambda p: f"student '{p}': cannot be loaded (Error while deserializing header: invalid header length)",
    ),

    "without tokenizer": (
        lambda p, good: without(copied(good, p), "token*"),
        lambda p: f"student: no tokenizer in '{p}'; save the model's own tokenizer there (tokenizer.save_pretrained)",
    ),

    "remote code": (
        lambda p, good: own_code(good, p),
        lambda p: f"student: {REMOTE}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_STUDENTS)
def test_a_student_that_cannot_be_used_costs_nothing_that_is_finished(kind, tmp_path, encoder, continued):
    make, message = BAD_STUDENTS[kind]
    path, before = tmp_path / "bad", work(tmp_path / "run")
    make(path, encoder)
    assert_refused(message(path), *continued(f"student.model={path}"), continues=tmp_path / "run")
    assert work(tmp_path / "run") == before
    works(*continued())
    assert work(tmp_path / "run") == before


@pytest.mark.parametrize("command", ["integrate", "finetune", "predict"])
def test_a_missing_relative_folder_is_not_looked_up_on_the_hub(command, tmp_path, integrate, labelled_pool):
    (tmp_path / "models").mkdir()
    args = {
        "integrate": integrate(student="models/nope"),
        "finetune": ["finetune", "--base", "models/nope", "--texts", labelled_pool, "-o", tmp_path / "out"],
        "predict": ["predict", "models/nope", "--texts", labelled_pool, "-o", tmp_path / "out"],
    }[command]
    what = "model" if command == "predict" else "student"
    message = f"{what}: no such folder: 'models/nope'; give a save_pretrained folder or a Hub id"
    assert_refused(message, *args, continues=tmp_path / "run")


def test_a_name_that_is_no_folder_here_says_so_beside_what_the_hub_says(tmp_path, integrate):
    said = muki(*integrate(student="nope")).stderr
    assert f"muki: student 'nope': cannot be loaded (no folder of that name in '{Path.cwd()}', and on the Hub: " in said


def test_a_student_with_its_own_code_goes_the_whole_way_once_allowed(tmp_path, teachers, integrate, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", sys.path[:])
    works(*integrate(student=own_code(teachers[0], tmp_path / "own")), "--trust-remote-code")
    run = tmp_path / "run"
    labels = json.loads((run / "labels.json").read_text(encoding="utf-8"))["labels"]
    config = json.loads((run / "student" / "config.json").read_text(encoding="utf-8"))
    assert sorted(config["label2id"], key=config["label2id"].get) == labels
    assert load_file(run / "student" / "model.safetensors")["classifier.weight"].shape[0] == len(labels)
    assert (run / "report" / "metrics.json").exists()


def test_a_training_that_diverges_is_refused_and_the_earlier_student_stays(tmp_path, continued, monkeypatch):
    before = work(tmp_path / "run", "student/model.safetensors", "training.json")

    def diverges(self, *_, **__):
        with torch.no_grad():
            next(self.model.parameters()).fill_(float("nan"))

    monkeypatch.setattr("muki.student.trainer.IntegrationTrainer.train", diverges)
    result = muki(*continued("training.learning_rate=30"))
    assert result.exit_code == 2
    assert "muki: training: diverged, 1 weight tensors are no numbers any more ('" in result.stderr
    assert "set training.learning_rate lower (now 30)" in result.stderr
    assert work(tmp_path / "run", "student/model.safetensors", "training.json") == before


def test_an_encoder_that_gives_no_numbers_is_refused():
    with pytest.raises(StudentError, match="not finite"):
        finite_unit_length(torch.tensor([[1.0, float("inf")]]))
    torch.testing.assert_close(finite_unit_length(torch.tensor([[3e5, 4e5]])), torch.tensor([[0.6, 0.8]]))
