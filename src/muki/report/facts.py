"""Everything the page says about one run, as plain numbers and strings: collected here, worded and drawn elsewhere."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from muki.config import RunConfig
from muki.errors import RunFolderError
from muki.evaluation.answers import StudentAnswers, pick
from muki.evaluation.contest import Contest, contest, seems_foreign
from muki.evaluation.evaluate import FORMAT
from muki.files import public_name, read_json
from muki.labels import LabelSpace
from muki.report.choose import conflicting_pairs, worth_labelling
from muki.report.evidence import PoolEvidence, gather
from muki.run_folder import RunFolder
from muki.scored import scored_teachers
from muki.teachers.records import TeacherRecord
from muki.texts import Text, TextShards

_EXAMPLES = 3
_CONFUSIONS = 8


@dataclass(frozen=True)
class Claim:
    """A teacher's word on a text: its class, its certainty in [0, 1], and how much it was heard in [0, 1]."""

    teacher: str
    label: str
    certainty: float
    weight: float


@dataclass(frozen=True)
class TextFacts:
    """One text of the pool with what everybody said. `student` is None where it was not asked."""

    text: Text
    claims: list[Claim]
    target: str
    target_share: float
    weight: float
    foreign: float
    student: str | None
    student_share: float
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairFacts:
    """Two classes of two teachers that claim the same texts: how many, how often the first is heard more, examples."""

    first: tuple[str, str]
    second: tuple[str, str]
    texts: int
    first_wins: int
    examples: list[TextFacts]


@dataclass(frozen=True)
class Confusion:
    """Test texts of one gold label that the student gives another: how many of how many, and its surest mistake."""

    gold: str
    predicted: str
    count: int
    of: int
    example: Text
    confidence: float


@dataclass(frozen=True)
class Answered:
    """What the student said of n test texts with a known label: gold as indices, shape (n,); answers, shape (n, C)."""

    texts: list[Text]
    gold: NDArray[np.int64]
    answers: NDArray[np.float32]


@dataclass(frozen=True)
class StudentFacts:
    """The result: what it is and how large. Sizes in parameters and in bytes of its folder."""

    architecture: str
    parameters: int
    bytes: int
    max_length: int
    prefix: str
    start: str


@dataclass(frozen=True)
class Facts:
    """One run.

    Attributes:
        metrics: the content of `metrics.json`.
        training: of `training.json`; `times`: seconds by stage, as far as they were recorded.
        labelled: of `labelled.json`, if labels were filled in for this very supervision.
        contested: share of the pool.
        foreign: share of the pool that seems to belong to no label: mean of the method's own estimate where it makes
            one (`foreign_estimated`), else the share on which no teacher is sure.
        by_label: for each label (gold with a test file, else the target's), each teacher's share.
        tested: the student on the test texts; None without a test file.
        evidence: the arrays, for plots.
    """

    name: str
    config: RunConfig
    space: LabelSpace
    records: list[TeacherRecord]
    metrics: dict[str, Any]
    training: dict[str, Any]
    times: dict[str, float]
    labelled: dict[str, Any] | None
    student: StudentFacts
    contested: float
    foreign: float
    foreign_estimated: bool
    by_label: dict[str, dict[str, float]]
    pairs: list[PairFacts]
    to_label: list[TextFacts]
    tested: Answered | None
    confusions: list[Confusion]
    fingerprints: dict[str, str]
    evidence: PoolEvidence

    @property
    def has_test(self) -> bool:
        """Whether gold labels were there."""
        return "test" in self.metrics

    @property
    def settings(self) -> str:
        """The resolved run file, without paths of this machine."""
        content = self.config.model_dump(mode="json", exclude={"output"})
        for section in (*content["teachers"], content["student"]):
            section["model"] = public_name(section["model"])
        for section in filter(None, (content["texts"], content["test"])):
            section["path"] = public_name(section["path"])
        return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100))


def collect(run: RunFolder, config: RunConfig) -> Facts:
    """Read a finished run.

    Raises:
        RunFolderError: it is not evaluated yet, or a file is missing.
    """
    metrics, (records, space) = read_json(run.metrics), scored_teachers(run)
    if config.method.student == "none":
        raise RunFolderError(
            f"run '{run.root}': its method has no student to report on; its figures are in {run.metrics}"
        )
    if metrics is None or metrics.get("format") != FORMAT:
        raise RunFolderError(f"run '{run.root}': nothing evaluated yet; run `muki evaluate {run.root}` first")
    seen = gather(run, config, space)
    found = contest(seen.routing, seen.predictions)
    tested = _tested(run, config, space) if "test" in metrics else None
    return Facts(
        name=run.root.name,
        config=config,
        space=space,
        records=records,
        metrics=metrics,
        training=read_json(run.training) or {},
        times=read_json(run.times) or {},
        labelled=_labelled(run),
        student=_student(run, config),
        contested=float(found.contested.mean()),
        foreign=_foreign_share(seen),
        foreign_estimated=seen.foreign_estimated,
        by_label=metrics.get("routing", {}).get("by_label") or _heard_by_target(seen),
        **_chosen_texts(seen, found),
        tested=tested,
        confusions=_confusions(tested, space) if tested else [],
        fingerprints=_fingerprints(run, records, seen.texts),
        evidence=seen,
    )


def _chosen_texts(seen: PoolEvidence, found: Contest) -> dict[str, Any]:
    """The texts that the page shows: examples of each pair of classes, and those worth a label."""
    pairs = conflicting_pairs(found, seen.predictions)
    everything = list(seen.texts)
    picks = worth_labelling(
        [" ".join(f"{text.text} {text.text_pair or ''}".casefold().split()) for text in everything],
        found, seen.predictions, seen.foreign, seen.student, seen.asked, seen.target,
        estimated=seen.foreign_estimated,
    )  # fmt: skip

    def facts(position: int, reasons: tuple[str, ...] = ()) -> TextFacts:
        return _text_facts(seen, everything[position], position, reasons)

    def side(pair: tuple[int, int]) -> tuple[str, str]:
        return seen.names[pair[0]], seen.space.labels[pair[1]]

    return {
        "pairs": [
            PairFacts(side(p.first), side(p.second), len(p.positions), p.first_wins,
                      [facts(i) for i in p.positions[:_EXAMPLES]])
            for p in pairs
        ],
        "to_label": [facts(one.position, one.reasons) for one in picks],
    }  # fmt: skip


def _text_facts(seen: PoolEvidence, text: Text, i: int, reasons: tuple[str, ...]) -> TextFacts:
    labels = seen.space.labels
    asked = int(np.searchsorted(seen.asked, i))
    answer = seen.student[asked] if asked < len(seen.asked) and seen.asked[asked] == i else None
    claims = [
        Claim(name, labels[int(seen.predictions[i, t])], float(seen.certainty[i, t]), float(seen.routing[i, t]))
        for t, name in enumerate(seen.names)
    ]
    return TextFacts(
        text=text,
        claims=sorted(claims, key=lambda claim: -claim.weight),
        target=labels[int(seen.target[i].argmax())],
        target_share=float(seen.target[i].max()),
        weight=float(seen.weight[i]),
        foreign=float(seen.foreign[i]),
        student=None if answer is None else labels[int(answer.argmax())],
        student_share=0.0 if answer is None else float(answer.max()),
        reasons=reasons,
    )


def _foreign_share(seen: PoolEvidence) -> float:
    """A probability is averaged, which counts a doubtful text in part; a certainty is held against a threshold."""
    return float((seen.foreign if seen.foreign_estimated else seems_foreign(seen.foreign, estimated=False)).mean())


def _heard_by_target(seen: PoolEvidence) -> dict[str, dict[str, float]]:
    """Without gold labels: for each label, how much each teacher is heard on texts whose target names it."""
    top = seen.target.argmax(axis=-1)
    return {
        label: dict(zip(seen.names, map(float, seen.routing[top == i].mean(axis=0)), strict=True))
        for i, label in enumerate(seen.space.labels)
        if (top == i).any()
    }


def _tested(run: RunFolder, config: RunConfig, space: LabelSpace) -> Answered | None:
    test = TextShards.load(run.texts("test"))
    if test is None:
        return None
    rows = np.array([text.row for text in test if text.label in space.label2id], dtype=np.int64)
    texts = pick(test, rows)
    gold = np.array([space.label2id[text.label or ""] for text in texts])
    return Answered(texts, gold, StudentAnswers(run, config).of("test", test, rows))


def _confusions(tested: Answered, space: LabelSpace) -> list[Confusion]:
    """The most frequent mistakes on the test texts, each with the one that the student was surest of."""
    gold, said, sure = tested.gold, tested.answers.argmax(axis=-1), tested.answers.max(axis=-1)
    counts = Counter((int(g), int(s)) for g, s in zip(gold, said, strict=True) if g != s)
    result = []
    for (g, s), count in counts.most_common(_CONFUSIONS):
        worst = max(np.flatnonzero((gold == g) & (said == s)).tolist(), key=lambda i: float(sure[i]))
        of = int((gold == g).sum())
        result.append(Confusion(space.labels[g], space.labels[s], count, of, tested.texts[worst], float(sure[worst])))
    return result


def _labelled(run: RunFolder) -> dict[str, Any] | None:
    content = read_json(run.labelled)
    current = (read_json(run.supervision_summary) or {}).get("fingerprint")
    return content if content is not None and content.get("supervision") == current else None


def _student(run: RunFolder, config: RunConfig) -> StudentFacts:
    content = read_json(run.student / "config.json") or {}
    return StudentFacts(
        architecture=(content.get("architectures") or ["?"])[0],
        parameters=sum(_stored_parameters(path) for path in run.student.glob("*.safetensors")),
        bytes=sum(path.stat().st_size for path in run.student.rglob("*") if path.is_file()),
        max_length=config.student.max_length,
        prefix=config.student.prefix,
        start=public_name(config.student.model),
    )


def _stored_parameters(path: Path) -> int:
    """Count from the header alone: eight bytes with its length, then JSON with each tensor's shape."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(int(np.prod(tensor["shape"])) for name, tensor in header.items() if name != "__metadata__")


def _fingerprints(run: RunFolder, records: list[TeacherRecord], pool: TextShards) -> dict[str, str]:
    """What the run was made from, by content."""
    made = {f"teacher {record.name}": record.fingerprint for record in records}
    made["texts"] = pool.fingerprint
    for title, path in (("supervision", run.supervision_summary), ("student", run.training)):
        made[title] = str((read_json(path) or {}).get("fingerprint", "unknown"))
    return made
