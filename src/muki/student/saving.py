"""A saved student: a plain `save_pretrained` folder, and beside it the record of what it was made from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muki.files import digests, read_json, remove, replacing, unchanged, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def is_saved(key: str, folder: Path, record: Path) -> bool:
    """Whether the student in the folder is the one of this fingerprint, byte for byte; says so, or that it will go."""
    done = read_json(record)
    files = done.get("files") if done is not None and done.get("fingerprint") == key else None
    if files is not None and unchanged(folder, files):
        logger.info("student: reusing %s (same supervision or teachers, same settings)", folder)
        return True
    if folder.exists():
        logger.info("student: supervision or settings have changed; it is made anew and replaces the one in %s", folder)
    return False


def save_student(
    model: Any, tokenizer: PreTrainedTokenizerBase, max_length: int, folder: Path, record: Path, about: dict[str, Any]
) -> None:
    """Write a student and then its record: `about`, and the hash of each file."""
    remove(record)  # so that an interruption here cannot leave a student with another's record
    save_classifier(model, tokenizer, folder, max_length)
    files = digests(folder, (path.name for path in sorted(folder.iterdir()) if path.is_file()))
    write_json(record, {**about, "files": files})


def save_classifier(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, max_length: int) -> None:
    """Write a plain `save_pretrained` folder; the tokenizer's `truncation=True` then cuts where training did."""
    tokenizer.model_max_length = max_length
    with replacing(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
