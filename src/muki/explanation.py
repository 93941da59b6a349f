"""What the teachers and the student say of a text, put together and into words: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from muki.evaluation.contest import ESTIMATED_FOREIGN, FOREIGN, contest
from muki.evaluation.table import table
from muki.formulas import Array, integrate_distributions, softmax
from muki.labels import LabelSpace
from muki.teachers.outputs import TeacherOutputs, teacher_certainty
from muki.texts import Text

_TOP = 3
_COUNTS_LITTLE = 0.5


@dataclass(frozen=True)
class Voice:
    """One teacher on one text.

    Attributes:
        teacher: its name.
        top: its likeliest classes with their probabilities, likeliest first.
        certainty: in [0, 1].
        spread: standard deviation of the certainty from one dropout pass to another; None without passes.
        weight: how much it is heard, in [0, 1].
    """

    teacher: str
    top: list[tuple[str, float]]
    certainty: float
    spread: float | None
    weight: float


@dataclass(frozen=True)
class Explanation:
    """One text: `row` in the pool if it is there, voices by weight, target and student by probability, and a sentence.

    `text_pair` is the second text of a pair, None where the run's texts are no pairs.
    `weight` is how much the text counts, or would count, in training: 1 is the pool's average. `right` is how likely
    the target's label comes from a teacher that knows it, by the method's own estimate; `foreign` is how likely
    the text belongs to none of the labels, likewise. Each is None where the method makes no such estimate.
    """

    text: str
    row: int | None
    voices: list[Voice]
    target: list[tuple[str, float]]
    weight: float
    student: list[tuple[str, float]] | None
    sentence: str
    right: float | None = None
    foreign: float | None = None
    text_pair: str | None = None

    def as_json(self) -> dict[str, Any]:
        """JSON-able content."""
        return asdict(self)


def assemble(
    texts: Sequence[Text],
    outputs: list[TeacherOutputs],
    calibrated: list[Array],
    space: LabelSpace,
    routing: Array,
    weights: Array,
    student: Array | None,
    right: Array | None = None,
    why: str = "certainty",
    foreign: Array | None = None,
) -> list[Explanation]:
    """Explanations of what the teachers and the student have said; pure.

    Args:
        texts: n texts; a negative row is one that is not in the pool.
        outputs: of each teacher, in the order of the label space.
        calibrated: each teacher's distribution as the target takes it, shapes (n, C_i).
        space: the label space.
        routing: weights of the teachers, shape (n, N).
        weights: how much each text counts, shape (n,); 1 is the pool's average.
        student: its probabilities, shape (n, C); None where there is no student yet.
        right: how likely the routing is right, shape (n,); None where the method estimates nothing.
        why: what the routing follows, see `muki.evaluation.method_words.cause`.
        foreign: how likely each text belongs to none of the labels, shape (n,); None without an estimate.
    """
    sure = teacher_certainty(outputs)
    distributions = [softmax(one.logits) for one in outputs]
    target = integrate_distributions(routing, calibrated, list(space.columns.values()), len(space.labels))
    result = []
    for i, text in enumerate(texts):
        voices = [
            Voice(
                teacher=name,
                top=_top(distributions[t][i], space.of(name)),
                certainty=float(sure[i, t]),
                spread=_spread(outputs[t], i),
                weight=float(routing[i, t]),
            )
            for t, name in enumerate(space.columns)
        ]
        voices.sort(key=lambda voice: (-voice.weight, -voice.certainty))
        answer = None if student is None else _top(student[i], space.labels)
        weight, wanted = float(weights[i]), _top(target[i], space.labels)
        likely, strange = (None if one is None else float(one[i]) for one in (right, foreign))
        said = sentence(voices, wanted[0][0], weight, answer[0] if answer else None, why, strange)
        row = text.row if text.row >= 0 else None
        result.append(
            Explanation(text.text, row, voices, wanted, weight, answer, said, likely, strange, text.text_pair)
        )
    return result


def sentence(
    voices: Sequence[Voice],
    target: str,
    weight: float,
    student: tuple[str, float] | None,
    why: str = "certainty",
    foreign: float | None = None,
) -> str:
    """One sentence in plain words: which teacher won, by how much, whether it is contested; and the student.

    Args:
        voices: of all teachers, the most heard first.
        target: the integrated target's first label.
        weight: how much the text counts; 1 is the average.
        student: its label and probability; None where there is no student.
        why: what the weights follow: `certainty`, or other words such as `scores`.
        foreign: how likely the text belongs to none of the labels; None where the method estimates nothing, and the
            teachers' certainty has to tell.
    """
    names = {voice.top[0][0]: i for i, voice in enumerate(reversed(voices))}
    routing = np.array([[voice.weight for voice in voices]])
    found = contest(routing, np.array([[names[voice.top[0][0]] for voice in voices]]))
    winner, rival = voices[int(found.winner[0])], voices[int(found.rival[0])]
    surest = max(voices, key=lambda voice: voice.certainty)
    if foreign is not None and foreign >= ESTIMATED_FOREIGN:
        said = (
            f"{winner.teacher} is heard most and says “{winner.top[0][0]}” ({_percent(winner.certainty)} certain), but "
            f"this text may belong to none of the labels ({_percent(foreign)} likely by the method's own estimate)"
        )
    elif foreign is None and 1.0 - surest.certainty >= FOREIGN:
        said = (
            f"No teacher is sure of this text, not even {surest.teacher} ({_percent(surest.certainty)} certain of "
            f"“{surest.top[0][0]}”), so it may belong to none of the labels"
        )
    elif found.rival[0] == found.winner[0]:
        said = f"All teachers say “{winner.top[0][0]}”, {winner.teacher} with {_percent(winner.certainty)} certainty"
    elif why == "certainty" and rival.certainty <= winner.certainty:
        said = _by_certainty(winner, rival, bool(found.contested[0]))
    else:
        said = _by_scores(winner, rival, bool(found.contested[0]), why)
    if weight < _COUNTS_LITTLE:
        said += f", and it counts little in training ({weight:.2f} of an average text)"
    if student is None:
        return f"{said}."
    if student[0] == target:
        return f"{said}; the student agrees ({_percent(student[1])})."
    return f"{said}; the student answers “{student[0]}” instead ({_percent(student[1])})."


def _by_certainty(winner: Voice, rival: Voice, contested: bool) -> str:
    """Of a method whose weights follow the teachers' certainty."""
    if contested:
        return (
            f"Contested: {winner.teacher} is {_percent(winner.certainty)} certain of “{winner.top[0][0]}”, "
            f"{rival.teacher} {_percent(rival.certainty)} of “{rival.top[0][0]}”, so they are heard "
            f"{_percent(winner.weight)} and {_percent(rival.weight)}"
        )
    return (
        f"{winner.teacher} decides with {_percent(winner.weight)} of the weight: it is {_percent(winner.certainty)} "
        f"certain of “{winner.top[0][0]}”, {rival.teacher} only {_percent(rival.certainty)} of “{rival.top[0][0]}”"
    )


def _by_scores(winner: Voice, rival: Voice, contested: bool, why: str) -> str:
    """Of a method that asks for more than certainty, or for something else."""
    if contested:
        return (
            f"Contested: {winner.teacher} says “{winner.top[0][0]}” ({_percent(winner.certainty)} certain), "
            f"{rival.teacher} “{rival.top[0][0]}” ({_percent(rival.certainty)} certain), and by their {why} they are "
            f"heard {_percent(winner.weight)} and {_percent(rival.weight)}"
        )
    but = ", although" if rival.certainty > winner.certainty else ";"
    return (
        f"{winner.teacher} decides for “{winner.top[0][0]}” with {_percent(winner.weight)} of the weight, by its {why} "
        f"({_percent(winner.certainty)} certain{but} {rival.teacher} is {_percent(rival.certainty)} certain of "
        f"“{rival.top[0][0]}”)"
    )


def rendered(one: Explanation) -> str:
    """An explanation for a terminal; the spread over the passes only where there were some."""
    width = max(len(_listed(voice.top)) for voice in one.voices)  # what they say reads from the left
    drawn = any(voice.spread is not None for voice in one.voices)
    rows = [("teacher", "certainty", *(["± passes"] if drawn else []), "heard", "says".ljust(width))]
    for voice in one.voices:
        spread = "–" if voice.spread is None else f"{100 * voice.spread:.0f} %"
        says = _listed(voice.top).ljust(width)
        shown = [spread] if drawn else []
        rows.append((voice.teacher, _percent(voice.certainty), *shown, _percent(voice.weight), says))
    where = "" if one.row is None else f"   (row {one.row} of the pool)"
    second = "" if one.text_pair is None else f" and “{one.text_pair}”"
    lines = [f"“{one.text}”{second}{where}", "", table(rows), "", f"target:  {_listed(one.target)}"]
    if one.right is not None:
        lines.append(f"routing: right with {_percent(one.right)} probability, the method's own estimate")
    if one.foreign is not None:
        strange = f"of none of the labels with {_percent(one.foreign)} probability"
        lines.append(f"foreign: {strange}, the method's own estimate")
    lines.append(f"weight:  {one.weight:.2f} of an average text")
    if one.student:
        lines.append(f"student: {_listed(one.student)}")
    return "\n".join([*lines, "", one.sentence])


def _top(p: Array, labels: Sequence[str]) -> list[tuple[str, float]]:
    return [(labels[int(i)], float(p[i])) for i in np.argsort(-p, kind="stable")[:_TOP]]


def _spread(outputs: TeacherOutputs, i: int) -> float | None:
    """Standard deviation of the entropy over the passes, in units of certainty."""
    value = float(outputs.pass_spread[i])
    return None if np.isnan(value) else value / float(np.log(outputs.logits.shape[1]))


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _listed(top: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{label} {_percent(p)}" for label, p in top)
