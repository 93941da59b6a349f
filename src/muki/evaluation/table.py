"""The evaluation as a readable table in plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from muki.evaluation.outlook import notable_foreign_share


def summary(metrics: dict[str, Any]) -> str:
    """Who reaches what (with a test file), and how the pool was routed."""
    lines: list[str] = []
    pool = metrics["pool"]
    if "test" in metrics:
        rows = [("", "accuracy", "macro-F1", "ECE", "texts")]
        for name, one in metrics["teachers"].items():
            rows.append((f"teacher {name}, its own labels", _number(one["accuracy"]), "", "", str(one["n"])))
            rows.append(
                (f"teacher {name}, all labels", _number(one["accuracy_on_all"]), "", "", str(metrics["test"]["texts"]))
            )
        for title, key in (
            ("ensemble (concatenated logits)", "ensemble"),
            ("ensemble (routed)", "routed_ensemble"),
            ("student", "student"),
        ):
            if (one := metrics.get(key)) is None:
                continue
            rows.append(
                (title, _number(one["accuracy"]), _number(one["macro_f1"]),
                 _number(one["expected_calibration_error"]), str(one["n"]))
            )  # fmt: skip
        lines += [table(rows), ""]
        answering = "student" if "student" in metrics else "routed_ensemble"
        low, high = metrics[answering]["accuracy_interval"]
        lines.append(f"{answering.replace('_', ' ')} accuracy, 95 % interval: {low:.3f} to {high:.3f}")
        if (behind := _behind(metrics)) is not None:
            lines.append(behind)
        lines.append(
            f"routing accuracy (the most heard teacher knows the gold label): {metrics['routing']['accuracy']:.3f}"
        )
    else:
        lines.append("no test file: accuracy unknown")
    shares = ", ".join(f"{name} {share:.0%}" for name, share in pool["teacher_share"].items())
    margin = pool["margin"]["median"]
    lines.append(f"pool: {pool['texts']} texts, most heard teacher: {shares}; median margin {margin:.3f}")
    if (outlook := pool.get("routing")) is not None:
        expected = (
            f"{outlook['expected_accuracy']:.3f}" if outlook["refined"] else "unknown (not refined over the pool)"
        )
        lines.append(f"expected routing accuracy on the pool, estimated without labels: {expected}")
    if (share := notable_foreign_share(metrics)) is not None:
        lines.append(f"texts that seem to belong to none of the labels, a rough estimate without labels: {share:.0%}")
    agreement = pool["held_out"].get("student_target_agreement")
    if agreement is not None:
        lines.append(f"student and target agree on {agreement:.1%} of {pool['held_out']['n']} held-out texts")
    return "\n".join(lines)


def _behind(metrics: dict[str, Any]) -> str | None:
    """A word of warning where the teachers together beat the student for sure."""
    if "student" not in metrics:
        return None
    best = max(metrics[key]["accuracy"] for key in ("ensemble", "routed_ensemble"))
    if best <= metrics["student"]["accuracy_interval"][1]:
        return None
    return f"the student is behind the teachers' ensemble ({best:.3f}): train for longer, or give more texts"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns; the first to the left, the others to the right; the first row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
