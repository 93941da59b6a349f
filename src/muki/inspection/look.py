"""The look itself: every teacher, the labels, the texts, a scored sample, and what the run would cost."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from muki.config import RunConfig, TeacherConfig
from muki.engines.work import ScoringSettings
from muki.errors import DropoutError, LabelError, MukiError, StudentError, TextsError
from muki.evaluation.contest import FOREIGN
from muki.inspection import findings
from muki.inspection.estimate import Estimate, Speed, StudentSpeed, estimate, measure_student, measure_teacher
from muki.inspection.findings import Finding
from muki.inspection.texts import TextsLook, look
from muki.integration.fitting import fit_router
from muki.labels import LabelSpace, union
from muki.preparation import load_from_config
from muki.routing.scores import available, parts_of
from muki.student.model import load_tokenizer
from muki.teachers.bases import Base, base_of, difference
from muki.teachers.dropout import dropout_rates
from muki.teachers.outputs import TeacherOutputs, teacher_certainty, teacher_predictions
from muki.teachers.provenance import provenance
from muki.teachers.scoring import Passes, probe_dropout
from muki.texts import Columns, Text, read
from muki.tokenization import longest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from muki.teachers.loading import Teacher

logger = logging.getLogger(__name__)

SCORED = 200
TOKENIZED = 1000


@dataclass(frozen=True)
class Tokens:
    """How a tokenizer sees the texts: tokens a text, share of cut texts and of unknown tokens, tokens a character."""

    median: int
    p95: int
    mean: float
    truncated: float
    unknown: float
    per_character: float


@dataclass(frozen=True)
class TeacherLook:
    """One teacher; `passes_differ` is told of every teacher, also for a method that wants no dropout passes.

    It is false, too, for a teacher that gives no numbers, whose passes cannot be compared.
    """

    name: str
    source: str
    architecture: str
    parameters: int
    tokenizer: str
    labels: tuple[str, ...]
    max_length: int
    dropout: dict[str, float]
    passes_differ: bool
    licence: str | None
    base_models: tuple[str, ...]
    tokens: Tokens


@dataclass(frozen=True)
class SampleLook:
    """What a scored sample shows, as shares in [0, 1]: the surest teacher, agreement, texts foreign to all.

    The surest by the method's score; by certainty for a method that makes scores comparable over the pool, which on a
    sample would only show that each teacher gets its share.
    """

    texts: int
    teacher_share: dict[str, float]
    agreement: float
    foreign: float


@dataclass
class Inspection:
    """Everything that was seen; parts that could not be looked at are None, and a finding says why.

    `bases` says why the teachers' weights cannot be averaged; empty if they can, since all are copies of one base.
    """

    teachers: list[TeacherLook] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    shared: dict[str, tuple[str, ...]] = field(default_factory=dict)
    texts: TextsLook | None = None
    test: int = 0
    student: Tokens | None = None
    bases: str | None = None
    sample: SampleLook | None = None
    cost: Estimate | None = None
    findings: list[Finding] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """JSON-able content; the sampled texts are left out."""
        content = asdict(self)
        if self.texts:
            del content["texts"]["sample"]
        if self.cost:
            content["cost"]["total_seconds"] = self.cost.total
        return content


def inspect(config: RunConfig) -> Inspection:
    """Look at what a run would be made of; nothing is written. What is wrong becomes a finding, not an error.

    Raises:
        TextsError: the texts cannot be read.
    """
    seen = Inspection()
    texts = seen.texts = look(read(config.texts.path, _columns(config), split=config.texts.split))
    if not texts.count:
        raise TextsError(
            f"texts '{config.texts.path}': no text left ({texts.empty} empty ones skipped); at least one non-empty "
            "text is needed"
        )
    count = min(texts.count, config.texts.limit or texts.count)
    seen.findings += findings.pool(count, texts.duplicates, texts.empty)
    if config.test:
        seen.test = _count_test(config)
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(len(texts.sample))[:SCORED])
    sample = [texts.sample[int(i)] for i in chosen]
    measured = _teachers(config, seen, sample)
    names = {teacher.name: teacher.labels for teacher in seen.teachers}
    seen.findings += findings.alike_labels(names) + findings.catch_all_labels(names)
    if config.method.reads_names:
        seen.findings += findings.coded_labels(names)
    if config.method.refines:
        sources = {teacher.name: teacher.source for teacher in seen.teachers}
        seen.findings += findings.own_student(config.student.model, sources)
    start = provenance(config.student.model)
    licences = {teacher.name: teacher.licence for teacher in seen.teachers}
    seen.findings += findings.licences({**licences, "student's start": start.licence})
    student = _student_tokens(config, seen)
    space = _space(names, seen)
    if space is None:
        return seen
    if measured:
        scored = union({name: names[name] for name in measured})
        seen.sample = _sample(config, scored, [outputs for outputs, _ in measured.values()])
        seen.findings += findings.sample(seen.sample.teacher_share, seen.sample.foreign)
    speed = _student_speed(config, space, sample, seen) if student is not None else None
    if student is not None and speed is not None and len(measured) == len(config.teachers):
        seen.cost = estimate(
            config, space, pool=count, test=seen.test, mean_bytes=texts.mean_bytes, mean_tokens=student.mean,
            speeds=[one for _, one in measured.values()], student=speed,
        )  # fmt: skip
    return seen


def tokens_of(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], max_length: int, prefix: str = ""
) -> Tokens:  # fmt: skip
    """Tokenize texts without cutting them."""
    some = list(texts[:: max(1, len(texts) // TOKENIZED)])
    pairs = [text.text_pair or "" for text in some] if any(text.text_pair for text in some) else None
    ids = tokenizer([prefix + text.text for text in some], pairs, truncation=False, verbose=False)["input_ids"]
    lengths = np.array([len(one) for one in ids])
    unknown = tokenizer.unk_token_id
    special = {i for i in tokenizer.all_special_ids if i != unknown}
    if unknown in {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id}:
        unknown = None  # a byte-level vocabulary, which needs none
    words = [token for one in ids for token in one if token not in special]
    characters = sum(len(prefix) + len(text.text) + len(text.text_pair or "") for text in some)
    return Tokens(
        median=int(np.median(lengths)),
        p95=int(np.quantile(lengths, 0.95)),
        mean=float(np.minimum(lengths, max_length).mean()),
        truncated=float((lengths > max_length).mean()),
        unknown=0.0 if unknown is None else sum(token == unknown for token in words) / max(len(words), 1),
        per_character=len(words) / max(characters, 1),
    )


def _teachers(config: RunConfig, seen: Inspection, sample: list[Text]) -> dict[str, tuple[TeacherOutputs, Speed]]:
    """Load, look at and measure each teacher in turn, one in memory at a time; by name what could be measured."""
    measured: dict[str, tuple[TeacherOutputs, Speed]] = {}
    fingerprints: dict[str, str] = {}
    bases: list[Base] = []
    for wanted in config.teachers:
        name = wanted.name or ""
        logger.info("looking at teacher %s", name)
        try:
            teacher = load_from_config(wanted, config.trust_remote_code)
        except MukiError as error:
            seen.findings.append(_problem(error))
            continue
        twin = fingerprints.setdefault(teacher.fingerprint, name)
        if twin != name:
            said = f"the same model as teacher {twin}"
            seen.findings.append(Finding("problem", f"teacher {name}", said, "give each teacher once"))
        bases.append(base_of(teacher))
        differ = False
        try:
            differ = _passes_differ(config, teacher, seen)
            measured[teacher.name] = _measured(config, teacher, sample, differ)
        except MukiError as error:
            seen.findings.append(_problem(error))
        seen.teachers.append(_teacher_look(wanted, teacher, differ, seen))
    if len(bases) == len(config.teachers):
        seen.bases = _bases(bases)
    if seen.bases and config.method.student == "merged":
        remedy = "only copies of one base can be averaged: choose a method that trains a student"
        seen.findings.append(Finding("problem", "weight-merge", f"different bases, {seen.bases}", remedy))
    return measured


def _bases(bases: Sequence[Base]) -> str:
    """The first teacher whose base is not that of the first of all, with the reason; empty if there is none."""
    reasons = ((other.name, difference(bases[0], other)) for other in bases[1:])
    return next((f"{bases[0].name} and {name}: {reason}" for name, reason in reasons if reason), "")


def _passes_differ(config: RunConfig, teacher: Teacher, seen: Inspection) -> bool:
    """Whether dropout has an effect; that it has none is a problem of a method with passes only.

    Raises:
        TeacherError: the teacher gives no numbers.
    """
    try:
        probe_dropout(teacher)
    except DropoutError as error:
        if ScoringSettings.of(config).passes.most:
            seen.findings.append(_problem(error))
        return False
    return True


def _measured(config: RunConfig, teacher: Teacher, sample: list[Text], differ: bool) -> tuple[TeacherOutputs, Speed]:
    """Outputs on the sample and speed, without passes where they do not differ.

    Raises:
        TeacherError: a logit is not a number, or the model cannot give what the method needs.
    """
    settings = ScoringSettings.of(config)
    passes = settings.passes if differ else Passes(0)
    return measure_teacher(teacher, sample, passes, settings.batch_tokens, settings.keep)


def _teacher_look(wanted: TeacherConfig, teacher: Teacher, differ: bool, seen: Inspection) -> TeacherLook:
    assert seen.texts is not None
    origin = provenance(wanted.model, wanted.revision)
    tokens = tokens_of(teacher.tokenizer, seen.texts.sample, teacher.max_length, teacher.prefix)
    who = f"teacher {teacher.name}"
    most = longest(teacher.model.config, teacher.tokenizer)
    seen.findings += findings.truncation(who, tokens.truncated, teacher.max_length, tokens.p95, most)
    seen.findings += findings.vocabulary(who, tokens.unknown, tokens.per_character, seen.texts.languages)
    return TeacherLook(
        name=teacher.name,
        source=wanted.model,
        architecture=type(teacher.model).__name__,
        parameters=teacher.parameters,
        tokenizer=f"{type(teacher.tokenizer).__name__}, {len(teacher.tokenizer):,} pieces",
        labels=teacher.labels,
        max_length=teacher.max_length,
        dropout=dropout_rates(teacher.model.config),
        passes_differ=differ,
        licence=origin.licence,
        base_models=origin.base_models,
        tokens=tokens,
    )


def _student_tokens(config: RunConfig, seen: Inspection) -> Tokens | None:
    assert seen.texts is not None
    from transformers import AutoConfig

    student = config.student
    try:
        tokenizer = load_tokenizer(student.model, config.trust_remote_code)
    except StudentError as error:
        seen.findings.append(_problem(error))
        return None
    most = longest(AutoConfig.from_pretrained(student.model, trust_remote_code=config.trust_remote_code), tokenizer)
    length = min(student.max_length, most)
    tokens = tokens_of(tokenizer, seen.texts.sample, length, student.prefix)
    seen.student = tokens
    seen.findings += findings.truncation("student", tokens.truncated, length, tokens.p95, most)
    seen.findings += findings.vocabulary("student", tokens.unknown, tokens.per_character, seen.texts.languages)
    return tokens


def _space(names: dict[str, tuple[str, ...]], seen: Inspection) -> LabelSpace | None:
    """The union of the labels of the teachers that could be loaded; None where there are none or they do not fit."""
    if not names:
        return None
    try:
        space = union(names)
    except LabelError as error:
        seen.findings.append(_problem(error))
        return None
    seen.labels, seen.shared = list(space.labels), space.shared
    return space


def _student_speed(config: RunConfig, space: LabelSpace, sample: list[Text], seen: Inspection) -> StudentSpeed | None:
    try:
        return measure_student(config, space, sample)
    except MukiError as error:
        seen.findings.append(_problem(error))
        return None


def _sample(config: RunConfig, space: LabelSpace, outputs: list[TeacherOutputs]) -> SampleLook:
    sure = teacher_certainty(outputs)
    method = config.method
    scored = not method.needs_gold and set(parts_of(method.score)) <= set(available(outputs))
    usable = scored and method.calibration == "none" and not method.refines
    best = (fit_router(method, outputs, space)(outputs).weights if usable else sure).argmax(axis=-1)
    predictions = teacher_predictions(outputs, space)
    return SampleLook(
        texts=len(sure),
        teacher_share={name: float((best == i).mean()) for i, name in enumerate(space.columns)},
        agreement=float((predictions == predictions[:, :1]).all(axis=-1).mean()),
        foreign=float((sure.max(axis=-1) <= 1 - FOREIGN).mean()),
    )


def _columns(config: RunConfig) -> Columns:
    return Columns(config.texts.text, config.texts.text_pair, None, config.texts.id)


def _count_test(config: RunConfig) -> int:
    assert config.test is not None
    columns = Columns(config.test.text or config.texts.text, config.test.text_pair or config.texts.text_pair)
    texts = read(config.test.path, columns, split=config.test.split)
    return sum(1 for _ in itertools.islice((text for text in texts if text.text.strip()), config.test.limit))


def _problem(error: MukiError) -> Finding:
    """An error that would stop the run, in its own words: they name the remedy."""
    about, found, remedy = error.said()
    return Finding("problem", about.replace("'", ""), found, remedy or "mend it before the run")
