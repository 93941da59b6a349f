"""Plots of a comparison as SVG files that need nothing else. Pure functions of records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from muki.evaluation.metrics import accuracy_interval
from muki.experiments.grid import Grid
from muki.experiments.measures import correct_of
from muki.experiments.statistics import Record, chosen, is_ceiling, mean_interval, unique, values_of
from muki.report.page import PALETTE
from muki.report.plots import TEACHER_COLOURS, canvas, ink, teacher_colour, to_svg

_MARKERS = "osD^vPX*"  # beside colours, for those who cannot tell them apart
_MEASURES = {
    "accuracy": "accuracy of the student",
    "routing_accuracy": "routing accuracy on the pool",
    "target_accuracy": "target accuracy on the pool",
}
_NUMBERS = {"passes": "dropout passes K", "temperature": "temperature τ"}


@dataclass(frozen=True)
class Plot:
    """A finished plot: its file's name without ending, what it shows, and the SVG element."""

    name: str
    title: str
    svg: str


@dataclass(frozen=True)
class Line:
    """One line of `curves`.

    Attributes:
        panel: title of the panel it is drawn in.
        name: in the legend.
        points: x, mean, and half of the mean's 95 % interval over seeds where there are two or more; sorted by x.
    """

    panel: str
    name: str
    points: list[tuple[float, float, float | None]]


def draw(records: Sequence[Record], grid: Grid) -> list[Plot]:
    """Every plot that the records suffice for."""
    good = [record for record in records if "error" not in record]
    plots = []
    for setting in unique(record["setting"] for record in good):
        trained = [record for record in chosen(good, setting=setting) if "accuracy" in record]
        if trained:
            title = f"{setting}: accuracy by method, with 95 % interval"
            plots.append(Plot(f"accuracy-{setting}", title, accuracies(trained, title)))
    students = [record for record in good if record.get("taught")]
    if students:
        title = "Routing accuracy and the student's accuracy, one point a cell"
        plots.append(Plot("routing-and-accuracy", title, routing_and_accuracy(students, title)))
    for number, label in _NUMBERS.items():
        families = [lines_over_number(good, family) for family in grid.methods_that_differ_in(number)]
        plots += _curve_plots(number, label, [lines for lines in families if lines])
    families = [lines_over_pool(good, family) for family in grid.settings_that_differ_in_pool()]
    return plots + _curve_plots("pool-size", "texts in the pool", [lines for lines in families if lines])


def accuracies(records: Sequence[Record], title: str) -> str:
    """Accuracy by method as dots, one panel a data set.

    The interval is over seeds; with one seed it is the bootstrap's over the test texts.
    """
    methods, data = unique(r["method"] for r in records), unique(r["data"] for r in records)
    columns = min(3, len(data))
    rows = -(-len(data) // columns)
    with canvas(1.4 + 2.3 * columns, rows * (0.21 * len(methods) + 0.8)) as figure:
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, name in zip_longest(panels.flat, data):
            if name is None:
                axes.remove()
                continue
            _dots(axes, [chosen(records, data=name, method=method) for method in methods])
            axes.set_title(name, loc="left", fontsize="medium")
        panels[0, 0].set(yticks=range(len(methods)), yticklabels=methods, ylim=(len(methods) - 0.4, -0.6))
        for axes in panels[:, 0]:
            axes.tick_params(axis="y", length=0)
        return standalone(to_svg(figure, title))


def routing_and_accuracy(records: Sequence[Record], title: str) -> str:
    """One point a cell: how often the right teacher was heard on the pool, and what the student got right."""
    with canvas(6.2, 3.6) as figure:
        axes = figure.subplots()
        for i, name in enumerate(unique(record["data"] for record in records)):
            here = chosen(records, data=name)
            axes.plot(
                values_of(here, "routing_accuracy"), values_of(here, "accuracy"), _marker(i), color=_colour(i),
                label=name, markersize=5, alpha=0.75, markeredgewidth=0,
            )  # fmt: skip
        axes.set(xlabel=_MEASURES["routing_accuracy"], ylabel=_MEASURES["accuracy"])
        axes.grid(color=ink("line"), linewidth=0.6)
        figure.legend(loc="outside right upper", frameon=False)
        return standalone(to_svg(figure, title))


def curves(lines: Sequence[Line], label: str, title: str) -> str:
    """Measures over one number, on a logarithmic axis with a tick at each value that was tried.

    Args:
        lines: what is drawn, in panels side by side.
        label: of the number.
        title: for screen readers.
    """
    panels, names = unique(line.panel for line in lines), unique(line.name for line in lines)
    with canvas(1.6 + 2.8 * len(panels), 2.8) as figure:
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
            for line in (line for line in lines if line.panel == panel):
                _draw_line(axes, line, names.index(line.name))
            axes.set_title(panel, loc="left", fontsize="medium")
            axes.grid(axis="y", color=ink("line"), linewidth=0.6)
            axes.set(xscale="log", xlabel=label)
            ticks = sorted({point[0] for line in lines if line.panel == panel for point in line.points})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
            axes.set_xticks([], minor=True)
        handles = [_key(i, name) for i, name in enumerate(names)]
        figure.legend(handles=handles, loc="outside right upper", frameon=False)
        return standalone(to_svg(figure, title))


def lines_over_number(records: Sequence[Record], numbers: Mapping[str, float]) -> list[Line]:
    """Each measure over a number in which methods differ; a line for each data set (and setting, if several).

    Args:
        records: of cells that are done.
        numbers: each method's name and its number.
    """
    settings = unique(record["setting"] for record in records)
    lines = []
    for key, panel in _MEASURES.items():
        for setting in settings:
            for data in unique(record["data"] for record in records):
                here = chosen(records, setting=setting, data=data)
                name = f"{data}, {setting}" if len(settings) > 1 else data
                lines.append(Line(panel, name, _points(here, "method", numbers, key)))
    return [line for line in lines if len(line.points) > 1]


def lines_over_pool(records: Sequence[Record], settings: Sequence[str]) -> list[Line]:
    """The student's accuracy over the texts in the pool; a panel for each data set, a line for each method."""
    lines = []
    for data in unique(record["data"] for record in records):
        for method in unique(record["method"] for record in records):
            here = chosen(records, data=data, method=method)
            sizes = {name: _pool_size(chosen(here, setting=name)) for name in settings}
            lines.append(Line(data, method, _points(here, "setting", sizes, "accuracy")))
    return [line for line in lines if len(line.points) > 1]


def standalone(svg: str) -> str:
    """The SVG with a size, a font and colours of its own (light or dark), for use outside the report's page."""
    view = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    size = f'width="{float(view[1]):.0f}" height="{float(view[2]):.0f}" ' if view else ""
    light, dark = (f".plot {{ {' '.join(f'--{name}: {pair[i]};' for name, pair in PALETTE.items())} }}" for i in (0, 1))
    style = (
        f"<style>{light} @media (prefers-color-scheme: dark) {{ {dark} }} .plot {{ background: var(--card); }} "
        ".plot text { font-family: system-ui, sans-serif; }</style>"
    )
    head, rest = svg.split(">", 1)
    return f"{head.replace('<svg ', f'<svg {size}', 1)}>{style}{rest}"


# --- helpers -----------------------------------------------------------------------------------------------------


def _curve_plots(name: str, label: str, families: Sequence[Sequence[Line]]) -> list[Plot]:
    """A plot for each family; from the second on they are numbered."""
    plots = []
    for i, lines in enumerate(families):
        suffix = f"-{i + 1}" if i else ""
        title = f"Accuracies over {label}"
        plots.append(Plot(f"{name}{suffix}", title, curves(lines, label, title)))
    return plots


def _dots(axes: Any, methods: Sequence[Sequence[Record]]) -> None:
    """One panel of `accuracies`: a row for each method's records, from top to bottom."""
    for y, records in enumerate(methods):
        axes.axhline(y, color=ink("line"), linewidth=0.6, zorder=0)
        if not records:
            continue
        values = values_of(records, "accuracy")
        mean, half = mean_interval(values)
        ends = (mean - half, mean + half) if half is not None else accuracy_interval(correct_of(records[0]))
        colour = ink("muted" if is_ceiling(records[0]) else "accent")
        axes.plot(ends, [y, y], color=colour, linewidth=2.2, solid_capstyle="round", alpha=0.45)
        axes.plot([mean], [y], "o", color=colour, markersize=5)
    axes.locator_params(axis="x", nbins=5)


def _draw_line(axes: Any, line: Line, place: int) -> None:
    x, means, halves = (np.array(column, dtype=float) for column in zip(*line.points, strict=True))  # None: nan
    axes.errorbar(
        x, means, halves, color=_colour(place), marker=_marker(place), markersize=4, linewidth=1.4,
        elinewidth=0.8,
    )  # fmt: skip


def _key(place: int, name: str) -> Any:
    """A line's entry in the legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=_colour(place), marker=_marker(place), markersize=4, label=name)


def _points(
    records: Sequence[Record], axis: str, numbers: Mapping[str, float | None], key: str
) -> list[tuple[float, float, float | None]]:
    """A measure at each of the numbers, sorted; `axis` is what has them: `method` or `setting`."""
    points = []
    for name, x in numbers.items():
        values = values_of(chosen(records, **{axis: name}), key)
        if values and x is not None:
            points.append((float(x), *mean_interval(values)))
    return sorted(points, key=lambda point: point[0])


def _pool_size(records: Sequence[Record]) -> float | None:
    """Texts in the pool, mean over seeds; None without records."""
    return float(np.mean(values_of(records, "pool"))) if records else None


def _colour(place: int) -> str:
    return ink(teacher_colour(place))


def _marker(place: int) -> str:
    """Where colours begin again, markers are one further."""
    return _MARKERS[(place + place // TEACHER_COLOURS) % len(_MARKERS)]
