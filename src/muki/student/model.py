"""The student: any encoder or classifier, with a fresh head over the union of labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from muki.errors import StudentError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_student(
    model: str, labels: Sequence[str], *, seed: int = 0, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an encoder or classifier as a classifier over `labels`, in float32, with a fresh head.

    Args:
        model: folder or Hub id. Where it is a classifier, its head is dropped.
        labels: the union, in order.
        seed: of the fresh head.
        trust_remote_code: run code that comes with the checkpoint.

    Raises:
        StudentError: it cannot be loaded, or its tokenizer has no padding token.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path = Path(model)
    if not path.is_dir() and (path.is_absolute() or model.startswith((".", "~")) or len(path.parts) > 2):
        raise StudentError(f"student '{model}': no such folder; give a save_pretrained folder or a Hub id")
    try:
        student: Any = AutoModelForSequenceClassification.from_pretrained(
            model,
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            ignore_mismatched_sizes=True,
            problem_type="single_label_classification",
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
        )
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StudentError(f"student '{model}': cannot be loaded ({reason})") from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise StudentError(
                f"student '{model}': its tokenizer has neither a padding token nor an end token; set one"
            )
        tokenizer.pad_token = tokenizer.eos_token
    if student.config.pad_token_id is None:
        student.config.pad_token_id = tokenizer.pad_token_id
    _fresh_head(student, seed)
    return student, tokenizer


def _fresh_head(model: Any, seed: int) -> None:
    """Initialise everything outside the encoder anew, so that a classifier's old head leaves no trace."""
    std = getattr(model.config, "initializer_range", None) or 0.02
    generator = torch.Generator().manual_seed(seed)
    for name, part in model.named_children():
        if name == model.base_model_prefix:
            continue
        for module in part.modules():
            if isinstance(module, nn.Linear):
                with torch.no_grad():
                    module.weight.normal_(0.0, std, generator=generator)
                    if module.bias is not None:
                        module.bias.zero_()
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
