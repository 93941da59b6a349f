"""Texts cut once into Parquet shards with stable row ids; the shard is the unit of all later work."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from muki.errors import TextsError
from muki.files import file_fingerprint, fingerprint, read_json, replacing, stream_fingerprint, unchanged, write_json
from muki.texts.reading import Columns, Text, read
from muki.texts.sources import TextFile, files_of

logger = logging.getLogger(__name__)

SHARD_ROWS = 1024
_LISTED = 1000  # skipped rows listed in the manifest; all are counted

_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("text", pa.string()),
        ("text_pair", pa.string()),
        ("label", pa.string()),
    ]
)


@dataclass(frozen=True)
class Shard:
    """One file of texts: the unit of all work and of all resuming."""

    name: str
    rows: int
    fingerprint: str  # of the texts
    digest: str  # of the file


@dataclass
class TextShards:
    """A folder of shards with its manifest `texts.json`."""

    folder: Path
    source: str
    fingerprint: str
    rows: int
    shards: list[Shard]
    skipped: int = 0
    skipped_rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        """Whether every shard's file is as it was written."""
        return unchanged(self.folder, {shard.name: shard.digest for shard in self.shards})

    def read(self, shard: Shard) -> list[Text]:
        """Load one shard's texts."""
        rows = pq.read_table(self.folder / shard.name).to_pylist()
        return [Text(r["row"], r["text"], r["text_pair"], r["id"], r["label"]) for r in rows]

    def __iter__(self) -> Iterator[Text]:
        """Iterate over all texts, one shard in memory at a time."""
        for shard in self.shards:
            yield from self.read(shard)

    @classmethod
    def load(cls, folder: Path) -> TextShards | None:
        """Read the manifest of a finished folder; None where there is none, or one of another version of muki."""
        content = read_json(folder / "texts.json")
        if content is None:
            return None
        try:
            shards = [Shard(**shard) for shard in content["shards"]]
            return cls(**{**content, "folder": folder, "shards": shards})
        except (KeyError, TypeError):
            logger.warning("texts: %s is of another version of muki; the texts have to be cut again", folder)
            return None


def source_fingerprint(source: str | Sequence[Any], columns: Columns, split: str | None = None) -> str:
    """Fingerprint a source by content: the bytes of its files, the texts of a list, the name of a Hub data set.

    Remote files are read from end to end for it, each time: what object stores say about a file's version differs from
    store to store, and the same bytes must give the same fingerprint wherever they lie.
    """
    if not isinstance(source, str):
        return fingerprint("texts", [_plain(item) for item in source], asdict(columns))
    files = files_of(source)
    if files is not None:
        forms = [(file.suffix, file.gzipped, _content(file)) for file in files]  # the same bytes read otherwise differ
        return fingerprint("files", forms, asdict(columns))
    return fingerprint("hub", source, split, asdict(columns))


def texts_fingerprint(
    source: str | Sequence[Any], columns: Columns, *, split: str | None, shard_rows: int, limit: int | None
) -> str:
    """Of a source and how it is cut; arguments as of `cutting`."""
    return fingerprint(source_fingerprint(source, columns, split), shard_rows, limit)


def cut(source: str | Sequence[Any], folder: Path, columns: Columns | None = None, **how: Any) -> TextShards:
    """Cut a text source into Parquet shards, which replace others in `folder`; arguments as of `cutting`."""
    with cutting(source, folder, columns, **how) as shards:
        pass
    return replace(shards, folder=folder)


@contextmanager
def cutting(
    source: str | Sequence[Any],
    folder: Path,
    columns: Columns | None = None,
    *,
    split: str | None = None,
    shard_rows: int = SHARD_ROWS,
    limit: int | None = None,
) -> Iterator[TextShards]:
    """Cut a text source into Parquet shards; those in `folder` are replaced only if the body accepts the new ones.

    Empty and whitespace texts are skipped, counted and listed.

    Args:
        source: a file (jsonl, csv, tsv, txt, also gzipped; parquet), a folder of these, the URL of either, the name of
            a Hub data set, or a sequence of strings or mappings.
        folder: where the shards go; written whole or not at all.
        columns: which columns hold text, text pair, label and id.
        split: the split of a Hub data set.
        shard_rows: texts per shard, at least 1. A shard is what an interruption costs at most.
        limit: keep only the first texts.

    Yields:
        the shards, in a temporary place, or those of the same source that are in `folder` already.

    Raises:
        TextsError: nothing to read, a wrong column, a broken line (named), bytes that are not UTF-8, or no text left.
    """
    columns = columns or Columns()
    key = texts_fingerprint(source, columns, split=split, shard_rows=shard_rows, limit=limit)
    known = TextShards.load(folder)
    if known is not None and known.fingerprint == key and known.intact:
        logger.info("texts: reusing %d texts in %s (same source)", known.rows, folder)
        yield known
        return

    name = source if isinstance(source, str) else f"{len(source)} texts in memory"
    skipped: list[dict[str, Any]] = []
    n_skipped = 0

    def kept() -> Iterator[Text]:
        nonlocal n_skipped
        for text in read(source, columns, split=split):
            if text.text.strip():
                yield text
                continue
            n_skipped += 1
            if len(skipped) < _LISTED:
                skipped.append({"row": text.row, "id": text.id, "why": "empty"})

    shards: list[Shard] = []
    with replacing(folder) as temporary:
        temporary.mkdir()
        stream = itertools.islice(kept(), limit)
        while rows := list(itertools.islice(stream, shard_rows)):
            shard_name = f"shard-{len(shards):05d}.parquet"
            _write_shard(rows, temporary / shard_name)
            content = fingerprint([[t.row, t.text, t.text_pair] for t in rows])
            shards.append(Shard(shard_name, len(rows), content, file_fingerprint(temporary / shard_name)))
        total = sum(shard.rows for shard in shards)
        if not total:
            raise TextsError(
                f"texts '{name}': no text left ({n_skipped} empty ones skipped); at least one non-empty text is needed"
            )
        manifest = TextShards(temporary, name, key, total, shards, n_skipped, skipped)
        content_json = {k: v for k, v in asdict(manifest).items() if k != "folder"}
        write_json(temporary / "texts.json", content_json)
        yield manifest
    if n_skipped:
        logger.warning("texts: %d empty texts skipped in %s; listed in %s", n_skipped, name, folder / "texts.json")


def _content(file: TextFile) -> str:
    with file.reading() as raw:
        return stream_fingerprint(raw)


def _plain(item: Any) -> Any:
    return {str(k): str(v) for k, v in item.items()} if isinstance(item, Mapping) else str(item)


def _write_shard(rows: list[Text], path: Path) -> None:
    columns = {name: [getattr(text, name) for text in rows] for name in _SCHEMA.names}
    columns["id"] = [str(text.row) if text.id is None else text.id for text in rows]
    pq.write_table(pa.table(columns, schema=_SCHEMA), path, compression="zstd")
