"""What a teacher's answers hang on, as fingerprints: equal content, equal fingerprint, wherever it lies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from muki.files import fingerprint, fingerprint_of
from muki.labels import label_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What a configuration says of where a model lies, how it was saved, and what is told by other fingerprints.
_NO_MATTER = {
    "_name_or_path", "architectures", "base_model_name_or_path", "dtype", "finetuning_task", "id2label",
    "inference_mode", "label2id", "num_labels", "output_hidden_states", "pad_token_id", "peft_version",
    "problem_type", "revision", "task_type", "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip


def content_fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Fingerprint weights, label names and tokenizer."""
    return fingerprint_of(_content(model, tokenizer))


def configuration_fingerprint(model: PreTrainedModel) -> str:
    """Fingerprint how the weights are used: activation, dropout rates, an adapter's scaling and the like."""
    adapters = sorted(getattr(model, "peft_config", {}).items())
    return fingerprint(_told(model.config.to_diff_dict()), [(name, _told(one.to_dict())) for name, one in adapters])


def _content(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[object]:
    yield type(model).__name__
    yield label_names(model.config)
    for key, tensor in sorted(model.state_dict().items()):
        if ".original_module." in key:  # a PEFT model keeps the base's unused head, random at each load
            continue
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        yield from (key, list(tensor.shape), str(tensor.dtype), memoryview(flat.view(torch.uint8).numpy()))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield sorted(tokenizer.get_vocab().items())
    else:  # truncation and padding are set anew at each call
        yield {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("truncation", "padding")}


def _told(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What of a configuration can change an answer, in one order; an adapter names its modules in a set."""
    return [
        (key, repr(sorted(value) if isinstance(value, set) else value))
        for key, value in sorted(settings.items())
        if key not in _NO_MATTER
    ]
