"""The router: a method's chain from teacher outputs to routing weights, fitted on the pool.

scores → calibration across teachers → label names → refinement over the pool → weights
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from muki.files import fingerprint
from muki.formulas import Array, softmax
from muki.labels import LabelSpace
from muki.methods import Method
from muki.routing.calibration import normal_ranks, standardise
from muki.routing.density import principal_axes, unit_length
from muki.routing.evidence import Evidence
from muki.routing.foreign import ForeignTexts
from muki.routing.names import PRIOR, START_PRIOR, LabelNames, are_words, borne_out, mean_something
from muki.routing.refinement import FOLDS, SHARPNESS, Neighbourhood, PoolModel, refine
from muki.routing.scores import SCORES, fit_scores, gold_scores, parts_of
from muki.routing.weights import hard_weights, soft_weights
from muki.teachers.outputs import TeacherOutputs

logger = logging.getLogger(__name__)

FIT_ROWS = 20_000  # statistics of a large pool come from so many of its texts
_FEWEST = 150  # texts of a pool; fewer do not show its classes
_TEXTS_PER_AXIS = 4  # of a small pool: a covariance in more dimensions would be one of noise
_ROUNDS = 2  # of weighing the two judges and fitting the pool's classes anew

Column = Callable[[TeacherOutputs], Array]


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
        self, outputs: list[TeacherOutputs], x: Array, parts: Array, named: list[Array], usual: Array
    ) -> tuple[Array, Array]:
        """Probabilities that each teacher knows the answer (n, N), and that none does (n,).

        Args:
            outputs: each teacher's, of n texts.
            x: view of these texts, shape (n, H), rows of length 1.
            parts: their calibrated scores, shape (n, N, P).
            named: log weights by the label names, shape (n, N); empty where the names are not heard.
            usual: how usual each is for each teacher, shape (n, N).
        """
        by_pool = self.pool.log_weights(neighbourhood(outputs, x @ self.axes))
        weights = np.exp(self.evidence.log_weights([by_pool, *named], parts.reshape(len(parts), -1)))
        return weights, self.foreign(x, usual)


@dataclass(frozen=True)
class Router:
    """A fitted chain: call it with the teachers' outputs of any texts.

    Attributes:
        method: whose chain this is.
        columns: of each teacher and each part of the score, the calibrated score function.
        importance: how much each part counts, shape (P,); one more where the label names are heard.
        names: what the label names say; None for methods that do not read them, or where they mean nothing.
        refinement: what the pool taught; None for methods that do not refine, or where the view was not trusted.
        offsets: of the scores, shape (N,).
        spread: the joined scores are divided by this, so that one temperature fits any number of parts.
        union: each teacher's columns in the union.
        findings: what a report may say about the fit.
    """

    method: Method
    columns: list[list[Column]]
    union: list[tuple[int, ...]]
    importance: Array
    offsets: Array
    spread: float = 1.0
    names: LabelNames | None = None
    refinement: Refinement | None = None
    findings: dict[str, float] | None = None

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
        named = self.named(outputs, x)
        scores = self.with_names(parts, named) @ self.importance / self.spread + self.offsets
        if not self.method.refines:
            weights = route(scores, self.method)
            return Routing(scores, weights, weights, np.zeros(len(scores)))
        if self.refinement is None or x is None:
            probabilities, foreign = softmax(SHARPNESS * scores), np.zeros(len(scores))
        else:
            probabilities, foreign = self.refinement(outputs, x, parts, named, _usual(parts, self.method))
        soft = self.method.integration == "soft"
        return Routing(scores, probabilities if soft else hard_weights(probabilities), probabilities, foreign)

    @property
    def reads_view(self) -> bool:
        """Whether a text's view is needed to route it."""
        return self.names is not None or self.refinement is not None

    def named(self, outputs: list[TeacherOutputs], x: Array | None) -> list[Array]:
        """Log weights by the label names, shape (n, N), in a list that is empty where the names are not heard.

        Args:
            outputs: each teacher's, of n texts.
            x: view of these, shape (n, H), rows of length 1.
        """
        if self.names is None or x is None:
            return []
        return [self.names.log_weights(x, [softmax(one.logits) for one in outputs])]

    def with_names(self, parts: Array, named: list[Array]) -> Array:
        """The names' say as one more part of the score."""
        if self.names is None:
            return parts
        return np.concatenate([parts, *(self.names.scores(one)[..., None] for one in named)], axis=-1)

    def parts(self, outputs: list[TeacherOutputs]) -> Array:
        """Calibrated scores of the teachers' outputs, shape (n, N, P) for P parts."""
        return np.stack(
            [
                np.stack([column(one) for column in own], axis=-1)
                for own, one in zip(self.columns, outputs, strict=True)
            ],
            axis=1,
        )


def gold_routing(gold: NDArray[np.int64], columns: Sequence[Sequence[int]]) -> Routing:
    """Routing by the gold labels, indices into the union: the ceiling of every router."""
    scores = gold_scores(gold, columns)
    weights = hard_weights(scores)
    return Routing(scores, weights, weights, np.zeros(len(scores)))


def route(scores: Array, method: Method) -> Array:
    """Routing weights of a method without refinement, shape (n, N)."""
    return soft_weights(scores, method.temperature) if method.integration == "soft" else hard_weights(scores)


def needs_pool(method: Method) -> bool:
    """Whether a method's chain has anything to learn from the pool."""
    features = any(SCORES[part].needs_features for part in parts_of(method.score))
    return features or method.calibration != "none" or method.refines


def fit_router(
    method: Method,
    outputs: list[TeacherOutputs],
    space: LabelSpace,
    view: NDArray[np.float16] | None = None,
    names: NDArray[np.float16] | None = None,
) -> Router:
    """Fit a method's chain on the pool, or on a sample of it.

    Args:
        method: the chain.
        outputs: each teacher's, of the same texts.
        space: the label space.
        view: neutral view of the texts, shape (n, H), where the method refines.
        names: neutral view of the label names, shape (C, H), where the method reads them.

    Raises:
        ValueError: a score needs what the outputs do not have.
    """
    union = list(space.columns.values())
    scores = parts_of(method.score)
    by_part = [fit_scores(outputs, name) for name in scores]
    columns = [
        [_calibrated(method, name, by_part[p][i], outputs[i]) for p, name in enumerate(scores)]
        for i in range(len(outputs))
    ]
    priors = np.array([SCORES[name].prior for name in scores])
    router = Router(method, columns, union, priors, np.zeros(len(outputs)))
    spread = _spread(router.parts(outputs), priors) if len(scores) > 1 else float(priors[0])
    router = replace(router, spread=spread)
    if not method.refines or view is None:
        return router
    if len(view) < _FEWEST:
        logger.info("refinement: %d texts are too few to show their classes, keeping the scores", len(view))
        return replace(router, findings={"refined": 0.0})
    x = unit_length(view)
    if names is not None:
        router = _hear_names(router, outputs, x, names, space)
    return _refined(router, outputs, x, len(space.labels))


def neighbourhood(outputs: list[TeacherOutputs], view: Array) -> Neighbourhood:
    """What refinement reads of some texts; the fold of a text follows from its row, in every shard alike."""
    return Neighbourhood(
        view=view,
        distributions=[softmax(one.logits) for one in outputs],
        folds=fold_of(outputs[0].rows),
    )


def fold_of(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number in 0..FOLDS − 1 for each row id, shape (n,), as good as drawn."""
    return np.array([int(fingerprint("fold", int(row))[:8], 16) % FOLDS for row in rows], dtype=np.int64)


def _hear_names(
    router: Router, outputs: list[TeacherOutputs], x: Array, vectors: NDArray[np.float16], space: LabelSpace
) -> Router:
    """The router with the label names as one more part of its score, if the teachers bear them out."""
    if not are_words(space.labels):
        logger.info("label names: not heard, most are no words (%s, ...)", ", ".join(space.labels[:3]))
        return replace(router, findings={"names_heard": 0.0})
    distributions, parts = [softmax(one.logits) for one in outputs], router.parts(outputs)
    names = LabelNames.fit(vectors, x, distributions, router.union)
    agreement = borne_out(names.log_probabilities(x), distributions, router.union, parts @ router.importance)
    heard = mean_something(agreement, router.union)
    logger.info(
        "label names: the teachers agree with them %.2f beyond chance (Cohen's kappa): %s",
        agreement, "heard" if heard else "not heard",
    )  # fmt: skip
    findings = {"names_agreement": agreement, "names_heard": float(heard)}
    if not heard:
        return replace(router, findings=findings)
    router = replace(router, names=names, importance=np.append(router.importance, PRIOR), findings=findings)
    joined = router.with_names(parts, router.named(outputs, x))
    return replace(router, spread=_spread(joined, router.importance))


def _refined(router: Router, outputs: list[TeacherOutputs], x: Array, n_labels: int) -> Router:
    axes = principal_axes(x, len(x) // _TEXTS_PER_AXIS)
    texts = neighbourhood(outputs, x @ axes)
    parts, named = router.parts(outputs), router.named(outputs, x)
    priors = router.importance[: parts.shape[-1]]
    # The names come from the view itself: whether it can be trusted is for what the teachers alone say of the texts.
    found = refine(texts, parts, priors, router.union, n_labels)
    judged, trusted = found.trust, found.trusted
    findings = {
        **(router.findings or {}),
        "view_accuracy": judged.view_accuracy,
        "score_accuracy": judged.score_accuracy,
    }
    logger.info(
        "refinement: the view is right on about %.0f %%, the scores on about %.0f %%: %s",
        100 * judged.view_accuracy, 100 * judged.score_accuracy,
        "refined" if trusted else "keeping the scores, the view does not show the classes",
    )  # fmt: skip
    if not trusted:
        return replace(router, findings={**findings, "refined": 0.0})
    joined = router.with_names(parts, named)
    if named:
        found = refine(texts, joined, np.append(priors, START_PRIOR), router.union, n_labels)
    pool, flat, answers = found.model, parts.reshape(len(parts), -1), texts.answers(router.union)
    for _ in range(_ROUNDS):
        voices = [pool.log_weights(texts), *named]
        evidence = Evidence.fit(voices, flat, answers)
        weights = np.exp(evidence.log_weights(voices, flat))
        pool = PoolModel.fit(texts, hard_weights(weights), router.union, n_labels)
    usual = _usual(parts, router.method)
    refinement = Refinement(axes, pool, evidence, ForeignTexts.fit(x, usual))
    share = float(refinement.foreign(x, usual).mean())
    return replace(
        router, refinement=refinement, offsets=found.offsets,
        importance=found.importance, spread=_spread(joined, found.importance),
        findings={**findings, "refined": 1.0, "view_exponent": float(evidence.exponents[0]), "foreign_share": share},
    )  # fmt: skip


def _usual(parts: Array, method: Method) -> Array:
    """The parts of a score that say how usual a text is for each teacher; (n, N, P) → (n, N), zeros without any."""
    says = np.array([SCORES[name].needs_features for name in parts_of(method.score)], dtype=np.float64)
    result: Array = parts @ says
    return result


def _spread(parts: Array, importance: Array) -> float:
    return max(float((parts @ importance).std()), 1e-12)


def _calibrated(method: Method, name: str, score: Column, pool: TeacherOutputs) -> Column:
    if method.calibration == "none":
        return score
    first = normal_ranks(score(pool)) if SCORES[name].needs_features else None  # distances have long tails
    values = score(pool) if first is None else first(score(pool))
    scale = standardise(values)
    return lambda outputs: scale(score(outputs) if first is None else first(score(outputs)))
