"""Tables of a comparison: means with intervals, what is best beyond chance, and the recovered gap."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from muki.experiments.measures import correct_of

Record = dict[str, Any]

RESAMPLES = 2000
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>muki compare</title><style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } b { color: light-dark(#0a5, #5d9); }
</style></head><body>
<h1>muki compare</h1>
"""


def markdown(records: Sequence[Record]) -> str:
    """All tables as Markdown."""
    return "# Comparison\n\n" + "\n".join(_sections(records, _markdown_table, "## {}\n\n{}\n"))


def page(records: Sequence[Record]) -> str:
    """All tables as one HTML page that needs nothing else."""
    return _HEAD + "\n".join(_sections(records, _html_table, "<h2>{}</h2>\n{}\n")) + "</body></html>\n"


def recovered_gap(method: float, vanilla: float, oracle: float) -> float | None:
    """`(method − vanilla KD) / (oracle − vanilla KD)`: 0 for vanilla KD, 1 for oracle routing; None where they meet."""
    return None if oracle - vanilla < 0.005 else (method - vanilla) / (oracle - vanilla)


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half of its 95 % interval over seeds (Student's t); None for one seed."""
    n = len(values)
    if n < 2:
        return float(np.mean(values)), None
    return float(np.mean(values)), float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))


def better(first: Sequence[Record], second: Sequence[Record]) -> bool:
    """Whether the first method's accuracy is above the second's beyond chance.

    Paired bootstrap over test texts: the same texts are drawn for both, in each seed that both have; at least 97.5 %
    of the resampled differences must be positive.
    """
    rng = np.random.default_rng(0)
    others = {record["seed"]: record for record in second}
    differences = [
        correct_of(record).astype(float) - correct_of(others[record["seed"]]).astype(float)
        for record in first
        if record["seed"] in others
    ]
    if not differences:
        return False
    joined = np.concatenate(differences)
    # Resampling differences that are -1, 0 or 1 is drawing their counts.
    shares = [(joined == value).mean() for value in (-1, 0, 1)]
    counts = rng.multinomial(len(joined), shares, RESAMPLES)
    return bool((counts[:, 2] > counts[:, 0]).mean() >= 0.975)


def _sections(records: Sequence[Record], table: Callable[[list[list[str]]], str], layout: str) -> list[str]:
    good = [record for record in records if "error" not in record]
    sections = []
    for setting in _unique(record["setting"] for record in good):
        here = [record for record in good if record["setting"] == setting]
        trained = [record for record in here if "accuracy" in record]
        if trained:
            sections.append(layout.format(f"{setting}: accuracy of the student", table(_accuracy(trained))))
            gaps = _gaps(trained)
            if len(gaps) > 1:
                sections.append(layout.format(f"{setting}: recovered gap", table(gaps)))
            sections.append(
                layout.format(
                    f"{setting}: expected calibration error", table(_plain(trained, "expected_calibration_error"))
                )
            )
        for key, title in (
            ("routing_accuracy", "routing accuracy on the pool"),
            ("balanced_routing_accuracy", "routing accuracy, mean over the teachers' parts"),
            ("target_accuracy", "target accuracy on the pool"),
        ):
            sections.append(layout.format(f"{setting}: {title}", table(_plain(here, key))))
        sections.append(layout.format(f"{setting}: seconds of scoring, against vanilla KD", table(_ratios(here))))
    failed = [record for record in records if "error" in record]
    if failed:
        rows = [["cell", "error"]] + [
            [f"{r['data']}, {r['setting']}, seed {r['seed']}, {r['method']}", r["error"].splitlines()[0]]
            for r in failed
        ]
        sections.append(layout.format("failed", table(rows)))
    return sections


def _accuracy(records: Sequence[Record]) -> list[list[str]]:
    """Mean ± interval; the best is bold where it beats the second beyond chance. Ceilings do not compete."""
    methods, data = _axes(records)
    rows = [["method", *data]]
    best: dict[str, str] = {}
    for name in data:
        by_method = {m: _of(records, m, name) for m in methods if m not in ("oracle", "supervised")}
        ranked = sorted((m for m in by_method if by_method[m]), key=lambda m: -_mean(by_method[m], "accuracy"))
        if len(ranked) > 1 and better(by_method[ranked[0]], by_method[ranked[1]]):
            best[name] = ranked[0]
    for method in methods:
        cells = [_number(_of(records, method, name), "accuracy") for name in data]
        rows.append([method, *(f"**{c}**" if best.get(d) == method else c for c, d in zip(cells, data, strict=True))])
    return rows


def _gaps(records: Sequence[Record]) -> list[list[str]]:
    methods, data = _axes(records)
    rows = [["method", *data, "mean"]]
    if not {"vanilla-kd", "oracle"} <= set(methods):
        return rows
    for method in (m for m in methods if m not in ("vanilla-kd", "oracle")):
        found = []
        for name in data:
            three = [_of(records, one, name) for one in (method, "vanilla-kd", "oracle")]
            means = [_mean(one, "accuracy") for one in three if one]
            found.append(recovered_gap(*means) if len(means) == 3 else None)
        known = [gap for gap in found if gap is not None]
        cells = ["–" if gap is None else f"{gap:.2f}" for gap in found]
        rows.append([method, *cells, f"{np.mean(known):.2f}" if known else "–"])
    return rows


def _plain(records: Sequence[Record], key: str) -> list[list[str]]:
    methods, data = _axes(records)
    return [["method", *data], *([m, *(_number(_of(records, m, name), key) for name in data)] for m in methods)]


def _ratios(records: Sequence[Record]) -> list[list[str]]:
    methods, data = _axes(records)
    rows = [["method", *data]]
    for method in methods:
        cells = []
        for name in data:
            own, base = _of(records, method, name), _of(records, "vanilla-kd", name)
            known = own and base
            cells.append(f"{_mean(own, 'scoring_seconds') / _mean(base, 'scoring_seconds'):.1f}" if known else "–")
        rows.append([method, *cells])
    return rows


def _axes(records: Sequence[Record]) -> tuple[list[str], list[str]]:
    return _unique(r["method"] for r in records), _unique(r["data"] for r in records)


def _of(records: Sequence[Record], method: str, data: str) -> list[Record]:
    return [record for record in records if record["method"] == method and record["data"] == data]


def _mean(records: Sequence[Record], key: str) -> float:
    return float(np.mean([record[key] for record in records]))


def _number(records: Sequence[Record], key: str) -> str:
    values = [record[key] for record in records if record.get(key) is not None]
    if not values:
        return "–"
    mean, half = mean_interval(values)
    return f"{mean:.3f}" if half is None else f"{mean:.3f} ± {half:.3f}"


def _unique(values: Any) -> list[str]:
    return list(dict.fromkeys(values))


def _markdown_table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"


def _html_table(rows: list[list[str]]) -> str:
    def cell(text: str, tag: str) -> str:
        bold = text.startswith("**")
        inner = html.escape(text.strip("*"))
        return f"<{tag}>{f'<b>{inner}</b>' if bold else inner}</{tag}>"

    head = "<tr>" + "".join(cell(text, "th") for text in rows[0]) + "</tr>"
    body = "\n".join("<tr>" + "".join(cell(text, "td") for text in row) + "</tr>" for row in rows[1:])
    return f'<div class="wide"><table>{head}\n{body}</table></div>'
