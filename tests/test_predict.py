"""`muki predict`: ids, order, pairs, standard input, and how many tokens a student reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from commands import invoke, works
from conftest import write_jsonl
from runs import QUICK, Folder
from tiny import WORDS
from transformers import pipeline

import muki
from muki.texts import Text
from muki.tokenization import saved_length


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


def test_a_runs_student_reads_the_prefix_that_it_was_trained_with(
    tmp_path: Path, teachers: list[Path], encoder: Path, pool_texts: list[str]
):
    run, texts = tmp_path / "run", ["late goal", "rates"]
    student = {"model": str(encoder), "prefix": "the match "}
    muki.integrate([*map(str, teachers)], student, pool_texts, output=run, **QUICK)
    (tmp_path / "in.txt").write_text("\n".join(texts), encoding="utf-8")
    for number, (model, *options) in enumerate([(run,), (run / "student",), (run, "--prefix", "")]):
        output = tmp_path / f"{number}.jsonl"
        works("predict", model, *options, "--texts", tmp_path / "in.txt", "--output", output)
        found = [json.loads(line)["score"] for line in output.read_text(encoding="utf-8").splitlines()]
        classifier = muki.Classifier.load(run / "student", prefix="" if options else "the match ")
        expected = classifier.probabilities([Text(i, text) for i, text in enumerate(texts)])
        np.testing.assert_allclose(found, expected.max(axis=1), atol=1e-5)


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


def test_a_student_reads_as_many_tokens_as_it_was_trained_on():
    tokenizer = SimpleNamespace(model_max_length=1024)
    assert saved_length(tokenizer) == 1024
    tokenizer.model_max_length = int(1e30)  # what transformers writes for "unknown"
    assert saved_length(tokenizer) == 512


def test_predict_reads_no_more_tokens_than_the_model_can_take(finished: Folder):
    for asked in (None, 4096):
        classifier = muki.Classifier.load(finished.root / "student", max_length=asked)
        assert classifier.max_length <= classifier.model.config.max_position_embeddings
        assert classifier.probabilities([Text(0, "goal " * 300)]).shape == (1, len(finished.space["labels"]))
    result = invoke("predict", finished.root, "--texts", "-", "--output", "-", "--max-length", "1")
    assert result.exit_code == 2
    assert "--max-length" in result.stderr


def test_a_run_of_pairs_reads_the_second_texts_in_its_own_column(tmp_path: Path, finished: Folder):
    root = Path(shutil.copytree(finished.root, tmp_path / "run"))
    content = yaml.safe_load((root / "config.yaml").read_text(encoding="utf-8"))
    content["texts"]["text_pair"] = "reply"
    (root / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": "a late goal", "reply": "the bank raised rates"}])
    found = []
    for model, *more in ((root,), (root / "student", "--text-pair-column", "reply"), (finished.root / "student",)):
        works("predict", model, *more, "--texts", source, "--output", tmp_path / "out.jsonl")
        found.append(json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))["score"])
    assert found[0] == found[1] != found[2]
    result = invoke("predict", root, "--texts", "-", "--output", "-")
    assert "this student reads pairs (text_pair: reply); give them in a file with columns" in result.stderr
