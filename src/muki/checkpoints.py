"""What every checkpoint folder must hold, whoever loads it: teacher, student, or a model that predicts."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muki.files import file_fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "*.model", "*.spm", "*.bpe")


def is_missing_folder(model: str) -> bool:
    """Whether `model` can only mean a folder, and is none: then the Hub need not be asked."""
    path = Path(model)
    if path.is_dir():
        return False
    folder_like = path.is_file() or path.is_absolute() or model.startswith((".", "~"))
    return folder_like or len(path.parts) > 2 or (len(path.parts) == 2 and path.parent.is_dir())


def lacks_tokenizer(model: str) -> bool:
    """Whether a folder holds no tokenizer; transformers would make one up, of special tokens only."""
    path = Path(model)
    return path.is_dir() and not any(any(path.glob(name)) for name in _TOKENIZER)


def brings_code(model: str | Path) -> bool:
    """Whether a folder's checkpoint wants to run code of its own."""
    config = Path(model) / "config.json"
    if not config.exists():
        return False
    content: Any = json.loads(config.read_text(encoding="utf-8"))
    return "auto_map" in content


def folder_fingerprint(model: str) -> object:
    """What a checkpoint is: the bytes of its files (sizes and times would mislead); a Hub id is taken by name."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    names = [p for p in sorted(folder.iterdir()) if p.suffix in (".json", ".safetensors", ".bin", ".txt", ".model")]
    return [(p.name, file_fingerprint(p)) for p in names if p.is_file()]


def ensure_padding(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig | None = None) -> bool:
    """Pad with the end token where there is no padding token, as is usual for decoders; tell the model's config.

    Returns:
        whether there is a padding token now.
    """
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if config is not None and config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    return tokenizer.pad_token is not None


def loading_errors() -> tuple[type[Exception], ...]:
    """What loading a broken checkpoint raises."""
    from safetensors import SafetensorError

    return (OSError, ValueError, ImportError, RuntimeError, KeyError, SafetensorError)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from printing bars for weights and reports of missing ones, then give it its voice back.

    What such a report could say, our own checks say as errors. Downloads from the Hub keep their bars. The settings
    are the whole process's: what another thread does with transformers meanwhile is quiet too.
    """
    from transformers.utils import logging as theirs

    verbosity, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity(logging.ERROR)
    theirs._tqdm_active = False  # `disable_progress_bar` would silence the Hub's downloads too
    try:
        yield
    finally:
        theirs.set_verbosity(verbosity)
        theirs._tqdm_active = bars
