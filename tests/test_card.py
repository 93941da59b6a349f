"""The model card: labels, bases and results, and no path of this machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from runs import CULTURE, NEWS, Folder

from muki.config import make_config
from muki.evaluation.card import _card_data


def test_the_model_card_has_labels_bases_and_results_and_no_path_of_this_machine(
    finished: Folder, run_file: Path, teachers: list[Path]
):
    path = finished.root / "student" / "README.md"
    content = path.read_text(encoding="utf-8")
    card = ModelCard.load(path)
    assert card.data.base_model is None  # local folders are nothing that a Hub page can link to
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.eval_results[0].metric_value == pytest.approx(finished.metrics["student"]["accuracy"], abs=1e-4)
    shares = finished.metrics["pool"]["label_share"]
    for label in (*NEWS, *CULTURE):
        teacher = "news" if label in NEWS else "culture"
        assert f"| {label} | {teacher} | {100 * shares[label]:.1f} % |" in content
    for folder in (finished.root, run_file.parent, *teachers, Path.home(), Path.cwd()):
        assert str(folder) not in content
    assert not re.search(r"(?<![\w./:])/(tmp|home|root|work|var|usr|private|Users)\b", content)


def test_the_card_links_to_what_is_on_the_hub_and_to_nothing_else(finished: Folder, teachers: list[Path]):
    content = yaml.safe_load((finished.root / "config.yaml").read_text(encoding="utf-8"))
    content["teachers"][0]["model"] = "org/news"
    content["student"]["model"] = "distilbert-base-uncased"
    card = _card_data("name", make_config(content, "test"), {}, {})
    assert card.base_model == ["distilbert-base-uncased", "org/news"]


def test_no_file_of_the_student_names_a_path_of_this_machine(finished: Folder, run_file: Path, teachers: list[Path]):
    for path in (finished.root / "student").iterdir():
        for folder in (run_file.parent, teachers[0].parent):
            assert str(folder).encode() not in path.read_bytes(), path
