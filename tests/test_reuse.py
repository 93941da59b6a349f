"""What has not changed is not done again, and exactly what depends on a change is."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from broken import copied as with_config
from interrupting import (
    ALL_SCORES,
    NEWS,
    PASSES,
    RESULT,
    STAGES,
    assert_same_result,
    copied,
    counted,
    files,
    litter,
    times,
    works,
)
from safetensors.torch import load_file, save_file
from tiny import save_encoder

import muki


def matrix(folder: Path, column: str) -> np.ndarray:
    """A column of vectors, all shards."""
    tables = [pq.read_table(path) for path in sorted(folder.glob("shard-*.parquet"))]
    return np.concatenate([np.stack(table[column].to_pylist()) for table in tables])


def redone(root: Path, before: dict[str, int]) -> set[str]:
    """The stages whose files are new; within each, all are or none."""
    now = times(root)
    assert now.keys() == before.keys()
    changed = {stage: {now[p] != before[p] for p in now if p.startswith(f"{stage}/")} for stage in STAGES}
    assert all(len(kinds) < 2 for kinds in changed.values()), changed
    return {stage for stage, kinds in changed.items() if kinds == {True}}


# --- nothing has changed ---------------------------------------------------------------------------------------------


def everything_reused(root: Path) -> list[str]:
    return [
        f"texts: reusing 30 texts in {root}/texts (same source)",
        f"texts: reusing 6 texts in {root}/test/texts (same source)",
        "scores of news: reusing 3 of 3 shards (same teacher, texts and settings)",
        "scores of culture: reusing 3 of 3 shards (same teacher, texts and settings)",
        "supervision: reusing 30 texts (same scores and method)",
        f"student: reusing {root}/student (same supervision or teachers, same settings)",
    ]


@pytest.mark.parametrize("named", ["by its run file", "by its folder", "by the resolved run file"])
def test_a_second_call_reuses_everything_and_says_why(
    unbroken_copy_with_passes: Path,
    unbroken_with_passes: Path,
    resumable: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    named: str,
):
    root = unbroken_copy_with_passes
    before = times(root)
    scored = counted(monkeypatch, "muki.engines.local.score_shard")
    run = {"by its run file": resumable(root, **PASSES), "by its folder": root}.get(named, root / "config.yaml")
    said = works("run", run).splitlines()
    assert [line for line in said if "reusing" in line] == everything_reused(root)
    assert not scored
    assert times(root) == before
    assert_same_result(root, unbroken_with_passes)


def test_the_first_call_reuses_nothing(tmp_path: Path, resumable: Callable[..., Path], unbroken: Path):
    said = works("run", resumable(tmp_path / "run"))
    assert "reusing" not in said
    assert "again" not in said
    assert_same_result(tmp_path / "run", unbroken)


def test_the_stages_one_by_one_make_the_same_run_and_repeat_nothing(
    tmp_path: Path, resumable: Callable[..., Path], unbroken: Path
):
    root, run = tmp_path / "run", resumable(tmp_path / "run")
    for stage in ("score", "supervise", "train", "evaluate"):
        works(stage, run)
    assert_same_result(root, unbroken)
    before = times(root)
    for stage in ("score", "supervise", "train", "evaluate"):
        works(stage, root)
    assert times(root) == before


def test_a_second_call_from_python_with_texts_in_memory_reuses_everything(
    tmp_path: Path, teachers: list[Path], encoder: Path, pool_texts: list[str], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "muki")
    settings: dict[str, Any] = {"method": "muki-no-mc", "max_length": 32, "epochs": 1, "batch_size": 8}
    first = muki.integrate(teachers, str(encoder), pool_texts, output=tmp_path / "run", **settings)
    before = times(first.folder)
    caplog.clear()
    second = muki.integrate(teachers, str(encoder), pool_texts, output=tmp_path / "run", **settings)
    assert second == first
    assert times(first.folder) == before
    assert len([message for message in caplog.messages if "reusing" in message]) == 5
    caplog.clear()
    muki.integrate(teachers, str(encoder), [*pool_texts[:-1], "other"], output=tmp_path / "run", **settings)
    assert "scores of news: 1 shards to be scored again (changed: texts)" in caplog.messages


# --- changed ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory: pytest.TempPathFactory, teachers: list[Path]) -> Path:
    """The first teacher, trained a little further."""
    folder = Path(shutil.copytree(teachers[0], tmp_path_factory.mktemp("other") / "news"))
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"][0, 0] += 0.25
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def other_activation(tmp_path_factory: pytest.TempPathFactory, teachers: list[Path]) -> Path:
    """The first teacher, whose weights are used in another way."""
    return with_config(teachers[0], tmp_path_factory.mktemp("other") / "news", hidden_act="relu")


@pytest.fixture(scope="module")
def other_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("other") / "base", seed=9)


CHANGES: dict[str, tuple[list[str], set[str], list[str]]] = {
    "the method's temperature": (["method.temperature=0.5"], RESULT, []),
    "vanilla-kd": (["method=vanilla-kd"], RESULT, []),
    "the passes": (["method.passes=4"], ALL_SCORES | RESULT, ["passes (3 to 4)"] * 2),
    "the seed of the masks": (["scoring.seed=1"], ALL_SCORES | RESULT, ["settings"] * 2),
    "a teacher's weights": (["teachers.0.model={weights}"], NEWS | RESULT, ["teacher"]),
    "a teacher's activation": (["teachers.0.model={activation}"], NEWS | RESULT, ["settings"]),
    "a teacher's prefix": (["teachers.0.prefix='query: '"], NEWS | RESULT, ["settings"]),
    "the epochs": (["training.epochs=1"], {"student"}, []),
    "a field of TrainingArguments": (["training.weight_decay=0.1"], {"student"}, []),
    "the student's length": (["student.max_length=8"], {"student"}, []),
    "what the student starts from": (["student.model={encoder}"], {"student"}, []),
    "the size of batches": (["scoring.batch_tokens=64"], set(), []),
    "no test file any more": (["test=null"], set(), []),
}


@pytest.mark.parametrize("change", CHANGES)
def test_exactly_the_stages_that_depend_on_a_change_are_done_again(
    tmp_path: Path, request: pytest.FixtureRequest, other_weights: Path, other_activation: Path, other_encoder: Path,
    change: str,
):  # fmt: skip
    overrides, expected, reasons = CHANGES[change]
    with_passes = change in ("the passes", "the seed of the masks")
    finished: Path = request.getfixturevalue("unbroken_with_passes" if with_passes else "unbroken")
    root = copied(finished, tmp_path / "run")
    before = times(root)
    others = {"weights": other_weights, "activation": other_activation, "encoder": other_encoder}
    settings = [item.format(**others) for item in overrides]
    said = works("run", root, *(part for item in settings for part in ("--set", item)))
    assert redone(root, before) == expected
    assert [line for line in said.splitlines() if "again" in line] == [
        f"scores of {name}: 3 shards to be scored again (changed: {reason})"
        for name, reason in zip(("news", "culture"), reasons, strict=False)
    ]
    assert litter(root) == []
    if "student" in expected:
        ours, theirs = (load_file(folder / "student" / "model.safetensors") for folder in (root, finished))
        assert any(not torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def test_after_a_change_the_result_is_that_of_a_fresh_run(
    tmp_path: Path, unbroken_copy: Path, resumable: Callable[..., Path], other_weights: Path
):
    overrides = ["--set", f"teachers.0.model={other_weights}", "--set", "method.temperature=0.4"]
    works("run", unbroken_copy, *overrides)
    works("run", resumable(tmp_path / "fresh"), *overrides)
    assert_same_result(unbroken_copy, tmp_path / "fresh")


def test_a_runs_folder_with_another_output_is_a_new_run_and_stays_as_it_was(tmp_path: Path, unbroken_copy: Path):
    before = times(unbroken_copy)
    works("score", unbroken_copy, "--set", f"output={tmp_path / 'elsewhere'}")
    assert sorted(p.name for p in (tmp_path / "elsewhere" / "scores").iterdir()) == ["culture", "news"]
    assert times(unbroken_copy) == before


def test_a_stage_from_python_is_continued_by_the_command_line_from_another_folder(
    tmp_path: Path, resumable: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    file = resumable(tmp_path / "run")
    pool = Path(muki.load_config(file).texts.path)
    monkeypatch.chdir(pool.parent)
    muki.score(muki.load_config(file, [f"texts.path={pool.name}"]))
    monkeypatch.chdir(tmp_path)
    assert "scores of news: reusing 3 of 3 shards" in works("score", file)


def test_vanilla_kd_after_muki_reuses_its_scores_and_muki_comes_back_the_same(
    unbroken_copy_with_passes: Path, unbroken_with_passes: Path, monkeypatch: pytest.MonkeyPatch
):
    root = unbroken_copy_with_passes
    scored = counted(monkeypatch, "muki.engines.local.score_shard")
    stamps = {name: stamp for name, stamp in times(root).items() if "scores" in name}
    works("run", root, "--set", "method=vanilla-kd")
    logits = [matrix(root / "scores" / name, "logits") for name in ("news", "culture")]
    p = np.exp(np.concatenate(logits, axis=1).astype(float))
    target = matrix(root / "supervision", "target")
    np.testing.assert_allclose(target, p / p.sum(axis=1, keepdims=True), atol=1e-5)
    assert json.loads((root / "report" / "metrics.json").read_text())["method"]["name"] == "vanilla-kd"
    works("run", root, "--set", "method={passes: 3}")
    assert not scored
    assert {name: stamp for name, stamp in times(root).items() if "scores" in name} == stamps
    assert_same_result(root, unbroken_with_passes)


@pytest.mark.parametrize(
    ("change", "redone_shards"),
    [
        (lambda lines: [*lines[:20], '{"text": "an altogether other text"}', *lines[21:]], {"shard-00001.parquet"}),
        (lambda lines: [*lines, '{"text": "one more"}'], {"shard-00002.parquet"}),
        (lambda lines: [*lines[:15]], set()),
    ],
    ids=["one line", "one line more", "only the first half"],
)
def test_changed_texts_are_scored_again_shard_by_shard(
    tmp_path: Path,
    resumable: Callable[..., Path],
    own_pool: Path,
    change: Callable[[list[str]], list[str]],
    redone_shards: set[str],
):
    quick: dict[str, Any] = {"test": None, "texts": {"path": str(own_pool), "shard_rows": 15}}
    run = resumable(tmp_path / "run", **quick)
    works("run", run)
    before = times(tmp_path / "run")
    lines = change(own_pool.read_text(encoding="utf-8").splitlines())
    own_pool.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    said = works("run", run)
    now = times(tmp_path / "run")
    for name in ("news", "culture"):
        changed = {Path(path).name for path in now if f"scores/{name}/" in path and now[path] != before.get(path)}
        assert changed == redone_shards
    assert ("(changed: texts)" in said) == ("shard-00001.parquet" in redone_shards)
    assert "supervision: reusing" not in said
    assert "student: reusing" not in said
    works("run", resumable(tmp_path / "fresh", **quick))
    for name in ("texts", "supervision"):
        assert files(tmp_path / "run", name) == files(tmp_path / "fresh", name)
    # Scores of texts that are no longer there may stay; those of the others are the same.
    scores = files(tmp_path / "fresh", "scores")
    assert {name: (tmp_path / "run" / name).read_bytes() for name in scores} == scores
    assert litter(tmp_path / "run") == []


def test_a_rewritten_pool_with_the_same_lines_changes_nothing(
    tmp_path: Path, resumable: Callable[..., Path], own_pool: Path
):
    quick: dict[str, Any] = {"test": None, "texts": {"path": str(own_pool), "shard_rows": 15}}
    run = resumable(tmp_path / "run", **quick)
    works("run", run)
    before = times(tmp_path / "run")
    own_pool.write_bytes(own_pool.read_bytes())
    os.utime(own_pool, (1, 1))
    assert "again" not in works("run", run)
    assert times(tmp_path / "run") == before
