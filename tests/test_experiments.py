"""The harness: tasks are cut as their setting says, cells share teachers and scores, numbers are what they say."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny import WORDS

from muki import finetuning
from muki.engines.work import Part
from muki.errors import ConfigError, TextsError
from muki.experiments import harness
from muki.experiments.grid import Grid, Setting, load_grid
from muki.experiments.harness import Laboratory, compare, write_results
from muki.experiments.measures import correct_of
from muki.experiments.tables import better, markdown, mean_interval, page, recovered_gap
from muki.experiments.tasks import FOREIGN, DataSet, label_groups, make_task, read_data

LABELS = ["art", "bank", "chess", "dance"]


def data_set(n: int = 200, labels: list[str] = LABELS, mark: str = "") -> DataSet:
    def rows(size: int, split: str) -> list[dict[str, str]]:
        return [{"text": f"{mark}{split} {i}", "label": labels[i % len(labels)]} for i in range(size)]

    return DataSet(train=rows(n, "train"), test=rows(n // 4, "test"))


def grid(**changes: Any) -> Grid:
    return Grid(data={"d": "folder"}, methods=["muki"], encoder="e", output="out", **changes)


def texts(rows: list[dict[str, str]]) -> set[str]:
    return {row["text"] for row in rows}


def labels(rows: list[dict[str, str]]) -> Counter[str]:
    return Counter(row["label"] for row in rows)


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_labels_are_cut_into_contiguous_groups_as_equal_as_possible():
    assert label_groups(list("abcdef"), 2) == [list("abc"), list("def")]
    assert label_groups(list("abcdefg"), 3) == [list("ab"), list("cde"), list("fg")]


def test_overlapping_labels_come_from_both_sides_of_the_border():
    assert label_groups(list("abcdef"), 2, overlap=2) == [list("abcd"), list("cdef")]
    assert label_groups(list("abcdef"), 3, overlap=1) == [list("abc"), list("cde"), list("ef")]


def test_teachers_texts_pool_and_test_share_no_text():
    task = make_task([data_set()], Setting(), grid(), seed=0)
    assert task.groups == [["art", "bank"], ["chess", "dance"]]
    assert [set(labels(rows)) for rows in task.taught] == [{"art", "bank"}, {"chess", "dance"}]
    parts = [texts(task.taught[0]), texts(task.taught[1]), texts(task.pool), texts(task.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 250
    assert len(task.pool) == 100


def test_another_seed_cuts_other_texts():
    first, again, other = (make_task([data_set()], Setting(), grid(), seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert texts(first.pool) != texts(other.pool)


def test_own_texts_makes_the_pool_of_what_teachers_were_trained_on():
    task = make_task([data_set()], Setting(own_texts=True), grid(), seed=0)
    assert texts(task.pool) == texts(task.taught[0]) | texts(task.taught[1])


def test_uneven_pools_have_the_shares_that_were_asked_for():
    task = make_task([data_set(4000)], Setting(shares=[0.9, 0.1]), grid(), seed=0)
    counts = labels(task.pool)
    assert (counts["art"] + counts["bank"]) / counts.total() == pytest.approx(0.9, abs=0.005)
    assert counts.total() > 1000


def test_foreign_texts_have_labels_outside_the_union():
    setting = Setting(foreign={"data": "d", "share": 0.2})
    task = make_task([data_set()], setting, grid(), seed=0, foreign=data_set(labels=["x", "y"], mark="foreign "))
    foreign = [row for row in task.pool if row["label"].startswith(FOREIGN)]
    assert len(foreign) / len(task.pool) == pytest.approx(0.2)
    assert all(row["text"].startswith("foreign") for row in foreign)


def test_translations_give_each_teacher_a_language_and_everybody_else_both():
    parts = [data_set(mark="en "), data_set(mark="zh ")]
    task = make_task(parts, Setting(), grid(), seed=0)
    assert task.groups == [["art", "bank"], ["chess", "dance"]]
    assert all(text.startswith("en") for text in texts(task.taught[0]))
    assert all(text.startswith("zh") for text in texts(task.taught[1]))
    for rows in (task.pool, task.test):
        languages = Counter(text.split()[0] for text in texts(rows))
        assert languages["en"] == languages["zh"] > 0


def test_data_sets_with_other_labels_are_one_teachers_each():
    task = make_task([data_set(), data_set(labels=["who", "where"], mark="q ")], Setting(), grid(), seed=0)
    assert task.groups == [LABELS, ["where", "who"]]
    assert set(labels(task.pool)) == {*LABELS, "where", "who"}


def test_a_data_set_without_a_test_file_is_named(tmp_path: Path):
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": "b"}\n')
    with pytest.raises(TextsError) as error:
        read_data(str(tmp_path))
    assert str(error.value) == f"data set '{tmp_path}': no test file; expected test.jsonl, .csv, .parquet … there"


# --- tables ----------------------------------------------------------------------------------------------------------


def test_interval_is_students_t_over_seeds():
    mean, half = mean_interval([0.7, 0.8, 0.9])
    assert mean == pytest.approx(0.8)
    assert half == pytest.approx(4.3027 * 0.1 / np.sqrt(3), rel=1e-4)
    assert mean_interval([0.5]) == (0.5, None)


def test_recovered_gap_is_none_where_there_is_no_gap():
    assert recovered_gap(0.8, 0.7, 0.9) == pytest.approx(0.5)
    assert recovered_gap(0.8, 0.9, 0.9) is None


def record(method: str, correct: list[bool], **more: Any) -> dict[str, Any]:
    return {
        "data": "d", "setting": "s", "seed": 0, "method": method, "n": len(correct),
        "accuracy": float(np.mean(correct)),
        "correct": np.packbits(np.array(correct)).tobytes().hex(), "scoring_seconds": 1.0, "routing_accuracy": 0.5,
        "balanced_routing_accuracy": 0.5, "target_accuracy": 0.5, "expected_calibration_error": 0.1, **more,
    }  # fmt: skip


def test_only_a_difference_beyond_chance_counts_as_better():
    base = [True] * 60 + [False] * 40
    much, little = [True] * 80 + [False] * 20, [True] * 61 + [False] * 39
    assert better([record("a", much)], [record("b", base)])
    assert not better([record("a", little)], [record("b", base)])
    assert not better([record("a", base)], [record("b", much)])
    assert correct_of(record("a", little)).tolist() == little


def test_tables_mark_the_best_and_keep_ceilings_out_of_the_contest():
    records = [
        record("vanilla-kd", [True] * 50 + [False] * 50),
        record("muki", [True] * 75 + [False] * 25),
        record("oracle", [True] * 100),
    ]
    text = markdown(records)
    assert "| muki | **0.750** |" in text
    assert "| oracle | 1.000 |" in text
    assert "| muki | 0.50 | 0.50 |" in text  # recovered gap
    assert "<b>0.750</b>" in page(records)


def test_failed_cells_are_listed_and_escaped():
    failed = {"data": "d", "setting": "s", "seed": 1, "method": "dfa", "error": "ValueError: <script>\nmore"}
    assert "| d, s, seed 1, dfa | ValueError: <script> |" in markdown([failed])
    assert "&lt;script&gt;" in page([failed])


# --- the grid file ---------------------------------------------------------------------------------------------------


def test_all_problems_of_a_grid_file_are_shown_at_once(tmp_path: Path):
    path = tmp_path / "grid.yaml"
    path.write_text("data: {d: folder}\nmethods: [muky]\nencodr: e\noutput: out\n")
    with pytest.raises(ConfigError) as error:
        load_grid(path)
    message = str(error.value)
    assert "methods: unknown method 'muky'; did you mean 'muki'?" in message
    assert "encodr: unknown key; did you mean 'encoder'?" in message
    assert "encoder: is missing" in message


def test_methods_can_be_presets_with_changes():
    made = grid(routing_only=[{"k4": {"passes": 4}}, {"energy-margin": {"preset": "muki", "score": "energy"}}])
    assert made.routing_only["k4"].passes == 4
    assert made.routing_only["energy-margin"].passes == 0


# --- whole comparisons -----------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path, encoder: Path) -> Path:
    """A grid over a tiny data set in a folder."""
    words = WORDS.split()
    folder = tmp_path / "data"
    folder.mkdir()
    for split, size in (("train", 96), ("test", 24)):
        with gzip.open(folder / f"{split}.jsonl.gz", "wt", encoding="utf-8") as file:
            for i in range(size):
                start = 12 * (i % 4)
                row = {"text": " ".join(words[start : start + 4 + i % 7]), "label": LABELS[i % 4]}
                file.write(json.dumps(row) + "\n")
    content = {
        "data": {"tiny": "data"}, "encoder": str(encoder), "output": "out", "seeds": [0, 1], "max_length": 32,
        "methods": ["vanilla-kd", {"muki": {"passes": 4}}, "oracle", "ensemble"], "routing_only": ["muki-no-mc"],
        "training": {"epochs": 1, "batch_size": 8}, "teacher_training": {"epochs": 1, "batch_size": 8},
    }  # fmt: skip
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_cells_share_teachers_and_scores_and_are_done_once(small: Path, monkeypatch: pytest.MonkeyPatch):
    tuned = []
    finetune = finetuning.finetune
    monkeypatch.setattr(harness, "finetune", lambda *args, **kwargs: tuned.append(args) or finetune(*args, **kwargs))
    settings = load_grid(small)
    compare(settings, Part(1, 2))
    records = compare(settings, Part(2, 2))
    assert len(tuned) == 4  # two teachers for each of two seeds
    assert [r["method"] for r in records] == 2 * ["vanilla-kd", "muki", "oracle", "ensemble", "muki-no-mc"]
    assert not [r["error"] for r in records if "error" in r]
    by_name = {r["method"]: r for r in records if r["seed"] == 0}
    assert by_name["oracle"]["routing_accuracy"] == 1.0
    assert "accuracy" not in by_name["muki-no-mc"]
    assert by_name["muki"]["scoring_seconds"] == pytest.approx(5 * by_name["vanilla-kd"]["scoring_seconds"], rel=0.01)
    assert correct_of(by_name["muki"]).mean() == pytest.approx(by_name["muki"]["accuracy"])

    before = {path: path.stat().st_mtime_ns for path in small.parent.rglob("cell.json")}
    assert compare(settings) == records
    assert {path: path.stat().st_mtime_ns for path in small.parent.rglob("cell.json")} == before
    print(write_results(settings, records))
    written = json.loads((small.parent / "out" / "results.json").read_text())
    assert [(r["method"], r["seed"]) for r in written] == [(r["method"], r["seed"]) for r in records]
    assert "two-teachers: accuracy of the student" in (small.parent / "out" / "results.md").read_text()


def test_a_failed_cell_is_noted_and_tried_again(small: Path, monkeypatch: pytest.MonkeyPatch):
    settings = load_grid(small)
    settings.seeds = [0]

    def fails(*args: Any, **kwargs: Any) -> None:
        raise MemoryError("out of memory")

    monkeypatch.setattr(harness, "measure_answers", fails)
    records = compare(settings)
    assert [r.get("error") for r in records] == [*["MemoryError: out of memory"] * 4, None]
    monkeypatch.undo()
    assert not [r["error"] for r in compare(settings) if "error" in r]


def test_changed_settings_make_a_cell_pending_again(small: Path):
    settings = load_grid(small)
    group = next(settings.groups())
    cells = Laboratory(settings, group).pending()
    assert len(cells) == 5
    first = Laboratory(settings, group).key(cells[0])
    settings.training.epochs = 2
    assert Laboratory(settings, group).key(cells[0]) != first
