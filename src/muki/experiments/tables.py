"""Tables of a comparison: means with intervals, what is best beyond chance, paired differences, the recovered gap."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from muki.experiments.plots import Plot
from muki.experiments.statistics import (
    Record,
    better,
    chosen,
    difference,
    in_common,
    is_ceiling,
    mean_interval,
    recovered_gap,
    unique,
    values_of,
)

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>muki compare</title><style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } b { color: light-dark(#0a5, #5d9); }
figure { margin: 1rem 0; } .plot { max-width: 100%; height: auto; }
</style></head><body>
<h1>muki compare</h1>
"""


@dataclass(frozen=True)
class Table:
    """A title, what one has to know to read it (or nothing), and rows of which the first is the head."""

    title: str
    note: str
    rows: list[list[str]]


def markdown(records: Sequence[Record], plots: Sequence[Plot] = ()) -> str:
    """All tables as Markdown, after the plots, which are files beside it."""
    images = [f"![{plot.title}]({plot.name}.svg)\n" for plot in plots]
    sections = [
        f"## {table.title}\n\n{table.note and table.note + chr(10) * 2}{_markdown_rows(table.rows)}"
        for table in tables(records)
    ]
    return "\n".join(["# Comparison\n", *images, *sections])


def page(records: Sequence[Record], plots: Sequence[Plot] = ()) -> str:
    """All plots and tables as one HTML page that needs nothing else."""
    figures = [f"<figure>{plot.svg}<figcaption>{html.escape(plot.title)}</figcaption></figure>" for plot in plots]
    sections = [
        f"<h2>{html.escape(table.title)}</h2>\n<p>{html.escape(table.note)}</p>\n{_html_rows(table.rows)}"
        for table in tables(records)
    ]
    return _HEAD + "\n".join([*figures, *sections]) + "\n</body></html>\n"


def tables(records: Sequence[Record]) -> list[Table]:
    """Every table, setting by setting; at the end the cells that failed."""
    good = [record for record in records if "error" not in record]
    found = [
        table for name in unique(r["setting"] for r in good) for table in _of_setting(name, chosen(good, setting=name))
    ]
    failed = [record for record in records if "error" in record]
    if failed:
        rows = [
            [f"{r['data']}, {r['setting']}, seed {r['seed']}, {r['method']}", (r["error"].splitlines() or [""])[0]]
            for r in failed
        ]
        found.append(Table("failed", "", [["cell", "error"], *rows]))
    return found


def _of_setting(name: str, records: Sequence[Record]) -> list[Table]:
    trained = [record for record in records if "accuracy" in record]
    found = []
    if trained:
        note = (
            "Mean ± 95 % interval over seeds (Student's t). Bold: better than the second by the paired bootstrap, "
            "over the seeds that all have."
        )
        found.append(Table(f"{name}: accuracy of the student", note, _accuracy(trained)))
        note = "With the 95 % interval of a paired bootstrap over test texts, seeds joined. Positive: better."
        for base in _rivals(trained):
            found.append(Table(f"{name}: accuracy, difference from {base}", note, _differences(trained, base)))
        gaps = _gaps(trained)
        if len(gaps) > 1:
            note = (
                "(method − vanilla-kd) / (oracle − vanilla-kd), of mean accuracies over the seeds that all three have; "
                "where the oracle is ahead by more than chance (paired bootstrap)."
            )
            found.append(Table(f"{name}: recovered gap", note, gaps))
        found += [
            Table(f"{name}: {title}", "", _plain(trained, key))
            for key, title in (
                ("macro_f1", "macro-F1"),
                ("expected_calibration_error", "expected calibration error"),
            )
        ]
    for key, title in (
        ("routing_accuracy", "routing accuracy on the pool"),
        ("balanced_routing_accuracy", "routing accuracy, mean over the teachers' parts"),
        ("target_accuracy", "target accuracy on the pool"),
        ("routing_calibration_error", "expected calibration error of the routing"),
        ("foreign_share", "share of the pool that is called foreign"),
        ("foreign_auroc", "foreign texts, area under the ROC curve"),
    ):
        if measured := [record for record in records if key in record]:
            found.append(Table(f"{name}: {title}", "", _plain(measured, key)))
    note = "The deterministic pass and the dropout passes that the method reads, mean over texts and teachers."
    found.append(Table(f"{name}: passes of each teacher over a text", note, _costs(records, "passes")))
    if timed := [record for record in records if "scoring_seconds" in record]:
        note = "Of methods whose scores were made with just the passes that they read; others read scores of these."
        found.append(Table(f"{name}: seconds of scoring", note, _costs(timed, "scoring_seconds")))
    return found


def _accuracy(records: Sequence[Record]) -> list[list[str]]:
    """Mean ± interval; the best is bold where it beats the second beyond chance. Ceilings do not compete."""
    methods, data = _axes(records)
    best = {name: _best(chosen(records, data=name)) for name in data}
    rows = []
    for method in methods:
        cells = _numbers(records, method, "accuracy")
        rows.append([method, *(f"**{c}**" if best[d] == method else c for c, d in zip(cells, data, strict=True))])
    return [["method", *data], *rows]


def _best(records: Sequence[Record]) -> str | None:
    """The method with the highest mean accuracy over the seeds that all have, if it beats the second beyond chance."""
    records = [record for record in records if not is_ceiling(record)]
    methods = _axes(records)[0]
    shared = in_common([chosen(records, method=method) for method in methods]) if methods else []
    by_method = {method: found for method, found in zip(methods, shared, strict=True) if found}
    ranked = sorted(by_method, key=lambda method: -_mean(by_method[method], "accuracy"))
    return ranked[0] if len(ranked) > 1 and better(by_method[ranked[0]], by_method[ranked[1]]) else None


def _rivals(records: Sequence[Record]) -> list[str]:
    """What every method is compared with: vanilla KD, and the published method or its cheap form."""
    methods, _ = _axes(records)
    published = next((name for name in ("muki", "muki-fast") if name in methods), None)
    return [name for name in ("vanilla-kd", published) if name in methods]


def _differences(records: Sequence[Record], base: str) -> list[list[str]]:
    """Accuracy minus that of `base`, with the interval of the paired bootstrap."""
    methods, data = _axes(records)
    rows = [["method", *data]]
    for method in (m for m in methods if m != base):
        cells = []
        for name in data:
            here = chosen(records, data=name)
            both = in_common([chosen(here, method=one) for one in (method, base)])
            found = difference(*both)
            cells.append("–" if found is None else _signed(*found) + _fewer(both[0], here))
        rows.append([method, *cells])
    return rows


def _gaps(records: Sequence[Record]) -> list[list[str]]:
    """Of each data set over the seeds that all three have; the mean is over the data sets."""
    methods, data = _axes(records)
    rows = [["method", *data, "mean"]]
    if not {"vanilla-kd", "oracle"} <= set(methods):
        return rows
    for method in (m for m in methods if m not in ("vanilla-kd", "oracle")):
        found, cells = [], []
        for name in data:
            here = chosen(records, data=name)
            three = in_common([chosen(here, method=one) for one in (method, "vanilla-kd", "oracle")])
            led = bool(three[0]) and better(three[2], three[1])
            gap = recovered_gap(*(_mean(one, "accuracy") for one in three)) if led else None
            found += [] if gap is None else [gap]
            cells.append("–" if gap is None else _minus(f"{gap:.2f}") + _fewer(three[0], here))
        rows.append([method, *cells, _minus(f"{np.mean(found):.2f}") if found else "–"])
    return rows


def _plain(records: Sequence[Record], key: str) -> list[list[str]]:
    methods, data = _axes(records)
    return [["method", *data], *([method, *_numbers(records, method, key)] for method in methods)]


def _costs(records: Sequence[Record], key: str) -> list[list[str]]:
    methods, data = _axes(records)
    rows = [["method", *data]]
    for method in methods:
        values = [values_of(chosen(records, method=method, data=name), key) for name in data]
        rows.append([method, *(f"{np.mean(found):.1f}" if found else "–" for found in values)])
    return rows


def _axes(records: Sequence[Record]) -> tuple[list[str], list[str]]:
    """Methods and data sets."""
    return unique(record["method"] for record in records), unique(record["data"] for record in records)


def _mean(records: Sequence[Record], key: str) -> float:
    return float(np.mean([record[key] for record in records]))


def _numbers(records: Sequence[Record], method: str, key: str) -> list[str]:
    """Mean ± interval of a method on each data set, and of how many seeds where others have more."""
    cells = []
    for name in _axes(records)[1]:
        here = chosen(records, data=name)
        own = [record for record in chosen(here, method=method) if record.get(key) is not None]
        cells.append(_number(values_of(own, key)) + _fewer(own, here) if own else "–")
    return cells


def _number(values: Sequence[float]) -> str:
    mean, half = mean_interval(values)
    return f"{mean:.3f}" if half is None else f"{mean:.3f} ± {half:.3f}"


def _fewer(records: Sequence[Record], others: Sequence[Record]) -> str:
    """` (2 of 3 seeds)`, where there are others of more seeds."""
    found, most = (len({record["seed"] for record in those}) for those in (records, others))
    return f" ({found} of {most} seeds)" if found < most else ""


def _signed(value: float, low: float, high: float) -> str:
    return _minus(f"{value:+.3f} [{low:+.3f}, {high:+.3f}]")


def _minus(numbers: str) -> str:
    """With the sign for minus in the place of hyphens."""
    return numbers.replace("-", "−")


def _markdown_rows(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"


def _html_rows(rows: list[list[str]]) -> str:
    def cell(text: str, tag: str) -> str:
        bold = text.startswith("**")
        inner = html.escape(text.strip("*"))
        return f"<{tag}>{f'<b>{inner}</b>' if bold else inner}</{tag}>"

    head = "<tr>" + "".join(cell(text, "th") for text in rows[0]) + "</tr>"
    body = "\n".join("<tr>" + "".join(cell(text, "td") for text in row) + "</tr>" for row in rows[1:])
    return f'<div class="wide"><table>{head}\n{body}</table></div>'
