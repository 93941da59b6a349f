"""What all commands share: clear errors, how to go on after one, and the run that a command works on."""

from __future__ import annotations

import errno
import functools
import logging
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import typer

from muki.errors import MukiError, OutputTakenError, StaleError, first_line
from muki.processes import is_first

Run = Annotated[Path, typer.Argument(metavar="RUN", help="run folder, or its YAML file")]

# What safetensors and torch say, which raise errors of their own.
_DISK_FULL = re.compile(
    r"os error 28|No space left|File too large|PytorchStreamWriter failed writing"
    r"|unexpected pos \d+ vs|iostream error",
    re.IGNORECASE,
)


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what goes wrong into one clear message and an exit code; say how to go on."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        _quiet_libraries()
        try:
            command(*args, **kwargs)
        except MukiError as error:
            again = isinstance(error, OutputTakenError | StaleError)  # would stop there once more
            _fail(str(error), 2, resumable=CurrentRun.begun() and not again)
        except KeyboardInterrupt:
            if not is_first():
                raise typer.Exit(130) from None  # the first of a launcher's processes says it for all
            _fail("stopped", 130, resumable=CurrentRun.known())
        except OSError as error:
            what = error.filename or "the output"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                _fail(f"disk full: {what} cannot be written; free some space", 2)
            _fail(f"{what}: {error.strerror or error}", 2)
        except Exception as error:
            if not _DISK_FULL.search(str(error)):
                raise
            _fail(f"disk full: the output cannot be written ({first_line(error)}); free some space", 2)

    return run


class CurrentRun:
    """The run that the command works on, once it is known; for the line that says how to go on.

    Attributes:
        config: where its folder keeps its settings.
        settings: those that the command was called with; None where they are not known yet.
    """

    config: Path | None = None
    settings: Any = None

    @classmethod
    def names(cls, settings: Any) -> None:
        """Remember the run that these settings name."""
        from muki.run_folder import RunFolder

        cls.config, cls.settings = RunFolder(Path(settings.output)).config, settings

    @classmethod
    def kept(cls) -> bool:
        """Whether the folder's settings are those that the command was called with; a refusal leaves earlier ones."""
        from muki.config import load_config

        if cls.settings is None or cls.config is None:
            return True
        try:
            there = load_config(cls.config)
            there.output = cls.settings.output  # the folder may have been moved
            return bool(there == cls.settings)
        except MukiError:  # made by another version
            return False

    @classmethod
    def known(cls) -> bool:
        """Whether a later call can go on from the run's folder."""
        return cls.config is not None and cls.config.exists()

    @classmethod
    def begun(cls) -> bool:
        """Whether something is done there: texts are cut."""
        return cls.config is not None and cls.known() and (cls.config.parent / "texts").is_dir()


def _fail(message: str, code: int, resumable: bool | None = None) -> NoReturn:
    resumable = CurrentRun.begun() if resumable is None else resumable
    logging.getLogger("muki").debug("", exc_info=True)
    typer.echo(f"muki: {message}", err=True)
    if resumable:
        earlier = "" if CurrentRun.kept() else " with the settings of before"
        command = f"muki run {shlex.quote(str(CurrentRun.config))}"
        typer.echo(f"What is done stays. To continue{earlier}: {command}", err=True)
    raise typer.Exit(code)


def _quiet_libraries() -> None:
    """Transformers prints loading bars and reports that say nothing here; only the command line silences them."""
    import os

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def one_speaks() -> None:
    """Of the processes that a launcher started for one work, only the first reports; all of them warn."""
    if not is_first():
        logging.getLogger("muki").setLevel(logging.WARNING)


class Trained(NamedTuple):
    """A model, and what a run says of how it reads texts."""

    model: str
    prefix: str = ""
    text_pair: str | None = None  # column of the second text


def trained_student(model: str) -> Trained:
    """A run's student, by the run's folder or its own; other models as they are."""
    from muki.config import load_config
    from muki.run_folder import RunFolder

    for run in (RunFolder(Path(model)), RunFolder(Path(model).parent)):
        if run.is_run and Path(model) in (run.root, run.student):
            config = load_config(run.config)
            return Trained(str(run.student), config.student.prefix, config.texts.text_pair)
    return Trained(model)


def config_of(run: Path, overrides: list[str] | None = None, *, only_looks: bool = False) -> Any:
    """The config of a run folder or YAML file; a command that only looks has nothing to continue."""
    from muki.config import load_config
    from muki.run_folder import RunFolder

    file = run / "config.yaml" if run.is_dir() else run
    overrides = overrides or []
    config = load_config(file, overrides)
    moved = any(override.partition("=")[0].strip() == "output" for override in overrides)
    if file.name == "config.yaml" and RunFolder(file.parent).is_run and not moved:
        config.output = str(file.parent)  # a run's own file: the run is wherever its folder was moved to
    config = config.absolute()
    CurrentRun.config = None
    if not only_looks:
        CurrentRun.names(config)
    return config
