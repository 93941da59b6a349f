"""Whatever is wrong with a teacher: one clear message that names it; odd but good ones work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from broken import copied, cut_short, gpt2, own_code, poisoned, without
from commands import QUIET
from conftest import write_jsonl
from refused import REMOTE, assert_refused, file, muki, work, works
from runs import write_yaml
from tiny import save_encoder, save_teacher

from muki.errors import LabelError, TeacherError
from muki.labels import union
from muki.teachers.loading import load_teacher
from muki.teachers.scoring import score_texts
from muki.teachers.survey import survey
from muki.texts import Text

pytestmark = pytest.mark.usefixtures("alone")

BAD_TEACHERS: dict[str, tuple[Callable[[Path, Path], object], Callable[[Path], str]]] = {
    "missing": (
        lambda p, good: None,
        lambda p: f"no such folder: '{p}'; give a save_pretrained folder or a Hub id",
    ),
    "a file": (
        lambda p, good: p.write_text(""),
        lambda p: f"'{p}' is a file; give the folder that save_pretrained wrote",
    ),
    "without config.json": (
        lambda p, good: without(copied(good, p), "config.json"),
        lambda p: (
            f"no config.json in '{p}'; give the folder that save_pretrained wrote "
            "(or a PEFT adapter's, with adapter_config.json)"
        ),
    ),
    "with broken config.json": (
        lambda p, good: file(copied(good, p) / "config.json", "{"),
        lambda p: (
            f"'{p}/config.json' is not readable JSON "
            "(Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"
        ),
    ),
    "without head": (
        lambda p, good: save_encoder(p),
        lambda p: (
            f"not a fine-tuned classifier: the checkpoint '{p}' lacks classifier.bias, classifier.weight; "
            "fine-tune it first (muki finetune), or give the fine-tuned folder"
        ),
    ),
    "regression": (
        lambda p, good: save_teacher(p, "bert", ["stars"], problem_type="regression"),
        lambda p: "a regression model (problem_type=regression); a classifier is expected",
    ),
    "multi-label": (
        lambda p, good: save_teacher(p, "bert", ["a", "b"], problem_type="multi_label_classification"),
        lambda p: (
            "a multi-label classifier (problem_type=multi_label_classification); "
            "one with exactly one label per text is expected"
        ),
    ),
    "one class": (
        lambda p, good: save_teacher(p, "bert", ["spam"]),
        lambda p: (
            "one class only (num_labels=1); its certainty is undefined, two or more classes are expected"
        ),
    ),
    "remote code": (
        lambda p, good: copied(good, p, auto_map={"AutoConfig": "mine.Config"}),
        lambda p: REMOTE,
    ),
    "NaN everywhere": (
        lambda p, good: poisoned(copied(good, p), "classifier.weight", 0),
        lambda p: (
            "logits are not finite (nan for the text in row 0); finite numbers are expected: "
            "check the checkpoint, or load it with dtype: float32"
        ),
    ),
    "no dropout": (
        lambda p, good: save_teacher(p, "bert", ["a", "b"], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        lambda p: (
            "Monte-Carlo dropout has no effect, two passes are identical (found: attention_probs_dropout_prob=0, "
            "classifier_dropout=0, hidden_dropout_prob=0, nn.Dropout=0). Choose one: a score without dropout "
            "(method: {score: entropy, passes: 0}, or --set method.score=entropy), or an explicit rate for this "
            "teacher (dropout_override: 0.1), which is written into the run's record"
        ),
    ),
    "generic names": (
        lambda p, good: save_teacher(p, "bert", ["LABEL_0", "LABEL_1"]),
        lambda p: (
            "label names LABEL_0, LABEL_1 say nothing, and would be merged with another teacher's; name them in the "
            "run file (`muki inspect --init` writes one; muki.wrap_teacher takes the names of a loaded model):"
            "\n    - model: ...\n      labels:\n        LABEL_0: <name>\n"
            "        LABEL_1: <name>"
        ),
    ),
    "neither padding nor end token": (
        lambda p, good: gpt2(p, eos=False),
        lambda p: (
            "its tokenizer has neither a padding token nor an end token; set one (tokenizer.pad_token = ...) "
            "and save the tokenizer in that folder"
        ),
    ),

    "weights cut short": (
        lambda p, good: cut_short(copied(good, p)),
        lambda p: f"cannot be loaded from '{p}' (Error while deserializing header: invalid header length)",
    ),

    "without tokenizer": (
        lambda p, good: without(copied(good, p), "token*"),
        lambda p: f"no tokenizer in '{p}'; save the model's own tokenizer there (tokenizer.save_pretrained)",
    ),

    "label names with a gap": (
        lambda p, good: copied(
            save_teacher(p.with_name("good"), "bert", ["a", "b"]), p, id2label={"0": "a", "5": "b"}
        ),
        lambda p: "its config.json has no label name for column 1 (id2label has 0, 5); name every column there",
    ),

    "fewer label names than rows of the head": (
        lambda p, good: copied(
            save_teacher(p.with_name("good"), "bert", ["a", "b", "c"]), p, id2label={"0": "a", "2": "c"}
        ),
        lambda p: (
            f"classifier.bias has the shape (3,) in the checkpoint '{p}', and config.json asks for (2,); a head has "
            "one row for each label name: correct id2label there, or save the model anew (model.save_pretrained)"
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_TEACHERS)
def test_a_teacher_that_cannot_be_used_is_named_with_the_reason(kind, tmp_path, teachers, integrate):
    make, message = BAD_TEACHERS[kind]
    folder = tmp_path / "bad"
    make(folder, teachers[0])
    args = integrate(teachers=[teachers[1], folder])
    assert_refused(f"teacher 'bad': {message(folder)}", *args, continues=tmp_path / "run")


def test_nothing_but_the_message_reaches_a_real_terminal(tmp_path, encoder, teachers, integrate):
    args = integrate(teachers=[teachers[1], encoder])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for name in QUIET:
        environment.pop(name, None)
    command = [sys.executable, "-m", "muki", "-q", *map(str, args)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[0] == (
        f"muki: teacher 'base': not a fine-tuned classifier: the checkpoint '{encoder}' lacks classifier.bias, "
        "classifier.weight; fine-tune it first (muki finetune), or give the fine-tuned folder"
    )
    assert len(result.stderr.splitlines()) <= 2
    assert (result.returncode, result.stdout) == (2, "")


def test_a_teachers_own_code_runs_only_after_it_was_allowed(tmp_path, teachers, integrate, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", sys.path[:])
    folder = own_code(teachers[0], tmp_path / "own")
    args = integrate(teachers=[folder, teachers[1]])
    assert_refused(f"teacher 'own': {REMOTE}", *args, continues=tmp_path / "run")
    assert not (tmp_path / "ran").exists()
    works(*args, "--trust-remote-code")
    assert (tmp_path / "ran").exists()


def test_a_text_that_makes_logits_nan_is_named_and_the_scores_before_it_are_kept(tmp_path, teachers, settings):
    bad = poisoned(copied(teachers[0], tmp_path / "bad"), "bert.embeddings.word_embeddings.weight", 1)  # of [UNK]
    pool = write_jsonl(tmp_path / "p.jsonl", [{"text": "日" if row == 20 else "a late goal"} for row in range(24)])
    good = {"model": str(teachers[1]), "max_length": 32}
    content = settings(
        teachers=[good, {"model": str(bad), "max_length": 32}], texts={"path": str(pool), "shard_rows": 8}
    )
    config = write_yaml(tmp_path / "run.yaml", content)
    message = (
        "teacher 'bad': logits are not finite (nan for the text in row 20); finite numbers are expected: "
        "check the checkpoint, or load it with dtype: float32"
    )
    assert_refused(message, "run", config, continues=tmp_path / "run")
    kept = work(tmp_path / "run", "scores/culture/")
    assert (len(kept), len(work(tmp_path / "run", "scores/bad/"))) == (3, 2)

    shutil.copy(teachers[0] / "model.safetensors", bad)
    works("run", config)
    assert work(tmp_path / "run", "scores/culture/") == kept


def test_a_text_that_a_model_fails_on_is_narrowed_down(teachers, monkeypatch):
    teacher = load_teacher(str(teachers[0]))

    def fails(**batch: object) -> None:
        raise ValueError("All examples must have the same number of <eos> tokens.\nmore")

    monkeypatch.setattr(teacher.model, "forward", fails)
    with pytest.raises(TeacherError) as caught:
        score_texts(teacher, [Text(7, "a late goal"), Text(9, "</s>")], passes=0)
    assert str(caught.value) == (
        f"teacher '{teachers[0].name}': fails on a batch of texts (ValueError: All examples must have the same number "
        "of <eos> tokens.); a text may hold what this model does not take, such as its end token: look for it in "
        "rows 7, 9"
    )


@pytest.mark.parametrize("copy", [False, True], ids=["the same folder", "a copy"])
def test_the_same_teacher_twice_is_refused(copy, tmp_path, teachers, integrate):
    twin = shutil.copytree(teachers[0], tmp_path / "copy") if copy else teachers[0]
    second = "copy" if copy else f"{teachers[0].parent.name}-news"
    message = (
        f"teachers 'news' and '{second}': the same model twice (equal weights, labels and tokenizer); "
        "give each teacher once"
    )
    assert_refused(message, *integrate(teachers=[*teachers, twin]), continues=tmp_path / "run")


def test_the_yaml_that_the_message_about_generic_names_shows_works(tmp_path, teachers, settings):
    folder = save_teacher(tmp_path / "bad", "bert", ["LABEL_0", "LABEL_1"])
    content = settings(teachers=[{"model": str(teachers[1])}, {"model": str(folder)}])
    message = muki("score", write_yaml(tmp_path / "run.yaml", content)).stderr
    block = message[message.index("    - model") :]
    filled = block.replace("...", str(folder)).replace("<name>", "war", 1).replace("<name>", "peace", 1)
    entry = yaml.safe_load(filled)
    content["teachers"] = [{"model": str(teachers[1])}, *entry]
    works("score", write_yaml(tmp_path / "run.yaml", content))
    labels = json.loads((tmp_path / "run" / "labels.json").read_text(encoding="utf-8"))["labels"]
    assert labels == ["technology", "health", "film", "war", "peace"]


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        (
            {"sport": "x"},
            "labels: 'sport' is not among its labels (sports, politics, business); "
            "the left side must be a name the teacher's config has",
        ),
        (
            {"sports": "x", "business": "x"},
            "columns 0 and 2 are both named 'x'; one column, one name: change its `labels:` map",
        ),
        (
            {"sports": "politics"},
            "columns 0 and 1 are both named 'politics'; one column, one name: change its `labels:` map",
        ),
        ({"sports": " "}, "column 0 has an empty label name; give it a name"),
    ],
    ids=["unknown label", "one new name twice", "the name of another column", "empty name"],
)
def test_aliases_that_do_not_fit_are_refused(aliases, message, tmp_path, teachers, settings):
    content = settings(teachers=[{"model": str(teachers[0]), "labels": aliases}, {"model": str(teachers[1])}])
    assert_refused(
        f"teacher 'news': {message}", "run", write_yaml(tmp_path / "r.yaml", content), continues=tmp_path / "run"
    )


@pytest.mark.parametrize("value", [None, False], ids=["nothing", "no"])
def test_an_alias_that_yaml_does_not_read_as_text_is_refused(value, tmp_path, teachers, settings):
    content = settings(teachers=[{"model": str(teachers[0]), "labels": {"sports": value}}, {"model": str(teachers[1])}])
    config = write_yaml(tmp_path / "r.yaml", content)
    message = (
        f"{config}: 1 problem\n  teachers.0.labels: the name for 'sports' is {value}, expected text; "
        "put words like yes, no, on and off in quotes"
    )
    assert_refused(message, "run", config)


def test_a_decoder_without_padding_token_works_with_its_end_token(tmp_path, teachers, integrate):
    warned = works(*integrate(teachers=[teachers[0], gpt2(tmp_path / "gpt", eos=True)]))
    assert set(warned.splitlines()) == {"teacher 'gpt': no padding token; using '</s>'"}
    assert (tmp_path / "run" / "student" / "model.safetensors").exists()


def test_a_teachers_relative_path_is_not_looked_up_on_the_hub(tmp_path, teachers, integrate):
    (tmp_path / "models").mkdir()
    message = "teacher 'nope': no such folder: 'models/nope'; give a save_pretrained folder or a Hub id"
    assert_refused(message, *integrate(teachers=[teachers[0], "models/nope"]), continues=tmp_path / "run")


def test_numbered_labels_of_two_teachers_are_not_taken_for_one_class():
    with pytest.raises(LabelError) as error:
        union({"a": ["0", "1"], "b": ["spam", "1"]})
    assert str(error.value) == (
        "teachers 'a' and 'b': both have a label '1', and a number alone does not say whether it is the same class; "
        "name them in the run file, alike if they are:\n    - model: ...\n      labels:\n        '1': <name>"
    )
    assert union({"stars": ["1", "2"], "topics": ["sports", "film"]}).labels == ("1", "2", "sports", "film")


def test_a_head_without_features_is_found_before_the_texts_are_read(teachers):
    class Bilinear(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :3] * x[:, 3:6]

    teacher = load_teacher(str(teachers[0]))
    teacher.model.classifier = Bilinear()
    survey({"a": lambda: teacher}, {"a": "a"}, passes=0)
    with pytest.raises(TeacherError, match=r"no linear layer with 3 outputs was used.*--method muki"):
        survey({"a": lambda: teacher}, {"a": "a"}, passes=0, keep="features")
