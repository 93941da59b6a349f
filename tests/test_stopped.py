"""A run that is stopped anywhere, by a person, a full disk or a kill, goes on from there."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pkgutil
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import typer
import yaml
from commands import invoke
from filelock import FileLock
from interrupting import (
    PASSES,
    assert_same_result,
    counted,
    files,
    go_on,
    litter,
    stop_after_first,
    stopped,
    times,
    works,
)
from safetensors.torch import load_file

from muki.cli_base import guarded
from muki.config import load_config
from muki.files import read_json, remove
from muki.pipeline import supervise

fork = multiprocessing.get_context("fork")  # a child starts at once, with torch already loaded
FORKED = {"TOKENIZERS_PARALLELISM": "false"}  # the threads of tokenizers do not live on in a forked child


def in_child(function: Callable[[], object]) -> int | None:
    """Call a function in a process of its own; that one's exit code."""
    child = fork.Process(target=function)
    child.start()
    child.join(60)
    child.kill()  # if it is still there
    child.join(10)
    return child.exitcode


# --- stopped ---------------------------------------------------------------------------------------------------------

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/mnt/small/file")
STOPS = {
    # what is interrupted after its first call: (function, pairs of teacher and shard still to be scored, what is said)
    "cutting the texts": ("muki.texts.shards._write_shard", 6, "teacher news: BertForSequenceClassification"),
    "looking at the teachers": ("muki.teachers.survey.probe_dropout", 6, "teacher news: BertForSequenceClassification"),
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
    resumable: Callable[..., Path],
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
        result = invoke("run", resumable(root, **(PASSES if with_passes else {})))
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
    tmp_path: Path, resumable: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    result = stopped(monkeypatch, "muki.run_folder.RunFolder.claim", "run", resumable(tmp_path / "run"))
    assert result.exit_code == 130
    go_on(result.stderr)
    assert (tmp_path / "run" / "report" / "metrics.json").exists()


def test_a_single_stage_that_is_stopped_says_how_to_go_on(unbroken_copy: Path, monkeypatch: pytest.MonkeyPatch):
    result = stopped(monkeypatch, "muki.evaluation.evaluate.pool_metrics", "evaluate", unbroken_copy)
    assert result.exit_code == 130
    assert result.stderr.endswith(
        f"muki: stopped\nWhat is done stays. To continue: muki run {unbroken_copy}/config.yaml\n"
    )


def test_a_training_with_other_settings_that_is_stopped_goes_on_with_them(
    unbroken_copy: Path, resumable: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    edited = yaml.safe_load((unbroken_copy / "config.yaml").read_text(encoding="utf-8"))
    edited["training"] |= {"epochs": 3, "learning_rate": 0.001}
    (unbroken_copy.parent / "edited.yaml").write_text(yaml.safe_dump(edited), encoding="utf-8")
    result = stopped(
        monkeypatch,
        "muki.student.trainer.IntegrationTrainer._save_checkpoint",
        "train",
        unbroken_copy.parent / "edited.yaml",
    )
    assert result.exit_code == 130
    assert "training: continuing from " in go_on(result.stderr)
    assert read_json(unbroken_copy / "training.json")["settings"]["training"]["epochs"] == 3


def test_a_stage_done_with_an_edited_file_can_be_reported_and_is_not_undone(unbroken_copy: Path):
    edited = yaml.safe_load((unbroken_copy / "config.yaml").read_text(encoding="utf-8"))
    edited["method"] = {"preset": "muki-no-mc", "reweight": "none"}
    (unbroken_copy.parent / "edited.yaml").write_text(yaml.safe_dump(edited), encoding="utf-8")
    for stage in ("supervise", "train"):
        works(stage, unbroken_copy.parent / "edited.yaml")
    works("report", unbroken_copy)
    student = (unbroken_copy / "student" / "model.safetensors").read_bytes()
    works("run", unbroken_copy)
    assert (unbroken_copy / "student" / "model.safetensors").read_bytes() == student


def test_two_processes_that_supervise_at_once_do_not_harm_each_other(unbroken_copy: Path):
    remove(unbroken_copy / "supervision")
    lock = FileLock(unbroken_copy / ".supervise.lock")
    with lock:
        other = fork.Process(target=supervise, args=(load_config(unbroken_copy / "config.yaml"),))
        other.start()
        other.join(1.0)
        assert other.is_alive() and not (unbroken_copy / "supervision").exists()  # it waits
    other.join(60)
    other.kill()  # if it is still there
    assert other.exitcode == 0
    assert (unbroken_copy / "supervision" / "supervision.json").exists()


def test_the_printed_command_works_for_a_folder_with_a_space_in_its_name(
    tmp_path: Path, resumable: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    result = stopped(monkeypatch, "muki.integration.stage.save_supervision", "run", resumable(tmp_path / "my run"))
    go_on(result.stderr)
    assert (tmp_path / "my run" / "report" / "metrics.json").exists()


def test_a_run_folder_that_was_moved_goes_on_where_it_lies_now(
    tmp_path: Path, resumable: Callable[..., Path], unbroken: Path, monkeypatch: pytest.MonkeyPatch
):
    stopped(monkeypatch, "muki.engines.local.score_shard", "run", resumable(tmp_path / "before"))
    (tmp_path / "before").rename(tmp_path / "run")
    assert "scores of news: reusing 1 of 3 shards" in works("run", tmp_path / "run")
    assert not (tmp_path / "before").exists()
    assert_same_result(tmp_path / "run", unbroken)


def test_the_command_that_a_moved_run_folder_prints_goes_on_there_too(
    tmp_path: Path, resumable: Callable[..., Path], unbroken: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as interrupted:
        stop_after_first(interrupted, "muki.integration.stage.save_supervision", KeyboardInterrupt())
        invoke("run", resumable(tmp_path / "before"))
        (tmp_path / "before").rename(tmp_path / "run")
        result = invoke("supervise", tmp_path / "run")
    go_on(result.stderr)
    assert not (tmp_path / "before").exists()
    assert_same_result(tmp_path / "run", unbroken)


@pytest.fixture
def project(tmp_path: Path, resumable: Callable[..., Path], own_pool: Path) -> dict[Path, bytes]:
    """Somebody's own folder `project`, with a run file config.yaml and a folder `texts`, and what its files hold."""
    folder = tmp_path / "project"
    (folder / "texts").mkdir(parents=True)
    own_pool.rename(folder / "texts" / "pool.jsonl")
    content = resumable(folder / "run", test=None, texts={"path": str(folder / "texts" / "pool.jsonl")})
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
    tmp_path: Path, resumable: Callable[..., Path], project: dict[Path, bytes], how: str
):
    folder = tmp_path / "project"

    result = invoke("run", folder if how == "as a run folder" else resumable(folder))
    assert {path: path.read_bytes() for path in project if path.exists()} == project
    if how == "as an output":
        assert result.exit_code == 2
        assert f"output '{folder}': not empty, and not a run folder" in result.stderr


def test_a_file_that_no_longer_fits_on_the_disk_is_not_left_there_in_half(
    tmp_path: Path, resumable: Callable[..., Path], unbroken: Path, monkeypatch: pytest.MonkeyPatch
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
        result = invoke("run", resumable(root))
    assert result.exit_code == 2
    assert f"muki: disk full: {written[-1]} cannot be written; free some space\n" in result.stderr
    assert not written[-1].exists()
    assert list(files(root, "scores")) == ["scores/news/shard-00000.parquet"]
    go_on(result.stderr)
    assert_same_result(root, unbroken)


@pytest.mark.parametrize(
    "said",
    [
        "[enforce fail at inline_container.cc:664] . unexpected pos 704 vs 598",  # torch.save of an optimizer's state
        "basic_ios::clear: iostream error",
        "Error while serializing: I/O error: No space left on device (os error 28)",
    ],
)
def test_what_the_libraries_say_of_a_full_disk_is_one_clear_message(said: str, capsys: pytest.CaptureFixture[str]):
    def command() -> None:
        raise RuntimeError(said)

    with pytest.raises(typer.Exit) as caught:
        guarded(command)()
    assert caught.value.exit_code == 2
    assert f"muki: disk full: the output cannot be written ({said}); free some space\n" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["student", "checkpoint"])
def test_a_model_that_does_not_fit_on_the_disk_is_one_clear_message(
    unbroken_copy: Path, unbroken: Path, tmp_path: Path, what: str
):
    shutil.rmtree(unbroken_copy / "student")
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
            result = invoke("run", unbroken_copy, *options, **FORKED)
            said, code = result.stderr, result.exit_code
        except BaseException as error:
            said, code = f"{type(error).__name__}: {error}", 1
        (tmp_path / "said.txt").write_text(said[-20_000:], encoding="utf-8")
        os._exit(code)

    exit_code = in_child(with_little_room)
    said = (tmp_path / "said.txt").read_text(encoding="utf-8")
    assert exit_code == 2, said
    assert "To continue: muki run" in said
    assert [name for name in litter(unbroken_copy) if name != "checkpoints"] == []
    go_on(said)
    assert (unbroken_copy / "student" / "model.safetensors").exists()


# --- killed ----------------------------------------------------------------------------------------------------------


def test_killed_while_scoring_the_same_command_goes_on(
    tmp_path: Path, resumable: Callable[..., Path], unbroken_with_passes: Path, monkeypatch: pytest.MonkeyPatch
):
    root, unbroken = tmp_path / "run", unbroken_with_passes
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "muki", "run", str(resumable(root, **PASSES))]
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
    tmp_path: Path, resumable: Callable[..., Path], unbroken: Path, what: str
):
    root = tmp_path / "run"
    run = resumable(root)
    die_while_writing(what, run)
    assert [name for name in litter(root) if name.endswith(".tmp")]
    works("run", run)
    assert_same_result(root, unbroken)


def test_checkpoints_of_other_settings_are_not_used(
    tmp_path: Path, resumable: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    stopped(monkeypatch, "muki.student.trainer.IntegrationTrainer._save_checkpoint", "run", resumable(tmp_path / "run"))
    said = works("run", tmp_path / "run", "--set", "training.learning_rate=0.001")
    assert "training: starting anew (settings, texts or supervision changed since the last checkpoint)" in said
    works("run", resumable(tmp_path / "fresh"), "--set", "training.learning_rate=0.001")
    ours, theirs = (load_file(tmp_path / name / "student/model.safetensors") for name in ("run", "fresh"))
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key])
