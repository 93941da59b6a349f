"""The student: any encoder or classifier, with a fresh head over the union of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from muki.batches import require_known_tokens
from muki.checkpoints import (
    load_student_model,
    loading,
    refuse_remote_code,
    require_checkpoint,
)
from muki.errors import StudentError
from muki.tokenization import ensure_padding, require_padding

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_student(
    model: str, labels: Sequence[str], *, seed: int = 0, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an encoder or classifier as a classifier over `labels`, in float32, with a fresh head.

    Args:
        model: folder or Hub id. Where it is a classifier, its head is dropped.
        labels: the union, in order.
        seed: of the fresh head, and of a pooler that the checkpoint lacks. The global random state is left alone.
        trust_remote_code: run code that comes with the checkpoint.

    Raises:
        StudentError: it cannot be loaded, weights of its encoder are missing or have another shape, or its tokenizer
            has no padding token.
    """
    from transformers import AutoModelForSequenceClassification

    tokenizer = load_tokenizer(model, trust_remote_code)
    with loading(model, f"student '{model}'", StudentError):
        student = load_student_model(
            AutoModelForSequenceClassification,
            model,
            seed=seed,
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            problem_type="single_label_classification",
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
        )
    ensure_padding(tokenizer, student.config)
    require_known_tokens(tokenizer, [], student, f"student '{model}'", StudentError)
    _fresh_head(student, seed)
    return student, tokenizer


def load_tokenizer(model: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the student's tokenizer, with a padding token.

    Raises:
        StudentError: as `load_student`.
    """
    from transformers import AutoConfig, AutoTokenizer

    require_checkpoint(model, "student", StudentError)
    if not trust_remote_code:
        refuse_remote_code(model, "student", StudentError)
    with loading(model, f"student '{model}'", StudentError):
        config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
    require_padding(tokenizer, "student", StudentError, config)
    return cast("PreTrainedTokenizerBase", tokenizer)


def _fresh_head(model: Any, seed: int) -> None:
    """Initialise everything outside the encoder anew, so that a classifier's old head leaves no trace."""
    if model.base_model is model:
        raise StudentError(
            f"student '{model.name_or_path}': {type(model).__name__} does not say which part of it is the encoder "
            f"(base_model_prefix '{model.base_model_prefix}'); choose another student"
        )
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
