"""What a teacher must be: a folder or Hub id that holds a single-label classifier with a usable tokenizer."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from muki.checkpoints import OFFSET_POSITIONS, brings_code, ensure_padding, is_missing_folder
from muki.errors import TeacherError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def usable_length(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, wanted: int, name: str) -> int:
    """Cut `wanted` tokens down to what model and tokenizer can take."""
    usable = min(wanted, longest(config, tokenizer))
    if usable < wanted:
        logger.warning("'%s': max_length %d cut down to the %d tokens that it can take", name, wanted, usable)
    return usable


def longest(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """The most tokens a text that model and tokenizer can take."""
    positions = getattr(config, "max_position_embeddings", None) or -1
    if positions < 1:  # relative positions; XLNet says -1
        return int(tokenizer.model_max_length)
    if config.model_type in OFFSET_POSITIONS:  # position ids start after the padding id there
        positions -= (config.pad_token_id or 0) + 1
    return int(min(positions, tokenizer.model_max_length))


def require_folder_if_path(model: str, name: str) -> None:
    """A missing folder should not be looked up on the Hub first, where `teachers/a` is a valid id."""
    if is_missing_folder(model):
        if Path(model).is_file():
            raise TeacherError(f"teacher '{name}': '{model}' is a file; give the folder that save_pretrained wrote")
        raise TeacherError(f"teacher '{name}': no such folder: '{model}'; give a save_pretrained folder or a Hub id")
    path = Path(model)
    if path.is_dir() and not ((path / "config.json").exists() or (path / "adapter_config.json").exists()):
        raise TeacherError(
            f"teacher '{name}': no config.json in '{model}'; give the folder that save_pretrained wrote "
            "(or a PEFT adapter's, with adapter_config.json)"
        )


def refuse_remote_code(model: str, name: str, trust: bool) -> None:
    """Refuse a checkpoint that brings code of its own, unless it is trusted."""
    try:
        refused = not trust and brings_code(model)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TeacherError(f"teacher '{name}': '{model}/config.json' is not readable JSON ({error})") from None
    if refused:
        raise TeacherError(
            f"teacher '{name}': its checkpoint wants to run code of its own (config.json has auto_map); "
            "read that code, then allow it with --trust-remote-code"
        )


def require_single_label_classifier(config: PreTrainedConfig, name: str) -> None:
    """Refuse regression, multi-label and one-class models."""
    if config.problem_type == "regression":
        raise TeacherError(f"teacher '{name}': a regression model (problem_type=regression); a classifier is expected")
    if config.problem_type == "multi_label_classification":
        raise TeacherError(
            f"teacher '{name}': a multi-label classifier (problem_type=multi_label_classification); one with exactly "
            "one label per text is expected"
        )
    if (config.num_labels or 0) < 2:
        raise TeacherError(
            f"teacher '{name}': one class only (num_labels={config.num_labels}); its certainty is undefined, "
            "two or more classes are expected"
        )


def require_label_names(config: PreTrainedConfig, name: str) -> None:
    """Refuse a configuration that leaves a column without a name."""
    known = config.id2label or {}
    for column in range(config.num_labels or 0):
        if column not in known:
            raise TeacherError(
                f"teacher '{name}': its config.json has no label name for column {column} (id2label has "
                f"{', '.join(map(str, known))}); name every column there"
            )


def require_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Give a decoder's tokenizer its end token as padding, as is usual; refuse where there is none."""
    lacking = tokenizer.pad_token is None
    if not ensure_padding(tokenizer, model.config):
        raise TeacherError(
            f"teacher '{name}': its tokenizer has neither a padding token nor an end token; set one "
            "(tokenizer.pad_token = ...) and save the tokenizer in the teacher's folder"
        )
    if lacking:
        logger.warning("teacher '%s': no padding token; using %r", name, tokenizer.pad_token)
