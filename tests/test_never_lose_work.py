"""Scoring that is killed, damaged, shared or repeated ends in the same files."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from muki import compute
from muki.cli import app
from muki.config import RunConfig, make_config
from muki.engines.local import score_in_processes
from muki.engines.work import Part
from muki.errors import ConfigError, TeacherError
from muki.pipeline import score
from muki.teachers.store import read_outputs

Settings = Callable[..., dict[str, object]]

fork = multiprocessing.get_context("fork")  # a child starts at once, with torch already loaded


@pytest.fixture
def many_shards(settings: Settings, tmp_path: Path) -> Callable[[str], RunConfig]:
    """The same run for another output folder: two teachers, ten shards each."""

    def make(name: str, **scoring: object) -> RunConfig:
        content = settings(texts={"path": str(tmp_path / "pool.jsonl"), "shard_rows": 4}, method={"passes": 6})
        return make_config({**content, "scoring": scoring, "output": str(tmp_path / name)}, "test")

    return make


def score_quietly(config: RunConfig, part: Part | None = None) -> None:
    """What a child does: few threads, no output."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    score(config, part=part)


def in_child(config: RunConfig, part: Part | None = None) -> multiprocessing.process.BaseProcess:
    child = fork.Process(target=score_quietly, args=(config, part))
    child.start()
    return child


def files(config: RunConfig) -> dict[str, bytes]:
    root = Path(config.output) / "scores"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.parquet"))}


def test_killed_twenty_times_at_random_moments_the_files_are_those_of_an_unbroken_run(
    many_shards: Callable[..., RunConfig],
):
    unbroken, broken = many_shards("unbroken"), many_shards("broken")
    child = in_child(unbroken)
    start = time.monotonic()
    child.join()
    whole = time.monotonic() - start
    assert child.exitcode == 0
    expected = files(unbroken)
    assert len(expected) == 20

    rng = random.Random(0)
    kept = 0
    for _ in range(20):
        child = in_child(broken)
        child.join(timeout=rng.uniform(0.0, 0.9 * whole))
        child.kill()
        child.join()
        found = files(broken)
        assert {name: expected[name] for name in found} == found  # never half a file, never another one
        assert len(found) >= kept  # never lost again
        kept = len(found)
    child = in_child(broken)
    child.join()
    assert child.exitcode == 0
    assert files(broken) == expected


def test_a_truncated_file_is_noticed_and_scored_again(many_shards: Callable[..., RunConfig]):
    config = many_shards("run")
    score(config)
    expected = files(config)
    paths = sorted((Path(config.output) / "scores").rglob("*.parquet"))
    paths[0].write_bytes(paths[0].read_bytes()[:-100])
    paths[11].write_bytes(b"")
    untouched = {path: path.stat().st_mtime_ns for path in paths if path not in (paths[0], paths[11])}
    score(config)
    assert files(config) == expected
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched


def test_no_flipped_bit_changes_what_is_read(many_shards: Callable[..., RunConfig]):
    """Wherever a byte is altered, the file is refused, or (in a header's statistics) reads the same values."""
    config = many_shards("run")
    score(config)
    path = min((Path(config.output) / "scores").rglob("*.parquet"))
    content = path.read_bytes()
    outputs, source = read_outputs(path)
    refused = 0
    for place in range(0, len(content), 7):
        altered = bytearray(content)
        altered[place] ^= 0x10
        path.write_bytes(bytes(altered))
        found = read_outputs(path)
        if found is None or found[1] != source:
            refused += 1
            continue
        for name in ("rows", "logits", "mc_mean", "passes", "pass_entropy", "pass_spread"):
            assert np.array_equal(getattr(found[0], name), getattr(outputs, name)), (place, name)
    assert refused > len(content) // 7 // 4


def test_two_processes_on_one_folder_do_not_harm_each_other(many_shards: Callable[..., RunConfig]):
    alone, shared = many_shards("alone"), many_shards("shared")
    score(alone)
    children = [in_child(shared) for _ in range(2)]
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    assert files(shared) == files(alone)
    assert not list(Path(shared.output).rglob("*.tmp"))


def test_parts_of_a_job_array_together_make_the_whole(many_shards: Callable[..., RunConfig]):
    alone, parts = many_shards("alone"), many_shards("parts")
    score(alone)
    for number in (3, 1, 2):
        before = set(files(parts)) if Path(parts.output).exists() else set()
        score(parts, part=Part(number, 3))
        assert 6 <= len(set(files(parts)) - before) <= 8
    assert files(parts) == files(alone)


def test_the_files_do_not_depend_on_batches(many_shards: Callable[..., RunConfig]):
    small, large = many_shards("small", batch_tokens=32), many_shards("large", batch_tokens=4096)
    score(small)
    score(large)
    for name in files(small):
        one, _ = read_outputs(Path(small.output) / "scores" / name)
        other, _ = read_outputs(Path(large.output) / "scores" / name)
        assert one.logits == pytest.approx(other.logits, abs=1e-5)
        # The dropout passes may be bfloat16, whose rounding (2^-8 of a logit) depends on the shape of a batch.
        assert one.mc_mean == pytest.approx(other.mc_mean, abs=5e-3)


@pytest.mark.parametrize("how", ["processes", "torchrun", "environment"])
def test_processes_share_the_work_by_files_alone(how: str, many_shards: Callable[..., RunConfig], tmp_path: Path):
    alone, shared = many_shards("alone"), many_shards("shared")
    score(alone)
    file = tmp_path / "shared.yaml"
    shared.save(file)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    muki = [sys.executable, "-m", "muki", "score", str(file)]
    if how == "processes":
        commands = [[*muki, "--processes", "2"]]
    elif how == "torchrun":
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        commands = [[*torchrun, "-m", "muki", "score", str(file)]]
    else:
        commands = [[*muki, "--shard-of", "1/2"], [*muki, "--shard-of", "2/2"]]
    running = [subprocess.Popen(c, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for c in commands]
    for process in running:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors.decode()
    assert files(shared) == files(alone)


def test_a_task_told_that_all_is_prepared_looks_at_neither_texts_nor_teachers_again(
    many_shards: Callable[..., RunConfig], tmp_path: Path
):
    alone, parts = many_shards("alone"), many_shards("parts")
    score(alone)
    file = tmp_path / "parts.yaml"
    parts.save(file)
    runner = CliRunner()
    early = runner.invoke(app, ["-q", "score", str(file), "--shard-of", "2/2", "--prepared"])
    assert (early.exit_code, early.stderr) == (
        2, f"muki: run '{parts.output}': nothing scored yet; run `muki score` with its run file first\n"
    )  # fmt: skip
    assert runner.invoke(app, ["-q", "score", str(file), "--shard-of", "1/2"]).exit_code == 0
    (tmp_path / "pool.jsonl").unlink()  # whoever looks at the texts again stops here
    assert runner.invoke(app, ["-q", "score", parts.output, "--shard-of", "2/2", "--prepared"]).exit_code == 0
    assert files(parts) == files(alone)


def test_a_failing_process_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nfor last; do :; done\ntest "$last" != 2/2\n', encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(TeacherError) as caught:
        score_in_processes(tmp_path / "run", 2)
    assert str(caught.value) == (
        "scoring: process 2 of 2 failed, see its message above; finished shards stay, run the same command again"
    )
    score_in_processes(tmp_path / "run", 3)  # 1/3, 2/3 and 3/3: none fails


@pytest.mark.parametrize(
    ("visible", "count", "given"),
    [(None, 2, ["0", "1", "0"]), ("3,5", 2, ["3", "5", "3"]), ("3", 1, ["3", "3", "3"]), (None, 0, ["", "", ""])],
)
def test_processes_share_the_gpus_out(
    visible: str | None, count: int, given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nfor last; do :; done\nprintf "$CUDA_VISIBLE_DEVICES" > {tmp_path}/${{last%/3}}\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    score_in_processes(tmp_path / "run", 3)
    assert [(tmp_path / str(number)).read_text() for number in (1, 2, 3)] == given


def test_each_process_of_a_launcher_has_an_accelerator_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 2)
    assert compute.device() == "cuda"
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert compute.device() == "cuda:1"


def test_what_processes_had_finished_when_all_were_killed_is_not_scored_again(
    many_shards: Callable[..., RunConfig], tmp_path: Path
):
    config = many_shards("run", processes=2)
    file = tmp_path / "run.yaml"
    config.save(file)
    command = [sys.executable, "-m", "muki", "score", str(file)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, env=os.environ)
    scores = Path(config.output) / "scores"
    deadline = time.monotonic() + 600  # four busy processes on two cores took more than 120 s
    while not list(scores.rglob("*.parquet")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    finished = {path: path.stat().st_mtime_ns for path in scores.rglob("*.parquet")}
    assert finished
    score(config.model_copy(update={"scoring": config.scoring.model_copy(update={"processes": 1})}))
    assert len(files(config)) == 20
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "a/b", "-1/4"])
def test_a_part_that_makes_no_sense_is_refused(text: str):
    with pytest.raises(ConfigError) as caught:
        Part.parse(text)
    assert str(caught.value) == (f"--shard-of {text}: expected a part and a count such as 3/16, parts counted from 1")


def test_every_pair_has_exactly_one_owner():
    for count in (1, 2, 3, 16):
        owners = [[n for n in range(1, count + 1) if Part(n, count).owns(pair)] for pair in range(50)]
        assert all(len(owner) == 1 for owner in owners)
