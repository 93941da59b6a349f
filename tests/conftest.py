from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tiny import WORDS, save_encoder, save_teacher

from muki.cli_base import CurrentRun

pytest_plugins = ["commands", "runs", "refused", "interrupting"]  # for their fixtures, and asserts that show values

torch.set_num_threads(1)  # tiny models; several test processes share the cores


@pytest.fixture(autouse=True)
def _command_line_leaves_no_trace() -> Iterator[None]:
    """The command line sets up the process's log and remembers its run; the next test is another process's."""
    logger = logging.getLogger("muki")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)
    CurrentRun.config = CurrentRun.settings = None


@pytest.fixture(scope="session")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two teachers of different architecture, tokenizer and labels."""
    folder = tmp_path_factory.mktemp("teachers")
    return [
        save_teacher(folder / "news", "bert", ["sports", "politics", "business"], seed=1),
        save_teacher(folder / "culture", "roberta", ["technology", "health", "film"], seed=2),
    ]


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What students start from."""
    return save_encoder(tmp_path_factory.mktemp("encoder") / "base")


@pytest.fixture(scope="session")
def pool_texts() -> list[str]:
    """Forty short texts of different lengths."""
    words = WORDS.split()
    return [" ".join(words[i % 50 : i % 50 + 3 + i % 11]) for i in range(40)]


@pytest.fixture
def pool(tmp_path: Path, pool_texts: list[str]) -> Path:
    """The same as a JSON Lines file."""
    return write_jsonl(tmp_path / "pool.jsonl", [{"text": text} for text in pool_texts])


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def settings(tmp_path: Path, teachers: list[Path], encoder: Path, pool: Path) -> Callable[..., dict[str, object]]:
    """The content of a small run file; keyword arguments replace sections."""

    def make(**changes: object) -> dict[str, object]:
        content: dict[str, object] = {
            "teachers": [{"model": str(path), "max_length": 32} for path in teachers],
            "student": {"model": str(encoder), "max_length": 32},
            "texts": {"path": str(pool), "shard_rows": 16},
            "method": {"passes": 4},
            "training": {"epochs": 1, "batch_size": 8},
            "output": str(tmp_path / "run"),
        }
        return {**content, **changes}

    return make
