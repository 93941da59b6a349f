"""What `muki predict` and `muki finetune` refuse, and what of older work they leave as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from broken import copied, cut_short, own_code, poisoned, without
from conftest import write_jsonl
from refused import OK, REMOTE, assert_refused, file, snapshot
from tiny import save_encoder, save_teacher

pytestmark = pytest.mark.usefixtures("alone")

BAD_MODELS: dict[str, tuple[Callable[[Path, Path], object], Callable[[Path], str]]] = {
    "no model": (
        lambda p, good: p.mkdir(),
        lambda p: f"model: no config.json in '{p}'; give the folder that save_pretrained wrote",
    ),

    "missing": (
        lambda p, good: None, lambda p: f"model: no such folder: '{p}'; give a save_pretrained folder or a Hub id"
    ),

    "without head": (
        lambda p, good: save_encoder(p),
        lambda p: f"model '{p}': not a fine-tuned classifier: the checkpoint lacks classifier.bias, classifier.weight",
    ),

    "weights cut short": (
        lambda p, good: cut_short(copied(good, p)),
        lambda p: f"model '{p}': cannot be loaded (Error while deserializing header: invalid header length)",
    ),

    "remote code": (lambda p, good: own_code(good, p), lambda p: f"model: {REMOTE}"),

    "no tokenizer": (
        lambda p, good: without(copied(good, p), "*token*"),
        lambda p: f"model: no tokenizer in '{p}'; save the model's own tokenizer there (tokenizer.save_pretrained)",
    ),

    "label names with a gap": (
        lambda p, good: copied(good, p, id2label={"0": "a", "1": "b", "5": "c"}),
        lambda p: (
            f"model '{p}': its config.json has no label name for column 2 (id2label has 0, 1, 5); name every column "
            "there"
        ),
    ),

    "fewer label names than rows of the head": (
        lambda p, good: copied(good, p, id2label={"0": "a", "1": "b"}),
        lambda p: (
            f"model: classifier.bias has the shape (3,) in the checkpoint '{p}', and config.json asks for (2,); a "
            "head has one row for each label name: correct id2label there, or save the model anew "
            "(model.save_pretrained)"
        ),
    ),

    "weights that are no numbers": (
        lambda p, good: poisoned(copied(good, p), "classifier.weight", 0),
        lambda p: (
            f"model '{p}': its logits are no numbers for the text in row 0; check the checkpoint, its training may "
            "have diverged"
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_predict_refuses_what_is_no_model_and_keeps_older_predictions(kind, tmp_path, teachers, pool):
    make, message = BAD_MODELS[kind]
    path, output = tmp_path / "bad", file(tmp_path / "out.jsonl", "older predictions")
    make(path, teachers[0])
    assert_refused(message(path), "predict", path, "--texts", pool, "-o", output)
    assert output.read_text() == "older predictions"


def test_predict_keeps_older_predictions_when_a_line_is_broken(tmp_path, teachers):
    texts, output = file(tmp_path / "t.jsonl", OK * 3 + "oops\n"), file(tmp_path / "out.jsonl", "older predictions")
    message = f"{texts}, line 4: broken JSON (Expecting value at column 1); one object a line is expected"
    assert_refused(message, "predict", teachers[0], "--texts", texts, "-o", output)
    assert output.read_text() == "older predictions"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl", "t.jsonl"]


def test_predict_does_not_replace_a_folder(tmp_path, teachers, pool):
    output = tmp_path / "thesis"
    output.mkdir()
    file(output / "chapter.txt", "precious")
    assert_refused(
        f"output '{output}': is a folder; give a file", "predict", teachers[0], "--texts", pool, "-o", output
    )
    assert (output / "chapter.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "a,c"], "labels: 'c' not in the texts (a, b)"),
        (["--labels", "a"], "labels: two or more are needed, found 1 (a)"),
        (["--labels", ""], "labels: two or more are needed, found 0 (none)"),
        (["--labels", "@nope"], "--labels @nope: no such file; give a,b,c or @file with one label a line"),
        (["--set", "epoch=1"], "muki finetune: 1 problem\n  unknown key 'epoch'; did you mean 'epochs'?"),
        (["--set", "epochs"], "--set epochs: expected key=value, e.g. training.epochs=2"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_finetune_refuses_wrong_options_and_keeps_an_older_teacher(options, message, tmp_path, encoder, labelled_pool):
    output = save_teacher(tmp_path / "teacher", "bert", ["a", "b"])
    before = snapshot(output)
    assert_refused(message, "finetune", "--base", encoder, "--texts", labelled_pool, "-o", output, *options)
    assert snapshot(output) == before


def test_finetune_needs_a_label_column_with_two_labels(tmp_path, encoder, pool):
    args = ["finetune", "--base", encoder, "-o", tmp_path / "teacher", "--texts"]
    assert_refused(f"{pool}, line 1: no column 'label'; the columns there are: text", *args, pool)
    same = write_jsonl(tmp_path / "same.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": None}])
    assert_refused("labels: two or more are needed, found 1 (x)", *args, same)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_finetune_does_not_replace_what_is_no_model(kind, tmp_path, encoder, labelled_pool):
    output = tmp_path / "thesis"
    if kind == "folder":
        output.mkdir()
        message = "not empty, and not a model folder (no config.json); choose another output folder"
    else:
        message = "is a file; give a folder"
    kept = file(output / "chapter.txt" if kind == "folder" else output, "precious")
    args = ["--base", encoder, "--texts", labelled_pool, "-o", output, "--max-length", 32, "--set", "epochs=1"]
    assert_refused(f"output '{output}': {message}", "finetune", *args)
    assert kept.read_text() == "precious"


def test_finetune_replaces_neither_its_base_nor_a_model_with_other_things_beside_it(tmp_path, encoder, labelled_pool):
    output = save_teacher(tmp_path / "teacher", "bert", ["a", "b"])
    args = ["--texts", labelled_pool, "-o", output]
    message = "is the base, which would be replaced; choose another output folder"
    assert_refused(f"output '{output}': {message}", "finetune", "--base", output, *args)
    kept = file(output / "notes.csv", "precious")
    message = "would be replaced, but holds more than a model (notes.csv); choose another output folder"
    assert_refused(f"output '{output}': {message}", "finetune", "--base", encoder, *args)
    assert kept.read_text() == "precious"
