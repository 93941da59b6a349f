"""Models, pipelines and adapters as teachers, and the number format and length that each is given."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import invoke
from runs import NEWS, QUICK, Folder
from tiny import save_teacher
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import muki
from muki.errors import ConfigError


def test_one_name_is_no_list_of_teachers(tmp_path: Path, encoder: Path):
    for teachers in ("teachers/a", Path("teachers/a"), None):
        with pytest.raises(ConfigError, match=r"^muki.integrate: teachers is .*; expected two or more in a list"):
            muki.integrate(teachers, str(encoder), ["a late goal"], output=tmp_path / "run")


def test_loaded_models_pipelines_and_teachers_are_teachers(
    tmp_path: Path, teachers: list[Path], encoder: Path, pool_texts: list[str]
):
    desk = save_teacher(tmp_path / "desk", "distilbert", ["film", "weather"], seed=5)
    folders = [*teachers, desk]
    pair = (AutoModelForSequenceClassification.from_pretrained(teachers[0]), AutoTokenizer.from_pretrained(teachers[0]))
    used = pipeline("text-classification", model=str(teachers[1]))
    used("a late goal", truncation=True, max_length=8)  # tokenizers remember how they were called last
    loaded = [
        pair,
        used,
        muki.load_teacher(str(desk), name="the desk", max_length=32),
    ]
    settings: dict[str, Any] = {**QUICK, "method": {"passes": 2}, "scoring": {"batch_tokens": 64}}

    # with every call, so no loaded tokenizer is the same after a look at it.
    memory = muki.integrate(loaded, str(encoder), pool_texts, output=tmp_path / "loaded", **settings)
    named = muki.integrate(folders, str(encoder), pool_texts, output=tmp_path / "named", **settings)
    ours, theirs = Folder(memory.folder), Folder(named.folder)
    assert list(ours.space["teachers"]) == ["teacher-1", "teacher-2", "the desk"]
    assert list(theirs.space["teachers"]) == ["news", "culture", "desk"]
    assert ours.space["labels"] == theirs.space["labels"]
    assert [one["fingerprint"] for one in ours.json("teachers.json")] == [
        one["fingerprint"] for one in theirs.json("teachers.json")
    ]
    for mine, other in zip(ours.scores(), theirs.scores(), strict=True):
        np.testing.assert_array_equal(mine["logits"], other["logits"])
        np.testing.assert_array_equal(mine["mc_mean"], other["mc_mean"])
    np.testing.assert_array_equal(ours.table("supervision")["target"], theirs.table("supervision")["target"])
    assert memory.student == tmp_path / "loaded" / "student"

    asked = yaml.safe_load((memory.folder / "config.yaml").read_text(encoding="utf-8"))
    assert [one["max_length"] for one in asked["teachers"]] == [32, 32, 32]
    assert asked["scoring"]["batch_tokens"] == 64
    assert "(in memory)" not in (memory.student / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("form", ["pair", "pipeline"])
def test_another_process_keeps_the_number_format_of_a_first_for_loaded_models(
    form: str, tmp_path: Path, teachers: list[Path], encoder: Path, pool_texts: list[str], monkeypatch: Any
):
    """A probe of speed may end otherwise in another process; then the scores must not be drawn again."""
    model = AutoModelForSequenceClassification.from_pretrained(teachers[0])
    tokenizer = AutoTokenizer.from_pretrained(teachers[0])
    loaded = (model, tokenizer)
    if form == "pipeline":
        loaded = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    settings: dict[str, Any] = {**QUICK, "method": {"passes": 2}}
    found = []
    for fastest in (torch.bfloat16, torch.float32):
        monkeypatch.setattr("muki.compute.fast_dtype", lambda _, fastest=fastest: fastest)
        run = muki.integrate([loaded, str(teachers[1])], str(encoder), pool_texts, output=tmp_path / "r", **settings)
        folder = Folder(run.folder)
        found.append([one["settings"]["passes_dtype"] for one in folder.json("teachers.json")])
        found.append({p: p.stat().st_mtime_ns for p in (run.folder / "scores").rglob("*.parquet")})
    assert found[0] == found[2] == ["bfloat16", "bfloat16"]
    assert found[1] == found[3]


@pytest.mark.parametrize("form", ["folder", "pair"])
def test_texts_that_are_cut_shorter_than_wanted_are_warned_of_once(
    form: str, tmp_path: Path, teachers: list[Path], encoder: Path, pool_texts: list[str], caplog: Any
):
    first: Any = str(teachers[0])
    if form == "pair":
        first = (AutoModelForSequenceClassification.from_pretrained(first), AutoTokenizer.from_pretrained(first))
    settings: dict[str, Any] = {**QUICK, "max_length": 100}
    run = muki.integrate([first, str(teachers[1])], str(encoder), pool_texts, output=tmp_path / "r", **settings)
    assert [r.message for r in caplog.records if "max_length" in r.message] == [
        f"'{name}': max_length 100 cut down to the 64 tokens that it can take"
        for name in ("news" if form == "folder" else "teacher-1", "culture", "student")
    ]
    assert [one["settings"]["max_length"] for one in Folder(run.folder).json("teachers.json")] == [64, 64]


def test_a_model_loaded_in_bfloat16_is_not_scored_in_what_was_found_for_a_float32_one(
    tmp_path: Path, teachers: list[Path], encoder: Path, pool_texts: list[str], monkeypatch: Any
):
    tokenizer = AutoTokenizer.from_pretrained(teachers[0])
    settings: dict[str, Any] = {**QUICK, "method": {"passes": 2}}
    monkeypatch.setattr("muki.compute.fast_dtype", lambda _: torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForSequenceClassification.from_pretrained(teachers[0], dtype=dtype)
        loaded = [(model, tokenizer), str(teachers[1])]
        run = muki.integrate(loaded, str(encoder), pool_texts, output=tmp_path / "r", **settings)
    formats = [one["settings"]["passes_dtype"] for one in Folder(run.folder).json("teachers.json")]
    assert formats == ["bfloat16", "float32"]


def test_a_number_format_that_was_asked_for_once_does_not_stick(
    tmp_path: Path, teachers: list[Path], encoder: Path, pool_texts: list[str], monkeypatch: Any
):
    settings: dict[str, Any] = {**QUICK, "method": {"passes": 2}}
    monkeypatch.setattr("muki.compute.fast_dtype", lambda _: torch.float32)
    for more in ({"dtype": "bfloat16"}, {}):
        given = [{"model": str(teachers[0]), **more}, str(teachers[1])]
        run = muki.integrate(given, str(encoder), pool_texts, output=tmp_path / "r", **settings)
    formats = [one["settings"]["passes_dtype"] for one in Folder(run.folder).json("teachers.json")]
    assert formats == ["float32", "float32"]


def test_a_loaded_model_keeps_its_weights_and_is_left_in_eval_mode(
    tmp_path: Path, teachers: list[Path], encoder: Path, pool_texts: list[str]
):
    model = AutoModelForSequenceClassification.from_pretrained(teachers[0])
    tokenizer = AutoTokenizer.from_pretrained(teachers[0])
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    settings: dict[str, Any] = {**QUICK, "method": {"passes": 2}}
    muki.integrate(
        [(model, tokenizer), str(teachers[1])], str(encoder), pool_texts[:16], output=tmp_path / "r", **settings
    )
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Path:
    """A LoRA adapter with a head for two labels, as `save_pretrained` writes it."""
    peft = pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("adapter") / "lora"
    torch.manual_seed(4)
    base = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_dropout=0.1, target_modules=["query", "value"])
    model = peft.get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "classifier" in name:
                parameter.normal_(0.0, 0.3)
    model.save_pretrained(folder)
    return folder


def test_a_peft_adapter_is_a_teacher(
    tmp_path: Path, adapter: Path, teachers: list[Path], encoder: Path, pool_texts: list[str]
):
    from peft import AutoPeftModelForSequenceClassification

    lora = {"model": str(adapter), "labels": {"LABEL_0": "travel", "LABEL_1": "weather"}}
    settings: dict[str, Any] = {**QUICK, "method": {"passes": 4}}

    result = muki.integrate([str(teachers[0]), lora], str(encoder), pool_texts, output=tmp_path / "run", **settings)
    run = Folder(result.folder)
    assert run.space["labels"] == [*NEWS, "travel", "weather"]
    assert run.json("teachers.json")[1]["labels"] == ["travel", "weather"]
    model = AutoPeftModelForSequenceClassification.from_pretrained(adapter, num_labels=2).eval()
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    stored = run.scores()[1]
    for text, logits in zip(pool_texts, stored["logits"], strict=True):
        with torch.no_grad():
            own = model(**tokenizer(text, truncation=True, max_length=32, return_tensors="pt")).logits[0]
        np.testing.assert_allclose(logits, own.numpy(), atol=1e-4)
    assert (stored["pass_spread"] > 0).all()  # the adapter's and the encoder's dropout are on


def test_a_peft_adapters_dropout_rates_can_be_set(
    tmp_path: Path, adapter: Path, teachers: list[Path], encoder: Path, pool_texts: list[str]
):
    lora = {"model": str(adapter), "labels": {"LABEL_0": "travel", "LABEL_1": "weather"}, "dropout_override": 0.2}
    settings: dict[str, Any] = {**QUICK, "method": {"passes": 2}}

    result = muki.integrate([str(teachers[0]), lora], str(encoder), pool_texts[:8], output=tmp_path / "run", **settings)
    assert Folder(result.folder).json("teachers.json")[1]["settings"]["dropout_override"] == 0.2


class Frame:
    """What of a pandas data frame is used, where pandas is not installed."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows, self.columns, self.iloc = rows, list(rows[0]), None

    def __iter__(self) -> Any:
        return iter(self.columns)

    def astype(self, kind: type) -> Frame:
        return self

    def notna(self) -> Frame:
        return Frame([{name: value == value for name, value in row.items()} for row in self.rows])

    def where(self, there: Frame, other: object) -> Frame:
        pairs = zip(self.rows, there.rows, strict=True)
        return Frame([{name: row[name] if kept[name] else other for name in row} for row, kept in pairs])

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        assert orient == "records"
        return self.rows


def test_a_data_frames_rows_are_texts_and_its_columns_are_not():
    from muki.api import _records, _texts

    rows = [{"text": "a late goal", "label": "sports"}, {"text": "the bank", "label": float("nan")}]
    expected = [rows[0], {"text": "the bank", "label": None}]
    assert _texts(Frame(rows), "texts") == (expected, {"path": "(in memory)"})
    polars = SimpleNamespace(to_dicts=lambda: expected)
    assert _texts({"path": polars, "label": "label"}, "test") == (expected, {"path": "(in memory)", "label": "label"})
    series = SimpleNamespace(to_list=lambda: ["a late goal"])
    assert _texts(series, "texts") == (["a late goal"], {"path": "(in memory)"})
    dataset = SimpleNamespace(to_list=list, features={})
    assert _records(dataset) is dataset
    pandas = pytest.importorskip("pandas")
    assert _texts(pandas.DataFrame(rows), "texts")[0] == expected


def test_a_run_of_objects_says_that_they_are_gone(
    tmp_path: Path, teachers: list[Path], encoder: Path, pool_texts: list[str]
):
    loaded = muki.load_teacher(str(teachers[0]), name="first", max_length=32)
    muki.integrate([loaded, teachers[1]], str(encoder), pool_texts, output=tmp_path / "run", **QUICK)
    result = invoke("run", tmp_path / "run", "--set", "training.epochs=1")
    assert result.exit_code == 2
    assert "model and tokenizer of teacher 'first' were given as objects to `muki.integrate`, and are not here" in (
        result.stderr
    )
    named = muki.integrate(teachers, str(encoder), pool_texts, output=tmp_path / "named", **QUICK)
    result = invoke("run", named.folder, "--set", "training.epochs=1")
    assert result.exit_code == 2
    assert "the pool's texts were given as objects to `muki.integrate`, and are not here" in result.stderr
