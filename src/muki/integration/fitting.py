"""Fitting a router: what the pool says about scores, label names and classes, without a label."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from muki.formulas import Array
from muki.integration.router import Column, Refinement, Router, neighbourhood, usual_of, voices
from muki.labels import LabelSpace
from muki.methods import Method
from muki.routing.calibration import mixture, normal_ranks, standardise
from muki.routing.density import principal_axes, unit_length
from muki.routing.evidence import Evidence
from muki.routing.foreign import ForeignTexts
from muki.routing.names import START_PRIOR, LabelNames, are_words, borne_out, mean_something
from muki.routing.refinement import Neighbourhood, PoolModel, agreement, refine
from muki.routing.scores import SCORES, fit_scores, parts_of
from muki.routing.temperature import teacher_temperatures
from muki.routing.weights import hard_weights
from muki.teachers.outputs import TeacherOutputs

logger = logging.getLogger(__name__)

FIT_ROWS = 20_000  # statistics of a large pool come from so many of its texts
_FEWEST = 150  # texts of a pool; fewer do not show its classes
_TEXTS_PER_AXIS = 4  # of a small pool: a covariance in more dimensions would be one of noise
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
    union = list(space.columns.values())
    scores = parts_of(method.score)
    by_part = [fit_scores(outputs, name) for name in scores]
    columns = [
        [_calibrated(method, name, by_part[p][i], outputs[i]) for p, name in enumerate(scores)]
        for i in range(len(outputs))
    ]
    enough = len(outputs[0]) >= _FEWEST  # for a covariance that deserves to be heard more than the entropy
    priors = np.array([SCORES[name].prior if enough else 1.0 for name in scores])
    router = Router(method, columns, union, priors, np.zeros(len(outputs)), np.ones(len(outputs)))
    spread = _spread(router.parts(outputs), priors) if len(scores) > 1 else float(priors[0])
    router = replace(router, spread=spread)
    if not method.refines or view is None:
        return router
    if len(view) < _FEWEST:
        logger.info("refinement: %d texts are too few to show their classes, keeping the scores", len(view))
        return replace(router, findings={"refined": 0.0})
    x = unit_length(view)
    found = _look_at_pool(router, outputs, x, names, space)
    if not method.sharpens:
        return found
    temperatures = _temperatures(found, outputs, view)
    if (temperatures == 1).all():
        return found
    logger.info("teachers: surer than they say, temperatures %s; the pool is looked at again with these",
                ", ".join(f"{one:.2f}" for one in temperatures))  # fmt: skip
    return _look_at_pool(replace(router, temperatures=temperatures), outputs, x, names, space)


def _look_at_pool(
    router: Router, outputs: list[TeacherOutputs], x: Array, names: NDArray[np.float16] | None, space: LabelSpace
) -> Router:
    """The router with what label names and pool say of the teachers' answers at its temperatures."""
    if names is not None:
        router = _hear_names(router, outputs, x, names, space)
    return _refined(router, outputs, x, len(space.labels))


def _temperatures(router: Router, outputs: list[TeacherOutputs], view: NDArray[np.float16]) -> Array:
    """Each teacher's temperature by the pool's classes and the label names, as far as the router listens to them."""
    x, judges = unit_length(view), []
    if router.refinement is not None:
        texts = neighbourhood(outputs[0].rows, router.answers(outputs), x @ router.refinement.axes)
        judges.append(router.refinement.pool.log_probabilities(texts))
    if router.names is not None:
        judges.append(router.names.log_probabilities(x))
    weights = router(outputs, view).probabilities
    return teacher_temperatures([one.logits for one in outputs], judges, weights, router.union)


def _hear_names(
    router: Router, outputs: list[TeacherOutputs], x: Array, vectors: NDArray[np.float16], space: LabelSpace
) -> Router:
    """The router with the label names as one more part of its score, if the teachers bear them out."""
    if not are_words(space.labels):
        logger.info("label names: not heard, most are no words (%s, ...)", ", ".join(space.labels[:3]))
        return replace(router, findings={"names_heard": 0.0})
    distributions, parts = router.answers(outputs), router.parts(outputs)
    names = LabelNames.fit(vectors, x, distributions, router.union)
    kappa = borne_out(names.log_probabilities(x), distributions, router.union, parts @ router.importance)
    names, heard = replace(names, agreement=kappa), mean_something(kappa, router.union)
    logger.info(
        "label names: the teachers agree with them %.2f beyond chance (Cohen's kappa): %s",
        kappa, "heard" if heard else "not heard",
    )  # fmt: skip
    findings = {"names_agreement": kappa, "names_heard": float(heard)}
    if not heard:
        return replace(router, findings=findings)
    return replace(router, names=names, findings=findings)


def _refined(router: Router, outputs: list[TeacherOutputs], x: Array, n_labels: int) -> Router:
    """The router with what the pool taught it, if the view shows the classes; else with the scores that it has."""
    axes = principal_axes(x, len(x) // _TEXTS_PER_AXIS)
    answers = router.answers(outputs)
    texts = neighbourhood(outputs[0].rows, answers, x @ axes)
    parts, named = router.parts(outputs), router.named(answers, x)
    joined, priors = router.with_names(parts, named), router.importance
    # The names come from the view itself: they may speak against it, but not for it.
    found = refine(texts, parts, priors, router.union, n_labels)
    against = named is not None and agreement([named, found.model.log_weights(texts)]) < agreement(
        [named, parts @ priors]
    )
    trusted = found.trusted and not against
    logger.info(
        "refinement: the view is right on about %.0f %%, the scores on about %.0f %%: %s",
        100 * found.trust.view_accuracy, 100 * found.trust.score_accuracy,
        "refined" if trusted else "keeping the scores, the label names side with them" if found.trusted
        else "keeping the scores, the view does not show the classes",
    )  # fmt: skip
    findings = {
        **(router.findings or {}),
        "view_accuracy": found.trust.view_accuracy,
        "score_accuracy": found.trust.score_accuracy,
        "refined": float(trusted),
    }
    router = replace(router, findings=findings)
    if not trusted:
        importance = priors if router.names is None else np.append(priors, router.names.prior(found.trust.earned))
        return replace(router, importance=importance, spread=_spread(joined, importance))
    if named is not None:
        found = refine(texts, joined, np.append(priors, START_PRIOR), router.union, n_labels)
    pool, evidence = _two_judges(found.model, texts, parts, named)
    usual = usual_of(parts, router.method)
    foreign = ForeignTexts.fit(x, usual, known=parts.max(axis=1).sum(axis=-1))
    learned = {"view_exponent": float(evidence.exponents[0]), "foreign_share": float(foreign(x, usual).mean())}
    return replace(
        router, refinement=Refinement(axes, pool, evidence, foreign), offsets=found.offsets,
        importance=found.importance, spread=_spread(joined, found.importance), findings={**findings, **learned},
    )  # fmt: skip


def _two_judges(pool: PoolModel, texts: Neighbourhood, parts: Array, named: Array | None) -> tuple[PoolModel, Evidence]:
    """View and scores weighed against each other, and the pool's classes fitted anew from both, in turn."""
    flat, answers, n_labels = parts.reshape(len(parts), -1), texts.answers(pool.columns), len(pool.models[0].means)
    for _ in range(_ROUNDS):
        said = voices(pool.log_weights(texts), named)
        evidence = Evidence.fit(said, flat, answers)
        weights = np.exp(evidence.log_weights(said, flat))
        pool = PoolModel.fit(texts, hard_weights(weights), pool.columns, n_labels)
    return pool, evidence


def _spread(parts: Array, importance: Array) -> float:
    return max(float((parts @ importance).std()), 1e-12)


def _calibrated(method: Method, name: str, score: Column, pool: TeacherOutputs) -> Column:
    if method.calibration == "none":
        return score
    if method.calibration == "mixture":
        odds = mixture(score(pool))
        return lambda outputs: odds(score(outputs))
    first = normal_ranks(score(pool)) if SCORES[name].needs_features else None  # distances have long tails
    values = score(pool) if first is None else first(score(pool))
    scale = standardise(values)
    return lambda outputs: scale(score(outputs) if first is None else first(score(outputs)))
