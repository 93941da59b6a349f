"""What the scoring stage has left in a run's folder; where it is missing, the error says what to run."""

from __future__ import annotations

from collections.abc import Iterator

from muki.config import RunConfig, TestConfig, TextsConfig
from muki.errors import RunFolderError
from muki.labels import LabelSpace
from muki.run_folder import RunFolder, Split
from muki.teachers.records import TeacherRecord, load_records
from muki.texts import Columns, TextShards


def scored_teachers(run: RunFolder) -> tuple[list[TeacherRecord], LabelSpace]:
    """The teachers, and the union of their labels.

    Raises:
        RunFolderError: nothing is scored yet.
    """
    records = load_records(run.teachers)
    if records is None:
        raise _nothing_scored(run)
    return records, scored_labels(run)


def scored_labels(run: RunFolder) -> LabelSpace:
    """The union of the teachers' labels.

    Raises:
        RunFolderError: nothing is scored yet.
    """
    space = LabelSpace.load(run.labels)
    if space is None:
        raise _nothing_scored(run)
    return space


def scored_texts(run: RunFolder, split: Split) -> TextShards:
    """The texts of the pool or of the test file.

    Raises:
        RunFolderError: not cut yet.
    """
    texts = TextShards.load(run.texts(split))
    if texts is None:
        raise RunFolderError(f"{run.texts(split)}: no texts yet; run `muki score {run.root}` first")
    return texts


def texts_of(config: RunConfig) -> Iterator[tuple[Split, Columns, TextsConfig | TestConfig]]:
    """The pool, and the test texts if there are any: columns and section of the config."""
    pool, test = config.texts, config.test
    yield "pool", Columns(pool.text, pool.text_pair, pool.label, pool.id), pool
    if test:
        yield "test", Columns(test.text or pool.text, test.text_pair or pool.text_pair, test.label), test


def _nothing_scored(run: RunFolder) -> RunFolderError:
    what = f"`muki score {run.root}`" if run.config.exists() else "`muki score` with its run file"
    return RunFolderError(f"run '{run.root}': nothing scored yet; run {what} first")
