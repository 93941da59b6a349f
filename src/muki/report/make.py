"""Write the report of a run, or of two runs side by side."""

from __future__ import annotations

import logging
from pathlib import Path

from muki.config import RunConfig
from muki.files import write_text
from muki.report.facts import collect
from muki.report.page import render
from muki.report.tables import to_label_csv
from muki.run_folder import RunFolder

logger = logging.getLogger(__name__)


def write_report(run: RunFolder, config: RunConfig) -> Path:
    """Write `report/report.html`, and `report/to-label.csv` beside it.

    Returns:
        the page.

    Raises:
        RunFolderError: the run is not evaluated yet, or a file is missing.
    """
    facts = collect(run, config)
    write_text(run.report, render(facts))
    write_text(run.report.parent / "to-label.csv", to_label_csv(facts.to_label))
    return run.report
