"""The scored pool: what supervision is made of, read shard by shard, and the router that is fitted on it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from muki.config import RunConfig
from muki.engines.work import ScoringSettings, shard_source
from muki.errors import RunFolderError
from muki.files import fingerprint
from muki.formulas import Array
from muki.hashing import one_of_each_block
from muki.integration.fitting import FIT_ROWS, fit_router, needs_pool
from muki.integration.router import Router, Routing, gold_routing, plain_distributions
from muki.labels import LabelSpace
from muki.methods import Method
from muki.run_folder import RunFolder, Split
from muki.scored import scored_teachers, scored_texts
from muki.teachers.outputs import TeacherOutputs
from muki.teachers.store import MadeFrom, read_outputs
from muki.texts import Shard, TextShards
from muki.view import NeutralView, neutral_view


@dataclass(frozen=True)
class ScoredPool:
    """The pool as supervision is made of it: scores that lie on disk, and what else a method reads of the texts.

    Attributes:
        space: the label space.
        shards: file names, the same in each folder of scores.
        folders: of scores, one for each teacher, in the order of the label space.
        sources: what each teacher's scores of each shard must have been made from.
        rows: texts in each shard.
        view: neutral view, for methods that refine.
        gold: of each shard, the gold label of each row as an index into the union, negative outside it; for methods
            that are ceilings.
    """

    space: LabelSpace
    shards: list[str]
    folders: list[Path]
    sources: list[list[MadeFrom]]
    rows: list[int]
    view: NeutralView | None = None
    gold: list[dict[int, int]] | None = None

    def fingerprint(self, version: int, method: Method) -> str:
        """Of all that the numbers of this pool's supervision depend on; `version` is that of the code."""
        sources = [[asdict(source) for source in own] for own in self.sources]
        gold = None if self.gold is None else [list(labels.values()) for labels in self.gold]
        view = "" if self.view is None else self.view.fingerprint
        return fingerprint(version, sources, self.shards, asdict(self.space), method.model_dump(), gold, view)

    def outputs(self) -> Iterator[list[TeacherOutputs]]:
        """Each shard's outputs of all teachers, one shard in memory at a time.

        Raises:
            RunFolderError: scores are missing, damaged or stale.
        """
        for name, wanted in zip(self.shards, zip(*self.sources, strict=True), strict=True):
            yield [_usable(folder / name, one) for folder, one in zip(self.folders, wanted, strict=True)]

    def sample(self) -> list[TeacherOutputs]:
        """Every teacher's outputs of an even sample of at most `FIT_ROWS` texts."""
        return even_sample(self.outputs(), sum(self.rows))[0]

    def router(self, method: Method) -> Router | GoldRouter:
        """The method's chain, fitted on this pool; for a ceiling the gold labels themselves."""
        if self.gold is not None:
            labels = {row: label for shard in self.gold for row, label in shard.items()}
            return GoldRouter(labels, list(self.space.columns.values()))
        return self.fitted(method)

    def fitted(self, method: Method) -> Router:
        """The method's chain, fitted on this pool."""
        return fit_on_pool(self.outputs(), sum(self.rows), self.view, method, self.space)


def scored_pool(config: RunConfig, run: RunFolder, *, write: bool = True) -> ScoredPool:
    """The run's pool; makes what is missing of the neutral view, where the method wants one.

    Args:
        config: the run.
        run: its folder.
        write: make it; else the pool is only good for its fingerprint.

    Raises:
        RunFolderError: texts are not cut yet, or teachers not looked at.
    """
    texts, (records, space) = scored_texts(run, "pool"), scored_teachers(run)
    settings = ScoringSettings.of(config)
    return ScoredPool(
        space=space,
        shards=[shard.name for shard in texts.shards],
        folders=[run.scores("pool", record.name) for record in records],
        sources=[[shard_source(record, shard, settings) for shard in texts.shards] for record in records],
        rows=[shard.rows for shard in texts.shards],
        view=neutral_view(config, run, "pool", write=write),
        gold=[_gold(texts, shard, space) for shard in texts.shards] if config.method.needs_gold else None,
    )


def load_outputs(config: RunConfig, run: RunFolder, split: Split, *, features: bool = False) -> list[TeacherOutputs]:
    """Every teacher's outputs for all texts of the pool or the test, in the order of the label space.

    Args:
        config: the run.
        run: its folder, where the scores lie.
        split: which texts.
        features: read features and hidden states too, which take most of the memory.

    Raises:
        RunFolderError: scores are missing, damaged or stale.
    """
    texts, settings, result = scored_texts(run, split), ScoringSettings.of(config), []
    for record in scored_teachers(run)[0]:
        folder, parts = run.scores(split, record.name), []
        for shard in texts.shards:
            part = _usable(folder / shard.name, shard_source(record, shard, settings))
            parts.append(part if features else replace(part, features=None, states=None))
        result.append(TeacherOutputs.concatenate(parts))
    return result


def _usable(path: Path, wanted: MadeFrom) -> TeacherOutputs:
    found = read_outputs(path)
    problem = "missing or damaged" if found is None else found[1].serves(wanted)
    if found is None or problem:
        raise RunFolderError(f"{path}: scores cannot be used ({problem}); run `muki score` first")
    return found[0]


def _gold(texts: TextShards, shard: Shard, space: LabelSpace) -> dict[int, int]:
    """The gold label of each row of one shard as an index into the union; -1 outside it."""
    ids = space.label2id
    return {text.row: ids.get(text.label or "", -1) for text in texts.read(shard)}


@dataclass(frozen=True)
class GoldRouter:
    """Routes by gold labels; called as a `Router` is.

    Attributes:
        labels: of each row of the pool, the gold label as an index into the union, negative outside it.
        columns: each teacher's columns in the union.
    """

    labels: Mapping[int, int]
    columns: list[tuple[int, ...]]
    refinement: None = None
    findings: ClassVar[dict[str, float]] = {}

    def __call__(self, outputs: list[TeacherOutputs], view: NDArray[np.float16] | None = None) -> Routing:
        """Route texts of the pool."""
        return gold_routing(self.gold(outputs), self.columns)

    def distributions(self, outputs: list[TeacherOutputs]) -> list[Array]:
        """Each teacher's distribution over its own labels, shapes (n, C_i)."""
        return plain_distributions(outputs)

    def gold(self, outputs: list[TeacherOutputs]) -> NDArray[np.int64]:
        """The texts' gold labels, shape (n,)."""
        return np.array([self.labels[row] for row in outputs[0].rows.tolist()], dtype=np.int64)


def even_sample(
    shards: Iterable[list[TeacherOutputs]], total: int, view: NeutralView | None = None
) -> tuple[list[TeacherOutputs], NDArray[np.float16] | None]:
    """The teachers' outputs of an even sample of at most `FIT_ROWS` texts, and their view, shape (n, H).

    Args:
        shards: each shard's outputs of all teachers.
        total: texts in the pool.
        view: neutral view, where it is wanted.
    """
    step = max(1, -(-total // FIT_ROWS))
    kept: list[list[TeacherOutputs]] = []
    views = []
    start = 0
    for number, outputs in enumerate(shards):
        index = one_of_each_block(start, len(outputs[0]), step)
        start += len(outputs[0])
        kept.append([one.take(index) for one in outputs])
        if view is not None:
            views.append(view(number)[index])
    sampled = [TeacherOutputs.concatenate(list(parts)) for parts in zip(*kept, strict=True)]
    return sampled, np.concatenate(views) if views else None


def fit_on_pool(
    shards: Iterable[list[TeacherOutputs]], total: int, view: NeutralView | None, method: Method, space: LabelSpace
) -> Router:
    """Fit a method's router on the pool, or on an even sample of a large one.

    Args:
        shards: each shard's outputs of all teachers.
        total: texts in the pool.
        view: neutral view, where the method refines.
        method: the method.
        space: the label space.
    """
    if not needs_pool(method):
        shards = itertools.islice(shards, 1)
    sampled, seen = even_sample(shards, total, view)
    return fit_router(method, sampled, space, seen, None if view is None else view.names)
