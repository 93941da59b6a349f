"""Texts by hand: what is read of each form, what is kept, which row and id it gets, and what a source's name is."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import write_jsonl

from muki.errors import MissingColumnError, TextsError
from muki.texts import Columns, Text, TextShards, cut, read, source_fingerprint


def test_empty_texts_keep_their_rows_and_do_not_count_for_the_limit(tmp_path: Path):
    texts = cut(["", "a", " ", "b", "c"], tmp_path / "texts", limit=2)
    assert [(text.row, text.text) for text in texts] == [(1, "a"), (3, "b")]
    assert (texts.rows, texts.skipped) == (2, 2)
    assert [one["row"] for one in texts.skipped_rows] == [0, 2]
    assert TextShards.load(tmp_path / "texts") == texts


def test_shards_are_full_but_the_last(tmp_path: Path):
    texts = cut(["a", "b", "", "c", "d", "e"], tmp_path / "texts", shard_rows=2)
    assert [[text.row for text in texts.read(shard)] for shard in texts.shards] == [[0, 1], [3, 4], [5]]


def test_a_csv_of_a_spreadsheet_has_a_mark_and_texts_of_several_lines(tmp_path: Path):
    path = tmp_path / "pool.csv"
    path.write_bytes('\ufefftext,id\r\n"a late\ngoal, again",x\r\nshares fell,y\r\n'.encode())
    assert list(read(str(path))) == [Text(0, "a late\ngoal, again", id="x"), Text(1, "shares fell", id="y")]


def test_a_row_of_too_few_cells_is_named_by_the_line_where_it_starts(tmp_path: Path):
    path = tmp_path / "pool.csv"
    path.write_text('text,id\n"of\ntwo lines",1\n\nlacking\n', encoding="utf-8")
    with pytest.raises(TextsError) as error:
        list(read(str(path)))
    assert str(error.value) == (
        f"{path}, line 5: 1 cells, but the header has 2; quote cells that hold the separator"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "ids"), [(Columns(), ["7", None]), (Columns(id="key"), ["x", "y"]), (Columns(id="text"), ["a", "b"])]
)
def test_an_id_is_that_of_the_named_column_else_of_the_column_id(columns: Columns, ids: list[str | None]):
    rows = [{"text": "a", "id": 7, "key": "x"}, {"text": "b", "key": "y"}]
    assert [text.id for text in read(rows, columns)] == ids


def test_a_text_without_an_id_is_stored_with_its_row(tmp_path: Path):
    texts = cut([{"text": ""}, {"text": "a"}, {"text": "b", "id": "x"}], tmp_path / "texts")
    assert [text.id for text in texts] == ["1", "x"]


@pytest.mark.parametrize("role", ["text", "text_pair", "label", "id"])
def test_a_column_that_is_named_must_be_there(role: str):
    with pytest.raises(MissingColumnError) as error:
        list(read([{"text": "a", "key": "x"}], Columns(**{role: "nope"})))
    assert error.value.column == "nope"
    assert str(error.value) == "texts in memory, row 0: no column 'nope'; the columns there are: text, key"


def test_an_ending_may_be_in_capitals(tmp_path: Path):
    path = tmp_path / "A.JSONL.GZ"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n\n{"text": "b"}\n'))
    assert list(read(str(path))) == [Text(0, "a"), Text(1, "b")]


def test_the_rows_of_a_folders_files_are_counted_on(tmp_path: Path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b", "id": "x"}])
    (tmp_path / "b.txt").write_text("c\nd\n", encoding="utf-8")
    write_jsonl(tmp_path / "c.jsonl", [{"text": "e", "id": "y"}])
    assert list(read(str(tmp_path))) == [
        Text(0, "a"), Text(1, "b", id="x"), Text(2, "c"), Text(3, "d"), Text(4, "e", id="y"),
    ]  # fmt: skip


def test_texts_of_a_later_file_keep_pair_and_label(tmp_path: Path):
    for name in "ab":
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": name, "other": f"{name}2", "label": f"{name}3"}])
    columns = Columns(text_pair="other", label="label")
    assert list(read(str(tmp_path), columns)) == [Text(0, "a", "a2", None, "a3"), Text(1, "b", "b2", None, "b3")]


def test_the_split_of_a_data_set_is_what_is_read_and_part_of_its_fingerprint(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def load_dataset(name: str, split: str, streaming: bool) -> list[dict[str, Any]]:
        asked.append((name, split, streaming))
        return [{"text": f"of {split}"}]

    # the package is an extra, which need not be installed
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert list(read("team/set", split="test")) == [Text(0, "of test")]
    assert list(read("team/set")) == [Text(0, "of train")]
    assert asked == [("team/set", "test", True), ("team/set", "train", True)]
    test, again, train = (source_fingerprint("team/set", Columns(), split) for split in ("test", "test", "train"))
    assert test == again != train


def test_a_configuration_of_a_data_set_is_named_behind_a_colon(monkeypatch: pytest.MonkeyPatch):
    def load_dataset(name: str, subset: str | None = None, **how: Any) -> list[dict[str, Any]]:
        if subset is None:
            raise ValueError(
                "Config name is missing.\nPlease pick one among the available configs: ['cola', 'sst2']\nMore"
            )
        return [{"text": f"{name}, {subset}"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert list(read("team/set:sst2")) == [Text(0, "team/set, sst2")]
    assert source_fingerprint("team/set:sst2", Columns()) != source_fingerprint("team/set:cola", Columns())
    with pytest.raises(
        TextsError, match=r"available configs: \['cola', 'sst2'\]\); give one of them as 'team/set:NAME'$"
    ):
        list(read("team/set"))


def test_a_file_has_the_fingerprint_of_its_bytes_and_columns_wherever_it_lies(tmp_path: Path):
    rows: list[dict[str, object]] = [{"text": "a", "body": "b"}]
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / f"{name}.jsonl", rows)
    here, there = (str(tmp_path / name / f"{name}.jsonl") for name in ("here", "there"))
    assert source_fingerprint(here, Columns()) == source_fingerprint(there, Columns())
    assert source_fingerprint(here, Columns()) != source_fingerprint(here, Columns(text="body"))
    write_jsonl(Path(there), [{"text": "a", "body": "c"}])
    assert source_fingerprint(here, Columns()) != source_fingerprint(there, Columns())
