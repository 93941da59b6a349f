"""The cells of a grid, and what makes one the same on another day and another machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from muki.experiments.grid import Grid, Group
from muki.files import file_fingerprint, fingerprint
from muki.integration.stage import SUPERVISION_VERSION
from muki.methods import Method
from muki.student.training import TRAINING_VERSION
from muki.teachers.scoring import SCORING_VERSION
from muki.view import VIEW_VERSION

HARNESS_VERSION = 1  # raise when the numbers of the same cell change


@dataclass(frozen=True)
class Cell:
    """One method in one group."""

    group: Group
    name: str
    method: Method
    trained: bool


def cells_of(grid: Grid, group: Group) -> list[Cell]:
    """Every method in one group."""
    return [
        *(Cell(group, name, method, True) for name, method in grid.methods.items()),
        *(Cell(group, name, method, False) for name, method in grid.routing_only.items()),
    ]


def cell_key(grid: Grid, cell: Cell) -> str:
    """Fingerprint of all that a cell depends on, the same on any machine: settings, data, encoders and code."""
    setting = grid.settings[cell.group.setting]
    settings = grid.model_dump(include={"teach", "pool", "test", "max_length", "teacher_training", "training"})
    settings["training"] = grid.training_in(setting).model_dump()
    encoders = grid.encoders_in(setting)
    if setting.encoders or setting.student or grid.student:  # else all start from the same one
        encoders = [*encoders, grid.student_in(setting)]
    return fingerprint(
        settings,
        [[content(part) for part in where.split("+")] for where in grid.sources(cell.group)],
        [content(encoder) for encoder in encoders],
        setting.model_dump(exclude={"only", "encoders", "student", "training"}, exclude_defaults=True),
        cell.group.seed,
        cell.method.model_dump(),
        cell.trained,
        list(code_versions().values()),
    )


def code_versions() -> dict[str, int]:
    """What each part of the code calls itself; it takes another number when its results change."""
    return {
        "scoring": SCORING_VERSION, "view": VIEW_VERSION, "supervision": SUPERVISION_VERSION,
        "training": TRAINING_VERSION, "harness": HARNESS_VERSION,
    }  # fmt: skip


@cache
def package_versions() -> dict[str, str]:
    """Versions of what the numbers were made with."""
    return {name: version(name) for name in ("muki", "torch", "transformers", "numpy")}


@cache
def content(where: str) -> object:
    """The bytes of a local file, or of all files that are not hidden in a folder; else `where`, which is a Hub id."""
    path = Path(where)
    if not path.is_dir():
        return file_fingerprint(path) if path.is_file() else where
    files = {file.relative_to(path): file for file in sorted(path.rglob("*")) if file.is_file()}
    return [
        (name.as_posix(), file_fingerprint(file))
        for name, file in files.items()
        if not any(part.startswith(".") for part in name.parts)
    ]
