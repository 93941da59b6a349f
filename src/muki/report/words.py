"""The report's sentences: what the numbers mean to somebody who has to decide. Pure functions of the facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from muki.report.facts import Facts

Tone = Literal["good", "plain", "warn"]

_FEW = 10  # test texts of a class below which its figures say little
_MISSED = 0.5
_OVERSURE = 0.1


@dataclass(frozen=True)
class Remark:
    """One sentence and how it is meant."""

    tone: Tone
    text: str


def percent(value: float, digits: int = 1) -> str:
    """`0.774` as `77.4 %`."""
    return f"{100 * value:.{digits}f} %"


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 text`, `1,240 texts`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(names: list[str], most: int = 4) -> str:
    """`a, b and c`; beyond `most`, `a, b, c, d and 3 more`."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else "none"


def verdict(facts: Facts) -> str:
    """The page's first sentence."""
    n = len(facts.space.labels)
    made = f"One classifier over {n} labels, taught by {count(len(facts.records), 'teacher')} on "
    made += f"{count(facts.metrics['pool']['texts'], 'unlabelled text')}."
    if not facts.has_test:
        return f"{made} Nobody has told it the right answers yet, so its accuracy is unknown."
    low, high = facts.metrics["student"]["accuracy_interval"]
    return (
        f"{made} It is right on {percent(facts.metrics['student']['accuracy'])} of "
        f"{count(facts.metrics['test']['texts'], 'test text')} (between {percent(low)} and {percent(high)}, 95 % interval)."
    )


def trust(facts: Facts) -> list[Remark]:
    """What can be said about the student's quality, good and bad."""
    return _with_labels(facts) if facts.has_test else _without_labels(facts)


def _with_labels(facts: Facts) -> list[Remark]:
    m = facts.metrics
    student, both = m["student"], max(m["ensemble"]["accuracy"], m["routed_ensemble"]["accuracy"])
    gap = student["accuracy"] - both
    low, high = student["accuracy_interval"]
    remarks = []
    if low > both:
        remarks.append(
            Remark("good", f"The student beats its teachers running together by {100 * gap:.1f} points, and is one model.")
        )
    elif high < both:
        remarks.append(
            Remark("warn", f"The teachers running together are {-100 * gap:.1f} points better than the student; more "
                   "unlabelled texts, more epochs or a larger student may close the gap.")
        )  # fmt: skip
    else:
        remarks.append(Remark("plain", "The student is as good as its teachers running together, within the interval."))
    remarks += _weak_classes(facts)
    over = _overconfidence(student["calibration"]) if "calibration" in student else 0.0
    if over > _OVERSURE:
        remarks.append(
            Remark("warn", f"It is surer than it should be: its confidence is {100 * over:.0f} points above its accuracy.")
        )
    routing = m["routing"]["accuracy"]
    remarks.append(
        Remark(
            "plain" if routing >= 0.8 else "warn",
            f"On {percent(routing)} of the test texts the surest teacher is one that knows the right label"
            + ("." if routing >= 0.8 else "; on the others the student was mostly taught a wrong label."),
        )
    )
    left_out = sum(m["test"]["left_out"].values())
    if left_out:
        names = [f"“{label}”" for label in m["test"]["left_out"]]
        remarks.append(
            Remark("warn", f"{count(left_out, 'test text')} left out: no teacher knows the label {listed(names)}.")
        )
    return remarks


def _weak_classes(facts: Facts) -> list[Remark]:
    per_class = facts.metrics["student"]["per_class"]
    missed = [(label, one) for label, one in per_class.items() if one["n"] >= _FEW and one["recall"] < _MISSED]
    missed.sort(key=lambda item: item[1]["recall"])
    remarks = [
        Remark("warn", f"“{label}” is mostly missed: {round(one['recall'] * one['n'])} of {one['n']} texts found.")
        for label, one in missed[:3]
    ]
    if len(missed) > 3:
        remarks.append(Remark("warn", f"{len(missed) - 3} more labels are missed on most of their texts; see the table."))
    few = [f"“{label}”" for label, one in per_class.items() if one["n"] < _FEW]
    if few:
        remarks.append(
            Remark("plain", f"Fewer than {_FEW} test texts of {listed(few)}: figures for {'it' if len(few) == 1 else 'them'} say little.")
        )  # fmt: skip
    return remarks


def _overconfidence(bins: list[dict[str, float]]) -> float:
    total = sum(one["n"] for one in bins)
    return sum(one["n"] * (one["confidence"] - one["accuracy"]) for one in bins) / total


def _without_labels(facts: Facts) -> list[Remark]:
    held_out = facts.metrics["pool"]["held_out"]
    remarks = [
        Remark("warn", "No labelled test texts were given. Nothing on this page says how often the student is right.")
    ]
    agreement = held_out.get("student_target_agreement")
    if agreement is not None:
        tone: Tone = "good" if agreement >= 0.9 else "plain" if agreement >= 0.75 else "warn"
        remarks.append(
            Remark(tone, f"It learned its lesson: on {percent(agreement)} of {held_out['n']:,} held-out texts it gives the "
                   "label that the teachers' combined word gives. This measures how well it learned from them, not "
                   "whether they are right.")
        )  # fmt: skip
    remarks.append(_contested(facts))
    if facts.foreign:
        remarks.append(_foreign(facts))
    return remarks


def _contested(facts: Facts) -> Remark:
    share = facts.contested
    tone: Tone = "warn" if share > 0.5 else "plain"
    return Remark(tone, f"On {percent(share)} of the texts two teachers contradict each other with similar certainty.")


def _foreign(facts: Facts) -> Remark:
    tone: Tone = "warn" if facts.foreign > 0.1 else "plain"
    return Remark(tone, f"On {percent(facts.foreign)} of the texts no teacher is sure; some may belong to none of the labels.")


def conflicts(facts: Facts) -> list[Remark]:
    """Introduces the table of conflicting classes."""
    remarks = [_contested(facts)]
    if facts.pairs:
        top = facts.pairs[0]
        remarks.append(
            Remark("plain", f"Most often {top.first[0]} says “{top.first[1]}” where {top.second[0]} says “{top.second[1]}” "
                   f"({count(top.texts, 'text')}).")
        )  # fmt: skip
    remarks.append(_foreign(facts))
    return remarks
