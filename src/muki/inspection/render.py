"""An inspection for a terminal."""

from __future__ import annotations

from muki.evaluation.table import table
from muki.inspection.estimate import Estimate
from muki.inspection.look import Inspection, TeacherLook, Tokens
from muki.progress import clock

_UNITS = ("B", "kB", "MB", "GB", "TB")


def rendered(seen: Inspection) -> str:
    """What was seen, then what is wrong, then the cost: the end is what a terminal shows."""
    parts = [_teacher(teacher) for teacher in seen.teachers]
    parts += [_bases(seen), _labels(seen), _texts(seen), _sample(seen), _findings(seen)]
    if seen.cost:
        parts.append(cost_line(seen.cost))
    return "\n\n".join(part for part in parts if part)


def cost_line(cost: Estimate) -> str:
    """One line on time, disk and memory."""
    stages = ", ".join(f"{stage} {clock(seconds)}" for stage, seconds in cost.seconds.items())
    return (
        f"estimate for this machine: {clock(cost.total)} ({stages}); disk {size(cost.disk)}, {size(cost.disk_peak)} "
        f"while training; memory {size(cost.memory)}"
    )


def size(count: int) -> str:
    """`3.2 GB`."""
    value = float(count)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def _teacher(teacher: TeacherLook) -> str:
    rates = ", ".join(f"{key} {rate:g}" for key, rate in teacher.dropout.items()) or "none"
    differ = "passes differ" if teacher.passes_differ else "passes do not differ"
    lines = [
        f"teacher {teacher.name}: {teacher.architecture}, {teacher.parameters / 1e6:.1f}M parameters",
        f"  labels     {', '.join(teacher.labels)}",
        f"  tokenizer  {teacher.tokenizer}; {_tokens(teacher.tokens, teacher.max_length)}",
        f"  dropout    {rates}; {differ}",
        f"  from       {teacher.source}; licence {teacher.licence or 'unknown'}"
        + (f"; base {', '.join(teacher.base_models)}" if teacher.base_models else ""),
    ]
    return "\n".join(lines)


def _bases(seen: Inspection) -> str:
    if seen.bases is None or len(seen.teachers) < 2:
        return ""
    if seen.bases:
        return f"bases: different ({seen.bases}); the teachers' weights cannot be averaged"
    return "bases: one for all teachers; --method weight-merge averages their weights in seconds: compare with it"


def _labels(seen: Inspection) -> str:
    if not seen.labels:
        return ""
    shared = "; ".join(f"{label} ({', '.join(names)})" for label, names in seen.shared.items()) or "none"
    return f"labels: {len(seen.labels)} in all; shared by teachers: {shared}"


def _texts(seen: Inspection) -> str:
    texts = seen.texts
    if texts is None:
        return ""
    more = " (more were not looked at)" if texts.capped else ""
    seldom = 0.005  # a share below this would be shown as 0 %
    spoken = ", ".join(
        f"{language} {100 * share:.0f} %" for language, share in list(texts.languages.items())[:4] if share >= seldom
    )
    lines = [
        f"texts: {texts.count:,}{more}, {texts.empty:,} empty, {texts.duplicates:,} repeat an earlier one",
        f"  look like  {spoken}",
    ]
    if seen.test:
        lines.append(f"  test       {seen.test:,} texts")
    if seen.student:
        lines.append(f"  student    {_tokens(seen.student, None)}; {100 * seen.student.unknown:.1f} % unknown tokens")
    return "\n".join(lines)


def _sample(seen: Inspection) -> str:
    one = seen.sample
    if one is None:
        return ""
    rows = [("teacher", "surest on")] + [(name, f"{100 * share:.0f} %") for name, share in one.teacher_share.items()]
    return (
        f"{table(rows)}\nof a sample of {one.texts} texts; all teachers agree on {100 * one.agreement:.0f} %; on "
        f"{100 * one.foreign:.0f} % no teacher is sure"
    )


def _findings(seen: Inspection) -> str:
    if not seen.findings:
        return "nothing wrong was found"
    return "\n".join(f"{one.level.upper()}  {one}" for one in sorted(seen.findings, key=lambda one: one.level))


def _tokens(tokens: Tokens, max_length: int | None) -> str:
    cut = "" if max_length is None else f", {100 * tokens.truncated:.0f} % cut at {max_length}"
    return f"{tokens.median} tokens a text, 95 % have at most {tokens.p95}{cut}"
