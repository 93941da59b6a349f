"""Ray as the engine, on a cluster of two simulated machines: the local engine's files, and a lost worker's shard."""

from __future__ import annotations

import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file, save_file
from test_never_lose_work import files

from muki.config import RunConfig, make_config
from muki.errors import ConfigError, TeacherError
from muki.pipeline import score
from muki.preparation import Sources, prepare
from muki.run_folder import RunFolder

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.xdist_group("ray"),  # one cluster for all tests
]
Settings = Callable[..., dict[str, Any]]

_SMALL = {"num_cpus": 1, "object_store_memory": 80_000_000}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two nodes with one processor each: each has a raylet, an object store and workers of its own."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        cluster = Cluster(initialize_head=True, head_node_args={**_SMALL, "include_dashboard": False})
        cluster.add_node(**_SMALL)
        yield cluster.address
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def make(settings: Settings, tmp_path: Path) -> Callable[[str], RunConfig]:
    def config(name: str) -> RunConfig:
        content = settings(texts={"path": str(tmp_path / "pool.jsonl"), "shard_rows": 4}, method={"passes": 6})
        return make_config({**content, "output": str(tmp_path / name)}, "test")

    return config


def test_workers_on_two_machines_write_the_files_of_the_local_engine(
    address: str, make: Callable[[str], RunConfig], caplog: Any, monkeypatch: pytest.MonkeyPatch
):
    from ray.data import DataContext

    # Tiny shards would all be done before a second worker has loaded torch.
    monkeypatch.setattr(DataContext.get_current(), "wait_for_min_actors_s", 600)
    # Ray gives up where nothing is finished for half an hour, but a shard may take longer, and so may a full cluster.
    monkeypatch.setattr(DataContext.get_current(), "execution_no_progress_timeout_s", 0.01)
    local, cluster = make("local"), make("cluster")
    score(local)
    caplog.set_level(logging.INFO, logger="muki")
    monkeypatch.setattr(logging.getLogger("muki"), "propagate", True)  # another test's command line may have stopped it
    score(cluster, engine="ray", address=address)
    assert files(cluster) == files(local)
    assert [message for message in caplog.messages if "machines" in message] == [
        f"scores of {name}: 10 shards by 2 workers on 2 machines" for name in ("news", "culture")
    ]


def test_a_killed_worker_costs_the_shard_it_was_working_on(address: str, make: Callable[[str], RunConfig]):
    local, cluster = make("local"), make("cluster")
    score(local)
    scores = Path(cluster.output) / "scores"
    killed: dict[int, dict[Path, int]] = {}

    def kill_a_worker() -> None:
        while not list(scores.rglob("*.parquet")):
            time.sleep(0.005)
        worker = max(workers(), key=lambda process: process.cpu_times().user)  # the one that has begun
        worker.kill()
        killed[worker.pid] = {path: path.stat().st_mtime_ns for path in scores.rglob("*.parquet")}

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    score(cluster, engine="ray", address=address)
    killer.join()
    (done,) = killed.values()
    assert 1 <= len(done) < 20
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert files(cluster) == files(local)


def workers() -> list[psutil.Process]:
    """The processes of this cluster that hold a teacher."""
    below = psutil.Process().children(recursive=True)
    return [process for process in below if process.is_running() and "ray::MapWorker" in "".join(process.cmdline()[:1])]


def test_what_goes_wrong_on_a_worker_is_said_as_it_would_be_here(
    address: str, make: Callable[[str], RunConfig], teachers: list[Path], tmp_path: Path
):
    moved = tmp_path / "news"
    shutil.copytree(teachers[0], moved)
    config = make("cluster")
    config.teachers[0].model = str(moved)
    prepare(config, RunFolder(Path(config.output)), Sources())
    weights = load_file(moved / "model.safetensors")
    save_file(
        {**weights, "classifier.bias": weights["classifier.bias"] + 1}, moved / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(TeacherError) as caught:
        score(config, prepared=True, engine="ray", address=address)
    assert str(caught.value) == (
        f"teacher 'news': has changed since this run looked at it; run `muki score` again (on {socket.gethostname()})"
    )


def test_a_teacher_that_only_this_machine_has_is_named_with_the_machine_that_lacks_it(
    address: str, make: Callable[[str], RunConfig], teachers: list[Path], tmp_path: Path
):
    gone = tmp_path / "news"
    shutil.copytree(teachers[0], gone)
    config = make("cluster")
    config.teachers[0].model = str(gone)
    prepare(config, RunFolder(Path(config.output)), Sources())
    shutil.rmtree(gone)
    with pytest.raises(TeacherError) as caught:
        score(config, prepared=True, engine="ray", address=address)
    assert str(caught.value) == (
        f"teacher 'news': no such folder: '{gone}'; give a save_pretrained folder or a Hub id "
        f"(on {socket.gethostname()})"
    )


def test_an_address_without_a_cluster_is_refused(make: Callable[[str], RunConfig], monkeypatch: pytest.MonkeyPatch):
    """Ray's own words, behind ours."""

    def refuse(**_: Any) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ConfigError) as caught:
        score(make("cluster"), engine="ray", address="10.0.0.1:6379")
    assert str(caught.value) == "--address 10.0.0.1:6379: no Ray cluster can be reached there (nobody answers)"
