"""Files that are either whole or absent, and fingerprints that say what they were made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from muki.errors import MukiError

_HOST = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname()) or "here"


def fingerprint(*parts: object) -> str:
    """Hash JSON-able parts (or bytes) to 32 hexadecimal digits. Equal parts, equal fingerprint, on any machine."""
    return fingerprint_of(parts)


def fingerprint_of(parts: Iterable[object]) -> str:
    """As `fingerprint`, of parts that need not all be in memory at once; a memoryview counts as its bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, bytes | memoryview):
            data: bytes | memoryview = part
        else:
            data = json.dumps(part, sort_keys=True, ensure_ascii=False).encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def file_fingerprint(path: Path) -> str:
    """Hash a file's bytes, in constant memory."""
    with path.open("rb") as file:
        return stream_fingerprint(file)


def stream_fingerprint(file: BinaryIO) -> str:
    """Hash what is left in an open file, in constant memory."""
    return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()  # type: ignore[arg-type]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success rename it to `path`, on failure remove it.

    Works for a file or a folder: whichever the body creates. An older version of `path` is replaced. Who may read the
    files is decided by the umask, also for those of libraries that write through a private file (safetensors).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        _follow_umask(temporary)
        if path.is_dir():
            remove(path)
        temporary.replace(path)
    finally:
        remove(temporary)


def _follow_umask(path: Path) -> None:
    """Give all files at or below `path` the mode that a newly created file gets here."""
    probe = path.with_name(f"{path.stem}m.tmp")
    probe.touch()  # os.umask cannot be asked without being changed, for all threads
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for file in [path] if path.is_file() else (p for p in path.rglob("*") if p.is_file()):
        file.chmod(mode)


def clear_leftovers(folder: Path) -> None:
    """Remove temporary files of processes of this machine that were killed while they wrote."""
    for path in folder.rglob(f".*.{_HOST}-*-*.tmp"):
        pid = int(path.name.rsplit("-", 2)[1])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            remove(path)
        except PermissionError:
            continue


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Hash of each named file's bytes; `unchanged` compares with it later."""
    return {name: file_fingerprint(folder / name) for name in names}


def unchanged(folder: Path, expected: Mapping[str, str]) -> bool:
    """Whether every file is still there, byte for byte."""
    return all((folder / n).is_file() and file_fingerprint(folder / n) == digest for n, digest in expected.items())


def remove(path: Path) -> None:
    """Remove a file or folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def public_name(source: str) -> str:
    """A Hub id or relative path as it is, of a path on this machine the last part: a report or card is for others."""
    return Path(source).name if Path(source).is_absolute() else source


def is_remote(path: str | Path) -> bool:
    """Whether a path is a URL, as a string or as what `Path` makes of it; two letters at least, for Windows' drives."""
    return re.match(r"[a-z][a-z0-9+.:-]+:/", str(path)) is not None


def require_local(output: str | Path) -> None:
    """Refuse a URL as a place to write to; `Path` would make a folder named `s3:` of it.

    Raises:
        MukiError: it is one.
    """
    if is_remote(output):
        raise MukiError(
            f"output '{output}': is remote; files are locked and renamed there, so give a local or shared path, and "
            "copy what is finished (see docs/scoring.md)"
        )


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that readers see the old file or the new one, never half of it."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, content: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def read_json(path: Path) -> Any | None:
    """Read JSON; None where the file is absent or cut short (a stage that finds None is done again)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return None
