"""What is wrong, each with what to do about it: pure checks on what a look has found."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from muki.labels import alike
from muki.routing.names import are_words
from muki.teachers.provenance import licence_warnings

_TRUNCATED = 0.1
_UNKNOWN = 0.05
_PIECES_PER_CHARACTER = 1.3
_DUPLICATES = 0.2
_FEW_TEXTS = 500
_ONE_SIDED = 0.02
_CATCH_ALL = re.compile(
    r"others?|misc(ellaneous)?|none|none[ _-]of[ _-](these|the[ _-]above)|unknown|oos|out[ _-]of[ _-]scope|not[ _-].+",
    re.IGNORECASE,
)
_YAML_WORDS = ("yes", "no", "on", "off", "true", "false", "null", "y", "n")


@dataclass(frozen=True)
class Finding:
    """Something to know before the run: `problem` stops it, `warning` makes it worse."""

    level: str
    about: str
    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.about}: {self.text}; {self.remedy}"


def alike_labels(labels: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Label names of different teachers that look like one class, with the YAML line that merges them.

    Args:
        labels: each teacher's name and label names.
    """
    findings = []
    for one in alike(labels):
        said = f"“{one.first}” of {one.by} and “{one.label}” of {one.teacher} look like one class"
        line = f"labels: {{{yaml_name(one.label)}: {yaml_name(one.first)}}}"
        findings.append(
            Finding("warning", "labels", said, f"to merge them, give teacher {one.teacher} the line   {line}")
        )
    return findings


def own_student(student: str, teachers: Mapping[str, str]) -> list[Finding]:
    """A student that starts from a teacher, for a method that compares texts with the student's encoder.

    Args:
        student: folder or Hub id.
        teachers: each teacher's name and folder or Hub id.
    """
    return [
        Finding(
            "warning",
            "student",
            f"starts from teacher {name}, whose encoder shows that teacher's classes better than the others'",
            "the method compares texts with it: start from a sentence encoder, such as "
            "sentence-transformers/all-MiniLM-L6-v2",
        )
        for name, source in teachers.items()
        if source == student
    ]


def coded_labels(labels: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Teachers whose labels are codes, so that a method which reads label names learns nothing from theirs.

    Args:
        labels: each teacher's name and label names.
    """
    return [
        Finding(
            "warning",
            f"teacher {name}",
            f"its labels are codes ({', '.join(own[:3])}{', …' if len(own) > 3 else ''}) and say nothing of the texts",
            f"if you know names in words, give them (labels: {{{yaml_name(own[0])}: …}}): texts are routed better then",
        )
        for name, own in labels.items()
        if not are_words(own)
    ]


def catch_all_labels(labels: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Labels that mean "none of this teacher's", and so claim the texts of all other teachers.

    Args:
        labels: each teacher's name and label names.
    """
    owners: dict[str, list[str]] = {}
    for name, own in labels.items():
        for label in own:
            if _CATCH_ALL.fullmatch(label.strip()):
                owners.setdefault(label, []).append(name)
    found = []
    for label, teachers in owners.items():
        said = f"“{label}” of {' and '.join(teachers)} sounds like “none of mine”, which all other teachers' texts are"
        if len(teachers) > 1:
            said += ", and equal names become one class"
        remedy = "take a teacher without such a label, or look whom the report hears on its texts"
        found.append(Finding("warning", "labels", said, remedy))
    return found


def truncation(who: str, share: float, max_length: int, wanted: int, most: int) -> list[Finding]:
    """Texts that are cut: `wanted` tokens would hold 95 % of them, `most` is what the model can take."""
    if share <= _TRUNCATED:
        return []
    said = f"{_percent(share)} of the texts are longer than its {max_length} tokens and are cut"
    if most > max_length:
        return [Finding("warning", who, said, f"set max_length: {min(wanted, most)}")]
    return [Finding("warning", who, said, "it can take no more; split long texts, or put what matters first")]


def vocabulary(who: str, unknown: float, pieces: float, languages: Mapping[str, float]) -> list[Finding]:
    """A tokenizer that does not know the texts' language.

    Args:
        who: teacher or student.
        unknown: share of unknown tokens.
        pieces: tokens per character (a byte-level vocabulary knows no unknown tokens, but falls apart into bytes).
        languages: of the texts.
    """
    mostly = next(iter(languages), "unclear")
    if unknown > _UNKNOWN:
        said = f"{_percent(unknown)} of the tokens are unknown to its vocabulary (the texts look mostly {mostly})"
    elif pieces > _PIECES_PER_CHARACTER:
        said = (
            f"its vocabulary breaks the texts into bytes, {pieces:.1f} tokens a character (they look mostly {mostly})"
        )
    else:
        return []
    if who == "student":
        return [Finding("warning", who, said, "start the student from a model of that language, or a multilingual one")]
    return [Finding("warning", who, said, "this teacher cannot read these texts; check that they are meant for it")]


def pool(count: int, duplicates: int, empty: int) -> list[Finding]:
    """Too few texts, or too many equal ones."""
    findings = []
    if count < _FEW_TEXTS:
        findings.append(
            Finding("warning", "texts", f"only {count} texts", "give thousands if you can; unlabelled texts are cheap")
        )
    if duplicates > _DUPLICATES * count:
        said = f"{_percent(duplicates / count)} repeat an earlier text"
        findings.append(Finding("warning", "texts", said, "drop the repetitions; they cost time and count twice"))
    if empty > _DUPLICATES * (count + empty):
        said = f"{empty} of {count + empty} are empty and would be skipped"
        findings.append(Finding("warning", "texts", said, "check the column (texts: {text: …})"))
    return findings


def sample(shares: Mapping[str, float], foreign: float) -> list[Finding]:
    """What scoring a sample shows: a teacher that is never heard, texts that belong to nobody."""
    findings = [
        Finding("warning", f"teacher {name}", f"is the surest on {_percent(share)} of the sampled texts only",
                "check that the texts hold what it was trained for; without such texts its labels cannot be taught")
        for name, share in shares.items() if share < _ONE_SIDED
    ]  # fmt: skip
    if foreign > 0.25:
        findings.append(
            Finding("warning", "texts", f"on {_percent(foreign)} of the sample no teacher is sure",
                    "many texts may belong to none of the labels; closer ones teach better")
        )  # fmt: skip
    return findings


def licences(found: Mapping[str, str | None]) -> list[Finding]:
    """Licences of the models that may not fit together, by model."""
    remedy = "read them before the student is used or passed on"
    return [Finding("warning", "licences", said, remedy) for said in licence_warnings(found)]


def yaml_name(name: str) -> str:
    """A name as YAML takes it inside braces."""
    plain = re.fullmatch(r"[^\W\d_][\w.-]*( [\w.-]+)*", name) and name.casefold() not in _YAML_WORDS
    return name if plain else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %" if value >= 0.01 or value == 0 else "under 1 %"
