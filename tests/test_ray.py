"""Ray as the engine: the same files as the local one, and a lost worker costs one shard."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_never_lose_work import files

from muki.config import RunConfig, make_config
from muki.pipeline import score

pytest.importorskip("ray", reason="the extra `ray` is not installed")

Settings = Callable[..., dict[str, object]]
SCRIPT = """
import sys, ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
from muki.cli import app
app(["score", sys.argv[1], "--engine", "ray"])
"""


@pytest.fixture
def run(settings: Settings, tmp_path: Path) -> Callable[[str], RunConfig]:
    def make(name: str) -> RunConfig:
        content = settings(texts={"path": str(tmp_path / "pool.jsonl"), "shard_rows": 4}, method={"passes": 6})
        return make_config({**content, "output": str(tmp_path / name)}, "test")

    return make


def start(config: RunConfig, tmp_path: Path) -> subprocess.Popen[bytes]:
    file = tmp_path / "ray.yaml"
    config.save(file)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "RAY_DEDUP_LOGS": "0"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(file)], env=environment, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_ray_writes_the_same_files(run: Callable[[str], RunConfig], tmp_path: Path):
    local, cluster = run("local"), run("cluster")
    score(local)
    process = start(cluster, tmp_path)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()[-2000:]
    assert files(cluster) == files(local)


@pytest.mark.slow
def test_a_killed_worker_costs_one_shard(run: Callable[[str], RunConfig], tmp_path: Path):
    local, cluster = run("local"), run("cluster")
    score(local)
    process = start(cluster, tmp_path)
    scores = Path(cluster.output) / "scores"
    deadline = time.monotonic() + 120
    while not list(scores.rglob("*.parquet")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed = subprocess.run(["pkill", "-KILL", "-f", "ray::.*_Scorer|ray::MapWorker"], check=False).returncode
    _, errors = process.communicate(timeout=240)
    assert killed == 0
    assert process.returncode == 0, errors.decode()[-2000:]
    assert files(cluster) == files(local)
