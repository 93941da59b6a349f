"""Texts behind a URL are read as local ones are; fsspec's memory file system stands for an object store."""

from __future__ import annotations

import gzip
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl
from fsspec.implementations.memory import MemoryFileSystem
from typer.testing import CliRunner

import muki
from muki.cli import app
from muki.config import make_config
from muki.errors import MukiError, TextsError
from muki.pipeline import score
from muki.predict import predict_file
from muki.texts import Columns, cut, read, source_fingerprint

Settings = Callable[..., dict[str, Any]]
Store = Callable[[str, "str | bytes | Path"], str]
KNOWN = "jsonl, csv, tsv, txt (also .gz of these) or parquet"
TEXTS = ["a late goal", "the new tax law", "a quiet drama"]
LINES = "".join(f'{{"text": "{text}"}}\n' for text in TEXTS)


@pytest.fixture
def store() -> Iterator[Store]:
    """Put content at a path of the memory file system; returns its URL."""
    memory = MemoryFileSystem()

    def put(path: str, content: str | bytes | Path) -> str:
        data = content.read_bytes() if isinstance(content, Path) else content
        memory.pipe(f"/{path}", data.encode() if isinstance(data, str) else data)
        return f"memory://{path}"

    yield put
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def write(folder: Path, form: str) -> Path:
    path = folder / f"t.{form}"
    if form == "parquet":
        pq.write_table(pa.table({"text": TEXTS}), path)
        return path
    content = (
        LINES if "jsonl" in form else "".join(f"{text}\n" for text in (["text"] if "txt" not in form else []) + TEXTS)
    )
    path.write_bytes(gzip.compress(content.encode()) if form.endswith(".gz") else content.encode())
    return path


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv", "txt", "parquet", "jsonl.gz", "csv.gz", "txt.gz"])
def test_every_form_is_read_and_fingerprinted_as_if_it_were_local(form: str, tmp_path: Path, store: Store):
    local = write(tmp_path, form)
    url = store(f"bucket/t.{form}", local)
    assert [text.text for text in read(url)] == TEXTS
    assert list(read(url)) == list(read(str(local)))
    assert source_fingerprint(url, Columns()) == source_fingerprint(str(local), Columns())


@pytest.mark.parametrize("source", ["memory://bucket", "memory://bucket/", "memory://bucket/**", "memory://buck*/*.*"])
def test_folders_and_patterns_stand_for_their_text_files_sorted_by_name(source: str, store: Store):
    store("bucket/b.txt", "second\n")
    store("bucket/a.jsonl", '{"text": "first"}\n')
    store("bucket/c.md", "no text file")
    store("bucket/.hidden.txt", "hidden\n")
    assert [(text.row, text.text) for text in read(source)] == [(0, "first"), (1, "second")]


@pytest.mark.parametrize(
    ("source", "taken"),
    [
        ("memory://bucket", ["a/pool", "pool"]),
        ("memory://bucket/**", ["a/pool", "pool"]),
        ("memory://buck*/**", ["a/pool", "pool"]),
        ("memory://bucket/.old", [".old"]),
        ("memory://bucket/.old/*.txt", [".old"]),
    ],
)
def test_hidden_folders_are_read_only_if_they_are_asked_for(source: str, taken: list[str], store: Store):
    store("bucket/pool.txt", "pool\n")
    store("bucket/a/pool.txt", "a/pool\n")
    store("bucket/.old/pool.txt", ".old\n")
    store("bucket/a/.ipynb_checkpoints/pool.txt", "a/.ipynb_checkpoints\n")
    assert [text.text for text in read(source)] == taken


def test_folders_are_read_at_any_depth(store: Store):
    store("bucket/b.txt", "second\n")
    store("bucket/a/z.txt", "first\n")
    assert [text.text for text in read("memory://bucket")] == ["first", "second"]
    assert [text.text for text in read("memory://bucket/*.txt")] == ["second"]


def test_a_whole_run_from_remote_texts_has_the_scores_of_a_local_one_and_is_reused(
    settings: Settings, tmp_path: Path, pool: Path, store: Store, caplog: Any
):
    test = write_jsonl(tmp_path / "test.jsonl", [{"text": "a late goal", "label": "sports"}])
    places = {
        "local": (str(pool), str(test)),
        "remote": (store("bucket/pool.jsonl", pool), store("bucket/test.jsonl", test)),
    }
    for name, (texts, labelled) in places.items():
        content = settings(
            texts={"path": texts, "shard_rows": 16}, test={"path": labelled}, output=str(tmp_path / name)
        )
        score(make_config(content, "test").absolute())
    for part in ("texts", "scores", "test/texts", "test/scores"):
        ours, theirs = (
            {p.relative_to(tmp_path / n / part): p.read_bytes() for p in (tmp_path / n / part).rglob("*.parquet")}
            for n in places
        )
        assert ours
        assert ours == theirs
    caplog.set_level("INFO")
    score(make_config(content, "test").absolute())
    assert f"texts: reusing 40 texts in {tmp_path / 'remote' / 'texts'} (same source)" in caplog.messages
    store("bucket/pool.jsonl", LINES)
    assert cut("memory://bucket/pool.jsonl", tmp_path / "remote" / "texts").rows == len(TEXTS)


def test_predict_reads_remote_texts(teachers: list[Path], tmp_path: Path, store: Store):
    url = store("bucket/t.jsonl", LINES)
    output = tmp_path / "out.jsonl"
    result = CliRunner().invoke(app, ["-q", "predict", str(teachers[0]), "--texts", url, "--output", str(output)])
    assert (result.exit_code, result.stdout) == (0, f"3 predictions in {output}\n")
    assert output.read_text().count("\n") == 3


def test_machines_that_share_no_folder_exchange_finished_files(settings: Settings, tmp_path: Path):
    """As docs/scoring.md says for object stores: copy the first one's run folder, score there, copy the scores back."""
    alone, first, second = (tmp_path / name for name in ("alone", "first", "second"))
    for folder in (alone, first):
        make_config(settings(output=str(folder)), "test").save(tmp_path / f"{folder.name}.yaml")
    muki_works("score", tmp_path / "alone.yaml")
    muki_works("score", tmp_path / "first.yaml", "--shard-of", "1/2")
    shutil.copytree(first, second)
    muki_works("score", second, "--shard-of", "2/2")
    new = {
        p.relative_to(second)
        for p in (second / "scores").rglob("*.parquet")
        if not (first / p.relative_to(second)).exists()
    }
    assert len(new) == 2  # the middle one of three shards, for each teacher
    for path in new:
        shutil.copy2(second / path, first / path)
    times = {path: path.stat().st_mtime_ns for path in (first / "scores").rglob("*.parquet")}
    muki_works("score", first)
    assert {path: path.stat().st_mtime_ns for path in (first / "scores").rglob("*.parquet")} == times
    expected = {p.relative_to(alone): p.read_bytes() for p in (alone / "scores").rglob("*.parquet")}
    assert {path.relative_to(first): path.read_bytes() for path in times} == expected


def muki_works(*args: object) -> None:
    result = CliRunner().invoke(app, ["-q", *map(str, args)])
    assert result.exit_code == 0, result.output


# --- errors ----------------------------------------------------------------------------------------------------------


BROKEN: dict[str, tuple[str, str | bytes, str]] = {
    "wrong column": ("t.csv", "id\n1\n", "{url}, line 2: no column 'text'; the columns there are: id"),
    "broken JSON": (
        "t.jsonl", LINES + "{\n",
        "{url}, line 4: broken JSON (Expecting property name enclosed in double quotes at column 2); one object a line "
        "is expected",
    ),
    "not UTF-8": ("t.txt", b"ok\ncaf\xe9\n", "{url}, line 2: byte 4 (0xe9) is not UTF-8; save the file as UTF-8"),
    "broken gzip": (
        "t.txt.gz", gzip.compress(b"a\nb\n", mtime=0)[:-4],
        "{url}, after line 2: broken gzip file (Compressed file ended before the end-of-stream marker was reached)",
    ),
    "not gzip": ("t.txt.gz", "plain", "{url}, after line 0: broken gzip file (Not a gzipped file (b'pl'))"),
    "Parquet inside gzip": (
        "t.parquet.gz", gzip.compress(b""),
        "texts '{url}': Parquet inside gzip; Parquet has its own compression: gunzip the file",
    ),
    "unknown suffix": ("t.doc", "a", f"texts '{{url}}': unknown kind of file; expected {KNOWN}"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_remote_files_are_named_with_their_url_and_line(kind: str, tmp_path: Path, store: Store):
    name, content, message = BROKEN[kind]
    url = store(f"bucket/{name}", content)
    with pytest.raises(TextsError) as caught:
        cut(url, tmp_path / "texts")
    assert str(caught.value) == message.format(url=url)


def test_a_remote_file_that_is_no_parquet_is_reported(store: Store):
    url = store("bucket/t.parquet", "just some text")
    with pytest.raises(pa.ArrowInvalid) as said:
        pq.ParquetFile(pa.BufferReader(b"just some text"))
    with pytest.raises(TextsError) as caught:
        list(read(url))
    assert str(caught.value) == f"{url}: not a readable Parquet file ({said.value})"


@pytest.mark.parametrize("url", ["memory://bucket/t.jsonl", "memory://nobucket", "memory://bucket/*.jsonl"])
def test_what_is_not_there_is_named(url: str, store: Store):
    store("bucket/t.csv", "text\na\n")
    with pytest.raises(TextsError) as caught:
        read(url)
    assert str(caught.value) == (
        f"texts '{url}': no such file or folder; give a file ({KNOWN}), or a folder of such files"
    )


def test_a_remote_folder_without_texts_is_named(store: Store):
    store("bucket/notes.md", "no texts")
    with pytest.raises(TextsError) as caught:
        read("memory://bucket")
    assert str(caught.value) == f"texts 'memory://bucket': a folder without text files; expected {KNOWN}"


def test_a_package_that_is_missing_for_a_store_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(TextsError) as caught:
        read("s3://bucket/pool.jsonl")
    assert str(caught.value) == (
        "texts 's3://bucket/pool.jsonl': a package to read this is not installed (Install s3fs to access S3); "
        "pip install s3fs"
    )


def test_an_unknown_protocol_is_named():
    with pytest.raises(TextsError) as caught:
        read("nope://bucket/pool.jsonl")
    assert str(caught.value) == "texts 'nope://bucket/pool.jsonl': cannot be read (Protocol not known: nope)"


class DeniedError(Exception):
    """What a store's own library raises: no OSError."""


class Closed(MemoryFileSystem):
    """A store that lists what it has, but does not let us read it."""

    protocol = "closed"
    listed = True

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("closed://", "memory://")))

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        if not self.listed:
            raise DeniedError("no credentials\nand a long explanation")
        return dict(super().info(path, **options))

    def _open(self, path: str, *args: Any, **options: Any) -> Any:
        raise DeniedError(f"403 for {path}")


@pytest.fixture
def closed(store: Store, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "closed", Closed)
    return store("bucket/t.txt", "a\n").replace("memory", "closed")


def test_a_store_that_does_not_let_us_read_is_named(closed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for call in (lambda: list(read(closed)), lambda: cut(closed, tmp_path / "texts")):
        with pytest.raises(TextsError) as caught:
            call()
        assert str(caught.value) == f"{closed}: cannot be read (403 for /bucket/t.txt)"
    monkeypatch.setattr(Closed, "listed", False)
    with pytest.raises(TextsError) as caught:
        read(closed)
    assert str(caught.value) == f"texts '{closed}': cannot be read (no credentials)"


def test_a_connection_lost_in_the_middle_stops_with_the_name_and_leaves_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    url = store("bucket/t.txt", "a line\n" * 1_000_000)
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFile.readinto", broken_after(3), raising=False)
    with pytest.raises(TextsError) as caught:
        cut(url, tmp_path / "texts", shard_rows=1000)
    assert str(caught.value) == f"{url}: cannot be read (connection reset)"
    assert list(tmp_path.iterdir()) == []


def broken_after(blocks: int) -> Callable[..., int]:
    """A `readinto` that fails after so many blocks; counted from where the file stands, for it is read twice."""

    def readinto(self: Any, buffer: Any) -> int:
        if self.tell() > blocks * len(buffer):
            raise DeniedError("connection reset")
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    return readinto


def test_results_are_not_written_to_a_remote_place(settings: Settings, teachers: list[Path], encoder: Path):
    message = (
        "output '{}': is remote; files are locked and renamed there, so give a local or shared path, and copy what is "
        "finished (see docs/scoring.md)"
    )
    with pytest.raises(MukiError) as refused:
        make_config(settings(output="s3://bucket/run"), "run.yaml").absolute()
    assert str(refused.value) == message.format("s3://bucket/run")
    with pytest.raises(MukiError) as refused:
        muki.finetune(str(encoder), [], "gs://bucket/teacher")
    assert str(refused.value) == message.format("gs:/bucket/teacher")
    with pytest.raises(MukiError) as refused:
        predict_file(muki.Classifier.load(teachers[0]), [], Path("s3://bucket/out.jsonl"))
    assert str(refused.value) == message.format("s3:/bucket/out.jsonl")
