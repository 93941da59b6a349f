"""Tiny real transformers models with real tokenizers, built in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

WORDS = (
    "the match ended after a late goal by our captain and fans sang all night . parliament voted on the new tax law "
    "today while ministers argued . shares fell as the bank raised rates again . a new phone with a faster chip was "
    "shown . doctors found that short walks help the heart . the film festival opened with a quiet drama ."
)
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def wordpiece() -> PreTrainedTokenizerFast:
    """Like BERT's."""
    letters, words = sorted(set(WORDS) - {" "}), sorted({word for word in WORDS.split() if len(word) > 1})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), *words]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}  # a trained one would be another in each process
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=64, model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def byte_bpe(pad: bool = True, eos: bool = True) -> PreTrainedTokenizerFast:
    """Like RoBERTa's, with other ids for the special tokens than `wordpiece`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.train_from_iterator(
        [WORDS],
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<s>", "<pad>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>" if eos else None, model_max_length=64,
        pad_token="<pad>" if pad else None, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def model_and_tokenizer(
    kind: str, labels: Sequence[str], seed: int = 0, **config: Any
) -> tuple[Any, PreTrainedTokenizerFast]:
    """A classifier with random weights, large enough for its logits to spread."""
    torch.manual_seed(seed)
    tokenizer = wordpiece() if kind in ("bert", "modernbert") else byte_bpe()
    names: dict[str, Any] = {
        "id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)},
        "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    if kind == "bert":
        settings = {**_SIZES, "max_position_embeddings": 64, **names, **config}
        model: Any = BertForSequenceClassification(BertConfig(**settings))
    elif kind == "roberta":
        settings = {**_SIZES, "max_position_embeddings": 66, "type_vocab_size": 1, **names, **config}
        model = RobertaForSequenceClassification(RobertaConfig(**settings))
    elif kind == "distilbert":
        settings = {
            "dim": 32,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 48,
            "max_position_embeddings": 64,
            **names,
            **config,
        }
        model = DistilBertForSequenceClassification(DistilBertConfig(**settings))
    elif kind == "modernbert":
        settings = {**_SIZES, "max_position_embeddings": 64, **names, **config}
        model = ModernBertForSequenceClassification(ModernBertConfig(**settings))
    elif kind == "gpt2":
        settings = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, **names, **config}
        model = GPT2ForSequenceClassification(GPT2Config(**settings))
    else:
        raise ValueError(kind)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embed" not in name:
                parameter.normal_(0.0, 0.15)
    return model.eval(), tokenizer


def save_teacher(folder: Path, kind: str, labels: Sequence[str], seed: int = 0, **config: Any) -> Path:
    """A tiny teacher as a `save_pretrained` folder."""
    model, tokenizer = model_and_tokenizer(kind, labels, seed, **config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_encoder(folder: Path, seed: int = 0) -> Path:
    """A tiny encoder without a head, for a student to start from."""
    torch.manual_seed(seed)
    tokenizer = wordpiece()
    config = BertConfig(**_SIZES, max_position_embeddings=64, vocab_size=len(tokenizer), pad_token_id=0)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_adapter(folder: Path, base: str | Path, **config: Any) -> Path:
    """A LoRA adapter with a head over three classes."""
    peft = pytest.importorskip("peft")
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], lora_dropout=0.1, **config)
    peft.get_peft_model(model, lora).save_pretrained(folder)
    names = {"id2label": {str(i): name for i, name in enumerate("abc")}}
    (folder / "config.json").write_text(json.dumps(names), encoding="utf-8")
    return folder
