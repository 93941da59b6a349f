"""Teachers: loaded with their own tokenizer, checked, and fingerprinted by content."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from muki import compute
from muki.batches import require_known_tokens
from muki.checkpoints import (
    is_adapter,
    load_classifier,
    loading,
    quiet_transformers,
    refuse_remote_code,
    require_checkpoint,
)
from muki.errors import TeacherError
from muki.labels import label_names, rename, require_label_names
from muki.teachers.adapters import load_adapter
from muki.teachers.checks import require_single_label_classifier
from muki.teachers.dropout import with_dropout
from muki.teachers.fingerprints import configuration_fingerprint, content_fingerprint
from muki.teachers.masks import DropoutMasks, widest_site
from muki.tokenization import require_padding, usable_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

DEFAULT_MAX_LENGTH = 128


_FORMATS = ("auto", "float32", "bfloat16", "float16")


@dataclass
class Teacher:
    """A fine-tuned classifier that reads raw text through its own tokenizer.

    Attributes:
        name: unique in a run; names its folder of scores.
        model: a sequence classifier in eval mode; does the deterministic pass.
        tokenizer: the model's own.
        labels: label names by column, after renaming.
        prefix: put before each text, e.g. "query: " for E5 models.
        max_length: tokens per text; longer texts are cut.
        passes_dtype: number format of the dropout passes, whose rounding drowns in the dropout's own noise.
        dropout_override: the explicit dropout rate this teacher was rebuilt with; None for its own.
        fingerprint: of weights, label names and tokenizer; equal content, equal fingerprint, wherever it lies.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    labels: tuple[str, ...]
    prefix: str = ""
    max_length: int = DEFAULT_MAX_LENGTH
    passes_dtype: torch.dtype = torch.float32
    dropout_override: float | None = None
    fingerprint: str = ""

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.model.device

    @cached_property
    def passes_model(self) -> PreTrainedModel:
        """The model that does the dropout passes: `model`, or a copy of it in `passes_dtype`."""
        if self.passes_dtype == self.model.dtype:
            return self.model
        return cast("PreTrainedModel", cast(Any, copy.deepcopy(self.model)).to(self.passes_dtype))

    @cached_property
    def masks(self) -> DropoutMasks:
        """Of the dropout passes; their tables are made once for a teacher."""
        return DropoutMasks(self.max_length, widest_site(self.model.config, self.max_length))

    @property
    def parameters(self) -> int:
        """How many parameters the model has."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def settings(self) -> dict[str, Any]:
        """What else its outputs depend on, besides its content and the texts."""
        return {
            "configuration": configuration_fingerprint(self.model),
            "prefix": self.prefix,
            "max_length": self.max_length,
            "dropout_override": self.dropout_override,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "passes_dtype": str(self.passes_dtype).removeprefix("torch."),
        }


def load_teacher(
    model: str,
    *,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    prefix: str = "",
    max_length: int = DEFAULT_MAX_LENGTH,
    dtype: str = "auto",
    passes_dtype: str | None = None,
    revision: str | None = None,
    dropout_override: float | None = None,
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
) -> Teacher:
    """Load a teacher from a folder, a PEFT adapter folder, or a Hub id.

    Args:
        model: folder or Hub id of an `AutoModelForSequenceClassification` checkpoint, or folder of a PEFT
            adapter.
        name: of the teacher in the run; the folder's name by default.
        labels: own label name to wanted name, for those to be renamed.
        prefix: put before each text.
        max_length: tokens per text, at least 2; cut down to what the model can take.
        dtype: "auto" for float32, with dropout passes in bfloat16 where this machine computes it clearly faster; or
            one of "float32", "bfloat16", "float16" for all passes.
        passes_dtype: with "auto", the format of the dropout passes where it is known already.
        revision: of a Hub repository.
        dropout_override: set every dropout rate to this, in (0, 1): an explicit choice for models trained without.
        trust_remote_code: run code that comes with the checkpoint.
        device: where to put it; the accelerator if there is one, else the CPU.

    Raises:
        TeacherError: missing, not a classifier, regression, multi-label, one class, remote code, no padding token.
        LabelError: generic or doubled label names, or an alias for a label that is not there.
    """
    name = name or Path(model).name or model
    if dtype not in _FORMATS:
        raise TeacherError(f"teacher '{name}': unknown dtype '{dtype}'; known: {', '.join(_FORMATS)}")
    require_checkpoint(model, f"teacher '{name}'", TeacherError, adapters=True)
    with loading(model, f"teacher '{name}'", TeacherError):
        loaded, tokenizer = _load(
            model,
            name,
            torch.float32 if dtype == "auto" else getattr(torch, dtype),
            revision,
            trust_remote_code,
        )
    return wrap_teacher(
        loaded, tokenizer, name=name, labels=labels, prefix=prefix, max_length=max_length,
        passes_dtype=_passes_dtype(dtype, passes_dtype, loaded.dtype), dropout_override=dropout_override, device=device,
    )  # fmt: skip


def wrap_teacher(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    labels: Mapping[str, str] | None = None,
    prefix: str = "",
    max_length: int = DEFAULT_MAX_LENGTH,
    passes_dtype: torch.dtype | None = None,
    dropout_override: float | None = None,
    device: str | torch.device | None = None,
) -> Teacher:
    """Make a teacher of a model and tokenizer that are loaded already; same checks as `load_teacher`.

    `passes_dtype` None takes bfloat16 for the dropout passes of a float32 model where the machine computes it faster.
    """
    require_single_label_classifier(model.config, name)
    require_label_names(model.config, f"teacher '{name}'", TeacherError)
    own_labels = label_names(model.config)
    renamed = rename(name, own_labels, labels or {})
    require_padding(tokenizer, f"teacher '{name}'", TeacherError, model.config)
    require_known_tokens(tokenizer, [], model, f"teacher '{name}'", TeacherError)
    content = content_fingerprint(model, tokenizer)
    if dropout_override is not None:
        model = with_dropout(model, dropout_override)
    device = device or compute.device()
    if passes_dtype is None:
        passes_dtype = compute.fast_dtype(str(device)) if model.dtype == torch.float32 else model.dtype
    return Teacher(
        name=name,
        model=model.to(device).eval(),  # type: ignore[arg-type]
        tokenizer=tokenizer,
        labels=renamed,
        prefix=prefix,
        max_length=usable_length(model.config, tokenizer, max_length, name),
        passes_dtype=passes_dtype,
        dropout_override=dropout_override,
        fingerprint=content,
    )


@quiet_transformers()
def _load(
    model: str, name: str, dtype: torch.dtype, revision: str | None, trust: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoConfig, AutoTokenizer

    if is_adapter(model):
        return load_adapter(Path(model), name, dtype, trust)
    if not trust:
        refuse_remote_code(model, f"teacher '{name}'", TeacherError)
    config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust)
    require_single_label_classifier(config, name)
    loaded, missing = load_classifier(
        model, f"teacher '{name}'", TeacherError, dtype=dtype, revision=revision, trust_remote_code=trust
    )
    if missing:
        raise TeacherError(
            f"teacher '{name}': not a fine-tuned classifier: the checkpoint '{model}' lacks {', '.join(missing[:3])}"
            f"{' …' if len(missing) > 3 else ''}; fine-tune it first (muki finetune), or give the fine-tuned folder"
        )
    tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=trust)
    return loaded, tokenizer


def _passes_dtype(dtype: str, known: str | None, loaded: torch.dtype) -> torch.dtype | None:
    """The format of the dropout passes; None to find out which is faster."""
    if dtype != "auto":
        return loaded
    return getattr(torch, known) if known else None
