"""Facts to one self-contained HTML page. Everything from outside is escaped; no text can become markup or script."""

from __future__ import annotations

import base64
import hashlib
import platform
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import muki
from muki.evaluation.method_words import cause, reference, what_weights_show, whom_it_hears
from muki.files import public_name
from muki.progress import clock
from muki.report import plots, words
from muki.report.evidence import PoolEvidence
from muki.report.facts import Facts
from muki.report.tables import to_label_csv

_TEMPLATES = Path(__file__).parent / "templates"
_MOST_LABELS_IN_TABLE = 20
_CLASSIFIERS = (
    ("student", "student", "accent"),
    ("teachers together, routed", "routed_ensemble", "muted"),
    ("teachers together, concatenated logits", "ensemble", "muted"),
)
_WATTS = 65  # of a desktop processor under load; a rough figure, and the page says so

PALETTE = {
    "paper": ("#fbfaf7", "#14171a"), "card": ("#ffffff", "#1b1f23"), "ink": ("#1c2127", "#e8e6e1"),
    "muted": ("#59616b", "#a3abb3"), "line": ("#e5e2da", "#2d3338"), "edge": ("#c9c5ba", "#454d54"),
    "accent": ("#1f6f78", "#6cc3c4"), "soft": ("#e2eeee", "#203638"), "warm": ("#a94f12", "#e59a5c"),
    "good": ("#2f7d4f", "#79c596"), "t1": ("#2b6cb0", "#7fb2e8"), "t2": ("#c2641c", "#f0a263"),
    "t3": ("#3a7d44", "#86c98e"), "t4": ("#7d4f9e", "#c09ae0"), "t5": ("#a8324a", "#ee8699"),
    "t6": ("#19797d", "#6cc3c4"), "t7": ("#8a6d1d", "#d8bd6a"), "t8": ("#5b6470", "#a8b2bd"),
}  # fmt: skip

# Control characters that HTML forbids, and those that would still hide or reorder what is around them in a table.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")


def clean(text: object) -> str:
    """Text without characters that HTML forbids; they become the replacement character."""
    return _FORBIDDEN.sub("\ufffd", str(text))


def cut(text: str, most: int = 400) -> str:
    """At most `most` characters."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _percent(value: float, digits: int = 1) -> str:
    """As in sentences, but kept on one line."""
    return words.percent(value, digits).replace(" ", "\u00a0")


@cache
def environment() -> Environment:
    """Templates with everything escaped unless a template says otherwise, which it only does for our own parts."""
    env = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    env.filters |= {"percent": _percent, "clean": clean, "cut": cut}
    script = (_TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    env.globals |= {
        "palette": PALETTE,
        "style": (_TEMPLATES / "style.css").read_text(encoding="utf-8"),
        "script": script,
        "script_hash": f"sha256-{digest}",
        "version": muki.__version__,
        "public_name": public_name,
    }
    return env


def render(facts: Facts) -> str:
    """The report of one run."""
    colours = {name: plots.teacher_colour(i) for i, name in enumerate(facts.space.columns)}
    return environment().get_template("report.html").render(
        facts=facts,
        kind="report of a run",
        title=f"{facts.name} – muki report",
        verdict=words.verdict(facts),
        tiles=tiles(facts),
        trust=words.trust(facts),
        conflicts=words.conflicts(facts),
        colours=colours,
        plots=_plots(facts, colours),
        comparison=comparison(facts) if facts.has_test else [],
        confusion=_confusion(facts),
        teachers=_teachers(facts),
        passes=any(facts.metrics["pool"]["passes"].values()),
        sharpened="teacher_temperature" in facts.metrics["pool"],
        by_label=_by_label(facts),
        top_share=max(facts.metrics["pool"]["label_share"].values()) or 1.0,
        spelled_out=facts.config.method.spelled_out(),
        hears=[
            whom_it_hears(facts.config.method, _found(facts, "refined"), _found(facts, "names_heard")),
            what_weights_show(facts.config.method),
        ],
        choice=_choice(facts),
        n_to_label=words.count(len(facts.to_label), "text"),
        csv=base64.b64encode(to_label_csv(facts.to_label).encode()).decode(),
        made_of=made_of(facts),
    )  # fmt: skip


def tiles(facts: Facts) -> list[dict[str, str]]:
    """The numbers at the top."""
    m = facts.metrics
    accuracy = {"title": "Accuracy", "value": "unknown", "note": "no labelled test texts"}
    if facts.has_test:
        low, high = m["student"]["accuracy_interval"]
        accuracy |= {
            "value": words.percent(m["student"]["accuracy"]), "note": f"{words.percent(low)} to {words.percent(high)}",
        }  # fmt: skip
    agreement = m["pool"]["held_out"].get("student_target_agreement")
    outlook = m["pool"].get("routing")
    expected = [] if facts.has_test or outlook is None or not outlook["refined"] else [{
        "title": "Right teacher heard", "value": f"≈ {words.percent(outlook['expected_accuracy'], 0)}",
        "note": "estimated without labels",
    }]  # fmt: skip
    return [
        accuracy,
        *expected,
        {"title": "Labels", "value": str(len(facts.space.labels)), "note": f"of {len(facts.records)} teachers"},
        {"title": "Learned from", "value": f"{m['pool']['texts']:,}", "note": "unlabelled texts"},
        {
            "title": "Follows its teachers", "value": "–" if agreement is None else words.percent(agreement),
            "note": f"on {m['pool']['held_out']['n']:,} held-out texts",
        },
        {
            "title": "Size", "value": f"{facts.student.parameters / 1e6:.1f} M",
            "note": f"parameters, {facts.student.bytes / 1e6:.0f} MB",
        },
    ]  # fmt: skip


def comparison(facts: Facts) -> list[dict[str, Any]]:
    """Rows of the table that sets the student beside its teachers."""
    m = facts.metrics
    rows = []
    for name, key, _ in _CLASSIFIERS:
        one = m[key]
        low, high = one["accuracy_interval"]
        rows.append({"name": name, "cells": [
            words.percent(one["accuracy"]), f"{100 * low:.1f} – {100 * high:.1f}", f"{one['macro_f1']:.3f}",
            words.percent(one["expected_calibration_error"]), f"{one['n']:,}",
        ]})  # fmt: skip
    for name, one in m["teachers"].items():
        rows.append({"name": f"{name}, on all texts", "cells": [
            words.percent(one["accuracy_on_all"]), "", "", "", f"{m['test']['texts']:,}",
        ]})  # fmt: skip
    return rows


def made_of(facts: Facts) -> list[tuple[str, str]]:
    """What the run was made of, in short."""
    m, training = facts.metrics, facts.training
    trained = (
        f"{training.get('steps', '?')} steps, batch "
        f"{facts.config.training.batch_size}, learning rate {facts.config.training.learning_rate:g}, seed "
        f"{facts.config.training.seed}"
    )
    made = [
        ("method", f"{m['method']['name']} ({facts.config.method.spelled_out()})"),
        ("published", reference(facts.config.method)),
        ("texts", f"{m['pool']['texts']:,} used, {m['pool']['skipped']:,} empty ones skipped"),
        ("training", "none, weights were averaged" if facts.config.method.student == "merged" else trained),
    ]
    if facts.times:
        made.append(("time", ", ".join(f"{stage} {clock(seconds)}" for stage, seconds in facts.times.items())))
        hours = sum(facts.times.values()) / 3600
        made.append(("energy", f"about {hours * _WATTS:.2g} Wh, if the machine draws {_WATTS} W"))
    versions = [f"{name} {_version(name)}" for name in ("torch", "transformers")]
    versions = [f"muki {muki.__version__}", *versions, f"Python {platform.python_version()}"]
    made.append(("page made with", ", ".join(versions)))
    return made


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _plots(facts: Facts, colours: dict[str, str]) -> dict[str, str]:
    seen, m = facts.evidence, facts.metrics
    winner = seen.routing.argmax(axis=-1)
    drawn = {
        "certainties": plots.certainties(
            [(name, seen.certainty[:, i], winner == i, colours[name]) for i, name in enumerate(seen.names)],
            "Histogram of each teacher's certainty",
        ),
        "choice": _choice_plot(seen),
    }
    if facts.training.get("losses"):
        series = [("on training texts", facts.training["losses"], "muted", False)]
        if facts.training.get("held_out_losses"):
            series.append(("on held-out texts", facts.training["held_out_losses"], "accent", True))
        drawn["curves"] = plots.curves(series, "Learning curve")
    if not facts.has_test:
        return drawn
    rows: list[tuple[str, float, tuple[float, float] | None, str]] = [
        (name, m[key]["accuracy"], tuple(m[key]["accuracy_interval"]), colour) for name, key, colour in _CLASSIFIERS
    ]
    for name, own in m["student"]["per_teacher_part"].items():
        rows.append((f"{name} on its own labels", m["teachers"][name]["accuracy"], None, colours[name]))
        rows.append((f"student on the labels of {name}", own["accuracy"], None, "accent"))
    drawn["accuracy"] = plots.intervals(rows, "Accuracy of student and teachers")
    if "calibration" in m["student"]:
        drawn["calibration"] = plots.calibration(
            [("student", m["student"]["calibration"], "accent"),
             ("teachers, routed", m["routed_ensemble"]["calibration"], "warm")],
            "Calibration of student and routed teachers",
        )  # fmt: skip
    if len(facts.space.labels) > _MOST_LABELS_IN_TABLE:
        counts = np.array(m["student"]["confusion_matrix"], dtype=np.float64)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        drawn["confusion"] = plots.heat(shares, "student's answer", "right label", "Confusion matrix")
    return drawn


def _choice_plot(seen: PoolEvidence) -> str:
    if seen.right is not None:
        return plots.histogram(
            seen.right, float(np.median(seen.right)), "median", "probability, %", "Histogram of routing probabilities"
        )
    top = np.sort(seen.certainty, axis=-1)[:, -2:]
    margins = top[:, 1] - top[:, 0]
    return plots.histogram(margins, float(np.median(margins)), "median", "margin, %", "Histogram of margins")


def _choice(facts: Facts) -> str:
    """What the histogram of the choice between teachers shows."""
    little = "" if facts.config.method.reweight == "none" else ", and such texts count less in training"
    if facts.evidence.right is not None:
        return (
            "Probability, by the method's own estimate, that the text's label comes from a teacher that knows it. To "
            f"the left the choice is a guess{little}."
        )
    if cause(facts.config.method, _found(facts, "refined"), _found(facts, "names_heard")) == "certainty":
        return f"Certainty of the surest teacher minus that of the next. Near 0 the choice is a coin toss{little}."
    return "Certainty of the surest teacher minus that of the next. This method chooses by other scores."


def _found(facts: Facts, what: str) -> bool:
    return bool(facts.metrics["pool"].get(what))


def _confusion(facts: Facts) -> dict[str, Any] | None:
    labels = facts.space.labels
    if not facts.has_test or len(labels) > _MOST_LABELS_IN_TABLE:
        return None
    rows = []
    for index, (label, counts) in enumerate(zip(labels, facts.metrics["student"]["confusion_matrix"], strict=True)):
        total = sum(counts) or 1
        rows.append({"label": label, "index": index, "cells": [{"n": n, "share": n / total} for n in counts]})
    return {"labels": labels, "rows": rows}


def _teachers(facts: Facts) -> list[dict[str, Any]]:
    m, seen = facts.metrics, facts.evidence
    return [
        {
            "name": name,
            "labels": len(columns),
            "share": m["pool"]["teacher_share"][name],
            "certainty": float(np.median(seen.certainty[:, i])),
            "passes": m["pool"]["passes"][name],
            "temperature": m["pool"].get("teacher_temperature", {}).get(name),
            "accuracy": m["teachers"][name]["accuracy"] if facts.has_test else None,
            "student": m["student"]["per_teacher_part"].get(name, {}).get("accuracy") if facts.has_test else None,
        }
        for i, (name, columns) in enumerate(facts.space.columns.items())
    ]


def _by_label(facts: Facts) -> list[dict[str, Any]]:
    return [
        {
            "label": label,
            "cells": [{"share": share, "knows": name in facts.space.knowers(label)} for name, share in shares.items()],
        }
        for label, shares in facts.by_label.items()
    ]
