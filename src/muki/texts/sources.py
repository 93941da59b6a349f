"""Where texts lie: a file or a folder of files, on this machine or behind a URL that fsspec can read."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from muki.errors import TextsError, first_line
from muki.files import is_remote

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet")
KNOWN = "jsonl, csv, tsv, txt (also .gz of these) or parquet"
_BUFFER = 1 << 20  # bytes asked of a remote file at a time


@dataclass(frozen=True)
class TextFile:
    """One file of texts.

    Attributes:
        name: its path or URL, as messages call it.
        open: opens it for reading bytes, seekable.
        failures: what a remote store may raise while it is read; nothing for a local file, whose errors name it.
    """

    name: str
    open: Callable[[], BinaryIO]
    failures: tuple[type[Exception], ...] = ()

    @property
    def suffix(self) -> str:
        """What kind of file it is, e.g. `.jsonl` for `a.jsonl.gz`."""
        return suffix_of(self.name)

    @property
    def gzipped(self) -> bool:
        """Whether its bytes must be unpacked."""
        return self.name.lower().endswith(".gz")

    @contextmanager
    def reading(self) -> Iterator[BinaryIO]:
        """Open it and close it again.

        Raises:
            TextsError: a remote file cannot be read, or no longer.
        """
        try:
            with self.open() as file:
                yield file
        except TextsError:
            raise
        except self.failures as error:
            raise TextsError(f"{self.name}: cannot be read ({first_line(error)})") from error


def files_of(source: str) -> list[TextFile] | None:
    """The text files that a path or URL stands for, sorted by name; None where it is not there.

    Args:
        source: a file, or a folder, of which all text files are taken except hidden ones and those in hidden folders;
            or the URL of either (`s3://…`, `gs://…`, `memory://…`), or a URL with `*`, `?` or `**`.

    Raises:
        TextsError: not a text file, no text files there, or a remote store that cannot be read.
    """
    found = _remote(source) if is_url(source) else _local(Path(source))
    if found is None:
        return None
    if not found:
        raise TextsError(f"texts '{source}': a folder without text files; expected {KNOWN}")
    packed = next((file.name for file in found if file.suffix == ".parquet" and file.gzipped), None)
    if packed:
        raise TextsError(f"texts '{packed}': Parquet inside gzip; Parquet has its own compression: gunzip the file")
    return found


def is_url(source: str) -> bool:
    """Whether fsspec is asked for this source."""
    return is_remote(source) and "://" in source


def suffix_of(name: str) -> str:
    """The lower-case suffix of a file's name, without a `.gz` at the end."""
    return Path(re.sub(r"\.gz$", "", name, flags=re.IGNORECASE)).suffix.lower()


def _local(path: Path) -> list[TextFile] | None:
    if path.is_dir():
        return [_local_file(p) for p in sorted(path.rglob("*")) if p.is_file() and _is_text(p.relative_to(path).parts)]
    if not path.exists():
        return None
    _require_text(str(path))
    return [_local_file(path)]


def _local_file(path: Path) -> TextFile:
    def opened() -> BinaryIO:
        return path.open("rb")

    return TextFile(str(path), opened)


def _remote(url: str) -> list[TextFile] | None:
    store, path = _store_of(url)
    try:
        paths, folder = _remote_paths(store, path)
    except FileNotFoundError:
        return None
    except Exception as error:  # each store has errors of its own: of the network, of credentials
        raise TextsError(f"texts '{url}': cannot be read ({first_line(error)})") from error
    if folder is None:
        _require_text(url)
        return [_remote_file(store, path, url)]
    taken = [p for p in sorted(paths) if _is_text(_below(folder, p))]
    return [_remote_file(store, p, store.unstrip_protocol(p)) for p in taken]


def _store_of(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there."""
    import fsspec

    try:
        return cast("tuple[Any, str]", fsspec.core.url_to_fs(url))
    except ImportError as error:
        missing = getattr(error.__cause__ or error, "name", None)
        help_ = f"; pip install {missing}" if missing else ""
        raise TextsError(f"texts '{url}': a package to read this is not installed ({error}){help_}") from None
    except Exception as error:  # an unknown protocol, or what a store says about its settings
        raise TextsError(f"texts '{url}': cannot be read ({first_line(error)})") from error


def _remote_paths(store: Any, path: str) -> tuple[list[str], str | None]:
    """The files at a path, and the folder that was asked for, None where the path is itself a file.

    Of a path with wildcards it is the folder before the first of them.

    Raises:
        FileNotFoundError: nothing is there.
    """
    try:
        if store.info(path)["type"] == "directory":
            return store.find(path), path
        return [path], None
    except FileNotFoundError:
        matching = [p for p in store.glob(path) if store.isfile(p)] if re.search(r"[*?\[]", path) else []
        if not matching:
            raise
        return matching, re.split(r"[*?\[]", path)[0].rpartition("/")[0]


def _below(folder: str, path: str) -> list[str]:
    """The parts of a store's path from a folder on; stores differ in whether a path starts with `/`."""
    return path.strip("/").removeprefix(folder.strip("/")).strip("/").split("/")


def _remote_file(store: Any, path: str, name: str) -> TextFile:
    def opened() -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(store.open(path, "rb"), _BUFFER))  # fsspec's own lines are slow

    return TextFile(name, opened, failures=(Exception,))


def _is_text(parts: Sequence[str]) -> bool:
    """Whether a path, as its parts below the folder that was asked for, is of a text file and nowhere hidden."""
    return suffix_of(parts[-1]) in SUFFIXES and not any(part.startswith(".") for part in parts)


def _require_text(name: str) -> None:
    if suffix_of(name) not in SUFFIXES:
        raise TextsError(f"texts '{name}': unknown kind of file; expected {KNOWN}")
