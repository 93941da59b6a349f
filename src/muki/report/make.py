"""Write the report of a run, or of two runs side by side."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from muki.config import RunConfig
from muki.errors import RunFolderError
from muki.files import write_text
from muki.report.compare import render_comparison
from muki.report.facts import collect
from muki.report.page import render
from muki.report.tables import filled_in, to_label_csv
from muki.run_folder import RunFolder

logger = logging.getLogger(__name__)


def write_report(run: RunFolder, config: RunConfig) -> Path:
    """Write `report/report.html`, and `report/to-label.csv` beside it; labels that a person filled in there stay.

    Returns:
        the page.

    Raises:
        RunFolderError: the run is not evaluated yet, or a file is missing.
    """
    facts = collect(run, config)
    write_text(run.report, render(facts))
    to_label = run.report.parent / "to-label.csv"
    if filled_in(to_label):
        logger.warning("%s: has labels that were filled in, and stays as it is; move it away for a new list", to_label)
    else:
        write_text(to_label, to_label_csv(facts.to_label))
    return run.report


def write_comparison(first: tuple[RunFolder, RunConfig], second: tuple[RunFolder, RunConfig]) -> Path:
    """Write the page of two runs into the first one's report folder, named after the second.

    Returns:
        the page.

    Raises:
        RunFolderError: a run is not evaluated yet, or both are the same.
    """
    if first[0].root.resolve() == second[0].root.resolve():
        raise RunFolderError(f"run '{first[0].root}': cannot be set beside itself; give two different runs")
    path = first[0].report.parent / f"with-{second[0].root.name}.html"
    one, other = collect(*first), collect(*second)
    if one.name == other.name:
        one, other = (
            replace(f, name=f"{run.root.parent.name}/{f.name}") for f, (run, _) in ((one, first), (other, second))
        )
    write_text(path, render_comparison(one, other))
    return path
