"""Fitting a router: what the pool says about scores, label names and classes, without a label."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import numpy as np
from numpy.typing import NDArray

from muki.formulas import Array
from muki.integration.router import Refinement, Router, neighbourhood, usual_of, voices
from muki.labels import LabelSpace
from muki.methods import Method
from muki.routing.calibration import mixture, normal_ranks, standardise
from muki.routing.density import principal_axes, unit_length
from muki.routing.evidence import Evidence
from muki.routing.foreign import ForeignTexts
from muki.routing.names import START_PRIOR, LabelNames, are_words, mean_something, name_agreement
from muki.routing.overlap import decided_groups, first_offsets, group_scores
from muki.routing.refinement import SHARPNESS, Neighbourhood, PoolModel, Refined, agreement, refine
from muki.routing.scores import SCORES, Scorer, fit_scores, parts_of
from muki.routing.temperature import teacher_temperatures
from muki.routing.weights import hard_weights
from muki.teachers.outputs import TeacherOutputs

logger = logging.getLogger(__name__)

FIT_ROWS = 20_000  # statistics of a large pool come from so many of its texts
_FEWEST = 150  # texts of a pool; fewer do not show its classes
_TEXTS_PER_AXIS = 4  # of a small pool: a covariance in more dimensions would be one of noise
_NEARLY_ALL = 0.99  # of the pool: two judges who say this agree by chance
_ROUNDS = 2  # of weighing the two judges and fitting the pool's classes anew


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
    router = _by_scores(method, outputs, list(space.columns.values()))
    if not method.refines or view is None:
        return router
    if len(view) < _FEWEST:
        logger.info("refinement: %d texts are too few to show their classes, keeping the scores", len(view))
        return replace(router, findings={"refined": 0.0})
    pool = _Pool.of(outputs, view, len(space.labels))
    if names is not None:
        router = _hear_names(router, pool, names, space)
    router, verdict = _judge_view(router, pool, list(space.columns))
    found = _refined(router, pool, verdict)
    temperatures = _temperatures(found, pool, view) if method.sharpens else found.temperatures
    if (temperatures == 1).all():
        return found
    logger.info("teachers: surer than they say, temperatures %s; the pool is looked at again with these",
                ", ".join(f"{one:.2f}" for one in temperatures))  # fmt: skip
    router = replace(router, temperatures=temperatures)
    if router.names is not None:
        router = replace(router, names=router.names.scaled(pool.x, router.distributions(outputs)))
    return _refined(router, pool, verdict)


def _by_scores(method: Method, outputs: list[TeacherOutputs], columns: list[tuple[int, ...]]) -> Router:
    """The router before the pool is looked at in the neutral view: each teacher's scores, calibrated and joined."""
    scores = parts_of(method.score)
    by_part = [fit_scores(outputs, name) for name in scores]
    scorers = [
        [_calibrated(method, name, by_part[p][i], outputs[i]) for p, name in enumerate(scores)]
        for i in range(len(outputs))
    ]
    enough = len(outputs[0]) >= _FEWEST  # for a covariance that deserves to be heard more than the entropy
    priors = np.array([SCORES[name].prior if enough else 1.0 for name in scores])
    router = Router(method, scorers, columns, priors, np.zeros(len(outputs)), np.ones(len(outputs)))
    parts = router.parts(outputs)
    spread = _spread(parts, priors) if len(scores) > 1 else float(priors[0])
    return _with_offsets(replace(router, spread=spread), parts)


def _with_offsets(router: Router, parts: Array) -> Router:
    """The router whose standardised scores give each teacher what is expected of the pool; others as they are."""
    if router.method.calibration != "standardise":
        return router
    scores = parts @ router.importance / router.spread
    return replace(router, offsets=first_offsets(scores, router.columns, SHARPNESS))


@dataclass(frozen=True)
class _Pool:
    """What a router that refines learns from.

    Attributes:
        outputs: each teacher's, of n texts.
        x: the texts' view, shape (n, H), rows of length 1.
        axes: of the view, along which the texts are looked at, shape (H, D).
        n_labels: size of the union.
    """

    outputs: list[TeacherOutputs]
    x: Array
    axes: Array
    n_labels: int

    @classmethod
    def of(cls, outputs: list[TeacherOutputs], view: NDArray[np.float16], n_labels: int) -> Self:
        """From the texts' view, shape (n, H)."""
        x = unit_length(view)
        return cls(outputs, x, principal_axes(x, len(x) // _TEXTS_PER_AXIS), n_labels)

    def texts(self, router: Router) -> Neighbourhood:
        """The texts with the teachers' distributions at the router's temperatures."""
        return neighbourhood(self.outputs[0].rows, router.distributions(self.outputs), self.x @ self.axes)


def _temperatures(router: Router, pool: _Pool, view: NDArray[np.float16]) -> Array:
    """Each teacher's temperature by the pool's classes and the label names, as far as the router listens to them."""
    judges = []
    if router.refinement is not None:
        judges.append(router.refinement.pool.log_probabilities(pool.texts(router)))
    if router.names is not None:
        judges.append(router.names.log_probabilities(pool.x))
    weights = router(pool.outputs, view).probabilities
    return teacher_temperatures([one.logits for one in pool.outputs], judges, weights, router.columns)


def _hear_names(router: Router, pool: _Pool, vectors: NDArray[np.float16], space: LabelSpace) -> Router:
    """The router with the label names as one more part of its score, if the teachers bear them out."""
    if not are_words(space.labels):
        logger.info("label names: not heard, most are no words (%s, ...)", ", ".join(space.labels[:3]))
        return replace(router, findings={"names_heard": 0.0})
    distributions, parts = router.distributions(pool.outputs), router.parts(pool.outputs)
    names = LabelNames.fit(vectors, pool.x, distributions, router.columns)
    kappa = name_agreement(names.log_probabilities(pool.x), distributions, router.columns, router.joined(parts))
    names, heard = replace(names, agreement=kappa), mean_something(kappa, router.columns)
    logger.info(
        "label names: the teachers agree with them %.2f beyond chance (Cohen's kappa): %s",
        kappa, "heard" if heard else "not heard",
    )  # fmt: skip
    findings = {"names_agreement": kappa, "names_heard": float(heard)}
    if not heard:
        return replace(router, findings=findings)
    return replace(router, names=names, findings=findings)


@dataclass(frozen=True)
class _Verdict:
    """On the view, once and for all.

    Attributes:
        trusted: whether it corrects the scores.
        good: whether it is at least as good as they are.
        found: what refinement found, without names and with the teachers as they are.
    """

    trusted: bool
    good: bool
    found: Refined


def _judge_view(router: Router, pool: _Pool, teachers: list[str]) -> tuple[Router, _Verdict]:
    """Whether the view shows the pool's classes, by the teachers as they are, and the router with what was found."""
    texts, parts = pool.texts(router), router.parts(pool.outputs)
    named = router.named(texts.distributions, pool.x)
    groups, predictions = decided_groups(router.columns, pool.n_labels), texts.predictions(router.columns)
    by_group = partial(group_scores, predictions=predictions, groups=groups)
    found = refine(texts, parts, router.importance, router.columns, pool.n_labels)
    # The names come from the view itself: they may speak against it, but not for it.
    scores, view = router.joined(parts), found.model.log_weights(texts)
    trusted = found.trusted
    if named is not None:
        with_scores, with_view = (agreement(map(by_group, [named, one])).mean() for one in (scores, view))
        trusted = trusted and bool(with_view >= with_scores)
    accuracies = {"view": found.trust.view_accuracy, "score": found.trust.score_accuracy}
    judged = {who: accuracy for who, accuracy in accuracies.items() if not np.isnan(accuracy)}
    shares = np.exp(view).mean(axis=0)
    if not trusted and shares.max() > _NEARLY_ALL:
        logger.warning(
            "refinement: view and scores give nearly all texts to '%s'; if the pool has none of the others' labels, "
            "leave these teachers out, or add such texts", teachers[int(shares.argmax())],
        )  # fmt: skip
        judged = {}  # two judges that always say the same
    said = [f"by the {who} about {100 * accuracy:.0f} % right" for who, accuracy in judged.items()]
    logger.info(
        "refinement: %s; %s", ", ".join(said) or "too few texts to judge",
        "refined" if trusted else "keeping the scores, the label names side with them" if found.trusted
        else "keeping the scores, the view does not show the classes",
    )  # fmt: skip
    findings = {f"{who}_accuracy": accuracy for who, accuracy in judged.items()}
    findings = {**router.findings, **findings, "refined": float(trusted)}
    return replace(router, findings=findings), _Verdict(trusted, found.trust.earned, found)


def _refined(router: Router, pool: _Pool, verdict: _Verdict) -> Router:
    """The router with what the pool taught it, if the view is trusted; else with the scores that it has."""
    texts, parts = pool.texts(router), router.parts(pool.outputs)
    named = router.named(texts.distributions, pool.x)
    joined, priors = router.with_names(parts, named), router.importance
    if not verdict.trusted:
        importance = priors if router.names is None else np.append(priors, router.names.prior(verdict.good))
        return _with_offsets(replace(router, importance=importance, spread=_spread(joined, importance)), joined)
    priors = priors if named is None else np.append(priors, START_PRIOR)
    known = named is None and (router.temperatures == 1).all()
    found = verdict.found if known else refine(texts, joined, priors, router.columns, pool.n_labels)
    classes, evidence = _two_judges(found.model, texts, parts, named)
    usual = usual_of(parts, router.method)
    foreign = ForeignTexts.fit(pool.x, usual, known=parts.max(axis=1).sum(axis=-1))
    learned = {"view_exponent": float(evidence.exponents[0]), "foreign_share": float(foreign(pool.x, usual).mean())}
    return replace(
        router, refinement=Refinement(pool.axes, classes, evidence, foreign), offsets=found.offsets,
        importance=found.importance, spread=_spread(joined, found.importance),
        findings={**router.findings, **learned},
    )  # fmt: skip


def _two_judges(pool: PoolModel, texts: Neighbourhood, parts: Array, named: Array | None) -> tuple[PoolModel, Evidence]:
    """View and scores weighed against each other, and the pool's classes fitted anew from both, in turn."""
    flat, n_labels = parts.reshape(len(parts), -1), len(pool.models[0].means)
    predictions = texts.predictions(pool.columns)
    for _ in range(_ROUNDS):
        said = voices(pool.log_weights(texts), named)
        evidence = Evidence.fit(said, flat, predictions)
        weights = np.exp(evidence.log_weights(said, flat))
        pool = PoolModel.fit(texts, hard_weights(weights), pool.columns, n_labels)
    return pool, evidence


def _spread(parts: Array, importance: Array) -> float:
    return max(float((parts @ importance).std()), 1e-12)


def _calibrated(method: Method, name: str, score: Scorer, pool: TeacherOutputs) -> Scorer:
    if method.calibration == "none":
        return score
    if method.calibration == "mixture":
        odds = mixture(score(pool))
        return lambda outputs: odds(score(outputs))
    first = normal_ranks(score(pool)) if SCORES[name].needs_features else None  # distances have long tails
    values = score(pool) if first is None else first(score(pool))
    scale = standardise(values)
    return lambda outputs: scale(score(outputs) if first is None else first(score(outputs)))
