"""To stop a run and let it go on, and to see what was done again and that the result is the same."""

from __future__ import annotations

import json
import pkgutil
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import pytest
import torch
import yaml
from click.testing import Result
from commands import invoke
from conftest import write_jsonl
from safetensors.torch import load_file

LOCKS = {".prepare.lock", ".supervise.lock", ".train.lock"}
NEWS, CULTURE = {"scores/news", "test/scores/news"}, {"scores/culture", "test/scores/culture"}
ALL_SCORES, RESULT = NEWS | CULTURE, {"supervision", "student"}
STAGES = ("texts", "test/texts", *sorted(ALL_SCORES), *sorted(RESULT))


# --- to run, and to look at what lies there --------------------------------------------------------------------------


def works(*args: object) -> str:
    """Run a command that must succeed; what it logged."""
    return commands.works(*args).stderr


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


def stopped(monkeypatch: pytest.MonkeyPatch, target: str, *command: object) -> Result:
    """A command that Ctrl-C stops after the first call of a function."""
    with monkeypatch.context() as interrupted:
        stop_after_first(interrupted, target, KeyboardInterrupt())
        return invoke(*command)


# --- a run that nothing has disturbed --------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def resumable(
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


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory, resumable: Callable[..., Path]) -> Path:
    """A run that nothing has disturbed. Never changed by a test."""
    root = tmp_path_factory.mktemp("unbroken") / "run"
    works("run", resumable(root))
    return root


PASSES: dict[str, Any] = {"method": {"passes": 3}}


@pytest.fixture(scope="session")
def unbroken_with_passes(tmp_path_factory: pytest.TempPathFactory, resumable: Callable[..., Path]) -> Path:
    """The same with dropout passes."""
    root = tmp_path_factory.mktemp("passes") / "run"
    works("run", resumable(root, **PASSES))
    return root


def copied(finished: Path, root: Path) -> Path:
    """A copy of a run as if it had been made there, with the times of its files."""
    shutil.copytree(finished, root)
    content = (root / "config.yaml").read_text(encoding="utf-8").replace(f"{finished}\n", f"{root}\n")
    (root / "config.yaml").write_text(content, encoding="utf-8")
    return root


@pytest.fixture
def unbroken_copy(tmp_path: Path, unbroken: Path) -> Path:
    return copied(unbroken, tmp_path / "run")


@pytest.fixture
def unbroken_copy_with_passes(tmp_path: Path, unbroken_with_passes: Path) -> Path:
    return copied(unbroken_with_passes, tmp_path / "run")


@pytest.fixture
def own_pool(tmp_path: Path, pool_texts: list[str]) -> Path:
    return write_jsonl(tmp_path / "own.jsonl", [{"text": text} for text in pool_texts[:30]])
