"""Whatever is wrong with the student, or with its training, costs nothing that is finished."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from broken import bart, copied, cut_short, gpt2, own_code, padded_beyond, without, without_mask
from refused import REMOTE, assert_refused, muki, work, works
from safetensors.torch import load_file
from tiny import wordpiece

from muki.config import StudentConfig
from muki.errors import StudentError
from muki.texts import Text
from muki.view import Encoder, finite_unit_length

pytestmark = pytest.mark.usefixtures("alone")

EMBEDDINGS = len(wordpiece())  # of the tiny encoder

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

    "pads with a token that the model does not know": (
        lambda p, good: padded_beyond(copied(good, p)),
        lambda p: (
            f"student '{p}': its tokenizer pads with token {EMBEDDINGS} ([NEW]), and its model has embeddings for "
            f"{EMBEDDINGS} tokens only; give the tokenizer that the model was trained with, or one that pads with a "
            "token the model knows (tokenizer.pad_token = tokenizer.eos_token, then save_pretrained)"
        ),
    ),

    "without attention mask": (
        lambda p, good: without_mask(copied(good, p)),
        lambda p: (
            "student: its tokenizer gives no attention mask (model_input_names: input_ids, token_type_ids), so that "
            "its answer for a text would depend on the padding of the batch; choose a model that takes one"
        ),
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


BAD_TRAINING = {
    "training.optim=adamw_bnb_8bit": "training: transformers refuses these settings (ImportError: ",
    "training.report_to=wandb": "training: transformers refuses these settings (RuntimeError: WandbCallback requires",
    "training.lr_scheduler_type=cosine_with_min_lr": (
        "training: transformers refuses these settings (ValueError: One of min_lr or min_lr_rate should be set"
    ),
    "training.gradient_accumulation_steps=0": (
        "training: gradient_accumulation_steps is 0; expected a whole number of 1 or more"
    ),
    "training={patience: 2, holdout: 0}": (
        "training: patience counts evaluations on held-out texts, and there are none; set training.holdout above 0"
    ),
}


@pytest.mark.parametrize("setting", BAD_TRAINING)
def test_settings_that_transformers_cannot_train_with_are_refused_before_anything_is_scored(
    setting, integrate, tmp_path
):
    if "bnb" in setting and importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed, and so nothing is wrong")
    refused = muki(*integrate("--set", setting))
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"muki: {BAD_TRAINING[setting]}")
    assert not (tmp_path / "run" / "scores").exists()


def test_settings_that_cannot_be_trained_with_are_refused_by_the_stage_alone(continued, tmp_path):
    continued()
    refused = muki("train", tmp_path / "run", "--set", "training.lr_scheduler_type=cosine_with_min_lr")
    assert refused.exit_code == 2
    assert "training: transformers refuses these settings (ValueError: One of min_lr" in refused.stderr


@pytest.mark.parametrize("method", ["dfa", "cfl"])
def test_a_student_that_shows_no_layers_is_refused_where_they_are_imitated(method, integrate, tmp_path):
    refused = muki(*integrate("--set", f"method={method}", student=bart(tmp_path / "bart")))
    assert refused.exit_code == 2
    assert refused.stderr.startswith(
        f"muki: student '{tmp_path}/bart': BartForSequenceClassification shows 0 hidden states, and method.objective "
        f"'{method}' imitates the teachers' at every layer; choose an encoder, or another method"
    )
    assert not (tmp_path / "run" / "scores").exists()


def test_after_a_refused_change_it_is_said_that_a_run_continues_without_it(continued, tmp_path):
    works(*continued())
    refused = muki("run", tmp_path / "run", "--set", "student.model=nowhere/at/all")
    assert f"What is done stays. To continue with the settings of before: muki run {tmp_path}/run" in refused.stderr
    shutil.rmtree(tmp_path / "run" / "supervision")
    next((tmp_path / "run" / "scores").rglob("*.parquet")).unlink()
    assert f"\nWhat is done stays. To continue: muki run {tmp_path}/run" in muki("supervise", tmp_path / "run").stderr


def test_an_encoder_that_fails_on_a_text_says_so_in_one_line(encoder, monkeypatch):
    reads = Encoder(StudentConfig(model=str(encoder)))
    for error, said in ((torch.OutOfMemoryError("no more"), r"out of memory \(no more\); set student.max_length lower"),
                        (RuntimeError("odd"), r"fails on a batch of texts \(RuntimeError: odd\)")):  # fmt: skip
        monkeypatch.setattr(reads.model, "forward", mock.Mock(side_effect=error))
        with pytest.raises(StudentError, match=f"^student: its encoder .*{said}"):
            reads.encode([Text(0, "a late goal")])


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
