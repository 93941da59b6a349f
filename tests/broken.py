"""Checkpoints that cannot be used, and one that brings its own code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tiny import byte_bpe, model_and_tokenizer, wordpiece
from transformers import BartConfig, BartForSequenceClassification


def copied(source: Path, folder: Path, **config: object) -> Path:
    """A checkpoint's copy with changes in its config.json; None removes a key."""
    shutil.copytree(source, folder)
    content = json.loads((folder / "config.json").read_text(encoding="utf-8")) | config
    (folder / "config.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}), "utf-8")
    return folder


def without(folder: Path, pattern: str) -> Path:
    for path in folder.glob(pattern):
        path.unlink()
    return folder


def cut_short(folder: Path) -> Path:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return folder


def poisoned(folder: Path, tensor: str, row: int) -> Path:
    weights = load_file(folder / "model.safetensors")
    weights[tensor][row] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def gpt2(folder: Path, eos: bool) -> Path:
    """A decoder whose tokenizer has no padding token."""
    model, _ = model_and_tokenizer("gpt2", ["war", "peace"], bos_token_id=0, eos_token_id=2)
    model.config.pad_token_id = None
    model.save_pretrained(folder)
    byte_bpe(pad=False, eos=eos).save_pretrained(folder)
    return folder


def padded_beyond(folder: Path) -> Path:
    """Its tokenizer got a padding token of its own, and its model no embedding for it."""
    tokenizer = wordpiece()
    tokenizer.add_special_tokens({"pad_token": "[NEW]"})
    tokenizer.save_pretrained(folder)
    return folder


def without_mask(folder: Path) -> Path:
    """Its tokenizer gives what FNet's does."""
    tokenizer = wordpiece()
    tokenizer.model_input_names = ["input_ids", "token_type_ids"]
    tokenizer.save_pretrained(folder)
    return folder


def bart(folder: Path) -> Path:
    """An encoder with a decoder, which names its hidden states otherwise."""
    tokenizer, ends = byte_bpe(), {"bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    layers = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id, **layers, **ends,
    )  # fmt: skip
    BartForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def own_code(source: Path, folder: Path) -> Path:
    """A checkpoint that brings its code, which leaves a file `ran` beside the folder."""
    classes = {"AutoConfig": "mine.Config", "AutoModelForSequenceClassification": "mine.Mine"}
    copied(source, folder, model_type="mine", auto_map=classes, architectures=["Mine"])
    (folder / "mine.py").write_text(
        "from pathlib import Path\nfrom transformers import BertConfig, BertForSequenceClassification\n"
        f"Path({str(folder.parent / 'ran')!r}).touch()\n"
        "class Config(BertConfig):\n    model_type = 'mine'\n"
        "class Mine(BertForSequenceClassification):\n    config_class = Config\n"
    )
    return folder
