"""Two runs side by side: what differs in the settings, in the numbers, and in what the students say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from muki.report import plots
from muki.report.facts import Facts
from muki.report.page import environment, tiles
from muki.report.words import count, percent
from muki.texts import Text

_EXAMPLES = 20


@dataclass(frozen=True)
class Difference:
    """One figure of both runs; `change` is second minus first in points, None where that says nothing."""

    name: str
    first: str
    second: str
    change: float | None


def render_comparison(first: Facts, second: Facts) -> str:
    """The page of two runs."""
    return environment().get_template("comparison.html").render(
        kind="two runs side by side",
        title=f"{first.name} and {second.name} – muki report",
        runs=(first, second),
        verdict=verdict(first, second),
        tiles=[tiles(first), tiles(second)],
        figures=figures(first, second),
        settings=settings(first, second),
        per_class=per_class(first, second),
        plots=_plots(first, second),
        disputed=disputed(first, second),
        colours={name: plots.teacher_colour(i) for i, name in enumerate(first.space.columns)},
    )  # fmt: skip


def verdict(first: Facts, second: Facts) -> str:
    """Which student is better, as far as the test texts can tell."""
    if not (first.has_test and second.has_test):
        return "Without test texts for both runs nobody can say which student is right more often."
    if first.metrics["test"]["source"] != second.metrics["test"]["source"]:
        return "The runs were tested on different texts; their accuracies cannot be compared."
    a, b = first.metrics["student"], second.metrics["student"]
    better, points = (second, first)[a["accuracy"] >= b["accuracy"]], 100 * abs(a["accuracy"] - b["accuracy"])
    (low_a, high_a), (low_b, high_b) = a["accuracy_interval"], b["accuracy_interval"]
    if low_a <= high_b and low_b <= high_a:
        return (
            f"The students are {points:.1f} points apart and their 95 % intervals overlap; on "
            f"{count(a['n'], 'test text')} this difference may be chance."
        )
    return f"The student of {better.name} is {points:.1f} points better; the 95 % intervals do not overlap."


def figures(first: Facts, second: Facts) -> list[Difference]:
    """The numbers that both runs have."""
    wanted = [
        ("accuracy", ("student", "accuracy")), ("macro-F1", ("student", "macro_f1")),
        ("expected calibration error", ("student", "expected_calibration_error")),
        ("accuracy of the routed teachers", ("routed_ensemble", "accuracy")),
        ("the surest teacher knows the label", ("routing", "accuracy")),
        ("student follows its target", ("pool", "held_out", "student_target_agreement")),
    ]  # fmt: skip
    rows = []
    for name, path in wanted:
        a, b = _at(first.metrics, path), _at(second.metrics, path)
        if a is not None and b is not None:
            rows.append(Difference(name, percent(a), percent(b), 100 * (b - a)))
    rows.append(Difference("contested texts", percent(first.contested), percent(second.contested),
                           100 * (second.contested - first.contested)))  # fmt: skip
    return rows


def settings(first: Facts, second: Facts) -> list[tuple[str, str, str]]:
    """The settings that differ, by dotted key."""
    a, b = (_flat(f.config.model_dump(mode="json", exclude={"output"})) for f in (first, second))
    missing = object()
    return [
        (key, str(a.get(key, "–")), str(b.get(key, "–")))
        for key in sorted({**a, **b})
        if a.get(key, missing) != b.get(key, missing)
    ]


def per_class(first: Facts, second: Facts) -> list[tuple[str, float, float]]:
    """F1 of the labels that both were tested on."""
    if not (first.has_test and second.has_test):
        return []
    a, b = first.metrics["student"]["per_class"], second.metrics["student"]["per_class"]
    return [(label, a[label]["f1"], b[label]["f1"]) for label in a if label in b]


def disputed(first: Facts, second: Facts) -> list[tuple[Text, str, float, str, float]]:
    """Texts of a common pool to which the students give different labels, those both are surest of first."""
    a, b = first.evidence, second.evidence
    if a.texts.fingerprint != b.texts.fingerprint:
        return []
    rows, i, j = np.intersect1d(a.rows[a.asked], b.rows[b.asked], return_indices=True)
    p, q = a.student[i], b.student[j]
    labels_a, labels_b = np.array(first.space.labels), np.array(second.space.labels)
    said_a, said_b = labels_a[p.argmax(-1)], labels_b[q.argmax(-1)]
    strength = np.where(said_a != said_b, p.max(-1) * q.max(-1), 0.0)
    chosen = [int(k) for k in np.argsort(-strength, kind="stable")[:_EXAMPLES] if strength[k] > 0]
    wanted = {int(rows[k]) for k in chosen}
    texts = {text.row: text for text in a.texts if text.row in wanted}
    return [(texts[int(rows[k])], str(said_a[k]), float(p[k].max()), str(said_b[k]), float(q[k].max())) for k in chosen]


def _plots(first: Facts, second: Facts) -> dict[str, str]:
    drawn = {}
    both = [(first, "accent"), (second, "warm")]
    series = [(f.name, f.training.get("held_out_losses") or f.training.get("losses") or [], c, True) for f, c in both]
    if all(points for _, points, _, _ in series):
        drawn["curves"] = plots.curves(series, "Learning curves of both runs")
    if first.has_test and second.has_test:
        rows: list[tuple[str, float, tuple[float, float] | None, str]] = []
        for title, key in (("student", "student"), ("teachers, routed", "routed_ensemble")):
            for f, colour in both:
                one = f.metrics[key]
                rows.append((f"{f.name}: {title}", one["accuracy"], tuple(one["accuracy_interval"]), colour))
        drawn["accuracy"] = plots.intervals(rows, "Accuracy of both runs")
        if all("calibration" in f.metrics["student"] for f, _ in both):
            lines = [(f.name, f.metrics["student"]["calibration"], colour) for f, colour in both]
            drawn["calibration"] = plots.calibration(lines, "Calibration of both students")
    return drawn


def _at(content: Any, path: tuple[str, ...]) -> float | None:
    for key in path:
        content = content.get(key) if isinstance(content, dict) else None
    return None if content is None else float(content)


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(content, list):
        content = {str(i): item for i, item in enumerate(content)}
    if not isinstance(content, dict):
        return {prefix: content}
    return {k: v for key, item in content.items() for k, v in _flat(item, f"{prefix}.{key}".lstrip(".")).items()}
