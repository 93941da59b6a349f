"""The harness: tasks are cut as their setting says, cells share teachers and scores, numbers are what they say."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from commands import invoke
from interrupting import counted, stop_after_first
from pydantic import ValidationError
from tiny import WORDS

from muki import finetuning
from muki.config import TrainingConfig
from muki.engines.work import Part
from muki.errors import ConfigError, TextsError
from muki.experiments import cells, harness, teachers
from muki.experiments.cells import Cell, cell_key, cells_of
from muki.experiments.grid import Grid, Setting, load_grid
from muki.experiments.harness import Laboratory, adopt, collect, compare, write_results
from muki.experiments.measures import correct_of
from muki.experiments.plots import draw
from muki.experiments.results import public, read_records
from muki.experiments.statistics import better, difference, mean_interval, recovered_gap
from muki.experiments.tables import markdown, page
from muki.experiments.tasks import FOREIGN, DataSet, groups_of, label_groups, make_task, read_data
from muki.files import write_json
from muki.methods import PRESETS

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
GRIDS, RESULTS = BENCHMARKS / "grids", BENCHMARKS / "results"
LABELS = ["art", "bank", "chess", "dance"]


def data_set(n: int = 200, labels: list[str] = LABELS, mark: str = "") -> DataSet:
    def rows(size: int, split: str) -> list[dict[str, str]]:
        return [{"text": f"{mark}{split} {i}", "label": labels[i % len(labels)]} for i in range(size)]

    return DataSet(train=rows(n, "train"), test=rows(n // 4, "test"))


def grid(**changes: Any) -> Grid:
    return Grid(**{"data": {"d": "folder"}, "methods": ["muki"], "encoder": "e", "output": "out", **changes})


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


def test_a_setting_can_say_which_labels_a_teacher_knows():
    nested = Setting(spans=[(0, 0.5), (0, 1)])
    assert groups_of(list("abcdef"), nested) == [list("abc"), list("abcdef")]
    task = make_task([data_set()], nested, grid(), seed=0)
    assert task.groups == [LABELS[: len(LABELS) // 2], LABELS]
    assert {row["label"] for row in task.taught[1]} == set(LABELS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spans": [(0, 0.5), (0.6, 1)]}, "give parts of 0 to 1 that leave no label out"),
        ({"spans": [(0, 0.5), (0.5, 1.5)]}, "give parts of 0 to 1 that leave no label out"),
        ({"spans": [(0, 0.5), (0, 0.9)]}, "together they must reach 1"),
        ({"spans": [(0, 0.5), (0.5, 1)], "overlap": 2}, "go without overlap"),
        ({"spans": [(0, 1)]}, "spans: found 1 for 2 teachers; give one each"),
        ({"shares": [1.0]}, "shares: found 1 for 2 teachers; give one each"),
        ({"shares": [0.9, 0.9]}, "shares: found [0.9, 0.9]; give shares of 0 and more that sum to 1"),
        ({"shares": [-1, 2]}, "shares: found [-1.0, 2.0]; give shares of 0 and more that sum to 1"),
    ],
)
def test_spans_and_shares_that_do_not_fit_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=re.escape(message)):
        Setting(**changes)


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


def test_a_text_and_its_translation_are_not_one_with_a_teacher_and_the_other_in_the_pool():
    parts = [data_set(mark="en "), data_set(mark="zh ")]
    task = make_task(parts, Setting(), grid(), seed=0)
    taught = {text.split(" ", 1)[1] for rows in task.taught for text in texts(rows)}
    assert not taught & {text.split(" ", 1)[1] for text in texts(task.pool)}


def test_translations_that_lack_labels_are_compared_on_those_that_all_have():
    task = make_task([data_set(mark="en "), data_set(labels=LABELS[:3], mark="zh ")], Setting(), grid(), seed=0)
    assert task.groups == [["art", "bank"], ["chess"]]
    assert set(labels(task.pool)) == set(labels(task.test)) == set(LABELS[:3])


def test_a_class_of_which_a_teacher_has_no_text_is_not_among_its_labels():
    rare = DataSet(
        train=[*data_set().train, {"text": "a", "label": "zoo"}, {"text": "b", "label": "zebra"}], test=data_set().test
    )
    for seed in range(8):
        task = make_task([rare], Setting(), grid(), seed=seed)
        assert [set(group) for group in task.groups] == [set(labels(rows)) for rows in task.taught]


def test_data_sets_with_other_labels_are_one_teachers_each():
    task = make_task([data_set(), data_set(labels=["who", "where"], mark="q ")], Setting(), grid(), seed=0)
    assert task.groups == [LABELS, ["where", "who"]]
    assert set(labels(task.pool)) == {*LABELS, "where", "who"}


def test_a_data_set_without_a_test_file_is_named(tmp_path: Path):
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": "b"}\n')
    with pytest.raises(TextsError) as error:
        read_data(str(tmp_path))
    assert str(error.value) == f"data set '{tmp_path}': no test file; expected test.jsonl, .csv, .parquet … there"


def test_validation_stands_in_for_training_texts_that_are_not_there(tmp_path: Path):
    for split in ("validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"text": split, "label": "b"}) + "\n")
    assert texts(read_data(str(tmp_path))[0].train) == {"validation"}
    (tmp_path / "train.jsonl").write_text('{"text": "train", "label": "b"}\n')
    assert texts(read_data(str(tmp_path))[0].train) == {"train"}


def test_a_data_set_of_the_hub_by_its_name(monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["film", "sport"])}
    )
    splits = {"train": [("a late goal", 1), ("a quiet drama", 0)], "test": [("a sequel", 0), ("nobody knows", -1)]}

    def load_dataset(name: str, split: str, streaming: bool) -> Any:
        assert (name, streaming) == ("somebody/desk", True)
        rows = [{"text": text, "label": label} for text, label in splits[split]]
        return datasets.Dataset.from_list(rows, features=features).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (found,) = read_data("somebody/desk")
    assert found.labels == ["film", "sport"]
    assert found.train == [{"text": "a late goal", "label": "sport"}, {"text": "a quiet drama", "label": "film"}]
    assert found.test == [{"text": "a sequel", "label": "film"}]


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
        "balanced_routing_accuracy": 0.5, "target_accuracy": 0.5, "expected_calibration_error": 0.1,
        "macro_f1": 0.5, "pool": 100, "passes": 1.0, "taught": True, "settings": "energy, soft τ=1", **more,
    }  # fmt: skip


def test_only_a_difference_beyond_chance_counts_as_better():
    base = [True] * 60 + [False] * 40
    much, little = [True] * 80 + [False] * 20, [True] * 61 + [False] * 39
    assert better([record("a", much)], [record("b", base)])
    assert not better([record("a", little)], [record("b", base)])
    assert not better([record("a", base)], [record("b", much)])
    assert correct_of(record("a", little)).tolist() == little


def test_difference_is_of_the_seeds_that_both_have():
    base, more = [False] * 100, [True] * 20 + [False] * 80
    first = [record("a", more, seed=0), record("a", more, seed=1)]
    value, low, high = difference(first, [record("b", base, seed=1), record("b", more, seed=2)])
    assert value == pytest.approx(0.2)
    # 95 % of a binomial share of 0.2 of 100 texts
    assert (low, high) == (pytest.approx(0.2 - 1.96 * 0.04, abs=0.015), pytest.approx(0.2 + 1.96 * 0.04, abs=0.015))
    assert difference(first, [record("b", base, seed=2)]) is None


def test_every_method_is_compared_with_vanilla_kd_and_with_muki_or_its_cheap_form():
    half, most = [True] * 50 + [False] * 50, [True] * 75 + [False] * 25
    records = [record("vanilla-kd", half), record("muki-fast", half), record("muki-plus", most)]
    records.append(record("muki-plus", most, data="other"))
    text = markdown(records)
    assert "## s: accuracy, difference from vanilla-kd" in text
    assert "## s: accuracy, difference from muki-fast" in text
    assert "| muki-fast | +0.000 [+0.000, +0.000] | – |" in text
    assert "| muki-plus | +0.250 [+0.1" in text
    published = markdown([*records, record("muki", half)])
    assert "difference from muki\n" in published
    assert "difference from muki-fast" not in published


def test_tables_mark_the_best_and_keep_ceilings_out_of_the_contest():
    records = [
        record("vanilla-kd", [True] * 50 + [False] * 50),
        record("muki", [True] * 75 + [False] * 25),
        record("oracle", [True] * 100),
        {**record("gold-soft", [True] * 100), "ceiling": True},
    ]
    text = markdown(records)
    assert "| muki | **0.750** |" in text
    assert "| gold-soft | 1.000 |" in text
    assert "| oracle | 1.000 |" in text
    assert "| muki | 0.50 | 0.50 |" in text  # recovered gap
    assert "<b>0.750</b>" in page(records)


def test_failed_cells_are_listed_and_escaped():
    failed = {"data": "d", "setting": "s", "seed": 1, "method": "dfa", "error": "ValueError: <script>\nmore"}
    assert "| d, s, seed 1, dfa | ValueError: <script> |" in markdown([failed])
    assert "&lt;script&gt;" in page([failed])


def test_records_lose_what_is_of_this_machine():
    error = "OSError: '/home/me/grid/config.json', at /srv/a/b.py: see https://example.org/a/b and file:///tmp/a/c.json"
    assert public({"method": "muki", "key": "0", "traceback": "/home/me", "error": error}) == {
        "method": "muki",
        "key": "0",
        "error": "OSError: '…/config.json', at …/b.py: see https://example.org/a/b and …/c.json",
    }


# --- plots -----------------------------------------------------------------------------------------------------------


def test_plots_are_drawn_where_records_suffice_and_are_the_same_each_time():
    methods = ["muki", {"tau-1": {"temperature": 1}}, "ensemble"]
    settings = {"small": Setting(pool=50), "large": Setting(pool=500), "overlap": Setting(overlap=1, pool=50)}
    both = grid(methods=methods, settings=settings, routing_only=[{"k4": {"passes": 4}}])
    correct = [True] * 60 + [False] * 40
    records = [
        record(method, correct, setting=setting, pool=pool, data=data)
        for method in ("muki", "tau-1", "ensemble")
        for setting, pool in (("small", 50), ("large", 500), ("overlap", 50))
        for data in ("<first>", "second", "third", "fourth")
    ]
    records += [{**records[0], "method": "k4"}, {**records[0], "method": "dfa", "error": "ValueError: no"}]
    del records[-2]["accuracy"], records[-2]["taught"]
    plots = draw(records, both)
    assert [plot.name for plot in plots] == [
        "accuracy-small", "accuracy-large", "accuracy-overlap", "routing-and-accuracy", "passes", "temperature",
        "pool-size",
    ]  # fmt: skip
    assert plots == draw(records, both)
    for plot in plots:
        root = ElementTree.fromstring(plot.svg)
        assert root.attrib["width"]
        assert root.attrib["aria-label"] == plot.title
        shown = " ".join(element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text"))
        assert "<first>" in shown
        assert "dfa" not in shown
    assert f"![{plots[0].title}](accuracy-small.svg)" in markdown(records, plots)
    assert page(records, plots).count("<svg") == len(plots)


def test_no_records_no_plots():
    assert draw([], grid()) == []


# --- the grid file ---------------------------------------------------------------------------------------------------


def test_a_missing_grid_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"none\.yaml: no such grid file$"):
        load_grid(tmp_path / "none.yaml")


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


@pytest.mark.parametrize("path", sorted(GRIDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_committed_grids_load_and_name_no_machine(path: Path):
    loaded = load_grid(path)
    assert list(loaded.groups())
    assert loaded.output == str(GRIDS.resolve() / path.stem)
    assert loaded.results == str(GRIDS.resolve() / ".." / "results" / path.stem)
    assert not re.search(r"[:,+\[ ]/\w", path.read_text())  # an absolute path


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/results.md")), ids=lambda path: path.parent.name)
def test_committed_tables_are_those_of_the_committed_records(path: Path):
    """Plots are files beside a table; what is said of the records must follow from them, to the last digit."""
    _, *committed = path.read_text(encoding="utf-8").split("\n## ")
    _, *made = markdown(read_records(path.with_name("results.json"))).split("\n## ")
    assert committed == made


def test_smoke_has_every_preset():
    assert set(load_grid(GRIDS / "smoke.yaml").methods) == set(PRESETS)


def test_methods_and_settings_that_differ_in_one_number_are_found():
    many = grid(
        methods=["muki", "muki-no-mc", "muki-fast", {"tau-1": {"temperature": 1}}],
        routing_only=[{"k4": {"passes": 4}}, "muki-soft"],
        settings={"a": Setting(pool=9), "b": Setting(), "c": Setting(overlap=1), "d": Setting(pool=7, only=["d"])},
    )
    assert many.methods_that_differ_in("passes") == [{"muki": 16.0, "k4": 4.0}]
    assert many.methods_that_differ_in("temperature") == [{"muki": 0.2, "tau-1": 1.0}]
    assert many.settings_that_differ_in_pool() == [["a", "b", "d"]]


def test_the_grid_beside_the_results_says_the_same_without_folders_of_this_machine(tmp_path: Path):
    for name in ("enc", "small", "x", "y"):
        (tmp_path / name).mkdir()
    content = {
        "data": {"x+y": f"{tmp_path}/x+y", "hub": "org/set"}, "encoder": "enc", "student": str(tmp_path / "small"),
        "output": "out", "results": "there", "training": {"epochs": 2, "weight_decay": 0.1},
        "methods": ["muki-plus", {"slow": {"passes": 32}}, {"vanilla-kd": {"preset": "vanilla-kd", "temperature": 2}}],
        "settings": {"s": {"encoders": ["enc", "org/model"], "student": "small", "foreign": {"data": "hub"}}},
    }  # fmt: skip
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(content))
    loaded = load_grid(path)
    portable = loaded.portable()
    assert str(tmp_path) not in json.dumps(portable)
    assert portable["data"] == {"x+y": "data/x+data/y", "hub": "org/set"}
    assert (portable["encoder"], portable["student"], portable["output"]) == ("enc", "small", "out")
    assert portable["settings"]["s"]["encoders"] == ["enc", "org/model"]
    path.write_text(yaml.safe_dump(portable))
    again = load_grid(path)
    assert again.methods == loaded.methods
    assert again.training == loaded.training
    assert again.settings == loaded.settings


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
        "data": {"tiny": "data"}, "encoder": str(encoder), "output": "out", "results": "results/small",
        "seeds": [0, 1], "max_length": 32,
        "methods": ["vanilla-kd", {"muki": {"passes": 4}}, "oracle", "ensemble"], "routing_only": ["muki-no-mc"],
        "training": {"epochs": 1, "batch_size": 8}, "teacher_training": {"epochs": 1, "batch_size": 8},
    }  # fmt: skip
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_cells_share_teachers_and_scores_and_are_done_once(small: Path, monkeypatch: pytest.MonkeyPatch):
    tuned = []
    finetune = finetuning.finetune
    monkeypatch.setattr(teachers, "finetune", lambda *args, **kwargs: tuned.append(args) or finetune(*args, **kwargs))
    settings = load_grid(small)
    compare(settings, Part(1, 2))
    records = compare(settings, Part(2, 2))
    assert len(tuned) == 4  # two teachers for each of two seeds
    assert [r["method"] for r in records] == 2 * ["vanilla-kd", "muki", "oracle", "ensemble", "muki-no-mc"]
    assert not [r["error"] for r in records if "error" in r]
    by_name = {r["method"]: r for r in records if r["seed"] == 0}
    assert by_name["oracle"]["routing_accuracy"] == 1.0
    assert "accuracy" not in by_name["muki-no-mc"]
    assert (by_name["muki"]["passes"], by_name["vanilla-kd"]["passes"], by_name["oracle"]["passes"]) == (5, 1, 1)
    assert [name for name, one in by_name.items() if "scoring_seconds" in one] == ["muki"]
    assert [name for name, one in by_name.items() if one.get("taught")] == ["vanilla-kd", "muki", "oracle"]
    assert correct_of(by_name["muki"]).mean() == pytest.approx(by_name["muki"]["accuracy"])

    before = {path: path.stat().st_mtime_ns for path in small.parent.rglob("cell.json")}
    assert compare(settings) == records
    assert {path: path.stat().st_mtime_ns for path in small.parent.rglob("cell.json")} == before
    print(write_results(settings, records))
    folder = small.parent / "results" / "small"
    assert {path.name for path in folder.iterdir()} == {
        "results.json", "results.md", "results.html", "grid.yaml", "accuracy-two-teachers.svg",
        "routing-and-accuracy.svg",
    }  # fmt: skip
    written = json.loads((folder / "results.json").read_text())
    assert [(r["method"], r["seed"]) for r in written] == [(r["method"], r["seed"]) for r in records]
    wanted = {
        "data", "setting", "method", "seed", "accuracy", "macro_f1", "expected_calibration_error", "routing_accuracy",
        "target_accuracy", "passes", "training_seconds", "versions",
    }  # fmt: skip
    assert wanted <= set(written[0])
    assert "two-teachers: accuracy of the student" in (folder / "results.md").read_text()
    for path in folder.iterdir():
        assert str(small.parent) not in path.read_text(), path.name


def test_cells_that_another_machine_has_done_are_not_repeated(
    small: Path, tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = load_grid(small)
    records = compare(settings, Part(1, 2))
    write_results(settings, records)
    there = tmp_path / "there"
    shutil.copytree(encoder, there / "base")
    shutil.copytree(tmp_path / "data", there / "data")
    (there / "grid.yaml").write_text(yaml.safe_dump({**yaml.safe_load(small.read_text()), "encoder": "base"}))
    other = load_grid(there / "grid.yaml")
    assert adopt(other, read_records(tmp_path / "results" / "small" / "results.json")) == len(records) == 5
    assert collect(other) == records
    assert {cell.group.seed for group in other.groups() for cell in Laboratory(other, group).pending()} == {1}
    ran: list[Cell] = []
    monkeypatch.setattr(
        Laboratory, "run", lambda self, cell: ran.append(cell) or {**cell.group.model_dump(), "method": ""}
    )
    assert compare(other, Part(1, 2)) == records
    assert not ran


def test_cells_of_other_settings_and_failed_ones_are_not_taken_over(small: Path, caplog: pytest.LogCaptureFixture):
    settings = load_grid(small)
    laboratory = Laboratory(settings, next(settings.groups()))
    records = [
        {**laboratory.group.model_dump(), "method": cell.name, "key": cell_key(settings, cell), "accuracy": 0.5}
        for cell in laboratory.pending()
    ]
    records[0]["error"] = "no"
    records[1]["key"] = "of other settings"
    records[2]["method"] = "unknown"
    assert adopt(settings, records) == len(records) - 3
    assert adopt(settings, records) == 0  # they are there by now
    assert "wrote no keys" not in caplog.text
    assert adopt(settings, [{k: v for k, v in record.items() if k != "key"} for record in records]) == 0
    assert "wrote no keys: none of them can be taken over" in caplog.text
    assert collect(settings) == records[3:]


@pytest.mark.parametrize("content", [None, "{", '{"a": 1}', '[{"data": "x"}]', "[3]"])
def test_what_is_no_list_of_records_is_refused(small: Path, tmp_path: Path, content: str | None):
    path = tmp_path / "known.json"
    if content is not None:
        path.write_text(content)
    result = invoke("compare", small, "--known", path)
    assert result.exit_code == 2
    assert "known.json: not the results.json of a comparison" in result.output


def test_a_cell_is_done_again_where_its_data_changed(small: Path):
    settings = load_grid(small)
    group = next(iter(settings.groups()))
    cell = cells_of(settings, group)[0]
    before = cell_key(settings, cell)
    with gzip.open(Path(settings.data[group.data]) / "train.jsonl.gz", "at", encoding="utf-8") as file:
        file.write(json.dumps({"text": "one more", "label": LABELS[0]}) + "\n")
    cells.content.cache_clear()
    assert cell_key(settings, cell) != before


def test_a_cell_is_the_same_wherever_the_command_is_called(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    loaded = load_grid(small)
    (tmp_path / "there").mkdir()
    keys = []
    for folder in (tmp_path, tmp_path / "there"):
        monkeypatch.chdir(folder)
        cells.content.cache_clear()
        laboratory = Laboratory(loaded, next(iter(loaded.groups())))
        keys.append([cell_key(loaded, cell) for cell in cells_of(loaded, laboratory.group)])
    assert keys[0] == keys[1]


def test_groups_of_one_data_set_and_seed_are_always_in_one_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(harness, "require_encoders", lambda encoders: None)
    three = {"plain": Setting(), "uneven": Setting(shares=[0.9, 0.1]), "small": Setting(pool=9)}
    (tmp_path / "data").mkdir()
    places = {"data": {"d": str(tmp_path / "data")}, "output": str(tmp_path / "out")}
    many = grid(settings=three, seeds=[0, 1, 2], **places)
    done: dict[int, list[Any]] = {1: [], 2: []}
    for number, groups in done.items():
        monkeypatch.setattr(Laboratory, "run", lambda _, cell, groups=groups: record_of(cell, groups))
        compare(many, Part(number, 2))
    shared = [{(group.data, group.seed) for group in groups} for groups in done.values()]
    assert shared == [{("d", 0), ("d", 2)}, {("d", 1)}]
    assert sorted(map(str, done[1] + done[2])) == sorted(map(str, many.groups()))


def record_of(cell: Cell, groups: list[Any]) -> dict[str, Any]:
    groups.append(cell.group)
    return {**cell.group.model_dump(), "method": cell.name}


def test_a_failed_cell_is_noted_and_tried_again(small: Path, monkeypatch: pytest.MonkeyPatch):
    file = small.with_name("one-seed.yaml")
    content = yaml.safe_load(small.read_text(encoding="utf-8"))
    file.write_text(yaml.safe_dump({**content, "seeds": [0]}), encoding="utf-8")
    settings = load_grid(file)

    def fails(*args: Any, **kwargs: Any) -> None:
        raise MemoryError("out of memory")

    monkeypatch.setattr(harness, "measure_answers", fails)
    assert invoke("compare", file).exit_code == 1
    records = compare(settings)
    assert [r.get("error") for r in records] == [*["MemoryError: out of memory"] * 4, None]
    monkeypatch.undo()
    assert not [r["error"] for r in compare(settings) if "error" in r]


STOPS = [
    "muki.experiments.teachers.finetune",  # one of two teachers
    "muki.engines.local.score_shard",
    "muki.pipeline.supervise",
    "muki.student.saving.save_classifier",  # nothing says yet that the student is whole
    "muki.experiments.harness.measure_answers",
    "muki.experiments.harness.remove",  # the student is gone, and its numbers are not written
    "muki.experiments.harness.Laboratory.run",  # the first cell is done
    "muki.pipeline.supervise",
    "muki.student.trainer.IntegrationTrainer._save_checkpoint",  # one of two epochs
]


def test_a_comparison_that_is_stopped_again_and_again_ends_like_an_unbroken_one(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = load_grid(small)
    settings.seeds, settings.routing_only = [0], {}
    settings.methods = {name: settings.methods[name] for name in ("muki", "vanilla-kd")}
    settings.training = TrainingConfig(epochs=2, batch_size=8, learning_rate=1e-3, bf16=False)
    made = [counted(monkeypatch, target) for target in STOPS[:2]]
    unbroken = compare(settings.model_copy(update={"output": str(tmp_path / "unbroken")}))
    once = [len(calls) for calls in made]

    for target in STOPS:
        with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
            stop_after_first(stopped, target, KeyboardInterrupt())
            compare(settings)
    assert [record["method"] for record in collect(settings)] == ["muki"]
    found = compare(settings)
    assert [len(calls) for calls in made] == [2 * calls for calls in once]  # no teacher learned or scored twice
    assert [record["method"] for record in found] == ["muki", "vanilla-kd"]
    for ours, theirs in zip(found, unbroken, strict=True):
        assert "accuracy" in theirs
        assert of_no_clock(ours) == pytest.approx(of_no_clock(theirs), abs=1e-6)


def of_no_clock(record: dict[str, Any]) -> dict[str, Any]:
    """What is the same each time."""
    changes = ("date", "versions", "scoring_seconds", "routing_seconds", "training_seconds")
    return {key: value for key, value in record.items() if key not in changes}


def test_records_of_other_settings_are_not_collected(small: Path):
    settings = load_grid(small)
    laboratory = Laboratory(settings, next(settings.groups()))
    first, second, *_ = laboratory.pending()
    write_json(laboratory.record(first), {"key": cell_key(settings, first), "method": first.name})
    write_json(laboratory.record(second), {"key": "of other settings", "method": second.name})
    assert [record["method"] for record in collect(settings)] == [first.name]


def test_a_setting_can_train_its_students_in_another_way(small: Path):
    content = yaml.safe_load(small.read_text())
    plain = {name: content[name] for name in ("data", "encoder", "output", "methods")}
    small.write_text(yaml.safe_dump({
        **plain, "training": {"epochs": 2, "weight_decay": 0.1},
        "settings": {"two-teachers": {}, "longer": {"training": {"epochs": 5, "warmup_steps": 3}}},
    }))  # fmt: skip
    settings = load_grid(small)
    short, long = (settings.training_in(settings.settings[name]) for name in ("two-teachers", "longer"))
    assert (short.epochs, short.passed_through) == (2, {"weight_decay": 0.1})
    assert (long.epochs, long.passed_through) == (5, {"weight_decay": 0.1, "warmup_steps": 3})
    keys = {cell_key(settings, cells_of(settings, group)[0]) for group in settings.groups()}
    assert len(keys) == len(settings.seeds) * 2
    assert settings.portable()["settings"]["longer"]["training"] == {"epochs": 5.0, "warmup_steps": 3}
    small.write_text(yaml.safe_dump({**plain, "settings": {"s": {"training": {"epoch": 5}}}}))
    with pytest.raises(ConfigError, match=r"settings\.s\.training.*'epoch'.*did you mean 'epochs'"):
        load_grid(small)


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"epochs": 2}}, {"teacher_training": {"epochs": 2}}, {"pool": 17}, {"max_length": 16},
        {"student": "other"}, {"settings": {"two-teachers": {"student": "other"}}},
    ],
    ids=str,
)  # fmt: skip
def test_a_cell_that_is_done_is_pending_again_where_settings_changed(small: Path, changes: dict[str, Any]):
    settings = load_grid(small)
    group = next(settings.groups())
    for cell in cells_of(settings, group):
        write_json(Laboratory(settings, group).record(cell), {"key": cell_key(settings, cell)})
    assert Laboratory(settings, group).pending() == []
    small.write_text(yaml.safe_dump({**yaml.safe_load(small.read_text()), **changes}))
    assert len(Laboratory(load_grid(small), group).pending()) == 5


def test_a_cell_depends_on_what_its_student_starts_from_where_teachers_start_from_others(small: Path):
    def key(**changes: Any) -> str:
        settings = grid(settings={"s": Setting(encoders=["a", "b"])}, **changes)
        return cell_key(settings, cells_of(settings, next(settings.groups()))[0])

    assert len({key(encoder="e"), key(encoder="f"), key(encoder="e", student="f"), key(student="g")}) == 3
    assert key(encoder="f") == key(encoder="e", student="f")
    other = grid(settings={"s": Setting(encoders=["a"], student="b")})
    assert cell_key(other, cells_of(other, next(other.groups()))[0]) != key(encoder="e")
