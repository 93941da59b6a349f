"""Baselines and ceilings: each does what its paper says, for teachers of different bases, through the same stages."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_jsonl
from scipy import stats
from scipy.special import log_softmax, softmax
from tiny import model_and_tokenizer, save_teacher
from transformers import AutoModelForSequenceClassification, pipeline

from muki import pipeline as stages
from muki.config import make_config
from muki.errors import ConfigError, TeacherError
from muki.integration.pool import load_outputs
from muki.integration.store import load_supervision
from muki.labels import LabelSpace, union
from muki.methods import PRESETS, Method, preset_name
from muki.overrides import apply_overrides
from muki.run_folder import RunFolder
from muki.student import trainer, training
from muki.student.losses import decoupled_loss, integration_loss, maximum_mean_discrepancy, within_group_loss
from muki.student.merging import merge_fingerprint
from muki.student.objectives import CommonFeatures, LayerAmalgamation

LABELS = ["sports", "politics", "business", "technology", "health", "film"]


def run(settings: Callable[..., dict[str, object]], method: str, **changes: Any) -> stages.Result:
    return stages.run_all(make_config(settings(method=method, **changes), "test"))


def gold_pool(path: Path, pool_texts: list[str]) -> dict[str, object]:
    """The pool with a label for each text; every eighth text belongs to nobody."""
    labels = [*LABELS, "gardening", "sports"]
    rows = [{"text": text, "label": labels[i % 8]} for i, text in enumerate(pool_texts)]
    return {"path": str(write_jsonl(path / "gold.jsonl", rows)), "label": "label", "shard_rows": 16}


def test_within_group_loss_is_the_sum_of_divergences_inside_each_label_set():
    rng = np.random.default_rng(0)
    logits, z1, z2 = rng.normal(size=(4, 5)), rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    columns = [(0, 1, 2), (2, 3, 4)]  # class 2 is known to both
    teachers = np.hstack([softmax(z1, -1), softmax(z2, -1)])
    expected = np.mean([
        sum(
            (softmax(z, -1) * (log_softmax(z, -1) - log_softmax(logits[:, list(own)], -1))).sum(-1)
            for z, own in zip((z1, z2), columns, strict=True)
        )
    ])  # fmt: skip
    found = within_group_loss(torch.tensor(logits), torch.tensor(teachers), columns)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_discrepancy_is_zero_for_equal_batches_and_grows_with_the_distance():
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    y = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    assert maximum_mean_discrepancy(x, x).item() == pytest.approx(0.0, abs=1e-6)
    assert maximum_mean_discrepancy(x, y) < maximum_mean_discrepancy(x, y + 1) < maximum_mean_discrepancy(x, y + 3)


def test_groups_are_the_labels_that_the_same_teachers_know():
    assert union({"a": ["x", "y"], "b": ["y", "z"], "c": ["w"]}).groups == [[0], [1], [2], [3]]
    assert union({"a": ["x", "y"], "b": ["v", "w"]}).groups == [[0, 1], [2, 3]]


def test_decoupled_loss_weighs_the_routing_term_alone():
    q = torch.tensor([[0.4, 0.2, 0.1, 0.3]])
    target = torch.tensor([[0.5, 0.0, 0.25, 0.25]])
    groups = [[0, 1], [2, 3]]
    routing = 0.5 * math.log(0.5 / 0.6) + 0.5 * math.log(0.5 / 0.4)
    within = 0.5 * math.log(1 / (2 / 3)) + 0.5 * (0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75))
    found = decoupled_loss(q.log(), target, torch.tensor([3.0]), groups)
    assert found.item() == pytest.approx(3 * routing + within, abs=1e-6)
    plain = integration_loss(q.log(), target, torch.tensor([1.0]))
    assert decoupled_loss(q.log(), target, torch.tensor([1.0]), groups).item() == pytest.approx(plain.item(), abs=1e-6)


@pytest.mark.parametrize(("method", "kind"), [("dfa", LayerAmalgamation), ("cfl", CommonFeatures)])
def test_every_block_weight_is_trained_and_none_is_saved(
    settings: Any, monkeypatch: pytest.MonkeyPatch, method: str, kind: type
):
    made = []
    before = []

    def spy(*args: Any) -> Any:
        made.append(make_objective(*args))
        before.append({name: value.detach().clone() for name, value in made[0].named_parameters()})
        return made[0]

    make_objective = training.make_objective
    monkeypatch.setattr(training, "make_objective", spy)
    result = run(settings, method, training={"epochs": 2, "batch_size": 8, "holdout": 0.2, "learning_rate": 1e-3})
    assert isinstance(made[0], kind)
    after = dict(made[0].named_parameters())
    assert len(after) >= 10
    assert [name for name, value in after.items() if torch.equal(value, before[0][name])] == []
    student = AutoModelForSequenceClassification.from_pretrained(result.student)
    assert not [name for name in student.state_dict() if "blocks" in name]


def test_dfa_continues_from_a_checkpoint_with_its_blocks(settings: Any, monkeypatch: pytest.MonkeyPatch):
    config = make_config(
        settings(method="dfa", training={"epochs": 3, "batch_size": 8, "learning_rate": 1e-3, "bf16": False}), "test"
    )
    stages.score(config)
    stages.supervise(config)
    stages.train(config)
    whole = AutoModelForSequenceClassification.from_pretrained(Path(config.output) / "student").state_dict()

    save = trainer.IntegrationTrainer._save_checkpoint

    def stop_after_the_first(self: Any, *args: Any, **kwargs: Any) -> None:
        save(self, *args, **kwargs)
        raise KeyboardInterrupt

    RunFolder(Path(config.output)).training.unlink()
    monkeypatch.setattr(trainer.IntegrationTrainer, "_save_checkpoint", stop_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        stages.train(config)
    monkeypatch.undo()
    stages.train(config)
    again = AutoModelForSequenceClassification.from_pretrained(Path(config.output) / "student").state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(again[name], value, atol=1e-5, rtol=1e-4)


def test_uhc_reads_each_teachers_own_distribution(settings: Any):
    config = make_config(settings(method="uhc"), "test")
    result = stages.run_all(config)
    supervision = load_supervision(result.folder / "supervision")
    news, culture = load_outputs(config, RunFolder(result.folder), "pool")
    assert supervision.teachers is not None
    assert supervision.teachers.shape == (40, 6)
    np.testing.assert_allclose(supervision.teachers[:, :3], softmax(news.logits, axis=-1), atol=1e-6)
    np.testing.assert_allclose(supervision.teachers[:, 3:], softmax(culture.logits, axis=-1), atol=1e-6)
    assert len(pipeline("text-classification", model=str(result.student))("a late goal", top_k=None)) == 6


def test_weight_merge_averages_bases_and_pads_heads(settings: Any, tmp_path: Path):
    paths = [save_teacher(tmp_path / "a", "bert", ["sports", "politics"], seed=1), tmp_path / "b"]
    other = AutoModelForSequenceClassification.from_pretrained(paths[0])
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.002 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    other.config.id2label, other.config.label2id = {0: "politics", 1: "film"}, {"politics": 0, "film": 1}
    shutil.copytree(paths[0], paths[1])
    other.save_pretrained(paths[1])
    result = run(settings, "weight-merge", teachers=[{"model": str(path), "max_length": 32} for path in paths])
    a, b, merged = (
        AutoModelForSequenceClassification.from_pretrained(path).state_dict() for path in (*paths, result.student)
    )
    word = "bert.embeddings.word_embeddings.weight"
    torch.testing.assert_close(merged[word], (a[word] + b[word]) / 2)
    expected = torch.stack([a["classifier.weight"][0] / 2,
                            (a["classifier.weight"][1] + b["classifier.weight"][0]) / 2,
                            b["classifier.weight"][1] / 2])  # fmt: skip
    torch.testing.assert_close(merged["classifier.weight"], expected)
    assert pipeline("text-classification", model=str(result.student))("a late goal")[0]["label"] in (
        "sports", "politics", "film",
    )  # fmt: skip


def test_a_merged_student_reads_texts_with_the_prefix_of_its_teachers(settings: Any, tmp_path: Path):
    content = settings(method="weight-merge")
    for teacher in content["teachers"]:
        teacher["prefix"] = "query: "
    assert make_config(content, "test").student.prefix == "query: "
    content["teachers"][0]["prefix"] = ""
    assert make_config(content, "test").student.prefix == ""


def test_weight_merge_takes_adapters_of_one_base(settings: Any, tmp_path: Path, encoder: Path):
    peft = pytest.importorskip("peft")
    paths, expected = [], []
    for seed, labels in enumerate((["sports", "politics"], ["film", "rain"])):
        torch.manual_seed(seed)
        base = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2)
        lora = peft.LoraConfig(task_type="SEQ_CLS", r=1 + seed, target_modules=["query"], init_lora_weights=False)
        model = peft.get_peft_model(base, lora)
        paths.append(tmp_path / labels[0])
        model.save_pretrained(paths[-1])
        names = {"id2label": dict(enumerate(labels))}
        (paths[-1] / "config.json").write_text(json.dumps(names), encoding="utf-8")
        expected.append(model.merge_and_unload().state_dict())
    result = run(settings, "weight-merge", teachers=[{"model": str(path), "max_length": 32} for path in paths])
    merged = AutoModelForSequenceClassification.from_pretrained(result.student).state_dict()
    query = "bert.encoder.layer.0.attention.self.query.weight"
    torch.testing.assert_close(merged[query], (expected[0][query] + expected[1][query]) / 2)


def test_a_merged_student_is_of_the_columns_too():
    spaces = [LabelSpace(("a", "b", "c"), {"x": (0, 1, 2), "y": columns}) for columns in ((1, 2), (2, 1))]
    assert len({merge_fingerprint(["1", "2"], space, 32) for space in spaces}) == 2
    assert len({merge_fingerprint(["1", "2"], spaces[0], length) for length in (32, 64)}) == 2


def test_weight_merge_refuses_other_bases(settings: Any):
    with pytest.raises(TeacherError) as error:
        run(settings, "weight-merge")
    assert str(error.value) == (
        "weight-merge: teachers 'news' and 'culture' have different bases (BertForSequenceClassification and "
        "RobertaForSequenceClassification); only copies of one base can be averaged: choose a method that trains a "
        "student"
    )
    assert not list(Path(settings()["output"]).glob("**/scores*"))  # found before any text is scored


def test_weight_merge_refuses_two_trainings_of_one_architecture(settings: Any, tmp_path: Path):
    paths = [save_teacher(tmp_path / "a", "bert", ["sports", "politics"], seed=1), tmp_path / "b"]
    other = AutoModelForSequenceClassification.from_pretrained(paths[0])
    torch.manual_seed(2)
    torch.nn.init.normal_(other.get_input_embeddings().weight)
    shutil.copytree(paths[0], paths[1])
    other.save_pretrained(paths[1])
    with pytest.raises(TeacherError, match=r"their word embeddings have little in common: cosine -?0\.0"):
        run(settings, "weight-merge", teachers=[{"model": str(path), "max_length": 32} for path in paths])


def varied_teacher(folder: Path, labels: list[str], texts: list[str], seed: int) -> dict[str, object]:
    """A teacher whose logits for these texts have mean 0 and deviation 2, so that it gives each class to some."""
    model, tokenizer = model_and_tokenizer("bert", labels, seed)
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
        scale = 2 / logits.std(dim=0)
        model.classifier.bias.copy_(scale * (model.classifier.bias - logits.mean(dim=0)))
        model.classifier.weight.mul_(scale[:, None])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"model": str(folder), "max_length": 32}


@pytest.mark.parametrize("method", ["ensemble", "routed-ensemble"])
def test_an_ensemble_answers_by_itself_without_a_student(
    settings: Any, tmp_path: Path, pool_texts: list[str], method: str
):
    teachers = [
        varied_teacher(tmp_path / "news", LABELS[:3], pool_texts, seed=1),
        varied_teacher(tmp_path / "culture", LABELS[3:], pool_texts, seed=2),
    ]
    gold = np.arange(40) % 6
    rows = [{"text": text, "label": LABELS[label]} for text, label in zip(pool_texts, gold, strict=True)]
    test = {"path": str(write_jsonl(tmp_path / "t.jsonl", rows))}
    config = make_config(settings(method=method, teachers=teachers, test=test), "test")
    result = stages.run_all(config)
    news, culture = load_outputs(config, RunFolder(result.folder), "test")
    if method == "ensemble":  # the softmax of all logits side by side
        answers = np.hstack([news.logits, culture.logits])
    else:  # each teacher's own softmax, heard by how sure its dropout passes are
        sure = np.stack([1 - stats.entropy(one.mc_mean, axis=-1) / np.log(3) for one in (news, culture)], axis=-1)
        heard = softmax(sure / 0.2, axis=-1)
        answers = np.hstack([heard[:, [i]] * softmax(one.logits, axis=-1) for i, one in enumerate((news, culture))])
    expected = np.zeros((6, 6), dtype=int)
    np.add.at(expected, (gold, answers.argmax(axis=-1)), 1)
    assert 0 < np.trace(expected) < 40
    assert np.count_nonzero(expected.sum(axis=0)) >= 4  # answers of both teachers
    assert result.metrics["routed_ensemble"]["confusion_matrix"] == expected.tolist()
    assert result.metrics["routed_ensemble"]["accuracy"] == np.trace(expected) / 40
    assert not result.student.exists()
    assert "student" not in result.metrics


def test_oracle_routes_by_the_gold_label_and_ignores_what_belongs_to_nobody(
    settings: Any, tmp_path: Path, pool_texts: list[str]
):
    result = run(settings, "oracle", texts=gold_pool(tmp_path, pool_texts))
    supervision = load_supervision(result.folder / "supervision")
    owner = np.array([0, 0, 0, 1, 1, 1, -1, 0] * 5)
    known = owner >= 0
    assert (supervision.routing.argmax(axis=-1)[known] == owner[known]).all()
    assert (supervision.weight[~known] == 0).all()
    np.testing.assert_allclose(supervision.weight[known], 40 / 35, rtol=1e-6)
    assert (supervision.target[owner == 0][:, 3:] == 0).all()


def test_supervised_learns_the_gold_label_itself(settings: Any, tmp_path: Path, pool_texts: list[str]):
    result = run(settings, "supervised", texts=gold_pool(tmp_path, pool_texts))
    supervision = load_supervision(result.folder / "supervision")
    assert supervision.target[:8].argmax(axis=-1).tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
    assert supervision.target.sum(axis=-1)[6] == 0
    assert set(np.unique(supervision.target)) == {0.0, 1.0}


def test_ceilings_ask_for_the_column_of_the_gold_label(settings: Any):
    with pytest.raises(ConfigError) as error:
        make_config(settings(method="oracle"), "run.yaml")
    assert str(error.value) == (
        "run.yaml: 1 problem\n  method: 'oracle' is a ceiling that reads the pool's gold labels; name their column "
        "(texts: {label: label}), or choose a method for unlabelled texts such as muki"
    )


def test_gold_labels_change_nothing_for_other_methods(settings: Any, tmp_path: Path, pool_texts: list[str]):
    texts = gold_pool(tmp_path, pool_texts)
    first = run(settings, "vanilla-kd", texts=texts, output=str(tmp_path / "with"))
    second = run(settings, "vanilla-kd", texts={**texts, "label": None}, output=str(tmp_path / "without"))
    a, b = load_supervision(first.folder / "supervision"), load_supervision(second.folder / "supervision")
    np.testing.assert_array_equal(a.target, b.target)
    np.testing.assert_array_equal(a.weight, b.weight)


def test_the_default_goes_the_whole_way_with_teachers_of_different_bases(settings: Any, tmp_path: Path):
    content = settings(texts={"path": settings()["texts"]["path"], "shard_rows": 16})
    del content["method"]
    content["test"] = {"path": str(write_jsonl(tmp_path / "t.jsonl", [{"text": "a late goal", "label": "film"}] * 4))}
    config = make_config(content, "test")
    assert preset_name(config.method) == "muki-plus"
    result = stages.run_all(config)
    supervision = load_supervision(result.folder / "supervision")
    np.testing.assert_allclose(supervision.routing.sum(axis=-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(supervision.target.sum(axis=-1), 1.0, atol=1e-5)
    assert supervision.weight.mean() == pytest.approx(1.0, abs=1e-5)
    assert len(list((result.folder / "view").glob("*.parquet"))) == 3
    findings = json.loads((result.folder / "supervision" / "supervision.json").read_text())["findings"]
    assert findings == {"refined": 0.0}  # 40 texts are too few to show their classes
    assert result.metrics["pool"]["passes"] == {"news": 0.0, "culture": 0.0}

    before = {path: path.stat().st_mtime_ns for path in result.folder.rglob("*.parquet")}
    stages.run_all(config)  # nothing is done again
    assert {path: path.stat().st_mtime_ns for path in result.folder.rglob("*.parquet")} == before
    (result.folder / "view" / "shard-00001.parquet").unlink()
    stages.supervise(config)
    assert (result.folder / "view" / "shard-00001.parquet").exists()


@pytest.mark.parametrize(
    "method, expected",
    [
        ({"preset": "muki", "passes": 8}, Method(passes=8)),
        ({"preset": "muki", "score": "entropy"}, Method(score="entropy")),  # which needs no passes
        ({"preset": "muki-plus", "teacher_temperature": "one"},
         PRESETS["muki-plus"].model_copy(update={"teacher_temperature": "one"})),
    ],
)  # fmt: skip
def test_a_run_file_and_an_override_change_a_part_of_a_preset(method: dict[str, Any], expected: Method):
    content = {"teachers": [{"model": "a"}, {"model": "b"}], "student": "c", "texts": "d", "output": "e"}
    assert make_config({**content, "method": method}, "test").method == expected
    (key, value) = next((key, value) for key, value in method.items() if key != "preset")
    overridden = apply_overrides({**content, "method": method["preset"]}, [f"method.{key}={value}"])
    assert make_config(overridden, "test").method == expected


def test_every_preset_has_a_name_of_its_own():
    assert [preset_name(method) for method in PRESETS.values()] == list(PRESETS)
