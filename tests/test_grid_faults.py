"""What could make a comparison say something wrong: stale work, names that collide, averages of unequal seeds."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import save_encoder

from muki.config import RunConfig
from muki.engines.work import Part
from muki.errors import ConfigError
from muki.experiments import cells, harness, measures, tasks, teachers
from muki.experiments.cells import Cell, cell_key, cells_of
from muki.experiments.grid import Grid, load_grid
from muki.experiments.harness import Laboratory, compare, write_results
from muki.experiments.measures import measure_pool
from muki.experiments.tables import tables
from muki.experiments.tasks import label_groups
from muki.experiments.turns import in_turn
from muki.files import write_json
from muki.integration.store import Supervision
from muki.labels import LabelSpace
from muki.methods import PRESETS
from muki.run_folder import RunFolder
from muki.teachers.outputs import TeacherOutputs

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
LABELS = ["art", "bank", "chess", "dance"]


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> None:
    cells.content.cache_clear()
    harness._data.cache_clear()


@pytest.fixture
def settings(tmp_path: Path) -> Grid:
    """A grid over a tiny data set, with an encoder that is only a file."""
    write_data(tmp_path / "data")
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "model.safetensors").write_text("first")
    return grid(data={"tiny": str(tmp_path / "data")}, encoder=str(tmp_path / "encoder"), output=str(tmp_path / "out"))


def grid(**changes: Any) -> Grid:
    return Grid(**{"data": {"d": "folder"}, "methods": ["muki"], "encoder": "e", "output": "out", **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": {"a": {"teacher": 3}}}, "settings.a.teacher: unknown key; did you mean 'teachers'?"),
        ({"settings": {"a": {"foreign": {"dat": "x"}}}}, "settings.a.foreign.dat: unknown key; did you mean 'data'?"),
        (
            {"methods": [{"x": {"preset": "muki", "pases": 3}}]},
            "methods.x.pases: unknown key; did you mean 'passes'?",
        ),
    ],
)
def test_an_unknown_key_below_a_name_is_answered_with_the_nearest(changes: dict[str, Any], said: str, tmp_path: Path):
    content = {"data": {"d": "folder"}, "methods": ["muki"], "encoder": "e", "output": "out", **changes}
    (tmp_path / "grid.yaml").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_grid(tmp_path / "grid.yaml")
    assert said in str(caught.value)


@pytest.mark.parametrize("missing", ["./nowhere", "owner/name"])
def test_a_data_set_that_is_not_there_is_said_before_anything_is_made(
    settings: Grid, missing: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tasks, "find_spec", lambda name: None)  # the extra `datasets` is not installed
    settings.data["other"] = f"{settings.data['tiny']}+{missing}"
    with pytest.raises(ConfigError, match=rf"^data '{missing}': no such folder beside the grid file"):
        compare(settings)
    assert not Path(settings.output).exists()


def test_an_encoder_that_is_not_there_or_not_whole_is_said_before_anything_is_made(settings: Grid, tmp_path: Path):
    settings.encoder = str(save_encoder(tmp_path / "whole"))
    for missing in ("./nowhere", str(tmp_path / "encoder")):
        settings.student = missing
        with pytest.raises(ConfigError, match=rf"^encoder '{re.escape(missing)}': .*no (such folder|config.json)"):
            compare(settings)
    assert not Path(settings.output).exists()


def write_data(folder: Path, size: int = 40) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        rows = [json.dumps({"text": f"{split} {i}", "label": LABELS[i % 4]}) for i in range(size)]
        (folder / f"{split}.jsonl").write_text("\n".join(rows))


def laboratory(settings: Grid) -> Laboratory:
    return Laboratory(settings, next(settings.groups()))


def key(settings: Grid) -> str:
    cells.content.cache_clear()
    found = laboratory(settings)
    return cell_key(settings, cells_of(settings, found.group)[0])


# --- what is done again ----------------------------------------------------------------------------------------------


def test_teachers_are_made_again_where_the_files_of_their_encoder_changed(
    settings: Grid, monkeypatch: pytest.MonkeyPatch
):
    made = []
    monkeypatch.setattr(teachers, "finetune", lambda _, rows, folder, **more: made.append(folder))
    first = laboratory(settings).teachers
    assert laboratory(settings).teachers == first
    (Path(settings.encoder) / "model.safetensors").write_text("other")
    cells.content.cache_clear()
    assert not set(laboratory(settings).teachers) & set(first)


def test_a_cell_depends_on_files_below_its_data_set(settings: Grid, tmp_path: Path):
    write_data(tmp_path / "data" / "train")
    before = key(settings)
    (tmp_path / "data" / ".cache").write_text("of a download")
    assert key(settings) == before
    write_data(tmp_path / "data" / "train", 44)
    assert key(settings) != before


def test_a_cell_depends_on_the_whole_hub_id_and_on_a_single_file(tmp_path: Path):
    assert key(grid(data={"news": "org1/news"})) != key(grid(data={"news": "org2/news"}))
    file = tmp_path / "rows.jsonl"
    file.write_text("first")
    one = grid(data={"d": str(file)})
    before = key(one)
    file.write_text("other")
    assert key(one) != before


def test_a_cell_depends_on_the_version_of_the_harness(settings: Grid, monkeypatch: pytest.MonkeyPatch):
    before = key(settings)
    monkeypatch.setattr(cells, "HARNESS_VERSION", cells.HARNESS_VERSION + 1)
    assert key(settings) != before


# --- names that collide ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            "data: [x/news, y/news]\nmethods: [muki]",
            "data: found more than once: news; name them yourself: {first: x/news, second: y/news}",
        ),
        (
            "data: [x]\nmethods: [muki, {muki: {passes: 32}}]",
            "methods: found more than once: muki; give each a name: - slow: {preset: muki, passes: 32}",
        ),
        (
            "data: [x]\nmethods: [muki]\nrouting_only: [vanilla-kd, muki]",
            "found more than once: muki; methods and routing_only: give each method to one of them",
        ),
        ("data: [x]\nmethods: [muki]\nseeds: [0, 1, 0]", "seeds: found more than once: 0; give each once"),
    ],
)
def test_names_that_would_hide_each_other_are_refused(tmp_path: Path, lines: str, expected: str):
    path = tmp_path / "grid.yaml"
    path.write_text(f"{lines}\nencoder: e\noutput: out\n")
    with pytest.raises(ConfigError) as caught:
        load_grid(path)
    assert str(caught.value) == f"{path}: 1 problem\n  {expected}"


def test_an_overlap_beyond_the_neighbouring_groups_is_refused():
    assert label_groups(list("abcd"), 2, overlap=4) == [list("abcd"), list("abcd")]
    with pytest.raises(ConfigError) as caught:
        label_groups(list("abcd"), 2, overlap=6)
    assert str(caught.value) == (
        "overlap 6: more than there is on both sides of a border, with 4 labels for 2 teachers; give at most 4"
    )
    with pytest.raises(ConfigError, match=r"give at most 2$"):
        label_groups(list("abcde"), 4, overlap=3)


def test_a_part_that_makes_no_sense_is_named_by_its_option():
    with pytest.raises(ConfigError) as caught:
        Part.parse("0/2", "--part")
    assert str(caught.value) == "--part 0/2: expected a part and a count such as 3/16, parts counted from 1"


# --- what is measured ------------------------------------------------------------------------------------------------


def test_teachers_that_agree_on_a_shared_label_are_as_sure_as_they_are_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    space = LabelSpace(("art", "bank", "chess"), {"first": (0, 1), "second": (1, 2)})
    n, logits = 10, [[0.0, 3.0], [3.0, 0.0]]  # both say bank
    half, target = np.full((n, 2), 0.5, np.float32), np.tile(np.array([0, 1, 0], np.float32), (n, 1))
    supervision = Supervision(np.arange(n), target, np.ones(n, np.float32), half, half)
    outputs = [outputs_of(np.tile(np.array(one, np.float32), (n, 1))) for one in logits]
    monkeypatch.setattr(measures, "load_supervision", lambda _: supervision)
    monkeypatch.setattr(measures, "load_outputs", lambda *_: outputs)
    space.save(RunFolder(tmp_path).labels)
    config = RunConfig.model_construct(method=PRESETS["vanilla-kd"])
    measured = measure_pool(RunFolder(tmp_path), config, ["bank"] * n)
    assert measured["routing_accuracy"] == 1
    assert measured["routing_calibration_error"] == 0


def outputs_of(logits: np.ndarray) -> TeacherOutputs:
    none = np.full(len(logits), np.nan, np.float32)
    return TeacherOutputs(np.arange(len(logits)), logits, logits, np.zeros(len(logits), np.int32), none, none)


def test_seconds_are_those_in_which_these_very_scores_were_made(settings: Grid, monkeypatch: pytest.MonkeyPatch):
    shared, made = RunFolder(Path(settings.output)), {}

    def score(_: object) -> None:
        for name, content in made.items():
            path = shared.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    def seconds() -> float | None:
        return laboratory(settings)._scored(None, shared)  # type: ignore[arg-type]

    monkeypatch.setattr(harness.pipeline, "score", score)
    made |= {"scores/a/shard-0.parquet": "1", "test/scores/a/shard-0.parquet": "1"}
    first = seconds()
    assert first is not None
    monkeypatch.setattr(harness.time, "monotonic", iter([10.0, 10.1, 20.0, 27.0, 30.0, 33.0, 40.0, 40.1]).__next__)
    assert seconds() == first  # nothing to do
    made |= {"scores/a/shard-0.parquet": "2", "test/scores/a/shard-0.parquet": "2"}
    assert seconds() == 7  # made again
    made["scores/a/shard-0.parquet"] = "3"
    assert seconds() is None  # one part only
    assert seconds() is None


# --- records, tables and plots ---------------------------------------------------------------------------------------


def cell(method: str, seed: int = 0, **more: Any) -> dict[str, Any]:
    """A record of routing alone."""
    return {"data": "d", "setting": "s", "seed": seed, "method": method, "settings": "energy, soft τ=1", **more}


def rows_of(records: list[dict[str, Any]], title: str) -> list[list[str]]:
    return next((table.rows[1:] for table in tables(records) if table.title == f"s: {title}"), [])


def test_seconds_of_scoring_are_shown_of_methods_that_were_timed():
    records = [cell("vanilla-kd", passes=1.0), cell("muki", passes=17.0, scoring_seconds=40.0)]
    assert rows_of(records, "passes of each teacher over a text") == [["vanilla-kd", "1.0"], ["muki", "17.0"]]
    assert rows_of(records, "seconds of scoring") == [["muki", "40.0"]]


def trained(method: str, accuracy: float, seed: int) -> dict[str, Any]:
    right = np.arange(100) < round(100 * accuracy)
    measured = {"macro_f1": accuracy, "expected_calibration_error": 0.1, "n": 100}
    return cell(method, seed, accuracy=accuracy, correct=np.packbits(right).tobytes().hex(), **measured)


def test_while_a_grid_is_under_way_numbers_are_of_the_seeds_that_can_be_compared():
    records = [
        *(trained("vanilla-kd", 0.5, seed) for seed in (0, 1)),
        *(trained("muki", accuracy, seed) for seed, accuracy in enumerate((0.7, 0.9, 0.9))),
        trained("muki-plus", 0.8, 0),
        trained("oracle", 0.9, 0),
    ]
    assert rows_of(records, "recovered gap") == [
        ["muki", "0.50 (1 of 3 seeds)", "0.50"],
        ["muki-plus", "0.75 (1 of 3 seeds)", "0.75"],
    ]
    shown = {row[0]: row[1] for row in rows_of(records, "accuracy of the student")}
    assert shown["vanilla-kd"] == "0.500 ± 0.000 (2 of 3 seeds)"
    assert shown["muki"].startswith("0.833 ± ")
    assert "seeds" not in shown["muki"]
    assert shown["muki-plus"] == "**0.800 (1 of 3 seeds)**"  # muki's 0.833 has two seeds more
    differences = {row[0]: row[1] for row in rows_of(records, "accuracy, difference from vanilla-kd")}
    assert differences["muki"].startswith("+0.300 ")
    assert differences["muki"].endswith(" (2 of 3 seeds)")


def test_methods_without_a_common_seed_are_not_compared():
    records = [trained("vanilla-kd", 0.5, 0), trained("muki", 0.9, 1), trained("oracle", 0.9, 1)]
    assert rows_of(records, "accuracy of the student")[1] == ["muki", "0.900 (1 of 2 seeds)"]
    assert rows_of(records, "recovered gap") == [["muki", "–", "–"]]


# --- two processes on one grid ---------------------------------------------------------------------------------------


def test_groups_that_another_process_works_on_come_last_and_are_waited_for(
    settings: Grid, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    settings.seeds = [0, 1]
    busy, may_go = threading.Event(), threading.Event()

    def other() -> None:
        for _ in in_turn(settings, [next(settings.groups())]):
            busy.set()
            may_go.wait(20)

    def run(laboratory: Laboratory, done: Cell) -> dict[str, Any]:
        seeds.append(laboratory.group.seed)
        threading.Timer(0.2, may_go.set).start()
        return cell(done.name, laboratory.group.seed)

    seeds: list[int] = []
    monkeypatch.setattr(Laboratory, "run", run)
    monkeypatch.setattr(harness, "require_encoders", lambda encoders: None)  # the fixture's is only a file
    thread = threading.Thread(target=other)
    thread.start()
    assert busy.wait(20)
    with caplog.at_level(logging.INFO, "muki"):
        compare(settings)
    thread.join()
    assert seeds == [1, 0]
    assert "tiny, two-teachers, seed 0: waiting until another process has left it" in caplog.messages


def test_results_are_of_all_cells_that_are_done_when_they_are_written(settings: Grid):
    compared: list[dict[str, Any]] = []
    assert write_results(settings, compared).startswith("0 cells")
    found = laboratory(settings)
    done = cells_of(settings, found.group)[0]
    write_json(found.record(done), cell("muki", key=cell_key(settings, done), error="by another process"))
    assert write_results(settings).startswith("1 cells, 1 failed")


def test_a_teacher_that_two_data_sets_share_is_made_by_one_process(settings: Grid, monkeypatch: pytest.MonkeyPatch):
    made = []

    def slow(_: str, rows: Any, folder: Path, **more: Any) -> None:
        made.append(folder)
        time.sleep(0.2)
        write_json(folder / "config.json", {})

    monkeypatch.setattr(teachers, "finetune", slow)
    settings.data["again"] = settings.data["tiny"]
    found: list[Any] = []
    both = [Laboratory(settings, group) for group in settings.groups() if group.seed == 0]
    threads = [threading.Thread(target=lambda one=one: found.append(one.teachers)) for one in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1]
    assert sorted(made) == sorted(found[0])


def test_a_teacher_that_cannot_be_made_is_tried_once_and_fails_every_cell(
    settings: Grid, monkeypatch: pytest.MonkeyPatch
):
    tried = []

    def fails(_: str, rows: Any, folder: Path, **more: Any) -> None:
        tried.append(folder)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(teachers, "finetune", fails)
    monkeypatch.setattr(harness, "require_encoders", lambda encoders: None)  # the fixture's is only a file
    both = settings.model_copy(
        update={"methods": {name: PRESETS[name] for name in ("muki", "vanilla-kd")}, "seeds": [0]}
    )
    assert [record["error"] for record in compare(both)] == ["RuntimeError: out of memory"] * 2
    assert len(tried) == 1
    compare(both)  # started again, it is tried again
    assert len(tried) == 2


# --- the committed grids ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((BENCHMARKS / "grids").glob("*.yaml")), ids=lambda path: path.stem)
def test_committed_grids_load_and_are_explained_with_their_encoders(path: Path):
    text, loaded = (BENCHMARKS / "README.md").read_text(encoding="utf-8"), load_grid(path)
    settings = [name for one in loaded.settings.values() for name in (*one.encoders, one.student)]
    encoders = {Path(name).name for name in (loaded.encoder, loaded.student, *settings) if name}
    assert not [name for name in (path.stem, *encoders) if f"\n| `{name}` |" not in text]
