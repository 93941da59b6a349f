"""Whatever is wrong with the texts: one clear message with file and line; odd but good ones work."""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import write_jsonl
from refused import OK, SUFFIXES, assert_refused, file, muki, reason, work, works
from runs import write_yaml

from muki.api import integrate as integrate_api
from muki.errors import ConfigError, TextsError
from muki.texts import TextShards, cut, read

pytestmark = pytest.mark.usefixtures("alone")

BAD_TEXTS: dict[str, tuple[str, str | bytes, Callable[[Path], str]]] = {
    "unknown suffix": ("t.doc", "a", lambda p: f"texts '{p}': unknown kind of file; expected {SUFFIXES}"),
    "wrong column": (
        "t.jsonl", '{"txt": "a", "id": 1}\n',
        lambda p: f"{p}, line 1: no column 'text'; the columns there are: txt, id",
    ),
    "wrong column, CSV": (
        "t.csv", "id,body\n1,a\n", lambda p: f"{p}, line 2: no column 'text'; the columns there are: id, body",
    ),
    "broken JSON": (
        "t.jsonl", OK + '{"text": "a"\n',
        lambda p: f"{p}, line 2: broken JSON (Expecting ',' delimiter at column 13); one object a line is expected",
    ),
    "two JSON objects in a line": (
        "t.jsonl", OK + "\n" + OK.strip() + OK,
        lambda p: f"{p}, line 3: broken JSON (Extra data at column 24); one object a line is expected",
    ),
    "JSON list": (
        "t.jsonl", OK + '["a"]\n', lambda p: f'{p}, line 2: found list, expected an object like {{"text": "..."}}',
    ),
    "number": ("t.jsonl", OK + '{"text": 12}\n', lambda p: f"{p}, line 2: 'text' is 12 (int), expected a string"),
    "unclosed quote": (
        "t.csv", 'text\nfine\n"open\nmore\n',
        lambda p: f"{p}, line 3: broken CSV (unexpected end of data); check the quotes there",
    ),
    "text after a quote": (
        "t.tsv", 'text\n"a" b\n',
        lambda p: f"{p}, line 2: broken TSV ('\t' expected after '\"'); check the quotes there",
    ),
    "too many cells": (
        "t.csv", "text,id\na,1\nb,2,3\n",
        lambda p: f"{p}, line 3: 3 cells, but the header has 2; quote cells that hold the separator",
    ),
    "too few cells": (
        "t.tsv", "text\tid\na\n",
        lambda p: f"{p}, line 2: 1 cells, but the header has 2; quote cells that hold the separator",
    ),
    "not UTF-8, JSON": (
        "t.jsonl", OK.encode() + b'{"text": "caf\xe9"}\n',
        lambda p: f"{p}, line 2: byte 14 (0xe9) is not UTF-8; save the file as UTF-8",
    ),
    "not UTF-8, CSV": (
        "t.csv", b"text\nok\ncaf\xe9\n", lambda p: f"{p}, line 3: byte 4 (0xe9) is not UTF-8; save the file as UTF-8",
    ),
    "UTF-16": (
        "t.txt", "a\nb\n".encode("utf-16"),
        lambda p: f"{p}, line 1: byte 1 (0xff) is not UTF-8; save the file as UTF-8",
    ),
    "truncated gzip": (
        "t.jsonl.gz", gzip.compress(OK.encode() * 3, mtime=0)[:-4],
        lambda p: (
            f"{p}, after line 3: broken gzip file "
            "(Compressed file ended before the end-of-stream marker was reached)"
        ),
    ),
    "not gzip": (
        "t.txt.gz", "plain", lambda p: f"{p}, after line 0: broken gzip file (Not a gzipped file (b'pl'))",
    ),

    "damaged gzip": (
        "t.txt.gz", gzip.compress(b"", mtime=0)[:10] + b"\x07" * 40,
        lambda p: f"{p}, after line 0: broken gzip file (Error -3 while decompressing data: invalid block type)",
    ),

    "unclosed quote, gzipped": (
        "t.csv.gz", gzip.compress(b'text\n"open\n', mtime=0),
        lambda p: f"{p}, line 2: broken CSV (unexpected end of data); check the quotes there",
    ),
    "not Parquet": (
        "t.parquet", "just some text",
        lambda p: f"{p}: not a readable Parquet file ({reason(lambda: pq.ParquetFile(p))})",
    ),

    "Parquet inside gzip": (
        "t.parquet.gz", gzip.compress(b"", mtime=0),
        lambda p: f"texts '{p}': Parquet inside gzip; Parquet has its own compression: gunzip the file",
    ),

    "JSON number of 5,000 digits": (
        "t.jsonl", '{"text": "a", "n": ' + "1" * 5000 + "}\n",
        lambda p: f"{p}, line 1: broken JSON ({reason(lambda: int('1' * 5000))}); one object a line is expected",
    ),

    "JSON nested too deeply": (
        "t.jsonl", "[" * 100_000 + "\n",
        lambda p: f"{p}, line 1: broken JSON (nested too deeply); one object a line is expected",
    ),
    "empty file": (
        "t.jsonl", "",
        lambda p: f"texts '{p}': no text left (0 empty ones skipped); at least one non-empty text is needed",
    ),
    "only empty texts": (
        "t.jsonl", '{"text": ""}\n{"text": " \\n"}\n{"text": null}\n',
        lambda p: f"texts '{p}': no text left (3 empty ones skipped); at least one non-empty text is needed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_TEXTS)
def test_texts_that_cannot_be_read_are_named_with_file_and_line(kind, tmp_path, integrate):
    name, content, message = BAD_TEXTS[kind]
    path = file(tmp_path / name, content)
    assert_refused(message(path), *integrate(texts=path), continues=tmp_path / "run")
    assert not (tmp_path / "run" / "texts").exists()  # nothing half-written


@pytest.mark.parametrize("row", [("my parcel is late", "delivery"), ("late", "again", "delivery"), ["late"], 7])
def test_rows_in_memory_that_are_no_texts_are_named(row):
    source: list[object] = [{"text": "a late goal"}, row]
    with pytest.raises(TextsError) as error:
        list(read(source))
    assert str(error.value) == (
        f"texts in memory, row 1: found {type(row).__name__}, expected a string or a mapping with 'text'"
    )


def test_rows_of_a_hub_data_set_that_lack_the_column_are_named(monkeypatch):
    stand_in = SimpleNamespace(load_dataset=lambda *args, **kwargs: [{"text": "a"}, {"body": "b"}])
    monkeypatch.setitem(sys.modules, "datasets", stand_in)  # an extra, which need not be installed
    with pytest.raises(TextsError) as error:
        list(read("team/set"))
    assert str(error.value) == "team/set, row 1: no column 'text'; the columns there are: body"


def test_hidden_files_and_folders_are_not_read(tmp_path):
    folder = tmp_path / ".kept" / "texts"  # hidden above the folder that was asked for: that is no matter
    for name in ("pool.txt", "more/pool.txt", ".pool.txt", ".ipynb_checkpoints/pool.txt", "more/.old/deep/pool.txt"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        file(path, f"{name}\n")
    assert [text.text for text in read(str(folder))] == ["more/pool.txt", "pool.txt"]


def test_missing_texts_and_empty_folders_are_named(tmp_path, integrate):
    path, folder = tmp_path / "nope.jsonl", tmp_path / "texts"
    folder.mkdir()
    file(folder / "notes.md", "a")
    missing = f"texts '{path}': no such file or folder; give a file ({SUFFIXES}), or a folder of such files"
    empty = f"texts '{folder}': a folder without text files; expected {SUFFIXES}"
    assert_refused(missing, *integrate(texts=path), continues=tmp_path / "run")
    looked_in = missing.replace(f"'{path}'", "'nope.jsonl'").replace("folder;", f"folder in {tmp_path};", 1)
    assert_refused(looked_in, *integrate(texts="nope.jsonl"), continues=tmp_path / "run")
    assert_refused(empty, *integrate(texts=folder, output=tmp_path / "r2"), continues=tmp_path / "r2")


@pytest.mark.parametrize("part", ["page", "footer"])
def test_a_damaged_parquet_file_is_reported(part, tmp_path, pool_texts, integrate):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": pool_texts}), path, use_dictionary=False, compression="gzip")
    column = pq.read_metadata(path).row_group(0).column(0)
    start = column.data_page_offset + column.total_compressed_size // 2 if part == "page" else -100
    content = bytearray(path.read_bytes())
    content[start : start + 20] = b"\xff" * 20
    path.write_bytes(content)
    said = reason(lambda: list(pq.ParquetFile(path).iter_batches()))
    assert_refused(f"{path}: not a readable Parquet file ({said})", *integrate(texts=path), continues=tmp_path / "run")


def test_empty_texts_are_skipped_counted_and_listed(tmp_path, integrate):
    path = file(tmp_path / "t.jsonl", '{"text": ""}\n{"text": " \\n\\t"}\n{"text": null, "id": "x"}\n' + OK * 3)
    listing = tmp_path / "run" / "texts" / "texts.json"
    assert works(*integrate(texts=path)) == f"texts: 3 empty texts skipped in {path}; listed in {listing}\n"
    manifest = json.loads(listing.read_text(encoding="utf-8"))
    assert (manifest["rows"], manifest["skipped"]) == (3, 3)
    assert manifest["skipped_rows"] == [
        {"row": 0, "id": None, "why": "empty"}, {"row": 1, "id": None, "why": "empty"},
        {"row": 2, "id": "x", "why": "empty"},
    ]  # fmt: skip
    metrics = json.loads((tmp_path / "run" / "report" / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["pool"]["texts"], metrics["pool"]["skipped"]) == (3, 3)


def test_strange_texts_go_the_whole_way_and_keep_their_order(tmp_path, integrate):
    strange = [
        "x" * 100_000, "goal " * 20_000, "😀 🎉 👨‍👩‍👧", "שלום עולם مرحبا \u202e", "bell\x07 esc\x1b[31m del\x7f",
        "nul\0inside", "\0", "lone \ud800 surrogate", "\u200b", "\ufeffmark", "a" + "\u0300" * 200, "tab\tand\r\nline",
    ]  # fmt: skip
    path = write_jsonl(tmp_path / "t.jsonl", [{"text": text} for text in strange])
    assert works(*integrate(texts=path)) == ""
    pool = TextShards.load(tmp_path / "run" / "texts")
    assert [text.text for text in pool] == [text.replace("\ud800", "?") for text in strange]
    works("predict", tmp_path / "run" / "student", "--texts", path, "-o", tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == [str(row) for row in range(len(strange))]


def test_lone_surrogates_in_ids_and_labels_are_handled_too(tmp_path, integrate):
    rows: list[dict[str, object]] = [
        {"text": "a late goal", "id": "\ud800", "label": "\udfff"},
        {"text": "b", "label": "film"},
    ]
    test = write_jsonl(tmp_path / "test.jsonl", [{"id": "1", **row} for row in rows])
    works(*integrate(test=test))
    works("predict", tmp_path / "run" / "student", "--texts", test, "-o", tmp_path / "out.jsonl")
    assert len((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_texts_that_break_later_leave_the_finished_run_as_it_was(tmp_path, continued, pool_texts):
    pool = write_jsonl(tmp_path / "pool.jsonl", [{"text": text} for text in pool_texts])
    content = yaml.safe_load((tmp_path / "run.yaml").read_text(encoding="utf-8"))
    content["texts"]["path"] = str(pool)
    for config in (tmp_path / "run.yaml", tmp_path / "run" / "config.yaml"):
        write_yaml(config, content)
    works(*continued())
    before, good = work(tmp_path / "run"), pool.read_bytes()
    pool.write_bytes(good + b"oops\n")
    message = f"{pool}, line 41: broken JSON (Expecting value at column 1); one object a line is expected"
    assert_refused(message, *continued(), continues=tmp_path / "run")
    assert work(tmp_path / "run") == before
    pool.write_bytes(good)
    works(*continued())
    assert work(tmp_path / "run") == before


def test_other_texts_in_a_call_that_is_refused_do_not_replace_those_of_the_finished_run(tmp_path, continued):
    before, missing = work(tmp_path / "run"), tmp_path / "not-there"
    message = f"student: no such folder: '{missing}'; give a save_pretrained folder or a Hub id"
    assert_refused(message, *continued("texts.limit=20", f"student.model={missing}"), continues=tmp_path / "run")
    test = write_jsonl(tmp_path / "test.jsonl", [{"text": "a", "label": "weather"}])
    refused = muki(*continued("texts.limit=20", f"test={test}"))
    assert "no text has a label of the union" in refused.stderr
    assert work(tmp_path / "run") == before


def test_the_same_bytes_under_another_ending_are_read_anew(tmp_path):
    lines = b'{"text": "a late goal"}\n{"text": "shares fell"}\n'
    assert next(iter(cut(str(file(tmp_path / "pool.txt", lines)), tmp_path / "texts"))).text.startswith("{")
    renamed = (tmp_path / "pool.txt").rename(tmp_path / "pool.jsonl")
    assert [text.text for text in cut(str(renamed), tmp_path / "texts")] == ["a late goal", "shares fell"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, lambda p: f"texts '{p}': no such file or folder; give a file ({SUFFIXES}), or a folder of such files"),
        ('{"text": "a"}\n', lambda p: f"{p}, line 1: no column 'label'; the columns there are: text"),
        (
            '{"text": "a", "label": "weather"}\n{"text": "b", "label": "Sports"}\n',
            lambda p: (
                f"test '{p}': no text has a label of the union; found Sports, weather, "
                "known are sports, politics, business, technology, health, film; write the teachers' label names into "
                "the file (numbers are not looked up)"
            ),
        ),
    ],
    ids=["missing", "no label column", "labels outside the union"],
)
def test_a_test_file_that_cannot_be_used_costs_nothing_that_is_finished(content, message, tmp_path, continued):
    path, before = tmp_path / "test.jsonl", work(tmp_path / "run")
    if content:
        file(path, content)
    assert_refused(message(path), *continued(f"test={{path: {path}}}"), continues=tmp_path / "run")
    assert work(tmp_path / "run") == before
    works(*continued())
    assert work(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"train": ["a"], "test": ["b"]},
            "texts is dict with train, test; give one split of a data set (texts=data['tra",
        ),
        ({"path": {"train": ["a"]}}, "texts is dict; expected a file, or a sequence of strings or mappings"),
        (7, "texts is int; expected a file, or a sequence of strings or mappings"),
    ],
    ids=["all splits at once", "splits as path", "a number"],
)
def test_texts_in_memory_that_are_no_texts_are_refused(given, message, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(f"muki.integrate: {message}")):
        integrate_api(["a", "b"], "c", given, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_empty_files_are_named_by_commands_that_look(tmp_path, finished_small):
    empty = file(tmp_path / "empty.jsonl", '{"text": " "}\n')
    content = yaml.safe_load((finished_small / "run.yaml").read_text(encoding="utf-8"))
    config = write_yaml(tmp_path / "r.yaml", content | {"texts": str(empty)})
    message = f"texts '{empty}': no text left (1 empty ones skipped); at least one non-empty text is needed"
    assert_refused(message, "inspect", config)
    teachers = [one["model"] for one in content["teachers"]]
    init = ["inspect", "--init", *teachers, "--texts", empty, "-o", tmp_path / "new.yaml"]
    assert_refused(f"texts '{empty}': no text with words in it; at least one is needed", *init)
    nothing = file(tmp_path / "nothing.jsonl", "")
    assert_refused(
        "explain: no text to explain was found; give a file with at least one",
        "explain", finished_small / "run", "--texts", nothing,
    )  # fmt: skip
