"""Any text source, read as a stream of `Text`s."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from muki.errors import MissingColumnError, TextsError, first_line
from muki.texts.sources import KNOWN, SUFFIXES, TextFile, files_of, is_url, suffix_of

logger = logging.getLogger(__name__)

_BATCH = 1024


@dataclass(frozen=True)
class Text:
    """One text. `row` is its position in the source, counted from 0 before anything is skipped."""

    row: int
    text: str
    text_pair: str | None = None
    id: str | None = None
    label: str | None = None  # without spaces around it, as the names of the teachers' labels


@dataclass(frozen=True)
class Columns:
    """Which columns (or JSON keys) hold what; all that are named must be there.

    Without `id` a column called "id" is taken where there is one, else the row number.
    """

    text: str = "text"
    text_pair: str | None = None
    label: str | None = None
    id: str | None = None


def read(source: str | Iterable[Any], columns: Columns | None = None, *, split: str | None = None) -> Iterator[Text]:
    """Stream the texts of any source; nothing is skipped here (an empty or missing text is the empty string)."""
    columns = columns or Columns()
    if not isinstance(source, str):
        return _from_rows(_numbered(_with_label_names(source, columns.label), "texts in memory"), columns)
    files = files_of(source)
    if files is not None:
        return _renumbered(text for file in files for text in _read_file(file, columns))
    if looks_like_a_file(source):
        raise TextsError(
            f"texts '{source}': no such file or folder{_looked_in(source)}; give a file ({KNOWN}), or a folder of such "
            "files"
        )
    return _from_hub(source, columns, split)


def read_lines(name: str, file: BinaryIO) -> Iterator[Text]:
    """One text a line of an open file, a pipe for one; `name` is what messages call it."""
    return _read_file(TextFile(name, lambda: file), Columns())


def _looked_in(source: str) -> str:
    """Where a relative path was looked for."""
    return "" if is_url(source) or source.startswith(("/", "~")) else f" in {Path.cwd()}"


# --- one reader for each form ------------------------------------------------------------------------------------


def _read_file(file: TextFile, columns: Columns) -> Iterator[Text]:
    if file.suffix in (".jsonl", ".json"):
        return _from_rows(_jsonl(file), columns)
    if file.suffix in (".csv", ".tsv"):
        return _from_rows(_csv(file, "," if file.suffix == ".csv" else "\t"), columns)
    if file.suffix == ".parquet":
        return _from_rows(_parquet(file), columns)
    return (Text(row, line) for row, line in enumerate(_lines(file)))


def _lines(file: TextFile) -> Iterator[str]:
    """Decode line by line, so that a wrong byte is reported with its line."""
    with file.reading() as raw:
        number = 0
        try:
            for number, line in enumerate(gzip.GzipFile(mode="rb", fileobj=raw) if file.gzipped else raw, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield text.removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise TextsError(
                f"{file.name}, line {number}: byte {error.start + 1} (0x{error.object[error.start]:02x}) is not UTF-8; "
                "save the file as UTF-8"
            ) from None
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise TextsError(f"{file.name}, after line {number}: broken gzip file ({error})") from None


def _jsonl(file: TextFile) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(_lines(file), 1):
        where = f"{file.name}, line {number}"
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            raise TextsError(
                f"{where}: broken JSON ({error.msg} at column {error.colno}); one object a line is expected"
            ) from None
        except RecursionError:
            raise TextsError(f"{where}: broken JSON (nested too deeply); one object a line is expected") from None
        except ValueError as error:
            raise TextsError(f"{where}: broken JSON ({error}); one object a line is expected") from None
        if not isinstance(item, dict):
            raise TextsError(f'{where}: found {type(item).__name__}, expected an object like {{"text": "..."}}')
        yield where, item


def _csv(file: TextFile, delimiter: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader((line + "\n" for line in _lines(file)), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise TextsError(
                f"{file.name}, line {start}: broken {file.suffix.lstrip('.').upper()} ({error}); check the quotes there"
            ) from None
        if header is None:
            header = cells
        elif not cells:
            continue
        elif len(cells) != len(header):
            raise TextsError(
                f"{file.name}, line {start}: {len(cells)} cells, but the header has {len(header)}; "
                "quote cells that hold the separator"
            )
        else:
            yield f"{file.name}, line {start}", dict(zip(header, cells, strict=True))


def _parquet(file: TextFile) -> Iterator[tuple[str, Mapping[str, Any]]]:
    row = 0
    with file.reading() as raw:
        try:
            for batch in pq.ParquetFile(raw).iter_batches(batch_size=_BATCH):
                for item in batch.to_pylist():
                    yield f"{file.name}, row {row}", item
                    row += 1
        except (pa.ArrowException, OSError) as error:
            raise TextsError(f"{file.name}: not a readable Parquet file ({' '.join(str(error).split())})") from None


def _from_hub(name: str, columns: Columns, split: str | None) -> Iterator[Text]:
    """The rows of a Hub data set, `org/name` or, of several configurations, `org/name:configuration`."""
    try:
        import datasets
    except ImportError:
        raise TextsError(
            f"texts '{name}': no such file or folder{_looked_in(name)}; to read a Hub data set of that name, pip "
            "install 'muki[datasets]'"
        ) from None
    try:
        rows = datasets.load_dataset(*name.split(":", 1), split=split or "train", streaming=True)
    except Exception as error:  # the library raises many kinds here
        said, remedy = first_line(error), ""
        if "Config name is missing" in said:
            said, remedy = " ".join(str(error).split("\n")[:2]), f"; give one of them as '{name}:NAME'"
        raise TextsError(
            f"texts '{name}': no such file or folder{_looked_in(name)}, and not a Hub data set that can be read "
            f"({said}){remedy}"
        ) from None
    return _from_rows(_numbered(_with_label_names(rows, columns.label), name), columns)


def _with_label_names(rows: Iterable[Any], label: str | None) -> Iterable[Any]:
    """The rows of a `datasets` data set with names of classes in the place of numbers; others as they are.

    Most data sets on the Hub store `label` as a number (a `ClassLabel`) whose name is among the features. A negative
    number stands for a text without a label there.
    """
    names = getattr((getattr(rows, "features", None) or {}).get(label), "names", None)
    if label is None or not names:
        return rows
    return ({**item, label: _name_of(item.get(label), names)} for item in rows)


def _name_of(value: object, names: Sequence[str]) -> object:
    if not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


def _numbered(rows: Iterable[Any], source: str) -> Iterator[tuple[str, Any]]:
    """Rows that bring no place of their own, each with its number in the source."""
    return ((f"{source}, row {row}", item) for row, item in enumerate(rows))


def _from_rows(rows: Iterable[tuple[str, Any]], columns: Columns) -> Iterator[Text]:
    """Turn `(where, item)` pairs into texts; an item is a mapping or a plain string, `where` is for messages."""
    for row, (where, item) in enumerate(rows):
        if isinstance(item, str):
            item = {columns.text: item}
        if not isinstance(item, Mapping):
            raise TextsError(
                f"{where}: found {type(item).__name__}, expected a string or a mapping with '{columns.text}'"
            )
        wanted = [columns.text, columns.text_pair, columns.label, columns.id]
        missing = next((name for name in wanted if name and name not in item), None)
        if missing:
            there = ", ".join(map(str, item)) or "none"
            raise MissingColumnError(missing, f"{where}: no column '{missing}'; the columns there are: {there}")
        label = item[columns.label] if columns.label else None
        identity = item[columns.id] if columns.id else item.get("id")
        yield Text(
            row=row,
            text=_string(item[columns.text], columns.text, where) or "",
            text_pair=(_string(item[columns.text_pair], columns.text_pair, where) or "") if columns.text_pair else None,
            id=None if identity is None else _clean(str(identity)),
            label=None if label is None else _clean(str(label)).strip() or None,
        )


# --- helpers -----------------------------------------------------------------------------------------------------


def _string(value: object, column: str, where: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise TextsError(f"{where}: '{column}' is {value!r:.40} ({type(value).__name__}), expected a string")
    return _clean(value)


def _clean(value: str) -> str:
    """Lone surrogates cannot be written as UTF-8; they become `?`."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def _renumbered(texts: Iterator[Text]) -> Iterator[Text]:
    for row, text in enumerate(texts):
        yield text if text.row == row else Text(row, text.text, text.text_pair, text.id, text.label)


def looks_like_a_file(source: str) -> bool:
    """Whether a name that is nowhere to be found cannot be a Hub data set's."""
    known = suffix_of(source) in SUFFIXES
    return known or is_url(source) or source.startswith((".", "/", "~")) or source.count("/") > 1
