"""Checkpoints that lack something: refused where it would be made up, seeded where it is made anew."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import byte_bpe, model_and_tokenizer, save_adapter, save_encoder, save_teacher
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast, XLNetConfig

from muki.checkpoints import folder_fingerprint, why_not_loaded
from muki.config import RunConfig, StudentConfig
from muki.errors import NoHiddenStatesError, RunFolderError, StudentError, TeacherError
from muki.finetuning import finetune
from muki.labels import LabelSpace
from muki.predict import Classifier
from muki.run_folder import RunFolder
from muki.student.model import _fresh_head, load_student
from muki.teachers.adapters import read_adapter
from muki.teachers.loading import load_teacher, wrap_teacher
from muki.teachers.scoring import score_texts
from muki.texts import Text, cut
from muki.tokenization import usable_length
from muki.view import Encoder, neutral_view

ADVICE = "check that config.json and the weights belong together, or save the model anew (model.save_pretrained)"
QUERY = "encoder.layer.0.attention.self.query.weight"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def save_without(folder: Path, *parts: str) -> Path:
    """A tiny encoder whose checkpoint lacks the tensors that have one of `parts` in their names."""
    weights = load_file(save_encoder(folder) / "model.safetensors")
    kept = {key: tensor for key, tensor in weights.items() if not any(part in key for part in parts)}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return folder


def save_with(folder: Path, tensor: str, value: torch.Tensor) -> Path:
    weights = load_file(save_encoder(folder) / "model.safetensors")
    save_file(weights | {tensor: value}, folder / "model.safetensors", {"format": "pt"})
    return folder


# --- the student's encoder is whole ------------------------------------------------------------------------------


def test_a_student_whose_checkpoint_lacks_weights_of_the_encoder_is_refused(tmp_path: Path):
    folder = save_without(tmp_path / "s", "layer.0.attention.self")
    with pytest.raises(StudentError) as caught:
        load_student(str(folder), ["a", "b"])
    assert str(caught.value) == (
        f"student '{folder}': 6 of the 39 weight tensors of its encoder cannot be loaded, and would be random "
        f"('bert.encoder.layer.0.attention.self.key.bias' is not in the checkpoint); {ADVICE}"
    )


def test_a_student_whose_weights_have_another_shape_than_its_config_says_is_refused(tmp_path: Path):
    folder = save_with(tmp_path / "s", QUERY, torch.zeros(32, 16))
    message = rf"1 of the 39 .* \('bert\.{QUERY}' has another shape in the checkpoint\); check"
    with pytest.raises(StudentError, match=message):
        load_student(str(folder), ["a", "b"])
    with pytest.raises(StudentError, match=message.replace(r"bert\.", "")):
        Encoder(StudentConfig(model=str(folder)))


def test_the_neutral_views_encoder_and_the_base_of_a_fine_tuned_teacher_must_be_whole_too(tmp_path: Path):
    folder = save_without(tmp_path / "s", "embeddings")
    with pytest.raises(StudentError, match=r"5 of the 39 .*'embeddings\.LayerNorm\.bias' is not in"):
        Encoder(StudentConfig(model=str(folder)))
    rows = [{"text": "a late goal", "label": label} for label in "ab"]
    with pytest.raises(StudentError, match=r"5 of the 39 .*'bert\.embeddings\.LayerNorm\.bias' is not in"):
        finetune(str(folder), rows, tmp_path / "out")


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "modernbert", "gpt2"])
def test_a_whole_checkpoint_of_every_kind_is_taken_whatever_its_head(kind: str, tmp_path: Path):
    folder = save_teacher(tmp_path / kind, kind, ["x", "y", "z"], num_hidden_layers=2)
    assert load_student(str(folder), ["a", "b"])[0].config.num_labels == 2
    assert Encoder(StudentConfig(model=str(folder), max_length=32)).encode([Text(0, "a late goal")]).shape == (1, 32)


# --- what is made anew comes from the seed, and from nothing else --------------------------------------------------


def test_a_pooler_that_the_checkpoint_lacks_is_drawn_from_the_seed(tmp_path: Path):
    folder = str(save_without(tmp_path / "s", "pooler"))

    def pooler(seed: int, before: int) -> torch.Tensor:
        torch.manual_seed(before)
        model: Any = load_student(folder, ["a", "b"], seed=seed)[0]
        return model.bert.pooler.dense.weight.detach()

    assert torch.equal(pooler(0, before=1), pooler(0, before=2))
    assert not torch.equal(pooler(0, before=1), pooler(1, before=1))


def test_loading_leaves_the_global_random_state_alone(tmp_path: Path):
    folder = str(save_without(tmp_path / "s", "pooler"))
    before = torch.random.get_rng_state()
    load_student(folder, ["a", "b"])
    Encoder(StudentConfig(model=folder, max_length=32))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_scoring_leaves_the_accelerators_random_state_alone(tmp_path: Path):
    teacher = load_teacher(str(save_teacher(tmp_path / "t", "bert", ["a", "b"])))
    before = torch.cuda.get_rng_state()
    score_texts(teacher, [Text(0, "a late goal")], passes=2)
    load_student(str(save_encoder(tmp_path / "s")), ["a", "b"])
    assert torch.equal(torch.cuda.get_rng_state(), before)


# --- the neutral view ----------------------------------------------------------------------------------------------


def run_with(student: Path, tmp_path: Path, **settings: Any) -> tuple[RunConfig, RunFolder]:
    """A run of a method that refines, whose texts are there."""
    config = RunConfig(
        teachers=[{"model": "a"}, {"model": "b"}], texts={"path": "t"}, output=str(tmp_path / "run"),
        student={"model": str(student), "max_length": 32}, method="muki-plus", **settings,
    )  # fmt: skip
    run = RunFolder(tmp_path / "run")
    cut(["a late goal", "shares fell"], run.texts("pool"))
    LabelSpace(("sports", "business"), {"a": (0,), "b": (1,)}).save(run.labels)
    return config, run


@pytest.mark.parametrize("broken", ["no numbers", "weights missing", "no such folder"])
def test_a_broken_encoder_stops_the_run_rather_than_its_refinement(broken: str, tmp_path: Path):
    folder = tmp_path / "s"
    if broken == "no numbers":
        save_with(folder, "encoder.layer.1.output.LayerNorm.weight", torch.full((32,), torch.nan))
    elif broken == "weights missing":
        save_without(folder, "embeddings")
    config, run = run_with(folder, tmp_path)
    with pytest.raises(StudentError) as caught:
        neutral_view(config, run, "pool")
    assert not isinstance(caught.value, NoHiddenStatesError)


def test_a_student_that_is_no_encoder_goes_on_without_a_view_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    config, run = run_with(save_own_code(tmp_path / "s"), tmp_path, trust_remote_code=True)
    with caplog.at_level(logging.WARNING):
        assert neutral_view(config, run, "pool") is None
    assert caplog.messages == [
        f"student '{tmp_path / 's'}': its kind of model (mine) has no encoder: no neutral view, so the "
        "teachers' scores alone decide"
    ]


def test_an_encoder_decoder_shows_no_hidden_states_without_a_decoders_input(tmp_path: Path):
    from transformers import T5Config, T5Model

    tokenizer = byte_bpe()
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": len(tokenizer)}
    T5Model(T5Config(**sizes, pad_token_id=1, decoder_start_token_id=1)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(NoHiddenStatesError, match="is no encoder"):
        Encoder(StudentConfig(model=str(tmp_path)))


def save_own_code(folder: Path) -> Path:
    """A checkpoint that brings the code of a classifier, and of no encoder."""
    save_encoder(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {
        "model_type": "mine", "architectures": ["Mine"],
        "auto_map": {"AutoConfig": "mine.Config", "AutoModelForSequenceClassification": "mine.Mine"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "mine.py").write_text(
        "from transformers import BertConfig, BertForSequenceClassification\n"
        "class Config(BertConfig):\n    model_type = 'mine'\n"
        "class Mine(BertForSequenceClassification):\n    config_class = Config\n",
        encoding="utf-8",
    )
    return folder


def test_a_damaged_view_is_noticed_and_made_again(tmp_path: Path):
    config, run = run_with(save_encoder(tmp_path / "s"), tmp_path)
    made = neutral_view(config, run, "pool")
    assert made is not None
    (path,), whole = made.shards, made(0)
    content = bytearray(path.read_bytes())
    content[8:40] = bytes(32)  # of the numbers, or of the page's header; the footer is whole
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"view of these texts is missing or damaged; run `muki supervise`"):
        made(0)
    again = neutral_view(config, run, "pool")
    assert again is not None
    np.testing.assert_array_equal(again(0), whole)


def test_the_code_of_a_checkpoint_is_part_of_what_it_is(tmp_path: Path):
    folder = save_own_code(tmp_path / "s")
    before = folder_fingerprint(str(folder))
    with (folder / "mine.py").open("a") as code:
        code.write("# changed\n")
    assert folder_fingerprint(str(folder)) != before


@pytest.mark.parametrize("reader", ["teacher", "view", "saved classifier"])
def test_a_token_that_the_model_does_not_know_is_named_before_it_fails(tmp_path: Path, reader: str):
    folder = save_teacher(tmp_path / "t", "bert", ["a", "b"])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    known = len(tokenizer)
    tokenizer.add_tokens(["brexit"])
    tokenizer.save_pretrained(folder)
    texts = [Text(0, "a late goal"), Text(1, "brexit")]
    said = f"its tokenizer makes token {known} of a text, and its model has embeddings for {known} tokens only"
    if reader == "teacher":
        teacher = load_teacher(str(folder))
        score_texts(teacher, texts[:1], passes=0)
        with pytest.raises(TeacherError, match=f"teacher 't': {said}"):
            score_texts(teacher, texts, passes=0)
    elif reader == "saved classifier":
        classifier = Classifier.load(folder)
        classifier.probabilities(texts[:1])
        with pytest.raises(StudentError, match=f"model '.*t': {said}"):
            classifier.probabilities(texts)
    else:
        encoder = Encoder(StudentConfig(model=str(folder)))
        encoder.encode(texts[:1])
        with pytest.raises(StudentError, match=f"student: {said}"):
            encoder.encode(texts)


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("m is not a local folder and is not a valid model identifier listed on 'https://huggingface.co/models'\nIf",
         "; if it is private or gated, run `hf auth login` with an account that may read it, or set HF_TOKEN"),
        ("You are trying to access a gated repo.\nMake sure to have access to it at https://huggingface.co/m.",
         "; if it is private or gated, run `hf auth login` with an account that may read it, or set HF_TOKEN"),
        ("The repository m contains custom code which must be executed to correctly load the model.\nPlease pass",
         "; read that code, then allow it with trust_remote_code: true in the run file"),
        ("We couldn't connect to 'https://huggingface.co'", ""),
    ],
)  # fmt: skip
def test_what_the_hub_refuses_is_said_in_one_line_with_its_remedy(said: str, remedy: str):
    first = said.partition("\n")[0]
    assert why_not_loaded("org/m", OSError(said)).endswith(f"and on the Hub: {first}{remedy}")


# --- padding ---------------------------------------------------------------------------------------------------------


def decoder_that_pads_left() -> Any:
    model, tokenizer = model_and_tokenizer("gpt2", ["a", "b", "c"])
    tokenizer.padding_side = "left"
    return wrap_teacher(model, tokenizer, name="t", max_length=32, passes_dtype=torch.float32)


TEXTS = [Text(0, "the match ended after a late goal by our captain"), Text(1, "the match"), Text(2, "a late goal")]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"tokenizer.json": {"model": {"type": "Newer"}}}, "pip install --upgrade tokenizers"),
        ({"pytorch_model.bin": "version https://git-lfs.github.com/spec/v1\n"}, "pointer of git-lfs"),
        ({"pytorch_model.bin": ""}, "EOFError"),
        ({"model.safetensors": "version https://git-lfs.github.com/spec/v1\noid 1\n"}, "run `git lfs pull` in"),
        ({"config.json": {"id2label": ["a", "b"]}}, "has no attribute 'items'"),
        ({"config.json": {"hidden_size": "large"}}, "hidden_size"),
    ],
    ids=str,
)
def test_a_damaged_checkpoint_is_one_clear_error_whatever_the_libraries_raise(
    damage: dict[str, Any], said: str, tmp_path: Path
):
    folder = save_teacher(tmp_path / "t", "bert", ["a", "b"])
    for name, content in damage.items():
        if name == "pytorch_model.bin":
            (folder / "model.safetensors").unlink()
        if isinstance(content, dict):
            content = json.dumps({**json.loads((folder / name).read_text()), **content})
        (folder / name).write_text(content)
    with pytest.raises(TeacherError, match=rf"^teacher 't': .*{said}"):
        load_teacher(str(folder))


def test_a_decoders_passes_are_numbers_even_where_padding_comes_first():
    teacher = decoder_that_pads_left()
    teacher.tokenizer.padding_side = "left"  # as someone else's code may do
    assert np.isfinite(score_texts(teacher, TEXTS, passes=3).mc_mean).all()


def test_a_decoder_that_pads_left_is_padded_right_so_that_its_scores_belong_to_the_text():
    teacher = decoder_that_pads_left()
    assert teacher.tokenizer.padding_side == "right"
    together = score_texts(teacher, TEXTS, passes=3, keep="features")
    for text in TEXTS:
        alone = score_texts(teacher, [text], passes=3, keep="features")
        for name in ("logits", "mc_mean", "pass_spread"):
            assert getattr(alone, name)[0] == pytest.approx(getattr(together, name)[text.row], abs=2e-5), name
        assert alone.features is not None
        assert together.features is not None
        assert alone.features[0] == pytest.approx(together.features[text.row], abs=2e-3)


def save_decoder(folder: Path, config_pad: int | None, *, pad: bool = False) -> Path:
    """A decoder whose tokenizer may have no padding token."""
    model, _ = model_and_tokenizer("gpt2", ["war", "peace"], bos_token_id=0, eos_token_id=2)
    model.config.pad_token_id = config_pad
    model.save_pretrained(folder)
    byte_bpe(pad=pad).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("config_pad", [None, 1, 2])
def test_a_decoder_says_the_same_of_a_text_whoever_is_beside_it(tmp_path: Path, config_pad: int | None):
    texts = [Text(0, "a late goal"), Text(1, "a late goal and the fans sang all night in the rain")]
    folder = save_decoder(tmp_path / "decoder", config_pad)
    teacher = load_teacher(str(folder), dtype="float32")
    alone, together = (score_texts(teacher, some, passes=0, keep="features") for some in (texts[:1], texts))
    np.testing.assert_allclose(alone.logits[0], together.logits[0], atol=1e-5)
    classifier = Classifier.load(str(folder))
    np.testing.assert_allclose(classifier.probabilities(texts[:1])[0], classifier.probabilities(texts)[0], atol=1e-5)


def test_a_student_is_padded_with_the_token_that_its_own_configuration_names(tmp_path: Path):
    folder = str(save_decoder(tmp_path / "decoder", config_pad=1))
    teacher, (student, tokenizer) = load_teacher(folder), load_student(folder, ["a", "b"])
    assert student.config.pad_token_id == tokenizer.pad_token_id == teacher.tokenizer.pad_token_id == 1
    assert Encoder(StudentConfig(model=folder)).tokenizer.pad_token_id == 1


@pytest.mark.parametrize("config_pad", [1, 2])
def test_a_decoders_features_are_what_its_logits_come_from(tmp_path: Path, config_pad: int):
    """Its tokenizer ends a text with `</s>` (2): where that is the padding too, the head does not read it."""
    teacher = load_teacher(str(save_decoder(tmp_path / "decoder", config_pad)), dtype="float32")
    outputs = score_texts(teacher, [Text(0, "a late goal"), Text(1, "rain")], passes=0, keep="features")
    head: Any = teacher.model.score
    assert outputs.features is not None
    found = outputs.features.astype(np.float32) @ head.weight.detach().numpy().T
    np.testing.assert_allclose(found, outputs.logits, atol=5e-3)


def test_a_model_without_a_limit_of_positions_takes_what_its_tokenizer_takes():
    config = XLNetConfig(vocab_size=10, d_model=8, n_layer=1, n_head=2, d_inner=8)
    assert usable_length(config, byte_bpe(), 48, "xlnet") == 48


def test_a_student_that_does_not_say_where_its_encoder_is_is_refused():
    model, _ = model_and_tokenizer("bert", ["a", "b"])
    type(model).base_model_prefix, before = "somewhere", type(model).base_model_prefix
    try:
        with pytest.raises(
            StudentError, match=r"does not say which part of it is the encoder \(base_model_prefix 'some"
        ):
            _fresh_head(model, seed=0)
    finally:
        type(model).base_model_prefix = before


# --- adapters --------------------------------------------------------------------------------------------------------


def logits(model: Any) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.tensor([[2, 5, 6, 3]])).logits.numpy()


def test_an_adapter_gives_the_same_teacher_at_each_load_and_draws_nothing_from_outside(tmp_path: Path):
    folder = str(save_adapter(tmp_path / "a", save_encoder(tmp_path / "base")))
    before = torch.random.get_rng_state()
    first, second = (load_teacher(folder, dtype="float32") for _ in range(2))  # "auto" measures speed on random numbers
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.labels == ("a", "b", "c")
    assert (first.fingerprint, *logits(first.model)[0]) == (second.fingerprint, *logits(second.model)[0])


def test_an_adapters_head_is_told_from_a_layer_with_a_like_name(tmp_path: Path):
    peft = pytest.importorskip("peft")
    base = save_teacher(tmp_path / "base", "distilbert", ["x", "y"])
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3, ignore_mismatched_sizes=True)
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_lin"])
    peft.get_peft_model(model, lora).save_pretrained(tmp_path / "a")
    names = {"id2label": {str(i): name for i, name in enumerate("abc")}}
    (tmp_path / "a" / "config.json").write_text(json.dumps(names), encoding="utf-8")
    assert load_teacher(str(tmp_path / "a")).labels == ("a", "b", "c")  # not as wide as `pre_classifier`


def test_an_adapters_base_runs_its_own_code_only_after_it_was_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = save_adapter(tmp_path / "a", save_encoder(tmp_path / "plain"))
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = str(save_own_code(tmp_path / "base"))
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(TeacherError, match=r"^teacher 'a': its checkpoint wants to run code of its own"):
        load_teacher(str(folder))
    assert load_teacher(str(folder), trust_remote_code=True).labels == ("a", "b", "c")


def test_an_adapters_base_is_read_at_the_revision_that_the_adapter_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    hub = tmp_path / "hub" / "models--org--base"
    for number, name in enumerate(["v1", "main"]):
        save_encoder(hub / "snapshots" / (f"{number}" * 40), seed=number)
        (hub / "refs").mkdir(exist_ok=True)
        (hub / "refs" / name).write_text(f"{number}" * 40, encoding="utf-8")
    old = hub / "snapshots" / ("0" * 40)
    folder = save_adapter(tmp_path / "a", old)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": "org/base", "revision": "v1"}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    loaded: Any = load_teacher(str(folder)).model
    found = loaded.base_model.model.bert.embeddings.word_embeddings.weight
    expected = load_file(old / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert torch.equal(found, expected)


def test_an_adapter_with_pickled_weights_only_says_so(tmp_path: Path):
    folder = save_adapter(tmp_path / "a", save_encoder(tmp_path / "base"))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(TeacherError) as caught:
        load_teacher(str(folder))
    assert str(caught.value) == (
        f"teacher 'a': no adapter_model.safetensors in '{folder}' (only adapter_model.bin); save the adapter anew "
        "with a current peft (model.save_pretrained)"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"r":', "is not readable JSON (Expecting value: line 1 column 6 (char 5)); save the adapter anew"),
        ("{}", "names no base model; write its folder or Hub id there as base_model_name_or_path"),
        ("[]", "is not readable JSON (no JSON object); save the adapter anew"),
    ],
)
def test_an_adapter_with_a_broken_description_says_so(content: str, said: str, tmp_path: Path):
    folder = save_adapter(tmp_path / "a", save_encoder(tmp_path / "base"))
    (folder / "adapter_config.json").write_text(content, encoding="utf-8")
    for read in (lambda: load_teacher(str(folder)), lambda: read_adapter(folder, "a")):
        with pytest.raises(TeacherError) as caught:
            read()
        assert str(caught.value) == f"teacher 'a': '{folder}/adapter_config.json' {said}"


@pytest.mark.parametrize(("content", "said"), [("{bad", "Expecting property name"), ('["a"]', "no JSON object")])
def test_an_adapter_with_broken_label_names_says_so(content: str, said: str, tmp_path: Path):
    folder = save_adapter(tmp_path / "a", save_encoder(tmp_path / "base"))
    (folder / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(TeacherError, match=rf"teacher 'a': '{folder}/config.json' is not readable JSON \({said}"):
        read_adapter(folder, "a")
    (folder / "config.json").write_text('{"id2label": null}', encoding="utf-8")
    assert read_adapter(folder, "a").labels == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_an_adapter_without_a_part_that_its_base_lacks_is_refused(tmp_path: Path):
    base = save_without(tmp_path / "base", "pooler")
    folder = save_adapter(tmp_path / "a", base)
    with pytest.raises(TeacherError) as caught:
        load_teacher(str(folder))
    assert str(caught.value) == (
        f"teacher 'a': neither the base model '{base}' nor the adapter '{folder}' holds bert.pooler.dense.bias, "
        "bert.pooler.dense.weight; train the adapter with these in modules_to_save, so that they are saved"
    )
    load_teacher(str(save_adapter(tmp_path / "whole", base, modules_to_save=["classifier", "pooler"])))
