"""Accumulated batches teach what one batch of all their texts teaches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from muki.config import make_config
from muki.integration.store import Supervision
from muki.labels import LabelSpace
from muki.run_folder import RunFolder
from muki.student.model import load_student
from muki.student.training import train_student
from muki.texts import cut

SPACE = LabelSpace(("sports", "politics", "film"), {"news": (0, 1), "culture": (2,)})
ONE_PLAIN_STEP = {
    "max_steps": 1, "optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "warmup_steps": 0,
    "max_grad_norm": 0, "holdout": 0, "head": "random", "bf16": False,
}  # fmt: skip


@pytest.fixture
def still(tmp_path: Path, encoder: Path) -> Path:
    """The encoder without dropout, so that nothing is random."""
    folder = tmp_path / "still"
    shutil.copytree(encoder, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_accumulated_batches_make_the_step_of_one_large_batch(tmp_path: Path, still: Path, pool_texts: list[str]):
    random = np.random.default_rng(0)
    supervision = Supervision(
        rows=np.arange(16),
        target=random.dirichlet(np.ones(3), size=16).astype(np.float32),
        weight=random.uniform(0.1, 1.9, size=16).astype(np.float32),
        routing=np.full((16, 2), 0.5, dtype=np.float32),
        scores=np.zeros((16, 2), dtype=np.float32),
    )
    texts = cut(pool_texts[:16], tmp_path / "texts")

    def weights_after(name: str, **training: int) -> dict[str, torch.Tensor]:
        content = {
            "teachers": ["news", "culture"], "student": {"model": str(still), "max_length": 32}, "texts": "in memory",
            "training": {**ONE_PLAIN_STEP, **training}, "output": str(tmp_path / name),
        }  # fmt: skip
        run = RunFolder(tmp_path / name)
        train_student(make_config(content, "test"), run, texts, supervision, SPACE)
        assert json.loads(run.training.read_text(encoding="utf-8"))["steps"] == 1
        return load_file(run.student / "model.safetensors")

    at_once = weights_after("at-once", batch_size=16)
    in_two = weights_after("in-two", batch_size=8, gradient_accumulation_steps=2)
    start = load_student(str(still), SPACE.labels, seed=1)[0].state_dict()
    moved = {name: (at_once[name] - weights).abs().max().item() for name, weights in start.items()}
    assert max(moved.values()) > 1e-3
    for name, weights in at_once.items():
        torch.testing.assert_close(
            in_two[name], weights, atol=1e-6, rtol=0, msg=lambda said, name=name: f"{name}: {said}"
        )
