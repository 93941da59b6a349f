"""The harness: each group's teachers are fine-tuned once and score once; every method of the group shares them.

out/
├── teachers/<fingerprint>/            shared by all settings that want the same teacher
├── <data>/<setting>/seed-<n>/
│   ├── pool.jsonl, test.jsonl
│   ├── scores-<passes>/               a run folder without a student
│   └── methods/<method>/              supervision, student, cell.json
└── results.json, results.md, results.html, *.svg, grid.yaml    (in the folder `results`, if the grid names one)

A cell that is done is not repeated; one that fails is noted and does not stop the others. Several processes may work
on one grid: each takes the groups that no other is at, and waits for the rest.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from muki import pipeline
from muki.config import RunConfig, make_config
from muki.engines.work import Part
from muki.experiments.cells import Cell, cell_key, cells_of, code_versions, package_versions
from muki.experiments.grid import Grid, Group, Setting
from muki.experiments.measures import measure_answers, measure_pool
from muki.experiments.results import one_line, write
from muki.experiments.statistics import Record
from muki.experiments.tasks import DataSet, Row, Task, make_task, read_data, require_data
from muki.experiments.teachers import encoders_of, fine_tuned_teachers, require_encoders
from muki.experiments.turns import in_turn, lock
from muki.files import file_fingerprint, read_json, remove, write_json, write_text
from muki.methods import Method
from muki.progress import clock
from muki.run_folder import RunFolder
from muki.teachers.scoring import Passes

logger = logging.getLogger(__name__)


def compare(grid: Grid, part: Part | None = None) -> list[Record]:
    """Run what is not done of this part of the grid, then collect the records of all cells that are done.

    Raises:
        ConfigError: a data set or an encoder that is needed is not there.
    """
    groups = groups_of(grid, part or Part())
    pending = [group for group in groups for _ in Laboratory(grid, group).pending()]
    require_data(where for group in pending for where in grid.sources(group))
    require_encoders(encoder for group in pending for encoder in encoders_of(grid, group))
    total = len(groups) * len(cells_of(grid, groups[0])) if groups else 0
    logger.info("%d cells in %d groups, %d to be done", total, len(groups), len(pending))
    start, done = time.monotonic(), 0
    for group in in_turn(grid, groups):
        laboratory = Laboratory(grid, group)
        for cell in laboratory.pending():
            record = laboratory.run(cell)
            done += 1
            left = (time.monotonic() - start) / done * (len(pending) - done)
            logger.info("%s; %d of %d, about %s left", one_line(record), done, len(pending), clock(left))
    return collect(grid)


def adopt(grid: Grid, records: list[Record]) -> int:
    """Count cells of another run of this grid as done, where they have these very settings. Returns how many are new.

    Args:
        grid: the grid.
        records: of its cells, from any machine.
    """
    known = {(record["data"], record["setting"], record["seed"], record["method"]): record for record in records}
    new = 0
    for group in grid.groups():
        laboratory = Laboratory(grid, group)
        for cell in laboratory.pending():
            record = known.get((*group.model_dump().values(), cell.name), {"error": ""})
            if "error" not in record and record.get("key") == cell_key(grid, cell):
                write_json(laboratory.record(cell), record)
                new += 1
    logger.info("%d cells are known from %d records of other runs", new, len(records))
    if records and not any("key" in record for record in records):
        logger.warning("these records are of a version that wrote no keys: none of them can be taken over")
    return new


def groups_of(grid: Grid, part: Part) -> list[Group]:
    """The groups of one part, in the grid's order.

    What is dealt is a data set with a seed: its groups share teachers, which two processes must not make at once.
    """
    groups = list(grid.groups())
    places = {shared: i for i, shared in enumerate(dict.fromkeys((one.data, one.seed) for one in groups))}
    return [one for one in groups if part.owns(places[one.data, one.seed])]


def collect(grid: Grid) -> list[Record]:
    """The records of all cells that are done with these very settings, in the grid's order."""
    records = []
    for group in grid.groups():
        laboratory = Laboratory(grid, group)
        for cell in cells_of(grid, group):
            record = laboratory.known(cell)
            if record is not None:
                records.append(record)
    return records


def write_results(grid: Grid, records: list[Record] | None = None) -> str:
    """Write tables, plots, records and the grid, all without paths of this machine. Returns what is where.

    Args:
        grid: the grid.
        records: of its cells; by default those that are done by now, by other processes too.
    """
    with lock(grid, ".results.lock"):
        return write(grid, collect(grid) if records is None else records)


class Laboratory:
    """One group: its task, teachers, scores and cells, each made when first needed."""

    def __init__(self, grid: Grid, group: Group) -> None:
        self.grid, self.group = grid, group
        self.setting: Setting = grid.settings[group.setting]
        self.folder = Path(grid.output) / group.data / group.setting / f"seed-{group.seed}"

    def record(self, cell: Cell) -> Path:
        """Where a cell's record lies."""
        return self.folder / "methods" / cell.name / "cell.json"

    def known(self, cell: Cell) -> Record | None:
        """A cell's record, if it is of these very settings."""
        record: Record | None = read_json(self.record(cell))
        return record if record is not None and record.get("key") == cell_key(self.grid, cell) else None

    def pending(self) -> list[Cell]:
        """The cells without a record of these very settings, or with a failure."""
        return [cell for cell in cells_of(self.grid, self.group) if "error" in (self.known(cell) or {"error": ""})]

    def run(self, cell: Cell) -> Record:
        """One cell, from whatever of its group is there already to its record."""
        record: Record = {
            **self.group.model_dump(), "method": cell.name, "settings": cell.method.spelled_out(),
            "ceiling": cell.method.needs_gold,
            "key": cell_key(self.grid, cell), "date": time.strftime("%Y-%m-%d"),
            "versions": {**package_versions(), **code_versions()},
        }  # fmt: skip
        try:
            record |= self._measure(cell)
        except Exception as error:  # whatever it is: the other cells go on, and the record says what happened
            logger.debug("", exc_info=True)
            record["error"] = f"{type(error).__name__}: {error}"
            record["traceback"] = traceback.format_exc()
        write_json(self.record(cell), record)
        return record

    @cached_property
    def task(self) -> Task:
        """Texts of teachers, pool and test."""
        foreign = _data(self.grid.data[self.setting.foreign.data])[0] if self.setting.foreign else None
        return make_task(_data(self.grid.data[self.group.data]), self.setting, self.grid, self.group.seed, foreign)

    @property
    def methods(self) -> list[Method]:
        """Every method of the grid."""
        return [cell.method for cell in cells_of(self.grid, self.group)]

    def scorer(self, method: Method) -> Method:
        """The method whose scores this one uses: one that needs no dropout passes takes those of one that does."""
        if method.needs_gold or not method.passes:
            return next((m for m in self.methods if m.passes and not m.needs_gold and m.tolerance is None), method)
        return next(m for m in self.methods if _passes_label(m) == _passes_label(method))

    @property
    def tests_teachers(self) -> bool:
        """Whether teachers must read the test texts: only an ensemble needs that."""
        return any(cell.method.student == "none" and cell.trained for cell in cells_of(self.grid, self.group))

    @property
    def teachers(self) -> list[Path]:
        """Folders of the fine-tuned teachers; where one cannot be made, every cell that asks is told so at once."""
        if isinstance(self._teachers, Exception):
            raise self._teachers
        return self._teachers

    @cached_property
    def _teachers(self) -> list[Path] | Exception:
        try:
            return fine_tuned_teachers(self.grid, self.group, self.task)
        except Exception as error:
            return error

    @cached_property
    def files(self) -> dict[str, str]:
        """The pool and the test as files."""
        paths = {name: self.folder / f"{name}.jsonl" for name in ("pool", "test")}
        for name, path in paths.items():
            _write_rows(path, getattr(self.task, name))
        return {name: str(path) for name, path in paths.items()}

    def config(self, method: Method) -> RunConfig:
        """A method's run, on the scores that it shares with others."""
        label = _passes_label(self.scorer(method))
        content: dict[str, Any] = {
            "teachers": [
                {"model": str(path), "name": f"teacher-{i}", "max_length": self.grid.max_length,
                 "prefix": self.setting.prefix}
                for i, path in enumerate(self.teachers)
            ],
            "student": {
                "model": self.grid.student_in(self.setting),
                "max_length": self.grid.max_length, "prefix": self.setting.prefix,
            },
            "texts": {"path": self.files["pool"], "label": "label"},
            **({"test": {"path": self.files["test"]}} if self.tests_teachers else {}),
            "method": method.model_dump(),
            "scoring": {"seed": self.group.seed, "keep": self._keep(label)},
            "training": {**self.grid.training_in(self.setting).model_dump(), "seed": self.group.seed + 1},
            "output": str(self.folder / f"scores-{label.replace(' ', '-')}"),
        }  # fmt: skip
        return make_config(content, str(self.group))

    def _keep(self, label: str) -> str:
        """What the methods that share these scores need of the teachers' deterministic passes."""
        sharing = [method for method in self.methods if _passes_label(self.scorer(method)) == label]
        wanted = {what for method in sharing for what in method.keep.split("+")}
        return "+".join(sorted({"features", *wanted} - {""}))  # features always: methods that come later may need them

    def _measure(self, cell: Cell) -> Record:
        config = self.config(cell.method)
        shared = RunFolder(Path(config.output))
        run = RunFolder(shared.root, results=self.record(cell).parent)
        scorer = self.scorer(cell.method)
        seconds = self._scored(self.config(scorer), shared)
        own = seconds is not None and _passes_label(scorer) == _passes_label(cell.method)
        start = time.monotonic()
        pipeline.supervise(config, run)
        record = {
            **({"scoring_seconds": seconds} if own else {}),
            "routing_seconds": round(time.monotonic() - start, 3),
            **measure_pool(run, config, [row["label"] for row in self.task.pool]),
        }
        if cell.trained:
            pipeline.train(config, run=run)
            training = read_json(run.training) or {}
            record["training_seconds"] = training.get("seconds", 0.0)
            record |= measure_answers(run, config, self.task.test)
            record["taught"] = cell.method.student == "trained" and cell.method.target == "teachers"
            remove(run.student)  # the numbers stay; a grid's students would fill the disk
        remove(run.supervision)
        return record

    def _scored(self, config: RunConfig, shared: RunFolder) -> float | None:
        """Score what is not scored; seconds that all teachers took for the pool's and test's texts together.

        None where these very scores were not made in one go: the time of a part says nothing.
        """
        timing = shared.root / "scoring.json"
        before, start = _score_files(shared), time.monotonic()
        pipeline.score(config)
        seconds, after = round(time.monotonic() - start, 3), _score_files(shared)
        if not before.items() & after.items():
            write_json(timing, {"seconds": seconds, "files": after})
        known = read_json(timing) or {}
        return float(known["seconds"]) if known.get("files") == after else None


@cache
def _data(where: str) -> list[DataSet]:
    return read_data(where)


def _score_files(run: RunFolder) -> dict[str, str]:
    """The hash of each file of scores, by its path in the run's folder."""
    return {
        path.relative_to(run.root).as_posix(): file_fingerprint(path)
        for folder in ("scores", "test/scores")
        for path in sorted((run.root / folder).rglob("*.parquet"))
    }


def _passes_label(method: Method) -> str:
    return "0" if method.needs_gold else Passes(method.passes, method.tolerance).label()


def _write_rows(path: Path, rows: list[Row]) -> None:
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not path.exists() or path.read_text(encoding="utf-8") != content:
        write_text(path, content)
