"""Pools that `muki compare` has scored, for the scripts beside this file: what they read, and how they report."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muki.config import RunConfig
from muki.errors import MukiError
from muki.evaluation.metrics import routing_accuracy
from muki.experiments.grid import Grid, Group, load_grid
from muki.experiments.harness import Laboratory
from muki.formulas import Array
from muki.integration.pool import load_outputs
from muki.labels import LabelSpace
from muki.methods import PRESETS
from muki.run_folder import RunFolder
from muki.teachers.outputs import TeacherOutputs
from muki.texts import TextShards
from muki.view import neutral_view

METHOD = PRESETS["muki-plus"]
START = METHOD.model_copy(update={"refinement": "none", "reweight": "none"})

Vectors = NDArray[np.float16]
Record = dict[str, str | float]


@dataclass(frozen=True)
class Pool:
    """One pool with all that the default's router reads, and its gold labels.

    Attributes:
        group: which it is.
        config: of a run of the default on it.
        run: where its scores lie.
        texts: n of them.
        space: the label space.
        outputs: each teacher's.
        view: neutral view, shape (n, H).
        names: neutral view of the label names, shape (C, H).
        gold: index into the union of each text's label, negative where it belongs to nobody; shape (n,).
    """

    group: Group
    config: RunConfig
    run: RunFolder
    texts: TextShards
    space: LabelSpace
    outputs: list[TeacherOutputs]
    view: Vectors
    names: Vectors
    gold: NDArray[np.int64]

    @classmethod
    def load(cls, group: Group, config: RunConfig) -> Pool:
        run = RunFolder(Path(config.output))
        texts, space = TextShards.load(run.texts("pool")), LabelSpace.load(run.labels)
        found = neutral_view(config, run, "pool")
        assert texts is not None and space is not None and found is not None and found.names is not None
        view = np.concatenate([found(number) for number in range(len(texts.shards))])
        gold = np.array([space.label2id.get(text.label or "", -1) for text in texts])
        outputs = load_outputs(config, run, "pool", features=True)
        return cls(group, config, run, texts, space, outputs, view, found.names, gold)

    @property
    def columns(self) -> list[tuple[int, ...]]:
        """Each teacher's columns in the union."""
        return list(self.space.columns.values())

    def accuracy(self, weights: Array, some: NDArray[np.int64] | slice = slice(None)) -> float:
        """Routing accuracy on the texts that belong to somebody, of weights for `some` of the texts, all by default."""
        gold = self.gold[some]
        return round(routing_accuracy(weights[gold >= 0], gold[gold >= 0], self.columns), 4)


def scored_pools(grid: Grid, path: Path, data: list[str] | None) -> Iterator[Pool]:
    """The pools of a grid's first seed that are scored; says which are not."""
    for group in grid.groups():
        if group.seed != min(grid.seeds) or (data and group.data not in data):
            continue
        config = Laboratory(grid, group).config(METHOD)
        if (Path(config.output) / "config.yaml").exists():
            yield Pool.load(group, config)
        else:
            print(f"{group}: not scored yet; run muki compare {path} first", flush=True)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What every script takes: a grid, some of its data sets, a file for the numbers."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--data", nargs="*", help="only these data sets")
    parser.add_argument("--output", type=Path)
    return parser


def report(
    args: argparse.Namespace,
    measured: Callable[[Pool], Record],
    *,
    change: Callable[[Grid], Grid] = lambda grid: grid,
) -> None:
    """Measure every pool, print its numbers, and write all to `--output`."""
    records = []
    try:
        for pool in scored_pools(change(load_grid(args.grid)), args.grid, args.data):
            records.append({"data": pool.group.data, "seed": pool.group.seed, **measured(pool)})
            print("\n  ".join(f"{key}: {value}" for key, value in records[-1].items()), flush=True)
    except MukiError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    if args.output:
        args.output.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
