"""The run folder: where everything lies, and whether a folder belongs to this run.

run/
├── config.yaml            resolved settings
├── teachers.json          what each teacher is: labels, fingerprint, architecture
├── labels.json            union label space and each teacher's columns in it
├── texts/                 the pool, cut into shards
├── scores/<teacher>/      one file for each shard of the pool
├── view/                  the student encoder's view of each text and of the label names, for methods that refine
├── supervision/           target, weight and routing weights for each shard
├── checkpoints/           of the student's training, while it lasts
├── training.json          how the student was trained
├── student/               the result: a save_pretrained folder
├── test/                  texts/ and scores/ of the test file
└── report/                report.html, metrics.json, to-label.csv
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from muki.config import RUN_MARK, RunConfig, load_config
from muki.errors import OutputTakenError
from muki.files import require_local

logger = logging.getLogger(__name__)

Split = Literal["pool", "test"]


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run.

    Attributes:
        root: of the run.
        results: where supervision, student and report lie; the root unless several methods share one run's scores.
    """

    root: Path
    results: Path | None = None

    @property
    def _results(self) -> Path:
        return self.results or self.root

    @property
    def config(self) -> Path:
        """The resolved run file."""
        return self.root / "config.yaml"

    @property
    def teachers(self) -> Path:
        """What each teacher is."""
        return self.root / "teachers.json"

    @property
    def labels(self) -> Path:
        """The label space."""
        return self.root / "labels.json"

    @property
    def supervision(self) -> Path:
        """Targets and weights."""
        return self._results / "supervision"

    @property
    def supervision_summary(self) -> Path:
        """What the supervision was made from and what was found on the way."""
        return self.supervision / "supervision.json"

    @property
    def checkpoints(self) -> Path:
        """Of the student's training."""
        return self._results / "checkpoints"

    @property
    def training(self) -> Path:
        """How the student was trained."""
        return self._results / "training.json"

    @property
    def student(self) -> Path:
        """The result."""
        return self._results / "student"

    @property
    def metrics(self) -> Path:
        """The evaluation's numbers."""
        return self._results / "report" / "metrics.json"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.root / "report" / "report.html"

    @property
    def labelled(self) -> Path:
        """What labels that a person has filled in say."""
        return self.root / "report" / "labelled.json"

    @property
    def times(self) -> Path:
        """Seconds spent on each stage so far."""
        return self.root / "report" / "times.json"

    def texts(self, split: Split) -> Path:
        """Shards of the pool or of the test file."""
        return self._split(split) / "texts"

    def scores(self, split: Split, teacher: str) -> Path:
        """One teacher's outputs for the pool or the test file."""
        return self._split(split) / "scores" / teacher

    def view(self, split: Split) -> Path:
        """The student encoder's view of the pool or of the test file."""
        return self._split(split) / "view"

    def _split(self, split: Split) -> Path:
        return self.root if split == "pool" else self.root / "test"

    @property
    def is_run(self) -> bool:
        """Whether muki wrote this folder; a `config.yaml` alone proves nothing, it may be a user's own."""
        if self.config.is_file() and self.teachers.is_file():
            return True
        try:
            return self.config.read_text(encoding="utf-8").startswith(RUN_MARK)
        except (OSError, UnicodeDecodeError):
            return False

    @contextmanager
    def lock(self, stage: str = "prepare") -> Iterator[None]:
        """Keep other processes out of a stage that only one may do at a time; they wait, then find it done."""
        lock = FileLock(self.root / f".{stage}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("waiting for another process that works on %s", self.root)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def claim(self, config: RunConfig) -> None:
        """Take the folder for this run: new, empty, or the same run's from before.

        The same teachers' names and texts make the same run; settings may differ, then the stages that depend
        on them are done again.

        Raises:
            RunFolderError: the folder holds another run, or something that is no run.
        """
        require_local(self.root)
        if self.root.exists() and not self.root.is_dir():
            raise OutputTakenError(f"output '{self.root}': is a file; give a folder")
        for parent in self.root.parents:
            if parent.exists() and not parent.is_dir():
                raise OutputTakenError(f"output '{self.root}': '{parent}' is a file; choose another output folder")
        if self.is_run and self.teachers.exists():  # else a first attempt stopped before any work
            before = load_config(self.config)
            here, there = _identity(config.absolute()), _identity(before)
            differing = [f"{key} {there[key]} (now {here[key]})" for key in here if here[key] != there[key]]
            if differing:
                raise OutputTakenError(
                    f"output '{self.root}': holds another run, with {'; '.join(differing)}; choose another output "
                    "folder, or delete this one"
                )
        elif (
            not self.is_run
            and self.root.exists()
            and any(not path.name.startswith(".") for path in self.root.iterdir())
        ):
            raise OutputTakenError(
                f"output '{self.root}': not empty, and not a run folder (no config.yaml of a run); choose another "
                "output folder"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        if not self.is_run:
            config.save(self.config)

    def keep_settings(self, config: RunConfig, *sections: str) -> None:
        """Write down with which settings a stage was done, whoever gave them, so that later calls go on with them."""
        kept = load_config(self.config).model_copy(update={name: getattr(config, name) for name in sections})
        kept.save(self.config)


def _identity(config: RunConfig) -> dict[str, str]:
    return {"teachers": ", ".join(config.names), "texts": config.texts.path}
