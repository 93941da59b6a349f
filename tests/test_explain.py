"""`muki explain`: exact sentences, and the numbers of the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from commands import invoke, works
from conftest import write_jsonl
from test_report import make_run

from muki.explanation import Explanation, Voice, assemble, rendered, sentence
from muki.integration.router import plain_distributions
from muki.labels import union
from muki.teachers.outputs import TeacherOutputs
from muki.texts import Text


def voice(teacher: str, label: str, certainty: float, weight: float) -> Voice:
    return Voice(teacher, [(label, 0.8), ("other", 0.2)], certainty, 0.03, weight)


CLEAR = [voice("orders", "delivery", 0.83, 0.91), voice("tech", "login", 0.37, 0.09)]
CONTESTED = [voice("orders", "delivery", 0.71, 0.52), voice("tech", "login", 0.69, 0.48)]
FOREIGN = [voice("orders", "delivery", 0.22, 0.52), voice("tech", "login", 0.2, 0.48)]
AGREED = [voice("orders", "delivery", 0.9, 0.6), voice("tech", "delivery", 0.8, 0.4)]
PREFERRED = [voice("orders", "delivery", 0.5, 0.8), voice("tech", "login", 0.7, 0.2)]
THREE = [voice("orders", "delivery", 0.9, 0.45), voice("shop", "delivery", 0.9, 0.45), voice("tech", "login", 0.4, 0.1)]


@pytest.mark.parametrize(
    ("voices", "weight", "student", "said"),
    [
        (CLEAR, 1.4, ("delivery", 0.93),
         "orders decides with 91 % of the weight: it is 83 % certain of “delivery”, tech only 37 % of “login”; the "
         "student agrees (93 %)."),
        (CLEAR, 1.4, ("login", 0.6),
         "orders decides with 91 % of the weight: it is 83 % certain of “delivery”, tech only 37 % of “login”; the "
         "student answers “login” instead (60 %)."),
        (CLEAR, 1.4, None,
         "orders decides with 91 % of the weight: it is 83 % certain of “delivery”, tech only 37 % of “login”."),
        (CONTESTED, 0.06, ("delivery", 0.55),
         "Contested: orders is 71 % certain of “delivery”, tech 69 % of “login”, so they are heard 52 % and 48 %, and "
         "it counts little in training (0.06 of an average text); the student agrees (55 %)."),
        (FOREIGN, 0.1, ("login", 0.4),
         "No teacher is sure of this text, not even orders (22 % certain of “delivery”), so it may belong to none of "
         "the labels, and it counts little in training (0.10 of an average text); the student answers “login” instead "
         "(40 %)."),
        (AGREED, 2.0, ("delivery", 0.99),
         "All teachers say “delivery”, orders with 90 % certainty; the student agrees (99 %)."),
        (PREFERRED, 1.0, ("delivery", 0.7),
         "orders decides for “delivery” with 80 % of the weight, by its certainty (50 % certain, although tech is 70 % "
         "certain of “login”); the student agrees (70 %)."),
        (THREE, 1.0, ("delivery", 0.7),
         "orders decides with 45 % of the weight: it is 90 % certain of “delivery”, tech only 40 % of “login”; the "
         "student agrees (70 %)."),
    ],
)  # fmt: skip
def test_one_sentence_in_plain_words(voices: list[Voice], weight: float, student: tuple[str, float] | None, said: str):
    assert sentence(voices, "delivery", weight, student) == said


@pytest.mark.parametrize(
    ("voices", "why", "said"),
    [
        (CLEAR, "scores and the pool's classes",
         "orders decides for “delivery” with 91 % of the weight, by its scores and the pool's classes (83 % certain; "
         "tech is 37 % certain of “login”); the student agrees (93 %)."),
        (PREFERRED, "energy",
         "orders decides for “delivery” with 80 % of the weight, by its energy (50 % certain, although tech is 70 % "
         "certain of “login”); the student agrees (93 %)."),
        (CONTESTED, "scores",
         "Contested: orders says “delivery” (71 % certain), tech “login” (69 % certain), and by their scores they are "
         "heard 52 % and 48 %; the student agrees (93 %)."),
        (AGREED, "scores", "All teachers say “delivery”, orders with 90 % certainty; the student agrees (93 %)."),
        (FOREIGN, "scores",
         "No teacher is sure of this text, not even orders (22 % certain of “delivery”), so it may belong to none of "
         "the labels; the student agrees (93 %)."),
    ],
)  # fmt: skip
def test_a_method_that_asks_for_more_than_certainty_does_not_claim_it(voices: list[Voice], why: str, said: str):
    assert sentence(voices, "delivery", 1.0, ("delivery", 0.93), why) == said


@pytest.mark.parametrize(
    ("voices", "weight", "foreign", "said"),
    [
        (CLEAR, 0.08, 0.92,
         "orders is heard most and says “delivery” (83 % certain), but this text may belong to none of the labels "
         "(92 % likely by the method's own estimate), and it counts little in training (0.08 of an average text); the "
         "student agrees (93 %)."),
        (FOREIGN, 0.6, 0.5,
         "orders is heard most and says “delivery” (22 % certain), but this text may belong to none of the labels "
         "(50 % likely by the method's own estimate); the student agrees (93 %)."),
        (FOREIGN, 1.0, 0.49,
         "Contested: orders says “delivery” (22 % certain), tech “login” (20 % certain), and by their scores they are "
         "heard 52 % and 48 %; the student agrees (93 %)."),
        (FOREIGN, 1.0, None,
         "No teacher is sure of this text, not even orders (22 % certain of “delivery”), so it may belong to none of "
         "the labels; the student agrees (93 %)."),
    ],
)  # fmt: skip
def test_where_the_method_estimates_it_the_estimate_decides_who_belongs_to_nobody(
    voices: list[Voice], weight: float, foreign: float | None, said: str
):
    assert sentence(voices, "delivery", weight, ("delivery", 0.93), "scores", foreign) == said


@pytest.mark.parametrize("estimate", [None, 0.75])
def test_the_estimate_goes_with_each_text(estimate: float | None):
    space = union({"a": ["x", "y"], "b": ["z", "w"]})
    rows, passes, nan = np.array([-1]), np.zeros(1, dtype=np.int32), np.full(1, np.nan, dtype=np.float32)
    logits = [np.array([[size, 0.0]], dtype=np.float32) for size in (2, 1)]
    outputs = [TeacherOutputs(rows, z, np.full_like(z, np.nan), passes, nan, nan) for z in logits]
    foreign = None if estimate is None else np.array([estimate])
    routing, texts = np.array([[0.7, 0.3]]), [Text(row=-1, text="hm")]
    (one,) = assemble(texts, outputs, plain_distributions(outputs), space, routing, np.ones(1), None, foreign=foreign)
    assert one.as_json()["foreign"] == estimate
    assert ("(75 % likely by the method's own estimate)" in one.sentence) == (estimate is not None)


def test_an_explanation_without_passes_has_no_column_for_them_and_says_how_likely_it_is_right():
    silent = [replace(voice, spread=None) for voice in CLEAR]
    one = Explanation("late", None, silent, [("delivery", 0.75)], 1.04, None, "So.", right=0.912, foreign=0.03)
    assert rendered(one) == (
        "“late”\n"
        "\n"
        "teacher  certainty  heard  says\n"
        "----------------------------------------------------\n"
        "orders        83 %   91 %  delivery 80 %, other 20 %\n"
        "tech          37 %    9 %  login 80 %, other 20 %\n"
        "\n"
        "target:  delivery 75 %\n"
        "routing: right with 91 % probability, the method's own estimate\n"
        "foreign: of none of the labels with 3 % probability, the method's own estimate\n"
        "weight:  1.04 of an average text\n"
        "\n"
        "So."
    )


def test_an_explanation_on_a_terminal():
    one = Explanation("late again", 7, CLEAR, [("delivery", 0.75), ("login", 0.1)], 1.4, [("delivery", 0.93)], "So.")
    assert rendered(one) == (
        "“late again”   (row 7 of the pool)\n"
        "\n"
        "teacher  certainty  ± passes  heard  says\n"
        "--------------------------------------------------------------\n"
        "orders        83 %       3 %   91 %  delivery 80 %, other 20 %\n"
        "tech          37 %       3 %    9 %  login 80 %, other 20 %\n"
        "\n"
        "target:  delivery 75 %, login 10 %\n"
        "weight:  1.40 of an average text\n"
        "student: delivery 93 %\n"
        "\n"
        "So."
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, teachers: list[Path], encoder: Path, pool_texts: list[str]) -> Path:
    return make_run(tmp_path_factory.mktemp("explained"), teachers, encoder, pool_texts, [])


def test_a_text_of_the_pool_is_explained_by_the_runs_own_numbers(run: Path, pool_texts: list[str]):
    said = json.loads(works("explain", run, pool_texts[5], "--json").stdout)
    stored = pq.read_table(run / "supervision" / "shard-00000.parquet").slice(5, 1).to_pylist()[0]
    labels = json.loads((run / "labels.json").read_text(encoding="utf-8"))
    assert said["row"] == 5
    weights = {voice["teacher"]: voice["weight"] for voice in said["voices"]}
    assert [weights[name] for name in labels["teachers"]] == pytest.approx(stored["routing"], abs=2e-3)
    assert said["weight"] == pytest.approx(stored["weight"], abs=2e-2)
    assert said["target"][0][0] == labels["labels"][int(np.argmax(stored["target"]))]
    assert said["target"][0][1] == pytest.approx(max(stored["target"]), abs=2e-3)
    assert all(0 < voice["spread"] < 1 for voice in said["voices"])


def test_any_text_and_any_file_can_be_explained(run: Path, tmp_path: Path, pool_texts: list[str]):
    result = works("explain", run, "a text that nobody has seen")
    assert result.stdout.startswith("“a text that nobody has seen”\n\nteacher  certainty  ± passes  heard ")
    assert result.stdout.rstrip().endswith((").", "."))
    file = write_jsonl(tmp_path / "in.jsonl", [{"text": "one"}, {"text": pool_texts[3]}])
    lines = works("explain", run, "--texts", file, "--json").stdout.splitlines()
    assert [json.loads(line)["row"] for line in lines] == [None, 3]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, teachers: list[Path], encoder: Path, pool_texts: list[str]) -> Path:
    """A run over pairs; its file is beside it. The first text of rows 4 and 5 is the same."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = [{"text": text, "reply": pool_texts[-1 - i]} for i, text in enumerate(pool_texts)]
    rows[5]["text"] = rows[4]["text"]
    pool = write_jsonl(folder / "pool.jsonl", [dict(row) for row in rows])
    content = {
        "teachers": [{"model": str(path), "max_length": 32} for path in teachers],
        "student": {"model": str(encoder), "max_length": 32}, "texts": {"path": str(pool), "text_pair": "reply"},
        "method": {"passes": 2}, "training": {"epochs": 1, "batch_size": 8}, "output": str(folder / "run"),
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    works("score", folder / "run.yaml")
    works("supervise", folder / "run.yaml")
    return folder


def test_a_pair_of_the_pool_is_explained_by_the_runs_own_numbers(pairs: Path):
    run, pool = pairs / "run", [json.loads(line) for line in (pairs / "pool.jsonl").read_text().splitlines()]
    lines = works("explain", run, "--texts", pairs / "pool.jsonl", "--json").stdout.splitlines()
    said = [json.loads(line) for line in lines]
    assert [one["row"] for one in said] == list(range(len(pool)))
    stored = pq.read_table(run / "supervision" / "shard-00000.parquet").to_pylist()
    names = list(json.loads((run / "labels.json").read_text(encoding="utf-8"))["teachers"])
    for one, row, wanted in zip(said, pool, stored, strict=True):
        weights = {voice["teacher"]: voice["weight"] for voice in one["voices"]}
        assert [weights[name] for name in names] == pytest.approx(wanted["routing"], abs=2e-3)
        assert (one["text"], one["text_pair"]) == (row["text"], row["reply"])
    shown = works("explain", run, pool[5]["text"], "--pair", pool[5]["reply"]).stdout
    assert shown.startswith(f"“{pool[5]['text']}” and “{pool[5]['reply']}”   (row 5 of the pool)\n")
    (alone,) = works("explain", run, pool[5]["text"], "--pair", "other", "--json").stdout.splitlines()
    assert json.loads(alone)["row"] is None


def test_a_single_text_is_refused_where_the_runs_are_pairs_and_a_pair_where_they_are_not(pairs: Path, run: Path):
    single = invoke("explain", pairs / "run", "a text")
    assert single.exit_code == 2
    assert (
        "muki: explain: this run's texts are pairs (text_pair: reply), but a single text was given; give its second "
        "text with --pair, or pairs with --texts FILE\n"
    ) in single.stderr
    pair = invoke("explain", run, "a text", "--pair", "another")
    assert pair.exit_code == 2
    assert (
        "muki: explain: this run's texts are no pairs, but a second text was given; leave --pair out\n" in pair.stderr
    )
    file = invoke("explain", run, "--texts", pairs / "pool.jsonl", "--pair", "another")
    assert file.exit_code == 2
    assert "muki: muki explain: --pair is the second text of one text in quotes; in a file it is" in file.stderr


def test_one_text_or_a_file_but_not_both(run: Path):
    result = invoke("explain", run)
    assert result.exit_code == 2
    assert (
        'muki: muki explain: give one text in quotes, or --texts FILE; e.g. muki explain run "a text"' in result.stderr
    )


def test_an_empty_text_is_refused(run: Path):
    result = invoke("explain", run, " ")
    assert result.exit_code == 2
    assert "muki explain: the text is empty" in result.stderr


def test_a_run_without_scores_cannot_explain(tmp_path: Path, settings):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings()), encoding="utf-8")
    result = invoke("explain", tmp_path / "run.yaml", "a text")
    assert result.exit_code == 2
    folder = tmp_path / "run"
    assert f"muki: run '{folder}': nothing scored yet; run `muki score` with its run file first\n" in result.stderr
