"""Two runs side by side: what differs in the settings, in the numbers, and in what the students say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from muki.evaluation.metrics import paired_difference
from muki.report import plots
from muki.report.facts import Answered, Facts
from muki.report.page import environment, tiles
from muki.report.words import count, percent
from muki.texts import Text

_EXAMPLES = 20


@dataclass(frozen=True)
class Difference:
    """One figure of both runs.

    Attributes:
        name: of the figure.
        first: its value in the first run, as shown.
        second: in the second.
        change: second minus first in points; None where the two were measured on different texts, or in
            different ways.
        interval: 95 % interval of the change in points, where it is known.
    """

    name: str
    first: str
    second: str
    change: float | None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Paired:
    """Both students on the same test texts: how many, and accuracy of the second minus the first in points.

    `whole` says that neither run was tested on other texts besides.
    """

    texts: int
    change: float
    interval: tuple[float, float]
    whole: bool


def render_comparison(first: Facts, second: Facts) -> str:
    """The page of two runs."""
    both = paired(first, second)
    return environment().get_template("comparison.html").render(
        kind="two runs side by side",
        title=f"{first.name} and {second.name} – muki report",
        runs=(first, second),
        verdict=verdict(first, second, both),
        tiles=[tiles(first), tiles(second)],
        figures=figures(first, second, both),
        settings=settings(first, second),
        per_class=per_class(first, second),
        plots=_plots(first, second),
        disputed=disputed(first, second),
        colours={name: plots.teacher_colour(i) for i, name in enumerate(first.space.columns)},
    )  # fmt: skip


def paired(first: Facts, second: Facts) -> Paired | None:
    """Both students on the test texts that the runs have in common: same text, same gold label; None without any."""
    if first.tested is None or second.tested is None:
        return None
    one, other = _right(first.tested, first.space.labels), _right(second.tested, second.space.labels)
    known = dict(other)
    shared = [(right, known[key]) for key, right in one if key in known]
    if not shared:
        return None
    change, (low, high) = paired_difference([right for right, _ in shared], [right for _, right in shared])
    whole = len(shared) == len(one) == len(other)
    return Paired(len(shared), 100 * change, (100 * low, 100 * high), whole)


def verdict(first: Facts, second: Facts, both: Paired | None) -> str:
    """Which student is better, as far as the test texts can tell."""
    if not (first.has_test and second.has_test):
        return "Without test texts for both runs nobody can say which student is right more often."
    if both is None:
        return "The runs have no test text in common; their accuracies cannot be compared."
    on = f"On the {'same ' if both.whole else ''}{count(both.texts, 'test text')}{'' if both.whole else ' of both'}"
    low, high = both.interval if both.change >= 0 else (-both.interval[1], -both.interval[0])
    interval = f"95 % interval of the difference, paired bootstrap: {low:.1f} to {high:.1f} points"
    if both.change == 0:
        return f"{on} the two students are right equally often ({interval})."
    better = second if both.change > 0 else first
    chance = "more than chance" if low > 0 else "this may be chance"
    return (
        f"{on} the student of {better.name} is right {abs(both.change):.1f} points more often: {chance} ({interval})."
    )


def figures(first: Facts, second: Facts, both: Paired | None) -> list[Difference]:
    """The numbers that both runs have."""
    tested = [
        ("accuracy", ("student", "accuracy")), ("macro-F1", ("student", "macro_f1")),
        ("expected calibration error", ("student", "expected_calibration_error")),
        ("accuracy of the routed teachers", ("routed_ensemble", "accuracy")),
        ("the most heard teacher knows the label", ("routing", "accuracy")),
    ]  # fmt: skip
    others = [("student follows its target", ("pool", "held_out", "student_target_agreement"))]
    comparable = both is not None and both.whole
    rows = []
    for name, path in tested + others:
        a, b = _at(first.metrics, path), _at(second.metrics, path)
        if a is not None and b is not None:
            change = 100 * (b - a) if comparable or path[0] == "pool" else None
            interval = both.interval if both and comparable and path == ("student", "accuracy") else None
            rows.append(Difference(name, percent(a), percent(b), change, interval))
    a, b = first.contested, second.contested
    rows.append(Difference("contested texts", percent(a), percent(b), 100 * (b - a)))
    return [*rows, _foreign_texts(first, second)]


def _foreign_texts(first: Facts, second: Facts) -> Difference:
    """An estimate of one run and the doubt of the other's teachers are set side by side, not subtracted."""
    alike = first.foreign_estimated == second.foreign_estimated
    change = 100 * (second.foreign - first.foreign) if alike else None
    return Difference("foreign texts", percent(first.foreign), percent(second.foreign), change)


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
    return [(label, a[label]["f1"], b[label]["f1"]) for label in a if label in b and a[label]["n"] and b[label]["n"]]


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


def _right(tested: Answered, labels: Sequence[str]) -> list[tuple[tuple[str, str | None, str], bool]]:
    """Each test text with its gold label, and whether the student was right."""
    right = tested.answers.argmax(axis=-1) == tested.gold
    keys = [(text.text, text.text_pair, labels[int(g)]) for text, g in zip(tested.texts, tested.gold, strict=True)]
    return list(zip(keys, map(bool, right), strict=True))


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
