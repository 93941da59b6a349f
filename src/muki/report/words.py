"""The report's sentences: what the numbers mean to somebody who has to decide. Pure functions of the facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from muki.evaluation.method_words import weighs_foreign
from muki.report.facts import Facts

Tone = Literal["good", "plain", "warn"]

_FEW = 10  # test texts of a class below which its figures say little
_MISSED = 0.5
_OVERSURE = 0.1
_WELL_ROUTED = 0.8
_HARDLY_ANY = 0.005  # of the pool; it would be rounded to 0 %
_FALSE_ALARMS = 0.09  # pools without foreign texts hardly ever have more


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
    """The page's first sentences."""
    method, teachers = facts.config.method, count(len(facts.records), "teacher")
    texts, unlabelled = (count(facts.metrics["pool"]["texts"], f"{kind}text") for kind in ("", "unlabelled "))
    if method.target == "gold":
        how = f"trained on {texts} with gold labels, as a ceiling"
    elif method.needs_gold:
        how = f"taught by {teachers} on {texts} whose gold labels said whom to hear, as a ceiling"
    elif method.student == "merged":
        how = f"the average of the weights of {teachers}"
    else:
        how = f"taught by {teachers} on {unlabelled}"
    made = f"One classifier over {count(len(facts.space.labels), 'label')}, {how}."
    if not facts.has_test:
        why = "There are no test texts" if method.needs_gold else "Nobody has told it the right answers yet"
        return f"{made} {why}, so its accuracy is unknown."
    student, n = facts.metrics["student"], facts.metrics["test"]["texts"]
    low, high = student["accuracy_interval"]
    return (
        f"{made} It is right on {percent(student['accuracy'])} of {count(n, 'test text')} "
        f"(95 % interval {percent(low)} to {percent(high)})."
    )


def trust(facts: Facts) -> list[Remark]:
    """What can be said about the student's quality, good and bad."""
    if not facts.has_test:
        return [*_without_labels(facts), *_labelled(facts)]
    return [
        *_labelled(facts),
        _against_teachers(facts),
        *_weak_classes(facts),
        *_calibration(facts),
        _routing(facts),
        *_refinement(facts),
        *_names(facts),
        *_left_out(facts),
    ]


def conflicts(facts: Facts) -> list[Remark]:
    """Introduces the table of conflicting classes."""
    remarks = [_contested(facts)]
    if facts.pairs:
        (one, says), (other, contradicts) = facts.pairs[0].first, facts.pairs[0].second
        times = count(facts.pairs[0].texts, "text")
        remarks.append(Remark("plain", f"Most often {one} says “{says}” where {other} says “{contradicts}” ({times})."))
    return [*remarks, _foreign(facts)]


# --- with gold labels --------------------------------------------------------------------------------------------


def _against_teachers(facts: Facts) -> Remark:
    m = facts.metrics
    student, best = m["student"], max(m["ensemble"]["accuracy"], m["routed_ensemble"]["accuracy"])
    points = 100 * abs(student["accuracy"] - best)
    low, high = student["accuracy_interval"]
    if low > best:
        return Remark("good", f"The student beats all its teachers running together by {points:.1f} points.")
    if high < best:
        return Remark(
            "warn",
            f"The teachers running together are {points:.1f} points better than the student; more unlabelled texts, "
            "more epochs or a larger student may close the gap.",
        )
    return Remark("plain", "The student is as good as all its teachers running together, within the interval.")


def _weak_classes(facts: Facts) -> list[Remark]:
    per_class = facts.metrics["student"]["per_class"]
    missed = [(label, one) for label, one in per_class.items() if one["n"] >= _FEW and one["recall"] < _MISSED]
    missed.sort(key=lambda item: item[1]["recall"])
    remarks = [
        Remark("warn", f"“{label}” is mostly missed: {round(one['recall'] * one['n'])} of {one['n']} texts found.")
        for label, one in missed[:3]
    ]
    if len(missed) > 3:
        remarks.append(Remark("warn", f"{count(len(missed) - 3, 'more label')} mostly missed; see the table."))
    few = [f"“{label}”" for label, one in per_class.items() if one["n"] < _FEW]
    if few:
        remarks.append(Remark("plain", f"Fewer than {_FEW} test texts of {listed(few)}: too few to judge."))
    return remarks


def _calibration(facts: Facts) -> list[Remark]:
    bins = facts.metrics["student"].get("calibration")
    if not bins:
        return []
    over = sum(one["n"] * (one["confidence"] - one["accuracy"]) for one in bins) / sum(one["n"] for one in bins)
    if abs(over) <= _OVERSURE:
        return []
    how, where = ("surer", "above") if over > 0 else ("less sure", "below")
    said = f"It is {how} than it should be: its confidence is {100 * abs(over):.0f} points {where} its accuracy."
    return [Remark("warn", said)]


def _routing(facts: Facts) -> Remark:
    share, expected = facts.metrics["routing"]["accuracy"], facts.metrics["routing"].get("expected_accuracy")
    said = f"On {percent(share)} of the test texts the teacher that is heard most is one that knows the right label"
    if expected is not None:
        said += f" (without labels the method expected {percent(expected)})"
    if share >= _WELL_ROUTED:
        return Remark("plain", f"{said}.")
    return Remark("warn", f"{said}; texts like the others mostly taught the student a wrong label.")


def _left_out(facts: Facts) -> list[Remark]:
    left_out = facts.metrics["test"]["left_out"]
    if not left_out:
        return []
    names = listed([f"“{label}”" for label in left_out])
    return [
        Remark("warn", f"{count(sum(left_out.values()), 'test text')} left out: no teacher knows the label {names}.")
    ]


def _labelled(facts: Facts) -> list[Remark]:
    """What a person's own labels say."""
    if facts.labelled is None:
        return []
    n, student = facts.labelled["texts"], facts.labelled["student"]["accuracy"]
    target = facts.labelled["target"]["accuracy"]
    said = f"Of {count(n, 'text')} labelled by hand the student gets {round(student * n)} right"
    return [
        Remark(
            "plain",
            f"{said}, its training targets {round(target * n)}. Where they are the listed texts, they are hard on "
            "purpose and no fair sample.",
        )
    ]


# --- without ------------------------------------------------------------------------------------------------------


def _without_labels(facts: Facts) -> list[Remark]:
    held_out = facts.metrics["pool"]["held_out"]
    remarks = [
        Remark("warn", "No labelled test texts were given. Nothing on this page says how often the student is right."),
        *_expected(facts),
        *_refinement(facts),
        *_names(facts),
    ]
    agreement = held_out.get("student_target_agreement")
    if agreement is not None:
        tone: Tone = "good" if agreement >= 0.9 else "plain" if agreement >= 0.75 else "warn"
        remarks.append(
            Remark(
                tone,
                f"On {percent(agreement)} of {count(held_out['n'], 'held-out text')} it gives the label that its "
                "teachers' combined word gives. This says how well it learned from them, not whether they are right.",
            )
        )
    return [*remarks, _contested(facts), _foreign(facts)]


def _expected(facts: Facts) -> list[Remark]:
    """The one estimate of quality without labels, and how far to trust it. Its errors: docs/method.md."""
    outlook = facts.metrics["pool"].get("routing")
    if outlook is None:
        return []
    share = outlook["expected_accuracy"]
    said = f"The method expects that a teacher which knows the answer was heard on {percent(share)} of the texts."
    if not outlook["refined"]:
        return [
            Remark(
                "warn",
                f"{said} Only the teachers' scores{' and the label names' if outlook.get('names_heard') else ''} say "
                "so, and nothing checked them: take it as a hint.",
            )
        ]
    return [
        Remark(
            "plain" if share >= _WELL_ROUTED else "warn",
            f"{said} This is an estimate without labels; on nearly all pools with known labels its calibration error "
            "was 1 to 10 points, and on three, with weak teachers or very short texts, 12 to 26, the estimate being "
            "far too high. A teacher that knows the answer can still be wrong.",
        )
    ]


def _refinement(facts: Facts) -> list[Remark]:
    """Whether the pool's classes in the student's encoder were trusted to correct the teachers' scores."""
    outlook = facts.metrics["pool"].get("routing")
    if outlook is None:
        return []
    view, scores = outlook.get("view_accuracy"), outlook.get("score_accuracy")
    if view is None:
        return [
            Remark(
                "warn",
                "The student's encoder gave no view of the texts, or there were too few texts to judge it by, so it "
                "did not correct the teachers' scores.",
            )
        ]
    judges = f"by estimates without labels it is right on {percent(view, 0)} of the texts"
    judges += "" if scores is None else f", they on {percent(scores, 0)}"
    if outlook["refined"]:
        return [
            Remark("plain", f"The classes that the pool shows in the student's encoder corrected the scores; {judges}.")
        ]
    return [
        Remark(
            "warn",
            "The student's encoder does not show the pool's classes well enough to correct the teachers' scores, which "
            f"decided without them; {judges}. A student that starts from a sentence encoder may help.",
        )
    ]


def _names(facts: Facts) -> list[Remark]:
    """Whether the labels' names helped, and what to do where they could not."""
    heard = facts.metrics["pool"].get("routing", {}).get("names_heard")
    if heard is None:
        return []
    if heard:
        return [
            Remark(
                "plain", "The labels' names were heard too: the teachers choose among their labels as these suggest."
            )
        ]
    return [
        Remark(
            "plain",
            "The labels' names were not heard: they are codes, or the teachers do not choose among their labels as the "
            "names suggest. Names that say what a class is about (labels: {LABEL_0: sports}) often route texts better.",
        )
    ]


def _contested(facts: Facts) -> Remark:
    tone: Tone = "warn" if facts.contested > 0.5 else "plain"
    return Remark(
        tone,
        f"On {percent(facts.contested)} of the texts two teachers contradict each other and are heard about alike.",
    )


def _foreign(facts: Facts) -> Remark:
    """How much of the pool seems to belong to nobody. What the estimate was elsewhere: docs/report.md."""
    if facts.foreign_estimated:
        return _foreign_estimate(facts)
    tone: Tone = "warn" if facts.foreign > 0.1 else "plain"
    return Remark(tone, f"On {percent(facts.foreign)} of the texts no teacher is sure; some may belong to no label.")


def _foreign_estimate(facts: Facts) -> Remark:
    if facts.foreign < _HARDLY_ANY:
        return Remark(
            "plain", "Hardly any text seems to belong to none of the labels; this is a rough estimate without labels."
        )
    counted = " and counted little in training" if weighs_foreign(facts.config.method) else ""
    return Remark(
        "warn" if facts.foreign > _FALSE_ALARMS else "plain",
        f"About {percent(facts.foreign, 0)} of the texts seem to belong to none of the labels{counted}. This is a "
        "rough estimate without labels: on pools without such texts it was 1 to 10 %; on pools of which a fifth was "
        "such texts, 6 to 17 %.",
    )
