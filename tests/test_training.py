"""How a student is trained: fields of TrainingArguments, held-out texts, patience, what it starts from."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import works
from runs import FLOAT32, Folder
from safetensors.torch import load_file

from muki import pipeline as stages
from muki.config import TrainingConfig, make_config
from muki.errors import StudentError
from muki.progress import progress
from muki.student.data import holdout_size, split_holdout
from muki.student.trainer import steps_per_epoch, training_arguments


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
        "epochs": 12, "batch_size": 12, "learning_rate": 1.0, "lr_scheduler_type": "constant_with_warmup",
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


def test_progress_of_continued_work_does_not_count_what_was_done_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    clock = iter([0.0, 10.0, 10.0])  # start, after two steps, end
    monkeypatch.setattr("muki.progress.time.monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO, "muki"), progress("training", 104, "steps", done=100) as advance:
        advance(2)
    assert caplog.messages == ["training: 102/104 steps, 0.2/s, 0:10 left", "training: 2 steps in 0:10"]


def test_processes_of_a_launcher_train_one_student_together(tmp_path: Path, finished: Folder):
    root = Path(shutil.copytree(finished.root, tmp_path / "run"))
    settings = ["training.epochs=2", "training.batch_size=5"]
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "muki", "train", str(root)]
    more = [part for setting in settings for part in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command, *more], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = Folder(root).json("training.json")
    assert (record["texts"], record["steps"]) == (36, 2 * 4)  # 36 texts, two processes with 5 each
    assert done.stderr.count("training on 36 texts, 4 held out") == 1  # one of them speaks
    assert not (root / "checkpoints").exists()
    assert f"student: reusing {root}/student" in works("train", root).stderr


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
