"""What later stages may know of the teachers without loading them."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from muki.files import read_json, write_json
from muki.labels import LabelSpace, union

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherRecord:
    """One teacher, as a first look found it."""

    name: str
    source: str
    fingerprint: str
    labels: tuple[str, ...]
    architecture: str
    parameters: int
    settings: dict[str, Any]
    dropout: dict[str, float]


def label_space(records: list[TeacherRecord]) -> LabelSpace:
    """The union of the teachers' labels."""
    return union({record.name: record.labels for record in records})


def save_records(path: Path, records: list[TeacherRecord]) -> None:
    """Write the records as JSON."""
    write_json(path, [asdict(record) for record in records])


def load_records(path: Path) -> list[TeacherRecord] | None:
    """Read what `save_records` wrote; None where it is absent, or of another version of muki."""
    content = read_json(path)
    if content is None:
        return None
    try:
        return [TeacherRecord(**{**item, "labels": tuple(item["labels"])}) for item in content]
    except (KeyError, TypeError):
        logger.warning("teachers: %s is of another version of muki; they have to be looked at again", path)
        return None
