"""Whether teachers are copies of one base, fine-tuned apart: only the weights of such teachers can be averaged."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from muki.errors import TeacherError
from muki.files import fingerprint

if TYPE_CHECKING:
    from muki.teachers.loading import Teacher

_ALIKE = 0.95  # cosine of word embeddings: copies of one base have more than 0.99, MiniLM-L6 and -L3 have 0.88
_ROWS = 2000  # of the word embeddings, evenly spread


@dataclass(frozen=True)
class Base:
    """What tells one base from another and is small enough to keep when the teacher is gone.

    Attributes:
        name: the teacher's.
        architecture: the model's class.
        parameters: of the whole model.
        shapes: of the encoder's weights, by name.
        vocabulary: fingerprint of the tokenizer's.
        words: some rows of the word embeddings, shape (at most 2,000, H).
    """

    name: str
    architecture: str
    parameters: int
    shapes: dict[str, tuple[int, ...]]
    vocabulary: str
    words: torch.Tensor


def plain_model(teacher: Teacher) -> Any:
    """The teacher's model; of an adapter a copy whose weights hold what the adapter adds."""
    model: Any = teacher.model
    return copy.deepcopy(model).merge_and_unload() if hasattr(model, "peft_config") else model


def base_of(teacher: Teacher) -> Base:
    """What a teacher shows of its base."""
    model = plain_model(teacher)
    words = cast(nn.Embedding, model.get_input_embeddings()).weight.detach()
    return Base(
        name=teacher.name,
        architecture=type(model).__name__,
        parameters=teacher.parameters,
        shapes={name: tuple(weight.shape) for name, weight in model.base_model.named_parameters()},
        vocabulary=fingerprint("vocabulary", sorted(teacher.tokenizer.get_vocab().items())),
        words=words[:: -(-len(words) // _ROWS)].float().cpu(),
    )


def difference(first: Base, other: Base) -> str:
    """Why they are not copies of one base; empty if they are."""
    if first.architecture != other.architecture:
        return f"{first.architecture} and {other.architecture}"
    if first.shapes != other.shapes:
        return f"{first.parameters / 1e6:.1f}M and {other.parameters / 1e6:.1f}M parameters, other shapes"
    if first.vocabulary != other.vocabulary:
        return "other tokenizers"
    likeness = float(nn.functional.cosine_similarity(first.words.double().flatten(), other.words.double().flatten(), 0))
    if likeness < _ALIKE:
        return f"their word embeddings have little in common: cosine {likeness:.2f}"
    return ""


def require_one_base(first: Base, other: Base) -> None:
    """Refuse to average teachers of different bases.

    Raises:
        TeacherError: they are no copies of one base.
    """
    reason = difference(first, other)
    if reason:
        raise TeacherError(
            f"weight-merge: teachers '{first.name}' and '{other.name}' have different bases ({reason}); only copies of "
            "one base can be averaged: choose a method that trains a student"
        )
