"""Plots as SVG that follow the page: its colours (light or dark), its font, text that stays text."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_WIDTH = 4.4  # inches: 317 units, so that text keeps its size on a narrow phone
_FONT = 9.5
TEACHER_COLOURS = 8

# matplotlib wants real colours; these stand for the page's own, and are replaced in what it writes.
_STANDS_FOR = {
    "ink": "#010203", "muted": "#020304", "line": "#030405", "accent": "#040506", "warm": "#050607",
    **{f"t{i + 1}": f"#06{i:02x}ff" for i in range(TEACHER_COLOURS)},
}  # fmt: skip


def teacher_colour(number: int) -> str:
    """The page's colour name of the teacher at this place."""
    return f"t{number % TEACHER_COLOURS + 1}"


def intervals(rows: Sequence[tuple[str, float, tuple[float, float] | None, str]], title: str) -> str:
    """Accuracies as dots with their interval, one row each.

    Args:
        rows: name, accuracy in [0, 1], its interval if there is one, and the page's colour name.
        title: for screen readers.
    """
    with _figure(0.42 * len(rows) + 0.55) as (figure, axes):
        for place, (name, value, interval, colour) in enumerate(rows):
            y = len(rows) - place
            if interval:
                axes.plot(
                    interval, [y, y], color=_STANDS_FOR[colour], linewidth=2.2, solid_capstyle="round", alpha=0.45
                )
            axes.plot([value], [y], "o", color=_STANDS_FOR[colour], markersize=6)
            axes.text(0.012, y + 0.3, _short(name, 44), ha="left", va="center", fontsize=_FONT - 0.5)
            axes.text(
                1.02, y, f"{100 * value:.1f}", ha="left", va="center", transform=axes.get_yaxis_transform(),
                fontsize=_FONT, color=_STANDS_FOR["ink"],
            )  # fmt: skip
            axes.axhline(y, color=_STANDS_FOR["line"], linewidth=0.6, zorder=0)
        axes.set(xlim=(0, 1), ylim=(0.5, len(rows) + 0.6), yticks=[])
        _percent(axes.xaxis)
        axes.set_xlabel("right answers, %")
        return to_svg(figure, title)


def calibration(series: Sequence[tuple[str, list[dict[str, float]], str]], title: str) -> str:
    """Accuracy against confidence by bin, dots as large as their share of the texts; the diagonal is perfect.

    Bins with hardly a text are left out.
    """
    with _figure(3.4) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=_STANDS_FOR["muted"], linewidth=0.8, dashes=(3, 3))
        for name, bins, colour in series:
            total = sum(one["n"] for one in bins)
            bins = [one for one in bins if one["n"] >= max(5, total / 200)]  # a few texts only make a jagged line
            x, y = [one["confidence"] for one in bins], [one["accuracy"] for one in bins]
            axes.plot(x, y, color=_STANDS_FOR[colour], linewidth=1.4, alpha=0.7)
            axes.scatter(
                x, y, [12 + 260 * one["n"] / total for one in bins], color=_STANDS_FOR[colour], alpha=0.75, linewidths=0
            )
            axes.plot([], [], "o", color=_STANDS_FOR[colour], label=_short(name, 30))
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence, %", ylabel="right answers, %")
        _percent(axes.xaxis)
        _percent(axes.yaxis)
        axes.legend(loc="upper left", frameon=False, handlelength=1.0)
        return to_svg(figure, title)


def certainties(columns: Sequence[tuple[str, ArrayLike, NDArray[np.bool_], str]], title: str) -> str:
    """Histograms of certainty, one row for each teacher: pale all texts, full those on which it is heard most."""
    edges = np.linspace(0, 1, 41)
    with _figure(0.85 * len(columns) + 0.55, rows=len(columns)) as (figure, many):
        for axes, (name, values, wins, colour) in zip(np.atleast_1d(many), columns, strict=True):
            v = np.asarray(values)
            axes.hist(v, edges, color=_STANDS_FOR[colour], alpha=0.25)
            axes.hist(v[wins], edges, color=_STANDS_FOR[colour])
            axes.text(0.01, 0.93, _short(name, 40), transform=axes.transAxes, va="top", fontsize=_FONT)
            axes.set(xlim=(0, 1), yticks=[])
            axes.spines["left"].set_visible(False)
        _percent(axes.xaxis)
        axes.set_xlabel("certainty, %")
        return to_svg(figure, title)


def histogram(values: ArrayLike, mark: float, mark_name: str, label: str, title: str) -> str:
    """One histogram over [0, 1] with a marked place."""
    with _figure(2.1) as (figure, axes):
        axes.hist(np.asarray(values), np.linspace(0, 1, 41), color=_STANDS_FOR["accent"], alpha=0.8)
        axes.axvline(mark, color=_STANDS_FOR["warm"], linewidth=1.2)
        side = "left" if mark < 0.6 else "right"
        axes.text(
            mark + (0.015 if side == "left" else -0.015), 0.97, mark_name, ha=side, va="top",
            transform=axes.get_xaxis_transform(), color=_STANDS_FOR["warm"],
        )  # fmt: skip
        axes.set(xlim=(0, 1), yticks=[], xlabel=label)
        axes.spines["left"].set_visible(False)
        _percent(axes.xaxis)
        return to_svg(figure, title)


def curves(series: Sequence[tuple[str, list[dict[str, float]], str, bool]], title: str) -> str:
    """Losses by step: name, points, colour, and whether the points are few enough to be marked."""
    with _figure(2.6) as (figure, axes):
        for name, points, colour, marked in series:
            axes.plot(
                [p["step"] for p in points], [p["loss"] for p in points], "o-" if marked else "-", markersize=4,
                color=_STANDS_FOR[colour], linewidth=1.5, label=_short(name, 40), alpha=1.0 if marked else 0.55,
            )  # fmt: skip
        axes.set(xlabel="step", ylabel="loss, nats", ylim=(0, None))
        axes.grid(axis="y", color=_STANDS_FOR["line"], linewidth=0.6)
        axes.legend(loc="upper right", frameon=False)
        return to_svg(figure, title)


def heat(matrix: ArrayLike, xlabel: str, ylabel: str, title: str) -> str:
    """A matrix of shares in [0, 1] too large for a table."""
    from matplotlib.colors import LinearSegmentedColormap

    with _figure(4.4) as (figure, axes):
        # One picture inside the SVG: it cannot follow the page's colours, so it fades to transparent instead.
        fade = LinearSegmentedColormap.from_list("fade", [(0.16, 0.44, 0.48, 0.03), (0.16, 0.44, 0.48, 1.0)])
        axes.imshow(np.sqrt(np.asarray(matrix)), cmap=fade, vmin=0, vmax=1, interpolation="nearest")
        axes.set(xlabel=xlabel, ylabel=ylabel)
        return to_svg(figure, title)


# --- helpers -----------------------------------------------------------------------------------------------------


def ink(name: str) -> str:
    """What stands for one of the page's colours until `to_svg` puts that in."""
    return _STANDS_FOR[name]


@contextmanager
def canvas(width: float, height: float) -> Iterator[Any]:
    """An empty figure in the page's style, in inches; no display, no global state, no mathematics in labels."""
    import matplotlib
    from matplotlib.figure import Figure

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # the reader's browser has the glyphs
    style: Any = {
        "svg.fonttype": "none", "svg.hashsalt": "muki", "text.parse_math": False, "font.size": _FONT,
        "axes.labelsize": _FONT - 0.5,
        "xtick.labelsize": _FONT - 0.5, "ytick.labelsize": _FONT - 0.5, "legend.fontsize": _FONT - 0.5,
        "text.color": _STANDS_FOR["ink"], "axes.labelcolor": _STANDS_FOR["muted"], "axes.linewidth": 0.7,
        "axes.edgecolor": _STANDS_FOR["muted"], "xtick.color": _STANDS_FOR["muted"],
        "ytick.color": _STANDS_FOR["muted"], "axes.spines.top": False, "axes.spines.right": False,
        "xtick.major.size": 3, "ytick.major.size": 3, "xtick.major.width": 0.7, "ytick.major.width": 0.7,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        yield Figure(figsize=(width, height), layout="constrained")


@contextmanager
def _figure(height: float, rows: int = 1) -> Iterator[tuple[Any, Any]]:
    """A figure as wide as a column of the page, and its axes."""
    with canvas(_WIDTH, height) as figure:
        yield figure, figure.subplots(rows, 1, sharex=True) if rows > 1 else figure.subplots()


def to_svg(figure: Any, title: str) -> str:
    """The figure as an inline SVG element with a name; ids are unique on a page that holds many."""
    import html

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    key = re.sub(r"[^a-z]+", "-", title.lower())[:40]
    svg = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{key}-", svg)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    for name, colour in _STANDS_FOR.items():
        svg = svg.replace(colour, f"var(--{name})")
    view = re.search(r'viewBox="[^"]+"', svg)
    head = f'<svg class="plot" {view[0] if view else ""} role="img" aria-label="{html.escape(title)}" '
    head += 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return head + svg[svg.index(">") + 1 :]


def _percent(axis: Any) -> None:
    axis.set_major_locator(_ticks())
    axis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")


def _ticks() -> Any:
    from matplotlib.ticker import MultipleLocator

    return MultipleLocator(0.2)


def _short(text: str, most: int) -> str:
    clean = " ".join(text.split())
    return clean if len(clean) <= most else clean[: most - 1] + "…"
