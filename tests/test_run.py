"""The whole way: what the command and Python make of the same settings, and what lies in the run folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import Result
from commands import QUIET, works
from conftest import write_jsonl
from runs import CULTURE, NEWS, QUICK, Folder, write_yaml
from safetensors.torch import load_file
from tiny import save_teacher
from transformers import AutoTokenizer, pipeline

import muki
from muki import pipeline as stages
from muki.config import make_config
from muki.overrides import apply_overrides


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


def test_the_command_shows_the_results_and_where_they_lie(run_said: Result, finished: Folder):
    accuracy = finished.metrics["student"]["accuracy"]
    assert re.search(rf"^student +{accuracy:.3f} ", run_said.stdout, re.MULTILINE)
    assert (
        f"routing accuracy (the most heard teacher knows the gold label): {finished.metrics['routing']['accuracy']:.3f}"
        in run_said.stdout
    )
    assert (
        f"student: {finished.root / 'student'}\nmetrics: {finished.root / 'report' / 'metrics.json'}\n"
        in run_said.stdout
    )
    assert run_said.stdout.endswith(
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
