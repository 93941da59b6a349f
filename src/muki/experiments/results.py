"""What a comparison leaves for people: tables, plots, records and the grid, without what is of one machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from muki.errors import ConfigError
from muki.experiments.grid import Grid
from muki.experiments.plots import draw
from muki.experiments.statistics import Record
from muki.experiments.tables import markdown, page
from muki.files import read_json, write_text

_WHERE = {"data", "setting", "seed", "method"}
_GRID_MARK = "# What was compared, with every setting spelled out; written by muki beside its results.\n"
_FOLDERS = re.compile(r"(?:file://|(?<![\w/.…]))/(?:[^\s/'\":,]+/)+")  # of an absolute path; not of other URLs


def write(grid: Grid, records: list[Record]) -> str:
    """Write all of it into the grid's folder for results. Returns what is where."""
    folder = Path(grid.results or grid.output)
    records = [public(record) for record in records]
    plots = draw(records, grid)
    for stale in set(folder.glob("accuracy-*.svg")) - {folder / f"{plot.name}.svg" for plot in plots}:
        stale.unlink()  # of a setting that is no longer compared
    for plot in plots:
        write_text(folder / f"{plot.name}.svg", plot.svg)
    write_text(folder / "results.json", json_lines(records))
    write_text(folder / "results.md", markdown(records, plots))
    write_text(folder / "results.html", page(records, plots))
    write_text(folder / "grid.yaml", _GRID_MARK + yaml.safe_dump(grid.portable(), sort_keys=False, allow_unicode=True))
    failed = sum("error" in record for record in records)
    return f"{len(records)} cells, {failed} failed: {folder / 'results.md'}, results.html, results.json"


def read_records(path: Path) -> list[Record]:
    """The records of a `results.json`.

    Raises:
        ConfigError: absent, or something else.
    """
    records = read_json(path)
    if not isinstance(records, list) or not all(isinstance(one, dict) and set(one) >= _WHERE for one in records):
        raise ConfigError(f"{path}: not the results.json of a comparison; give the file that `muki compare` wrote")
    return records


def public(record: Record) -> Record:
    """A record without what is of this machine: the traceback, and folders in the error."""
    kept = {key: value for key, value in record.items() if key != "traceback"}
    if "error" in kept:
        kept["error"] = _FOLDERS.sub("…/", kept["error"])
    return kept


def json_lines(records: list[Record]) -> str:
    """A JSON list with one record a line."""
    return "[\n" + ",\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n]\n"


def one_line(record: Record) -> str:
    """Which cell it is and its main numbers, or its failure."""
    where = f"{record['data']}, {record['setting']}, seed {record['seed']}, {record['method']}"
    if "error" in record:
        return f"{where}: FAILED ({record['error'].splitlines()[0]})"
    shown = {"accuracy": "accuracy", "routing_accuracy": "routing", "target_accuracy": "target"}
    numbers = ", ".join(f"{title} {record[key]:.3f}" for key, title in shown.items() if record.get(key) is not None)
    return f"{where}: {numbers}"
