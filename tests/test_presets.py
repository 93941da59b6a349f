"""Each preset's supervision is the one that its formula gives from the stored scores."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from runs import CULTURE, NEWS, Folder, certainty, hard, in_union, margins, softmax
from tiny import save_teacher

import muki
from muki import pipeline as stages
from muki.config import make_config


@pytest.fixture(scope="session")
def three(
    tmp_path_factory: pytest.TempPathFactory, teachers: list[Path], encoder: Path, pool_texts: list[str]
) -> Folder:
    """Three teachers with three tokenizers; one label is shared as it is, one by an alias."""
    folder = tmp_path_factory.mktemp("three")
    desk = save_teacher(folder / "desk", "gpt2", ["soccer", "film", "weather", "travel"], seed=3)
    result = muki.integrate(
        [*teachers, {"model": str(desk), "labels": {"soccer": "sports"}}],
        str(encoder),
        pool_texts,
        output=folder / "run",
        method="muki",
        max_length=32,
        epochs=1,
        batch_size=8,
    )
    return Folder(result.folder)


def test_three_teachers_with_overlapping_labels_share_columns(three: Folder):
    assert three.space == {
        "labels": [*NEWS, *CULTURE, "weather", "travel"],
        "teachers": {"news": [0, 1, 2], "culture": [3, 4, 5], "desk": [0, 5, 6, 7]},
    }
    assert three.json("student/config.json")["id2label"] == {str(i): n for i, n in enumerate(three.space["labels"])}
    assert [one["logits"].shape for one in three.scores()] == [(40, 3), (40, 3), (40, 4)]
    card = (three.root / "student" / "README.md").read_text(encoding="utf-8")
    assert "| sports | news, desk |" in card
    assert "| film | culture, desk |" in card


def energy(outputs: list[dict[str, np.ndarray]]) -> np.ndarray:
    return np.stack([np.log(np.exp(one["logits"].astype(float)).sum(axis=1)) for one in outputs], axis=1)


def mc(outputs: list[dict[str, np.ndarray]]) -> np.ndarray:
    return np.stack([certainty(one["mc_mean"]) for one in outputs], axis=1)


def plain(outputs: list[dict[str, np.ndarray]]) -> np.ndarray:
    return np.stack([certainty(softmax(one["logits"])) for one in outputs], axis=1)


FORMULAS: dict[str, tuple[Callable[..., np.ndarray], Callable[..., np.ndarray], bool]] = {
    "muki": (mc, lambda s: softmax(s, 0.2), True),
    "muki-soft": (mc, lambda s: softmax(s, 0.2), False),
    "muki-hard": (mc, hard, False),
    "muki-hard-margin": (mc, hard, True),
    "muki-no-mc": (plain, lambda s: softmax(s, 0.2), True),
    "muki-soft-no-mc": (plain, lambda s: softmax(s, 0.2), False),
    "muki-hard-no-mc": (plain, hard, False),
    "muki-hard-margin-no-mc": (plain, hard, True),
    "vanilla-kd": (energy, softmax, False),
}


@pytest.mark.parametrize("preset", FORMULAS)
def test_each_preset_makes_the_supervision_its_formula_gives_from_the_stored_scores(
    tmp_path: Path, three: Folder, preset: str
):
    shutil.copytree(three.root, tmp_path / "run")
    content = yaml.safe_load((three.root / "config.yaml").read_text(encoding="utf-8"))
    stages.supervise(make_config({**content, "method": preset, "output": str(tmp_path / "run")}, "test"))
    score, weights, reweight = FORMULAS[preset]
    outputs = three.scores()
    scores = score(outputs)
    found = Folder(tmp_path / "run").table("supervision")
    np.testing.assert_allclose(found["scores"], scores, atol=1e-5)
    np.testing.assert_allclose(found["routing"], weights(scores), atol=1e-5)
    target = in_union([softmax(one["logits"]) for one in outputs], weights(scores), three.space)
    np.testing.assert_allclose(found["target"], target, atol=1e-5)
    np.testing.assert_allclose(found["target"].sum(axis=1), 1, atol=1e-6)
    expected = margins(scores, outputs, three.space) if reweight else np.ones(40)
    np.testing.assert_allclose(found["weight"], expected, atol=1e-4)
    assert found["weight"].mean() == pytest.approx(1, abs=1e-6)
    assert found["row"].tolist() == list(range(40))


def test_vanilla_kd_is_the_softmax_of_concatenated_logits_where_shared_classes_add_up(tmp_path: Path, three: Folder):
    shutil.copytree(three.root, tmp_path / "run")
    content = yaml.safe_load((three.root / "config.yaml").read_text(encoding="utf-8"))
    stages.supervise(make_config({**content, "method": "vanilla-kd", "output": str(tmp_path / "run")}, "test"))
    p = softmax(np.concatenate([one["logits"] for one in three.scores()], axis=1))
    expected = p[:, :6].copy()
    expected[:, 0] += p[:, 6]  # desk's soccer
    expected[:, 5] += p[:, 7]  # desk's film
    expected = np.concatenate([expected, p[:, 8:]], axis=1)
    np.testing.assert_allclose(Folder(tmp_path / "run").table("supervision")["target"], expected, atol=1e-5)
