"""The texts to look at as CSV for a spreadsheet, and back."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from muki.report.facts import TextFacts

COLUMNS = (
    "row", "id", "text", "text_pair", "label", "why", "teachers_say", "target", "target_share", "student",
    "student_share",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def to_label_csv(texts: Sequence[TextFacts]) -> str:
    """One line a text, with an empty `label` to be filled in; a byte order mark tells spreadsheets that it is UTF-8."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for one in texts:
        says = "; ".join(f"{c.teacher}: {c.label} ({100 * c.certainty:.0f} % sure)" for c in one.claims)
        row = [
            str(one.text.row), one.text.id or "", one.text.text, one.text.text_pair or "", "", ", ".join(one.reasons),
            says, one.target, f"{one.target_share:.3f}", one.student or "", f"{one.student_share:.3f}",
        ]  # fmt: skip
        writer.writerow([_harmless(cell) for cell in row])
    return "\ufeff" + buffer.getvalue()


def filled_in(path: Path) -> bool:
    """Whether a person has worked in the file: a label is there, or it is no longer as it was written."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))
    except FileNotFoundError:
        return False
    except (UnicodeDecodeError, csv.Error):
        return True
    return any(row.get("label") is None or row["label"].strip() for row in rows)


def _harmless(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula; texts come from anywhere."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell
