"""The demo's data: who gets which messages."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from muki.demo import MESSAGES, TEAMS, write_parts


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, list[dict[str, str]]]:
    return {name: lines(path) for name, path in write_parts(tmp_path).items()}


def test_every_message_is_in_one_part(parts: dict[str, list[dict[str, str]]]):
    texts = [row["text"] for rows in parts.values() for row in rows]
    assert len(set(texts)) == len(texts) == 1200
    assert set(texts) == {message["text"] for message in lines(MESSAGES)}


def test_each_label_is_shared_out_35_40_25(parts: dict[str, list[dict[str, str]]]):
    label = {message["text"]: message["label"] for message in lines(MESSAGES)}
    labels = sorted(label for own in TEAMS.values() for label in own)
    assert labels == sorted(set(label.values()))
    for name, each in {"teachers": 52, "pool": 60, "test": 38}.items():  # of 150: 52.5, 60 and 37.5, test has the rest
        assert Counter(label[row["text"]] for row in parts[name]) == dict.fromkeys(labels, each)


def test_the_pool_has_no_labels_and_the_other_parts_the_right_ones(parts: dict[str, list[dict[str, str]]]):
    label = {message["text"]: message["label"] for message in lines(MESSAGES)}
    assert all(list(row) == ["text"] for row in parts["pool"])
    assert all(row["label"] == label[row["text"]] for name in ("teachers", "test") for row in parts[name])


def test_labels_do_not_lie_in_blocks(parts: dict[str, list[dict[str, str]]]):
    for name in ("teachers", "test"):
        assert len({row["label"] for row in parts[name][:40]}) > 4  # the files are written label by label, then mixed


def test_the_parts_are_the_same_each_time(tmp_path: Path):
    first, again = (write_parts(tmp_path / name) for name in ("first", "again"))
    assert [path.read_bytes() for path in first.values()] == [path.read_bytes() for path in again.values()]
