"""PEFT adapters as teachers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muki.errors import TeacherError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_adapter(folder: Path, name: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a PEFT adapter on its base model, unmerged: merging would remove its dropout."""
    try:
        from peft import PeftModel
    except ImportError:
        raise TeacherError(f"teacher '{name}': '{folder}' is a PEFT adapter; pip install 'muki[peft]'") from None
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    weights = folder / "adapter_model.safetensors"
    heads = [
        tensor.shape[0]
        for key, tensor in (load_file(weights).items() if weights.exists() else ())
        if key.endswith("weight") and "lora_" not in key and any(part in key for part in ("classifier", "score"))
    ]
    if not heads:
        raise TeacherError(
            f"teacher '{name}': the adapter '{folder}' holds no classification head; train it with task_type=SEQ_CLS "
            "(or modules_to_save=['classifier']) so that the head is saved"
        )
    labels = _adapter_labels(folder, heads[-1])
    base = AutoModelForSequenceClassification.from_pretrained(
        adapter["base_model_name_or_path"],
        dtype=dtype,
        id2label=dict(enumerate(labels)),
        label2id={label: column for column, label in enumerate(labels)},
        ignore_mismatched_sizes=True,
    )
    has_tokenizer = (folder / "tokenizer_config.json").exists()
    tokenizer = AutoTokenizer.from_pretrained(str(folder) if has_tokenizer else adapter["base_model_name_or_path"])
    model: Any = PeftModel.from_pretrained(base, str(folder))
    return model, tokenizer


def _adapter_labels(folder: Path, n_labels: int) -> list[str]:
    """An adapter folder has no label names of its own, unless its trainer put a config.json beside it."""
    config = folder / "config.json"
    stored = json.loads(config.read_text(encoding="utf-8")).get("id2label", {}) if config.exists() else {}
    return [str(stored.get(str(column), f"LABEL_{column}")) for column in range(n_labels)]
