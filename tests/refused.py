"""To run commands on bad input, and to see that each is refused with its message and costs no finished work."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import pytest
from click.testing import Result
from commands import invoke
from conftest import write_jsonl
from runs import write_yaml

from muki.methods import PRESETS

QUICK = ["method=muki", "method.passes=2", "training.epochs=1", "training.batch_size=8"]
SUFFIXES = "jsonl, csv, tsv, txt (also .gz of these) or parquet"
METHODS = ", ".join(PRESETS)
REMOTE = (
    "its checkpoint wants to run code of its own (config.json has auto_map); read that code, then allow it with "
    "--trust-remote-code, or trust_remote_code: true in the run file"
)
OK = '{"text": "a late goal"}\n'


# --- the command line, and what it says ------------------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a folder of its own, and a look-up on the Hub fails at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", False)  # the command line sees to it at import


def muki(*args: object) -> Result:
    """Run a command that reports no progress."""
    return invoke("-q", *args)


def works(*args: object) -> str:
    """Run a command that must succeed; what it warned about."""
    return commands.works("-q", *args).stderr


def assert_refused(message: str, *args: object, continues: Path | None = None) -> None:
    """Run a command that must stop with exactly this message; `continues`: of a run that may have begun."""
    result = muki(*args)
    more = continues is not None and (continues / "config.yaml").exists() and (continues / "texts").exists()
    earlier = " with the settings of before" if " with the settings of before: " in result.stderr else ""
    expected = f"muki: {message}\n"
    expected += f"What is done stays. To continue{earlier}: muki run {continues}/config.yaml\n" if more else ""
    assert result.stderr == expected
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.fixture
def integrate(tmp_path: Path, teachers: list[Path], encoder: Path, pool: Path) -> Callable[..., list[object]]:
    """Arguments of a quick `muki integrate`; keyword arguments replace its inputs."""

    def arguments(*more: object, **changes: Any) -> list[object]:
        inputs = {"texts": pool, "student": encoder, "output": tmp_path / "run", "max-length": 32, **changes}
        named = [part for teacher in inputs.pop("teachers", teachers) for part in ("-t", teacher)]
        options = [part for key, value in inputs.items() for part in (f"--{key}", value)]
        return ["integrate", *named, *options, *(part for item in QUICK for part in ("--set", item)), *more]

    return arguments


def file(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """All files below a folder with time and content."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def work(run: Path, *parts: str) -> dict[str, tuple[int, bytes]]:
    """What a run has worked for, without what every call writes anew."""
    wanted = parts or ("texts/", "scores/", "supervision/", "student/", "training.json")
    return {p: c for p, c in snapshot(run).items() if p.startswith(wanted) and p != "student/README.md"}


def reason(call: Callable[[], object]) -> str:
    """What a library says about a broken file."""
    with pytest.raises(Exception) as caught:
        call()
    return str(caught.value).strip()


@pytest.fixture(scope="session")
def finished_small(
    tmp_path_factory: pytest.TempPathFactory, teachers: list[Path], encoder: Path, pool_texts: list[str]
) -> Path:
    """A smaller finished run, without test file, and its run file beside it. Never changed by a test."""
    folder = tmp_path_factory.mktemp("finished")
    pool = write_jsonl(folder / "pool.jsonl", [{"text": text} for text in pool_texts])
    content = {
        "teachers": [{"model": str(path), "max_length": 32} for path in teachers],
        "student": {"model": str(encoder), "max_length": 32}, "texts": {"path": str(pool), "shard_rows": 16},
        "method": {"passes": 2}, "training": {"epochs": 1, "batch_size": 8}, "output": str(folder / "run"),
    }  # fmt: skip
    works("run", write_yaml(folder / "run.yaml", content))
    return folder


@pytest.fixture
def continued(tmp_path: Path, finished_small: Path) -> Callable[..., list[object]]:
    """Arguments that continue a copy of the finished run, in `tmp_path / "run"`."""
    shutil.copytree(finished_small / "run", tmp_path / "run")
    content = (
        (finished_small / "run.yaml")
        .read_text(encoding="utf-8")
        .replace(str(finished_small / "run"), str(tmp_path / "run"))
    )
    config = file(tmp_path / "run" / "config.yaml", content)
    copy = shutil.copy(config, tmp_path / "run.yaml")
    return lambda *settings: ["run", copy, *(part for item in settings for part in ("--set", item))]


@pytest.fixture
def labelled_pool(tmp_path: Path, pool_texts: list[str]) -> Path:
    """The pool with labels a and b."""
    rows: list[dict[str, object]] = [{"text": t, "label": "ab"[i % 2]} for i, t in enumerate(pool_texts)]
    return write_jsonl(tmp_path / "labelled.jsonl", rows)
