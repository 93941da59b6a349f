"""A run that is stopped anywhere goes on from there, and what has not changed is not done again."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import pkgutil
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from click.testing import Result
from conftest import write_jsonl
from filelock import FileLock
from safetensors.torch import load_file, save_file
from tiny import save_encoder
from typer.testing import CliRunner

import muki
from muki.cli import _Run, app
from muki.config import load_config
from muki.files import read_json, remove
from muki.pipeline import supervise

QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "true"}
LOCKS = {".prepare.lock", ".supervise.lock", ".train.lock"}
NEWS, CULTURE = {"scores/news", "test/scores/news"}, {"scores/culture", "test/scores/culture"}
ALL_SCORES, RESULT = NEWS | CULTURE, {"supervision", "student"}
STAGES = ("texts", "test/texts", *sorted(ALL_SCORES), *sorted(RESULT))

fork = multiprocessing.get_context("fork")  # a child starts at once, with torch already loaded
FORKED = {"TOKENIZERS_PARALLELISM": "false"}  # the threads of tokenizers do not live on in a forked child


# --- to run, and to look at what lies there --------------------------------------------------------------------------


def invoke(*args: object, **environment: str) -> Result:
    """Run a command as if in a process of its own."""
    logger = logging.getLogger("muki")
    before = logger.handlers[:], logger.level, logger.propagate
    try:
        return CliRunner(env={**QUIET, **environment}).invoke(app, [*map(str, args)], catch_exceptions=False)
    finally:
        logger.handlers[:], level, logger.propagate = before
        logger.setLevel(level)
        _Run.config = None


def in_child(function: Callable[[], object]) -> int | None:
    """Call a function in a process of its own; that one's exit code."""
    child = fork.Process(target=function)
    child.start()
    child.join(60)
    child.kill()  # if it is still there
    child.join()
    return child.exitcode


def works(*args: object) -> str:
    """Run a command that must succeed; what it logged."""
    result = invoke(*args)
    assert (result.exit_code, result.exception) == (0, None), result.stderr
    return result.stderr


def go_on(stderr: str) -> str:
    """Run the command that an interrupted one said to run, as a shell would."""
    found = re.search(r"^What is done stays. To continue: muki (.+)\Z", stderr.rstrip("\n"), re.MULTILINE)
    assert found, stderr
    return works(*shlex.split(found[1]))


def files(root: Path, name: str) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted((root / name).rglob("*.parquet"))}


def times(root: Path) -> dict[str, int]:
    """When each lasting file was written; the model card and what is rewritten at each call are left out."""
    lasting = [p for stage in STAGES for p in (root / stage).rglob("*") if p.is_file() and p.name != "README.md"]
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in lasting}


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


def litter(root: Path) -> list[str]:
    """Temporary files and checkpoints."""
    return [
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.name.endswith(".tmp") or path.name == "checkpoints" or (path.name[0] == "." and path.name not in LOCKS)
    ]


def assert_same_result(root: Path, unbroken: Path) -> None:
    """Scores byte for byte, supervision equal, the student to float tolerance; nothing is left lying about."""
    for name in ("texts", "scores", "test", "supervision"):
        assert files(root, name) == files(unbroken, name)
    ours, theirs = (load_file(folder / "student" / "model.safetensors") for folder in (root, unbroken))
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key], atol=1e-6, rtol=1e-5)
    metrics, expected = (json.loads((folder / "report" / "metrics.json").read_text()) for folder in (root, unbroken))
    assert metrics["student"]["accuracy"] == expected["student"]["accuracy"]
    assert metrics["pool"] == expected["pool"]
    record, expected = (json.loads((folder / "training.json").read_text()) for folder in (root, unbroken))
    assert record["steps"] == expected["steps"]
    assert record["held_out_losses"] == [
        {"step": one["step"], "loss": pytest.approx(one["loss"], abs=1e-6)} for one in expected["held_out_losses"]
    ]
    assert (root / "student" / "README.md").exists()
    assert litter(root) == []


def counted(monkeypatch: pytest.MonkeyPatch, target: str) -> list[tuple[Any, ...]]:
    """The arguments of each call of a function from now on."""
    original = pkgutil.resolve_name(target)
    calls: list[tuple[Any, ...]] = []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(target, wrapped)
    return calls


def stop_after_first(monkeypatch: pytest.MonkeyPatch, target: str, error: BaseException) -> None:
    """Let the first call of a function finish, then raise."""
    original = pkgutil.resolve_name(target)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        original(*args, **kwargs)
        raise error

    monkeypatch.setattr(target, wrapped)


@pytest.fixture(scope="module")
def make(
    tmp_path_factory: pytest.TempPathFactory, teachers: list[Path], encoder: Path, pool_texts: list[str]
) -> Callable[..., Path]:
    """Write a run file; all of them share teachers, pool and test file, and compute in float32.

    Two shards of the pool and one of the test file for each teacher; two checkpoints, after steps 4 and 8. No dropout
    passes unless asked for: most of what is tested here does not depend on them.
    """
    folder = tmp_path_factory.mktemp("inputs")
    pool = write_jsonl(folder / "pool.jsonl", [{"text": text} for text in pool_texts[:30]])
    labels = ["sports", "politics", "business", "technology", "health", "film"]
    test = write_jsonl(
        folder / "test.jsonl", [{"text": t, "label": labels[i]} for i, t in enumerate(pool_texts[30:36])]
    )

    def write(output: Path, **changes: Any) -> Path:
        content = {
            "teachers": [{"model": str(path), "max_length": 32, "dtype": "float32"} for path in teachers],
            "student": {"model": str(encoder), "max_length": 32},
            "texts": {"path": str(pool), "shard_rows": 15},
            "test": {"path": str(test)},
            "method": "muki-no-mc",
            "training": {"epochs": 2, "batch_size": 8, "learning_rate": 0.003, "bf16": False},
            "output": str(output),
            **changes,
        }
        path = output.parent / f"{output.name}.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, make: Callable[..., Path]) -> Path:
    """A run that nothing has disturbed. Never changed by a test."""
    root = tmp_path_factory.mktemp("unbroken") / "run"
    works("run", make(root))
    return root


PASSES: dict[str, Any] = {"method": {"passes": 3}}


@pytest.fixture(scope="module")
def unbroken_with_passes(tmp_path_factory: pytest.TempPathFactory, make: Callable[..., Path]) -> Path:
    """The same with dropout passes."""
    root = tmp_path_factory.mktemp("passes") / "run"
    works("run", make(root, **PASSES))
    return root


def copied(finished: Path, root: Path) -> Path:
    """A copy of a run as if it had been made there, with the times of its files."""
    shutil.copytree(finished, root)
    content = (root / "config.yaml").read_text(encoding="utf-8").replace(f"{finished}\n", f"{root}\n")
    (root / "config.yaml").write_text(content, encoding="utf-8")
    return root


@pytest.fixture
def copy(tmp_path: Path, unbroken: Path) -> Path:
    return copied(unbroken, tmp_path / "run")


@pytest.fixture
def copy_with_passes(tmp_path: Path, unbroken_with_passes: Path) -> Path:
    return copied(unbroken_with_passes, tmp_path / "run")


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
    copy_with_passes: Path,
    unbroken_with_passes: Path,
    make: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    named: str,
):
    root = copy_with_passes
    before = times(root)
    scored = counted(monkeypatch, "muki.engines.local.score_shard")
    run = {"by its run file": make(root, **PASSES), "by its folder": root}.get(named, root / "config.yaml")
    said = works("run", run).splitlines()
    assert [line for line in said if "reusing" in line] == everything_reused(root)
    assert not scored
    assert times(root) == before
    assert_same_result(root, unbroken_with_passes)


def test_the_first_call_reuses_nothing(tmp_path: Path, make: Callable[..., Path], unbroken: Path):
    said = works("run", make(tmp_path / "run"))
    assert "reusing" not in said
    assert "again" not in said
    assert_same_result(tmp_path / "run", unbroken)


def test_the_stages_one_by_one_make_the_same_run_and_repeat_nothing(
    tmp_path: Path, make: Callable[..., Path], unbroken: Path
):
    root, run = tmp_path / "run", make(tmp_path / "run")
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


# --- stopped ---------------------------------------------------------------------------------------------------------

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/mnt/small/file")
STOPS = {
    # what is interrupted after its first call: (function, pairs of teacher and shard still to be scored, what is said)
    "cutting the texts": ("muki.texts.shards._write_shard", 6, "teacher news: BertForSequenceClassification"),
    "looking at the teachers": ("muki.teachers.survey.probe_dropout", 6, "texts: reusing 30 texts"),
    "scoring": ("muki.engines.local.score_shard", 5, "scores of news: reusing 1 of 3 shards"),
    "supervising": ("muki.integration.stage.save_supervision", 0, "scores of culture: reusing 3 of 3 shards"),
    "training": ("muki.student.trainer.IntegrationTrainer._save_checkpoint", 0, "/checkpoints/checkpoint-4\n"),
    "saving the student": ("muki.student.saving.save_classifier", 0, "/checkpoints/checkpoint-8\n"),
    "evaluating": ("muki.evaluation.evaluate.labelled_metrics", 0, "student: reusing "),
}


IN_EVERY_STAGE = [(stage, KeyboardInterrupt()) for stage in STOPS]
ON_A_FULL_DISK = [(stage, FULL) for stage in ("scoring", "supervising", "training", "evaluating")]


@pytest.mark.parametrize(
    ("stage", "error"),
    [pytest.param(*case, id=f"{case[0]}-{type(case[1]).__name__}") for case in IN_EVERY_STAGE + ON_A_FULL_DISK],
)
def test_stopped_in_any_stage_the_printed_command_finishes_the_run(
    tmp_path: Path,
    make: Callable[..., Path],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    error: Any,
):
    target, pending, says = STOPS[stage]
    with_passes = stage in ("looking at the teachers", "scoring")
    unbroken: Path = request.getfixturevalue("unbroken_with_passes" if with_passes else "unbroken")
    root = tmp_path / "run"
    with monkeypatch.context() as interrupted:
        stop_after_first(interrupted, target, error)
        result = invoke("run", make(root, **(PASSES if with_passes else {})))
    if isinstance(error, KeyboardInterrupt):
        code, what = 130, "stopped"
    else:
        code, what = 2, "disk full: /mnt/small/file cannot be written; free some space"
    advice = f"What is done stays. To continue: muki run {root}/config.yaml"
    assert result.stderr.splitlines()[-2:] == [f"muki: {what}", advice]
    assert (result.exit_code, result.stdout) == (code, "")
    assert [name for name in litter(root) if name != "checkpoints"] == []

    done = times(root)
    scored = counted(monkeypatch, "muki.engines.local.score_shard")
    said = go_on(result.stderr)
    assert says in said
    assert len(scored) == pending
    now = times(root)
    kept = {name: stamp for name, stamp in done.items() if stage != "saving the student" or "student/" not in name}
    assert {name: now[name] for name in kept} == kept  # nothing that was done is done again
    assert_same_result(root, unbroken)


def test_a_stop_before_anything_is_done_leaves_a_folder_that_can_be_used(
    tmp_path: Path, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as interrupted:
        stop_after_first(interrupted, "muki.run_folder.RunFolder.claim", KeyboardInterrupt())
        result = invoke("run", make(tmp_path / "run"))
    assert result.exit_code == 130
    go_on(result.stderr)
    assert (tmp_path / "run" / "report" / "metrics.json").exists()


def test_a_single_stage_that_is_stopped_says_how_to_go_on(copy: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as interrupted:
        stop_after_first(interrupted, "muki.evaluation.evaluate.pool_metrics", KeyboardInterrupt())
        result = invoke("evaluate", copy)
    assert result.exit_code == 130
    assert result.stderr.endswith(f"muki: stopped\nWhat is done stays. To continue: muki run {copy}/config.yaml\n")


def test_a_training_with_other_settings_that_is_stopped_goes_on_with_them(
    copy: Path, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    edited = yaml.safe_load((copy / "config.yaml").read_text(encoding="utf-8"))
    edited["training"] |= {"epochs": 3, "learning_rate": 0.001}
    (copy.parent / "edited.yaml").write_text(yaml.safe_dump(edited), encoding="utf-8")
    with monkeypatch.context() as interrupted:
        stop_after_first(interrupted, "muki.student.trainer.IntegrationTrainer._save_checkpoint", KeyboardInterrupt())
        result = invoke("train", copy.parent / "edited.yaml")
    assert result.exit_code == 130
    assert "training: continuing from " in go_on(result.stderr)
    assert read_json(copy / "training.json")["settings"]["training"]["epochs"] == 3


def test_a_stage_done_with_an_edited_file_can_be_reported_and_is_not_undone(copy: Path):
    edited = yaml.safe_load((copy / "config.yaml").read_text(encoding="utf-8"))
    edited["method"] = {"preset": "muki-no-mc", "reweight": "none"}
    (copy.parent / "edited.yaml").write_text(yaml.safe_dump(edited), encoding="utf-8")
    for stage in ("supervise", "train"):
        works(stage, copy.parent / "edited.yaml")
    works("report", copy)
    student = (copy / "student" / "model.safetensors").read_bytes()
    works("run", copy)
    assert (copy / "student" / "model.safetensors").read_bytes() == student


def test_two_processes_that_supervise_at_once_do_not_harm_each_other(copy: Path):
    remove(copy / "supervision")
    lock = FileLock(copy / ".supervise.lock")
    with lock:
        other = fork.Process(target=supervise, args=(load_config(copy / "config.yaml"),))
        other.start()
        other.join(1.0)
        assert other.is_alive() and not (copy / "supervision").exists()  # it waits
    other.join()
    assert other.exitcode == 0
    assert (copy / "supervision" / "supervision.json").exists()


def test_the_printed_command_works_for_a_folder_with_a_space_in_its_name(
    tmp_path: Path, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as interrupted:
        stop_after_first(interrupted, "muki.integration.stage.save_supervision", KeyboardInterrupt())
        result = invoke("run", make(tmp_path / "my run"))
    go_on(result.stderr)
    assert (tmp_path / "my run" / "report" / "metrics.json").exists()


def test_a_run_folder_that_was_moved_goes_on_where_it_lies_now(
    tmp_path: Path, make: Callable[..., Path], unbroken: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as interrupted:
        stop_after_first(interrupted, "muki.engines.local.score_shard", KeyboardInterrupt())
        invoke("run", make(tmp_path / "before"))
    (tmp_path / "before").rename(tmp_path / "run")
    assert "scores of news: reusing 1 of 3 shards" in works("run", tmp_path / "run")
    assert not (tmp_path / "before").exists()
    assert_same_result(tmp_path / "run", unbroken)


def test_the_command_that_a_moved_run_folder_prints_goes_on_there_too(
    tmp_path: Path, make: Callable[..., Path], unbroken: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as interrupted:
        stop_after_first(interrupted, "muki.integration.stage.save_supervision", KeyboardInterrupt())
        invoke("run", make(tmp_path / "before"))
        (tmp_path / "before").rename(tmp_path / "run")
        result = invoke("supervise", tmp_path / "run")
    go_on(result.stderr)
    assert not (tmp_path / "before").exists()
    assert_same_result(tmp_path / "run", unbroken)


@pytest.fixture
def project(tmp_path: Path, make: Callable[..., Path], own_pool: Path) -> dict[Path, bytes]:
    """Somebody's own folder `project`, with a run file config.yaml and a folder `texts`, and what its files hold."""
    folder = tmp_path / "project"
    (folder / "texts").mkdir(parents=True)
    own_pool.rename(folder / "texts" / "pool.jsonl")
    content = make(folder / "run", test=None, texts={"path": str(folder / "texts" / "pool.jsonl")})
    content.rename(folder / "config.yaml")
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_file_named_config_yaml_beside_a_folder_of_texts_is_no_run_folder(
    tmp_path: Path, project: dict[Path, bytes]
):

    result = invoke("run", tmp_path / "project" / "config.yaml")
    assert {path: path.read_bytes() for path in project if path.exists()} == project
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "project" / "run" / "student" / "model.safetensors").exists()


@pytest.mark.parametrize("how", ["as a run folder", "as an output"])
def test_a_folder_with_a_config_yaml_of_ones_own_is_left_alone(
    tmp_path: Path, make: Callable[..., Path], project: dict[Path, bytes], how: str
):
    folder = tmp_path / "project"

    result = invoke("run", folder if how == "as a run folder" else make(folder))
    assert {path: path.read_bytes() for path in project if path.exists()} == project
    if how == "as an output":
        assert result.exit_code == 2
        assert f"output '{folder}': not empty, and not a run folder" in result.stderr


def test_a_file_that_no_longer_fits_on_the_disk_is_not_left_there_in_half(
    tmp_path: Path, make: Callable[..., Path], unbroken: Path, monkeypatch: pytest.MonkeyPatch
):
    root = tmp_path / "run"
    original = pq.write_table
    written = []

    def half(table: Any, where: Any, **options: Any) -> None:
        original(table, where, **options)
        written.append(Path(where))
        if "scores" in written[-1].parts and len(list((root / "scores").rglob("shard-*.parquet"))) == 1:
            written[-1].write_bytes(written[-1].read_bytes()[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(where))

    with monkeypatch.context() as interrupted:
        interrupted.setattr("pyarrow.parquet.write_table", half)
        result = invoke("run", make(root))
    assert result.exit_code == 2
    assert f"muki: disk full: {written[-1]} cannot be written; free some space\n" in result.stderr
    assert not written[-1].exists()
    assert list(files(root, "scores")) == ["scores/news/shard-00000.parquet"]
    go_on(result.stderr)
    assert_same_result(root, unbroken)


@pytest.mark.parametrize("what", ["student", "checkpoint"])
def test_a_model_that_does_not_fit_on_the_disk_is_one_clear_message(
    copy: Path, unbroken: Path, tmp_path: Path, what: str
):
    shutil.rmtree(copy / "student")
    if what == "student":
        options: list[object] = [
            "--set",
            'training.save_strategy="no"',
            "--set",
            "training.load_best_model_at_end=false",
        ]
    else:
        options = []

    def with_little_room() -> None:
        """A limit on the size of each file: writing a larger one fails as on a full disk, in the library itself."""
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
        try:
            result = invoke("run", copy, *options, **FORKED)
            said, code = result.stderr, result.exit_code
        except BaseException as error:
            said, code = f"{type(error).__name__}: {error}", 1
        (tmp_path / "said.txt").write_text(said[-20_000:], encoding="utf-8")
        os._exit(code)

    exit_code = in_child(with_little_room)
    said = (tmp_path / "said.txt").read_text(encoding="utf-8")
    assert exit_code == 2, said
    assert "To continue: muki run" in said
    assert [name for name in litter(copy) if name != "checkpoints"] == []
    go_on(said)
    assert (copy / "student" / "model.safetensors").exists()


# --- killed ----------------------------------------------------------------------------------------------------------


def test_killed_while_scoring_the_same_command_goes_on(
    tmp_path: Path, make: Callable[..., Path], unbroken_with_passes: Path, monkeypatch: pytest.MonkeyPatch
):
    root, unbroken = tmp_path / "run", unbroken_with_passes
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "muki", "run", str(make(root, **PASSES))]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while not list((root / "scores").rglob("shard-*.parquet")) and time.monotonic() < end:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = files(root, "scores")
    assert 1 <= len(done) < 4
    assert {name: files(unbroken, "scores")[name] for name in done} == done
    before = times(root)
    scored = counted(monkeypatch, "muki.engines.local.score_shard")
    said = works("run", root)
    assert f"scores of news: reusing {min(len(done), 2)} of 3 shards (same teacher, texts and settings)" in said
    assert len(scored) == 6 - len(done)
    assert {name: times(root)[name] for name in done} == {name: before[name] for name in done}
    for name in done:
        assert (root / name).read_bytes() == done[name]
    for leftover in root.rglob("*.tmp"):  # see the next test
        leftover.unlink()
    assert_same_result(root, unbroken)


KILLS = {
    # what is written, by which function, and how its temporary path is known
    "texts": ("muki.texts.shards._write_shard", "/.texts."),
    "scores": ("pyarrow.parquet.write_table", "/scores/"),
    "supervision": ("muki.integration.stage.save_supervision", "/.supervision."),
    "student": ("transformers.PreTrainedTokenizerBase.save_pretrained", "/.student."),
}


def die_while_writing(what: str, run: Path) -> None:
    """Start a run in a child that kills itself when something is written, before that gets its name."""
    target, mark = KILLS[what]

    def child() -> None:
        original = pkgutil.resolve_name(target)

        def deadly(*args: Any, **kwargs: Any) -> None:
            original(*args, **kwargs)
            if any(isinstance(arg, (str, Path)) and mark in str(arg) for arg in args):
                os.kill(os.getpid(), signal.SIGKILL)

        patch = pytest.MonkeyPatch()
        patch.setattr(target, deadly)
        invoke("run", run, **FORKED)

    assert in_child(child) == -signal.SIGKILL


@pytest.mark.parametrize("what", KILLS)
def test_killed_while_it_writes_a_file_the_next_call_finishes_and_clears_up(
    tmp_path: Path, make: Callable[..., Path], unbroken: Path, what: str
):
    root = tmp_path / "run"
    run = make(root)
    die_while_writing(what, run)
    assert [name for name in litter(root) if name.endswith(".tmp")]
    works("run", run)
    assert_same_result(root, unbroken)


def test_a_checkpoint_that_was_cut_short_is_not_used(
    tmp_path: Path, make: Callable[..., Path], unbroken: Path, monkeypatch: pytest.MonkeyPatch
):
    root = tmp_path / "run"
    with monkeypatch.context() as interrupted:
        stop_after_first(interrupted, "muki.student.trainer.IntegrationTrainer._save_checkpoint", KeyboardInterrupt())
        result = invoke("run", make(root))
    half = shutil.copytree(root / "checkpoints" / "checkpoint-4", root / "checkpoints" / "checkpoint-7")
    (half / "trainer_state.json").unlink()
    (half / "model.safetensors").write_bytes(b"half")
    assert "continuing from " + str(root / "checkpoints" / "checkpoint-4") in go_on(result.stderr)
    assert_same_result(root, unbroken)


def test_checkpoints_of_other_settings_are_not_used(
    tmp_path: Path, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as interrupted:
        stop_after_first(interrupted, "muki.student.trainer.IntegrationTrainer._save_checkpoint", KeyboardInterrupt())
        invoke("run", make(tmp_path / "run"))
    said = works("run", tmp_path / "run", "--set", "training.learning_rate=0.001")
    assert "training: starting anew (settings, texts or supervision changed since the last checkpoint)" in said
    works("run", make(tmp_path / "fresh"), "--set", "training.learning_rate=0.001")
    ours, theirs = (load_file(tmp_path / name / "student/model.safetensors") for name in ("run", "fresh"))
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key])


# --- damaged ---------------------------------------------------------------------------------------------------------


def flip(path: Path, column: int) -> None:
    """Flip one bit in the middle of a column's values."""
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(column)
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size - 20] ^= 0x04
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "emptied": lambda path: path.write_bytes(b""),
    "a bit flipped in the logits": lambda path: flip(path, 1),
    "a bit flipped in the means": lambda path: flip(path, 2),
    "another file": lambda path: path.write_text("text"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_scores_are_noticed_and_made_again(copy_with_passes: Path, unbroken_with_passes: Path, damage: str):
    copy, unbroken = copy_with_passes, unbroken_with_passes
    path = copy / "scores" / "news" / "shard-00001.parquet"
    before = path.read_bytes()
    DAMAGE[damage](path)
    assert path.read_bytes() != before
    stamps = times(copy)
    said = works("run", copy)
    assert "scores of news: reusing 2 of 3 shards (same teacher, texts and settings)\n" in said
    assert "scores of news: 1 shards to be scored again (damaged)\n" in said
    assert "scores of culture: reusing 3 of 3 shards (same teacher, texts and settings)\n" in said
    changed = {name for name, stamp in times(copy).items() if stamp != stamps[name]}
    assert changed == {"scores/news/shard-00001.parquet"}  # its content is the same again, so nothing depends on it
    assert_same_result(copy, unbroken)


def test_scores_that_are_gone_are_made_again(copy: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch):
    (copy / "test" / "scores" / "culture" / "shard-00000.parquet").unlink()
    scored = counted(monkeypatch, "muki.engines.local.score_shard")
    works("run", copy)
    assert len(scored) == 1
    assert_same_result(copy, unbroken)


def test_damaged_scores_stop_a_single_later_stage_with_the_way_out(copy: Path):
    path = copy / "scores" / "news" / "shard-00001.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    (copy / "supervision" / "supervision.json").unlink()
    result = invoke("supervise", copy)
    assert result.exit_code == 2
    assert f"muki: {path}: scores cannot be used (missing or damaged); run `muki score` first\n" in result.stderr
    go_on(result.stderr)


@pytest.mark.parametrize(
    "name",
    [
        "texts/shard-00001.parquet",
        "supervision/shard-00001.parquet",
        "student/model.safetensors",
        "student/tokenizer.json",
        "texts/texts.json",
        "supervision/supervision.json",
        "training.json",
        "teachers.json",
        "labels.json",
        "report/metrics.json",
    ],
)
@pytest.mark.parametrize("damage", ["cut short", "gone"])
def test_whatever_else_is_damaged_or_gone_is_made_again(copy: Path, unbroken: Path, name: str, damage: str):
    path = copy / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = invoke("run", copy)
    assert result.exit_code == 0, result.stderr
    assert_same_result(copy, unbroken)
    assert path.exists()


@pytest.mark.parametrize(("name", "kept"), [("texts/texts.json", "shards"), ("teachers.json", "")])
def test_what_another_version_of_muki_wrote_is_made_again(copy: Path, unbroken: Path, name: str, kept: str):
    path = copy / name
    content = json.loads(path.read_text(encoding="utf-8"))
    for item in content[kept] if kept else content:
        item["of_another_version"] = item.pop("fingerprint")
    path.write_text(json.dumps(content), encoding="utf-8")
    result = invoke("report", copy)
    assert result.exit_code == 2
    assert f"{path.parent if kept else path} is of another version of muki" in result.stderr
    assert f"run `muki score {copy}` first\n" in result.stderr
    assert invoke("run", copy).exit_code == 0
    assert_same_result(copy, unbroken)


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
def other_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("other") / "base", seed=9)


CHANGES: dict[str, tuple[list[str], set[str], list[str]]] = {
    "the method's temperature": (["method.temperature=0.5"], RESULT, []),
    "vanilla-kd": (["method=vanilla-kd"], RESULT, []),
    "the passes": (["method.passes=4"], ALL_SCORES | RESULT, ["passes (3 to 4)"] * 2),
    "the seed of the masks": (["scoring.seed=1"], ALL_SCORES | RESULT, ["settings"] * 2),
    "a teacher's weights": (["teachers.0.model={weights}"], NEWS | RESULT, ["teacher"]),
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
    tmp_path: Path, request: pytest.FixtureRequest, other_weights: Path, other_encoder: Path, change: str
):
    overrides, expected, reasons = CHANGES[change]
    with_passes = change in ("the passes", "the seed of the masks")
    finished: Path = request.getfixturevalue("unbroken_with_passes" if with_passes else "unbroken")
    root = copied(finished, tmp_path / "run")
    before = times(root)
    settings = [item.format(weights=other_weights, encoder=other_encoder) for item in overrides]
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
    tmp_path: Path, copy: Path, make: Callable[..., Path], other_weights: Path
):
    overrides = ["--set", f"teachers.0.model={other_weights}", "--set", "method.temperature=0.4"]
    works("run", copy, *overrides)
    works("run", make(tmp_path / "fresh"), *overrides)
    assert_same_result(copy, tmp_path / "fresh")


def test_vanilla_kd_after_muki_reuses_its_scores_and_muki_comes_back_the_same(
    copy_with_passes: Path, unbroken_with_passes: Path, monkeypatch: pytest.MonkeyPatch
):
    root = copy_with_passes
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


@pytest.fixture
def own_pool(tmp_path: Path, pool_texts: list[str]) -> Path:
    return write_jsonl(tmp_path / "own.jsonl", [{"text": text} for text in pool_texts[:30]])


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
    make: Callable[..., Path],
    own_pool: Path,
    change: Callable[[list[str]], list[str]],
    redone_shards: set[str],
):
    quick: dict[str, Any] = {"test": None, "texts": {"path": str(own_pool), "shard_rows": 15}}
    run = make(tmp_path / "run", **quick)
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
    works("run", make(tmp_path / "fresh", **quick))
    for name in ("texts", "supervision"):
        assert files(tmp_path / "run", name) == files(tmp_path / "fresh", name)
    # Scores of texts that are no longer there may stay; those of the others are the same.
    scores = files(tmp_path / "fresh", "scores")
    assert {name: (tmp_path / "run" / name).read_bytes() for name in scores} == scores
    assert litter(tmp_path / "run") == []


def test_a_rewritten_pool_with_the_same_lines_changes_nothing(
    tmp_path: Path, make: Callable[..., Path], own_pool: Path
):
    quick: dict[str, Any] = {"test": None, "texts": {"path": str(own_pool), "shard_rows": 15}}
    run = make(tmp_path / "run", **quick)
    works("run", run)
    before = times(tmp_path / "run")
    own_pool.write_bytes(own_pool.read_bytes())
    os.utime(own_pool, (1, 1))
    assert "again" not in works("run", run)
    assert times(tmp_path / "run") == before
