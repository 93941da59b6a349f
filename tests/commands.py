"""Commands of `muki`, run inside the tests' own process as if each had one for itself."""

from __future__ import annotations

import logging

from click.testing import Result
from typer.testing import CliRunner

from muki.cli import app
from muki.cli_base import CurrentRun

QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "true"}


def invoke(*args: object, stdin: bytes | None = None, **environment: str) -> Result:
    """Run a command, with these bytes as its standard input and these variables in its environment."""
    logger = logging.getLogger("muki")
    before = logger.handlers[:], logger.level, logger.propagate
    try:
        runner = CliRunner(env={**QUIET, **environment})
        return runner.invoke(app, [*map(str, args)], input=stdin, catch_exceptions=False)
    finally:
        logger.handlers[:], level, logger.propagate = before
        logger.setLevel(level)
        CurrentRun.config = CurrentRun.settings = None


def works(*args: object, stdin: bytes | None = None) -> Result:
    """Run a command that must succeed."""
    result = invoke(*args, stdin=stdin)
    assert (result.exit_code, result.exception) == (0, None), result.stderr
    return result
