"""The label space: the union of all teachers' labels by name, and where each teacher's columns go in it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muki.errors import LabelError, MukiError
from muki.files import read_json, write_json
from muki.formulas import knower_groups

_GENERIC = re.compile(r"LABEL_\d+$")
_ALIKE = 0.88  # share of equal characters
_NUMBERED = re.compile(r"(label|class|intent|topic)?[ _-]*\d+$", re.IGNORECASE)


@dataclass(frozen=True)
class LabelSpace:
    """The student's labels and each teacher's map into them.

    Attributes:
        labels: the union of the label names, in order of first appearance over the teachers; C names.
        columns: for each teacher's name, the index in `labels` of each of its own columns.
    """

    labels: tuple[str, ...]
    columns: dict[str, tuple[int, ...]]

    @property
    def id2label(self) -> dict[int, str]:
        """Index to name, as transformers' configuration wants it."""
        return dict(enumerate(self.labels))

    @property
    def label2id(self) -> dict[str, int]:
        """Name to index, as transformers' configuration wants it."""
        return {label: index for index, label in enumerate(self.labels)}

    @property
    def shared(self) -> dict[str, tuple[str, ...]]:
        """Labels that more than one teacher knows, with those teachers' names."""
        knowers = {label: self.knowers(label) for label in self.labels}
        return {label: names for label, names in knowers.items() if len(names) > 1}

    @property
    def groups(self) -> list[list[int]]:
        """The union cut into labels that the same teachers know: without shared labels, one group for each teacher."""
        return knower_groups(list(self.columns.values()), len(self.labels))

    def knowers(self, label: str) -> tuple[str, ...]:
        """Names of the teachers that know `label`; empty for a label outside the union."""
        index = self.label2id.get(label)
        return tuple(name for name, columns in self.columns.items() if index in columns)

    def of(self, teacher: str) -> tuple[str, ...]:
        """The labels that one teacher knows, in the order of its columns."""
        return tuple(self.labels[column] for column in self.columns[teacher])

    def save(self, path: Path) -> None:
        """Write the label space as JSON."""
        write_json(path, {"labels": list(self.labels), "teachers": {n: list(c) for n, c in self.columns.items()}})

    @classmethod
    def load(cls, path: Path) -> LabelSpace | None:
        """Read what `save` wrote; None where it is absent."""
        content = read_json(path)
        if content is None:
            return None
        return cls(tuple(content["labels"]), {name: tuple(c) for name, c in content["teachers"].items()})


def union(teachers: Mapping[str, Sequence[str]]) -> LabelSpace:
    """Unite the teachers' label names; equal names are one class.

    Args:
        teachers: each teacher's name and its label names in the order of its columns (after renaming).

    Raises:
        LabelError: a teacher has two columns of one name, or two teachers share a name that is only a number.
    """
    index: dict[str, int] = {}
    columns: dict[str, tuple[int, ...]] = {}
    for name, labels in teachers.items():
        check_distinct(name, labels)
        columns[name] = tuple(index.setdefault(label, len(index)) for label in labels)
    space = LabelSpace(tuple(index), columns)
    for label, names in space.shared.items():
        if _NUMBERED.match(label):
            lines = "\n".join(f"        {one!r}: <name>" for one in space.of(names[1]) if _NUMBERED.match(one))
            raise LabelError(
                f"teachers '{names[0]}' and '{names[1]}': both have a label {label!r}, and a number alone does not say "
                f"whether it is the same class; name them in the run file, alike if they are:\n    - model: ...\n"
                f"      labels:\n{lines}"
            )
    return space


@dataclass(frozen=True)
class Alike:
    """A teacher's label that looks like the class which another teacher, `by`, calls `first`."""

    teacher: str
    label: str
    by: str
    first: str


def alike(labels: Mapping[str, Sequence[str]]) -> list[Alike]:
    """Label names of different teachers that look like one class; the first spelling is the one to merge into.

    Args:
        labels: each teacher's name and label names.
    """
    owners: dict[str, str] = {}  # of first spellings
    found = []
    for teacher, own in labels.items():
        firsts = list(owners)
        for label in own:
            first = next((one for one in firsts if one not in own and _look_alike(one, label)), None)
            if label in owners or first is None:
                owners.setdefault(label, teacher)
            else:
                found.append(Alike(teacher, label, owners[first], first))
    return found


def _look_alike(a: str, b: str) -> bool:
    x, y = _plain(a), _plain(b)
    if not x or not y:
        return False
    return x == y or (min(len(x), len(y)) >= 5 and difflib.SequenceMatcher(None, x, y).ratio() >= _ALIKE)


def _plain(label: str) -> str:
    """Lower case, words in order of the alphabet, without punctuation or a plural's s."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)
    return "".join(sorted(re.sub(r"(?<=\w\w)s$", "", word) for word in re.findall(r"[^\W_]+", words.casefold())))


def rename(teacher: str, labels: Sequence[str], aliases: Mapping[str, str]) -> tuple[str, ...]:
    """Apply a teacher's `labels:` map (own name to wanted name) and refuse names that say nothing.

    Raises:
        LabelError: an alias for a label that the teacher does not have, two columns with one name, or generic names
            (`LABEL_0`) left over; that message holds the YAML to add.
    """
    unknown = [label for label in aliases if label not in labels]
    if unknown:
        raise LabelError(
            f"teacher '{teacher}': labels: {', '.join(map(repr, unknown))} is not among its labels "
            f"({', '.join(labels)}); the left side must be a name the teacher's config has"
        )
    renamed = tuple(str(aliases.get(label, label)).strip() for label in labels)
    generic = [label for label in renamed if is_generic(label)]
    if generic:
        lines = "\n".join(f"        {label}: <name>" for label in generic)
        raise LabelError(
            f"teacher '{teacher}': label names {', '.join(generic)} say nothing, and would be merged with another "
            "teacher's; name them in the run file (`muki inspect --init` writes one; muki.wrap_teacher takes the "
            f"names of a loaded model):\n    - model: ...\n      labels:\n{lines}"
        )
    check_distinct(teacher, renamed)
    return renamed


def is_generic(label: str) -> bool:
    """Whether a name says nothing: `LABEL_0`."""
    return bool(_GENERIC.match(label))


def label_names(config: Any) -> list[str]:
    """The label names in a classifier's configuration, by column."""
    return [str(config.id2label[column]) for column in range(config.num_labels)]


def require_label_names(config: Any, who: str, error: type[MukiError]) -> None:
    """Refuse a configuration that leaves a column without a name.

    Args:
        config: of a classifier.
        who: for the message, such as "teacher 'a'".
        error: what is raised.
    """
    known = config.id2label or {}
    for column in range(config.num_labels or 0):
        if column not in known:
            raise error(
                f"{who}: its config.json has no label name for column {column} (id2label has "
                f"{', '.join(map(str, known))}); name every column there"
            )


def check_distinct(teacher: str, labels: Sequence[str]) -> None:
    """Refuse empty names, and two columns of one name."""
    if "" in labels:
        raise LabelError(
            f"teacher '{teacher}': column {list(labels).index('')} has an empty label name; give it a name"
        )
    twice = sorted({label for label in labels if list(labels).count(label) > 1})
    if twice:
        columns = [index for index, label in enumerate(labels) if label == twice[0]]
        raise LabelError(
            f"teacher '{teacher}': columns {' and '.join(map(str, columns))} are both named '{twice[0]}'; "
            "one column, one name: change its `labels:` map"
        )
