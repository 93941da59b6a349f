"""The router: a method's chain from teacher outputs to routing weights. `fitting.py` fits it on the pool.

scores → calibration across teachers → label names → refinement over the pool → weights
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from muki.files import fingerprint
from muki.formulas import Array, softmax
from muki.methods import Method
from muki.routing.density import unit_length
from muki.routing.evidence import Evidence
from muki.routing.foreign import ForeignTexts
from muki.routing.names import LabelNames
from muki.routing.refinement import FOLDS, SHARPNESS, Neighbourhood, PoolModel
from muki.routing.scores import SCORES, Scorer, gold_scores, parts_of
from muki.routing.weights import hard_weights, soft_weights
from muki.teachers.outputs import TeacherOutputs


@dataclass(frozen=True)
class Routing:
    """Routing of n texts over N teachers.

    Attributes:
        scores: how sure each teacher is, after calibration, shape (n, N).
        weights: how much each is heard, shape (n, N), rows sum to 1.
        probabilities: that each knows the answer, shape (n, N), rows sum to 1; the weights before any is made hard.
        foreign: that none does, shape (n,); 0 where the method does not look for it.
    """

    scores: Array
    weights: Array
    probabilities: Array
    foreign: Array

    @classmethod
    def concatenate(cls, parts: Sequence[Routing]) -> Routing:
        """Several texts' routing as one."""
        return cls(*(np.concatenate([getattr(one, field.name) for one in parts]) for field in fields(cls)))


@dataclass(frozen=True)
class Refinement:
    """What the pool taught a method that refines.

    Attributes:
        axes: of the neutral view, in which the pool is looked at, shape (H, D).
        pool: classes in the neutral view.
        evidence: how view and scores are weighed.
        foreign: tells texts that belong to nobody.
    """

    axes: Array
    pool: PoolModel
    evidence: Evidence
    foreign: ForeignTexts

    def __call__(
        self, texts: Neighbourhood, x: Array, parts: Array, named: Array | None, usual: Array
    ) -> tuple[Array, Array]:
        """Probabilities that each teacher knows the answer (n, N), and that none does (n,).

        Args:
            texts: n of them, looked at along `axes`.
            x: their view, shape (n, H), rows of length 1.
            parts: their calibrated scores, shape (n, N, P).
            named: log weights by the label names, shape (n, N); None where the names are not heard.
            usual: how usual each is for each teacher, shape (n, N).
        """
        by_pool = self.pool.log_weights(texts)
        weights = np.exp(self.evidence.log_weights(voices(by_pool, named), parts.reshape(len(parts), -1)))
        return weights, self.foreign(x, usual)


@dataclass(frozen=True)
class Router:
    """A fitted chain: call it with the teachers' outputs of any texts.

    Attributes:
        method: whose chain this is.
        scorers: of each teacher and each part of the score, the calibrated score function.
        importance: how much each part counts, shape (P,); one more where the label names are heard.
        names: what the label names say; None for methods that do not read them, or where they mean nothing.
        refinement: what the pool taught; None for methods that do not refine, or where the view was not trusted.
        offsets: of the scores, shape (N,).
        temperatures: of the teachers' distributions, shape (N,).
        spread: the joined scores are divided by this, so that one temperature fits any number of parts.
        columns: each teacher's columns in the union.
        findings: what a report may say about the fit.
    """

    method: Method
    scorers: list[list[Scorer]]
    columns: list[tuple[int, ...]]
    importance: Array
    offsets: Array
    temperatures: Array
    spread: float = 1.0
    names: LabelNames | None = None
    refinement: Refinement | None = None
    findings: dict[str, float] = field(default_factory=dict)

    def __call__(self, outputs: list[TeacherOutputs], view: NDArray[np.float16] | None = None) -> Routing:
        """Route texts.

        Args:
            outputs: each teacher's, of the same texts.
            view: of the texts, shape (n, H), where `reads_view`.

        Raises:
            ValueError: the view is missing.
        """
        if view is None and self.reads_view:
            raise ValueError("this router reads the texts' view, and none was given")
        parts = self.parts(outputs)  # (n, N, P)
        x = None if view is None else unit_length(view)
        distributions = self.distributions(outputs)
        named = self.named(distributions, x)
        scores = self.joined(self.with_names(parts, named))
        if not self.method.refines:
            weights = route(scores, self.method)
            return Routing(scores, weights, weights, np.zeros(len(scores)))
        if self.refinement is None or x is None:
            probabilities, foreign = softmax(SHARPNESS * scores), np.zeros(len(scores))
        else:
            texts = neighbourhood(outputs[0].rows, distributions, x @ self.refinement.axes)
            probabilities, foreign = self.refinement(texts, x, parts, named, usual_of(parts, self.method))
        soft = self.method.integration == "soft"
        return Routing(scores, probabilities if soft else hard_weights(probabilities), probabilities, foreign)

    @property
    def reads_view(self) -> bool:
        """Whether a text's view is needed to route it."""
        return self.names is not None or self.refinement is not None

    def distributions(self, outputs: list[TeacherOutputs]) -> list[Array]:
        """Each teacher's distribution over its own labels, shapes (n, C_i): what the target is made of."""
        return [softmax(one.logits, float(t)) for one, t in zip(outputs, self.temperatures, strict=True)]

    def named(self, distributions: list[Array], x: Array | None) -> Array | None:
        """Log weights by the label names, shape (n, N); None where the names are not heard.

        Args:
            distributions: each teacher's distribution, shapes (n, C_i).
            x: view of the n texts, shape (n, H), rows of length 1.
        """
        return None if self.names is None or x is None else self.names.log_weights(x, distributions)

    def with_names(self, parts: Array, named: Array | None) -> Array:
        """The names' say as one more part of the score."""
        if self.names is None or named is None:
            return parts
        return np.concatenate([parts, self.names.scores(named)[..., None]], axis=-1)

    def joined(self, parts: Array) -> Array:
        """One score of all parts, (n, N, P) → (n, N)."""
        result: Array = parts @ self.importance / self.spread + self.offsets
        return result

    def parts(self, outputs: list[TeacherOutputs]) -> Array:
        """Calibrated scores of the teachers' outputs, shape (n, N, P) for P parts."""
        return np.stack(
            [np.stack([score(one) for score in own], axis=-1) for own, one in zip(self.scorers, outputs, strict=True)],
            axis=1,
        )


def plain_distributions(outputs: list[TeacherOutputs]) -> list[Array]:
    """Each teacher's softmax as it is, shapes (n, C_i)."""
    return [softmax(one.logits) for one in outputs]


def gold_routing(gold: NDArray[np.int64], columns: Sequence[Sequence[int]]) -> Routing:
    """Routing by the gold labels, indices into the union: the ceiling of every router."""
    scores = gold_scores(gold, columns)
    weights = hard_weights(scores)
    return Routing(scores, weights, weights, np.zeros(len(scores)))


def route(scores: Array, method: Method) -> Array:
    """Routing weights of a method without refinement, shape (n, N)."""
    return soft_weights(scores, method.temperature) if method.integration == "soft" else hard_weights(scores)


def neighbourhood(rows: NDArray[np.int64], distributions: list[Array], view: Array) -> Neighbourhood:
    """What refinement reads of some texts; the fold of a text follows from its row, in every shard alike."""
    return Neighbourhood(view=view, distributions=distributions, folds=fold_of(rows))


def fold_of(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number in 0..FOLDS − 1 for each row id, shape (n,), as good as drawn."""
    return np.array([int(fingerprint("fold", int(row))[:8], 16) % FOLDS for row in rows], dtype=np.int64)


def usual_of(parts: Array, method: Method) -> Array:
    """The parts of a score that say how usual a text is for each teacher; (n, N, P) → (n, N), zeros without any."""
    says = np.array([SCORES[name].needs_features for name in parts_of(method.score)], dtype=np.float64)
    result: Array = parts @ says
    return result


def voices(by_pool: Array, named: Array | None) -> list[Array]:
    """What the view says: by the pool's classes, and by the label names where they are heard; each (n, N)."""
    return [by_pool] if named is None else [by_pool, named]
