"""Tasks: a labelled data set in a setting becomes teachers' texts, an unlabelled pool and a test. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np

from muki.errors import ConfigError, TextsError
from muki.experiments.grid import Grid, Setting
from muki.texts import Columns, looks_like_a_file, read

FOREIGN = "(nobody's) "

Row = dict[str, str]


@dataclass(frozen=True)
class DataSet:
    """Labelled texts, split."""

    train: list[Row]
    test: list[Row]

    @property
    def labels(self) -> list[str]:
        """Label names, sorted."""
        return sorted({row["label"] for row in self.train})

    def only(self, labels: Sequence[str]) -> DataSet:
        """The texts with these labels."""
        return DataSet(*([row for row in rows if row["label"] in labels] for rows in (self.train, self.test)))


@dataclass(frozen=True)
class Task:
    """What a group of cells works on.

    Attributes:
        groups: the labels that each teacher knows.
        taught: the labelled texts of each teacher.
        pool: texts with the gold label that only the harness, the oracle and `supervised` read.
        test: labelled texts.
    """

    groups: list[list[str]]
    taught: list[list[Row]]
    pool: list[Row]
    test: list[Row]


def read_data(where: str) -> list[DataSet]:
    """Read a data set, or several joined by `+`.

    Each is a folder with `train` and `test` files in any form that `integrate` takes, or the name of a Hub data set. In
    a folder without a `train` file `validation` stands in for it: translations often have no other.
    """
    return [_read_one(part) for part in where.split("+")]


def require_data(sources: Iterable[str]) -> None:
    """Refuse a data set that is not there, once and before hours of work; a Hub name is asked for when it is read.

    Raises:
        ConfigError: no such folder, or a Hub data set without the library that reads it.
    """
    for part in dict.fromkeys(part for where in sources for part in where.split("+")):
        if not Path(part).exists() and (looks_like_a_file(part) or not find_spec("datasets")):
            remedy = "" if looks_like_a_file(part) else "; to read a Hub data set, pip install 'muki[datasets]'"
            raise ConfigError(f"data '{part}': no such folder beside the grid file{remedy}")


def make_task(
    parts: Sequence[DataSet], setting: Setting, grid: Grid, seed: int, foreign: DataSet | None = None
) -> Task:
    """Cut a data set into a task.

    One data set: its sorted labels are cut into contiguous groups, one for each teacher. Several with the same labels
    (translations): the groups as before, and each teacher's texts come from one of them in turn; if one lacks some of
    the labels, only those that all have. Several with other labels: each is one teacher's. Half of the training texts
    are for the teachers, the other half is the pool. A class of which a teacher has no text is not among its labels.

    Args:
        parts: the data sets.
        setting: how they are cut.
        grid: sizes.
        seed: of the order of the texts.
        foreign: where texts that belong to nobody come from, if the setting wants them.
    """
    rng = np.random.default_rng(seed)
    shared = sorted(set.intersection(*(set(part.labels) for part in parts)))
    same = any(part.labels == shared for part in parts)
    if same and len(parts) > 1:
        parts = [part.only(shared) for part in parts]
    shuffled = _side_by_side([part.train for part in parts], rng)
    count = setting.teachers if same else len(parts)
    groups = groups_of(parts[0].labels, setting) if same else [part.labels for part in parts]

    for_teachers = [rows[: len(rows) // 2] for rows in shuffled]
    teach = (setting.teach or grid.teach) // count
    taught = [[row for row in for_teachers[i % len(parts)] if row["label"] in groups[i]][:teach] for i in range(count)]
    wanted = setting.pool or grid.pool
    if setting.own_texts:
        pool = _shuffled([row for rows in taught for row in rows], rng)
    else:
        pool = _mixed([rows[len(rows) // 2 :] for rows in shuffled], rng)
    if setting.shares:
        pool = _with_shares(pool, groups, setting.shares, wanted)
    pool = pool[:wanted]
    if setting.foreign and foreign is not None:
        count = round(len(pool) * setting.foreign.share / (1 - setting.foreign.share))
        outside = _shuffled(foreign.train, rng)[:count]
        pool = _shuffled([*pool, *({**row, "label": FOREIGN + row["label"]} for row in outside)], rng)
    test = _mixed([_shuffled(part.test, rng) for part in parts], rng)[: grid.test]
    seen = [{row["label"] for row in rows} for rows in taught]
    known = [[label for label in group if label in own] for group, own in zip(groups, seen, strict=True)]
    return Task(known, taught, pool, test)


def groups_of(labels: Sequence[str], setting: Setting) -> list[list[str]]:
    """Each teacher's labels: contiguous groups of the sorted labels, or the parts of them that the setting names."""
    if setting.spans is None:
        return label_groups(labels, setting.teachers, setting.overlap)
    return [list(labels[round(start * len(labels)) : round(stop * len(labels))]) for start, stop in setting.spans]


def label_groups(labels: Sequence[str], count: int, overlap: int = 0) -> list[list[str]]:
    """Contiguous groups of labels, as equal as possible; at each border `overlap` labels are known to both neighbours.

    Of those, half come from each side (the odd one from the right).

    Raises:
        ConfigError: a side has fewer labels than are to come from it.
    """
    borders = [round(i * len(labels) / count) for i in range(count + 1)]
    most = 2 * min(stop - start for start, stop in pairwise(borders))
    if overlap > most:
        raise ConfigError(
            f"overlap {overlap}: more than there is on both sides of a border, with {len(labels)} labels for {count} "
            f"teachers; give at most {most}"
        )
    left, right = overlap // 2, overlap - overlap // 2
    groups = []
    for i in range(count):
        start = borders[i] - (left if i else 0)
        stop = borders[i + 1] + (right if i < count - 1 else 0)
        groups.append(list(labels[start:stop]))
    return groups


def _with_shares(pool: list[Row], groups: list[list[str]], shares: list[float], wanted: int) -> list[Row]:
    """As many texts as there are with these shares of each group's labels (a shared label counts for the first)."""
    owner = {label: i for i, labels in reversed(list(enumerate(groups))) for label in labels}
    each = [[row for row in pool if owner[row["label"]] == i] for i in range(len(groups))]
    total = min(wanted, *(int(len(rows) / share) for rows, share in zip(each, shares, strict=True) if share > 0))
    kept = {id(row) for rows, share in zip(each, shares, strict=True) for row in rows[: round(total * share)]}
    return [row for row in pool if id(row) in kept]


def _side_by_side(parts: Sequence[list[Row]], rng: np.random.Generator) -> list[list[Row]]:
    """Each shuffled; data sets of one length in the same order, so that a text and its translation stay together.

    Else a translation of what a teacher was trained on could be in the pool.
    """
    sizes = dict.fromkeys(len(rows) for rows in parts)
    orders = {size: rng.permutation(size) for size in sizes}
    return [[rows[i] for i in orders[len(rows)]] for rows in parts]


def _mixed(parts: list[list[Row]], rng: np.random.Generator) -> list[Row]:
    """The data sets in equal shares, as far as the smallest reaches; one alone stays as it is."""
    if len(parts) == 1:
        return parts[0]
    size = min(len(rows) for rows in parts)
    return _shuffled([row for rows in parts for row in rows[:size]], rng)


def _shuffled(rows: list[Row], rng: np.random.Generator) -> list[Row]:
    return [rows[i] for i in rng.permutation(len(rows))]


def _read_one(where: str) -> DataSet:
    splits = {}
    for split in ("train", "test"):
        source = where
        if Path(where).is_dir():
            names = [split, "validation"] if split == "train" else [split]
            found = sorted(path for path in Path(where).iterdir() if path.name.split(".")[0] in names)
            if not found:
                raise TextsError(f"data set '{where}': no {split} file; expected {split}.jsonl, .csv, .parquet … there")
            source = str(found[0])  # train sorts before validation
        texts = read(source, Columns(label="label"), split=split)
        splits[split] = [{"text": t.text, "label": t.label} for t in texts if t.label is not None and t.text.strip()]
    return DataSet(**splits)
