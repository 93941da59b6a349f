"""Refinement: the pool as a whole shows the classes; here each text is looked at together with all others.

In a neutral view (the student's encoder, which belongs to no teacher) every class of the union is a Gaussian. Its mean
comes from the current targets, and the discriminant then says again to which teacher a text belongs: EM. Each text is
judged by a model that was fitted without it (cross-fitting), so that a wrong start is not simply repeated.

    targets from weights → class Gaussians without this text → P(class | view) → weights

where a teacher's weight is how much the view agrees with what this teacher says, against what a teacher that knows
nothing would say:

    w_i ∝ Σ_{y ∈ L_i} P(y | view) p_i(y | x) / (1 / |L_i|)

(Bayes' rule with view and teacher independent given the class; p_i has its uniform prior over L_i divided out, or else a
teacher of many classes would be heard less than one of few.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muki.formulas import Array, log_softmax, logsumexp
from muki.routing.calibration import match_shares
from muki.routing.density import ClassGaussians

FOLDS = 4
SHRINKAGE = 0.5  # strong: a sharp covariance repeats its start
ROUNDS = 3
RESTARTS = 8
SHARPNESS = 4.0  # of the start: softmax(4 · score), scores in standard deviations
_DOUBT = 0.02  # the two accuracies are estimates: a view this much below the start is still tried
_CONVINCING = 0.9  # agreement on what the shifted start is sure of, mean over the teachers
_FEWEST = 10  # texts of a teacher, to say anything of it; a view that takes all from a teacher is not trusted
_SETTLED = 0.02  # offsets that change less are settled, in standard deviations


@dataclass(frozen=True)
class Neighbourhood:
    """What refinement reads of n texts.

    Attributes:
        view: neutral view, shape (n, H), rows of length 1.
        distributions: each teacher's softmax, shapes (n, C_i).
        folds: which model may judge the text, shape (n,), in 0..FOLDS − 1: the one that was fitted without it.
    """

    view: Array
    distributions: list[Array]
    folds: NDArray[np.int64]


@dataclass(frozen=True)
class PoolModel:
    """One set of class Gaussians for each fold.

    Attributes:
        models: fitted without the texts of each fold.
        columns: each teacher's columns in the union.
    """

    models: list[ClassGaussians]
    columns: Sequence[Sequence[int]]

    @classmethod
    def fit(cls, texts: Neighbourhood, weights: Array, columns: Sequence[Sequence[int]], n_labels: int) -> PoolModel:
        """Class Gaussians from the targets that routing weights (n, N) make."""
        targets = np.zeros((len(weights), n_labels))
        for teacher, (own, p) in enumerate(zip(columns, texts.distributions, strict=True)):
            targets[:, list(own)] += weights[:, teacher, None] * p
        models = []
        for fold in range(FOLDS):
            rest = texts.folds != fold
            models.append(ClassGaussians.fit(texts.view[rest], targets[rest], SHRINKAGE))
        return cls(models, columns)

    def log_weights(self, texts: Neighbourhood) -> Array:
        """Log of how much the view agrees with each teacher, normalised over the teachers; shape (n, N)."""
        log_class = np.empty((len(texts.view), len(self.models[0].means)))
        for fold, model in enumerate(self.models):
            own = texts.folds == fold
            log_class[own] = model.log_joint(texts.view[own])
        log_class = log_softmax(log_class)
        agreement = [
            logsumexp(log_class[:, list(own)] + np.log(np.maximum(p, 1e-300))) + np.log(len(own))
            for own, p in zip(self.columns, texts.distributions, strict=True)
        ]
        return log_softmax(np.stack(agreement, axis=-1))


@dataclass(frozen=True)
class Refined:
    """What refinement found.

    Attributes:
        model: of the pool; None where the view does not show the classes and the start is kept.
        shares: each teacher's share of the pool, shape (N,).
        offsets: of the start's scores, so that they fit these shares, shape (N,).
        view_agreement: see `trust`.
        start_accuracy: see `trust`.
    """

    model: PoolModel | None
    shares: Array
    offsets: Array
    view_agreement: float
    start_accuracy: float


def refine(texts: Neighbourhood, start: Array, columns: Sequence[Sequence[int]], n_labels: int) -> Refined:
    """EM over the pool from standardised scores.

    The start gives every teacher the same share. EM finds better shares; then the start is shifted to these shares and
    EM begins anew, until they settle. The view must then have earned trust: after the first EM it is not clearly worse
    than the start; or, where the first shares were far off, it agrees with nearly all that the shifted start is sure
    of.

    Args:
        texts: of the pool, or a sample of it.
        start: scores, shape (n, N), in standard deviations.
        columns: each teacher's columns in the union.
        n_labels: size of the union.
    """
    n_teachers = start.shape[1]
    answers = np.stack(
        [np.asarray(own)[p.argmax(axis=-1)] for own, p in zip(columns, texts.distributions, strict=True)], axis=-1
    )
    offsets = np.zeros(n_teachers)
    first: tuple[float, float] | None = None
    for _ in range(RESTARTS):
        weights = np.eye(n_teachers)[(start + offsets).argmax(axis=-1)]
        for _ in range(ROUNDS):
            model = PoolModel.fit(texts, weights, columns, n_labels)
            weights = np.exp(model.log_weights(texts))
        first = first or trust(start, weights, answers)
        before = offsets
        offsets = match_shares(start, weights.mean(axis=0), SHARPNESS)
        if np.abs(offsets - before).max() < _SETTLED:
            break
    agreement, accuracy = first or (0.0, 1.0)
    last, _ = trust(start + before, weights, answers)
    if agreement < accuracy - _DOUBT and last < _CONVINCING:
        return Refined(None, np.full(n_teachers, 1 / n_teachers), np.zeros(n_teachers), agreement, accuracy)
    return Refined(model, weights.mean(axis=0), offsets, max(agreement, last), accuracy)


def trust(start: Array, weights: Array, answers: NDArray[np.int64] | None = None) -> tuple[float, float]:
    """Whether the view knows better than the start, without labels.

    Where the start is very sure it is nearly always right, so that how often the view agrees with it there estimates
    the view's own accuracy α. How often they agree everywhere, A, then gives the start's accuracy a, if their mistakes
    are independent: `A = a α + (1 − a)(1 − α)/(N − 1)`.

    Args:
        start: scores, shape (n, N).
        weights: what the view says, shape (n, N).
        answers: each teacher's top class as an index into the union, shape (n, N); two teachers that give the same
            class do not disagree.

    Returns:
        α, on the surer half of each teacher's texts, mean over the teachers; and a. A view of noise has α near 1/N.
    """
    n_teachers = start.shape[1]
    chosen, view = start.argmax(axis=-1), weights.argmax(axis=-1)
    agree = chosen == view
    if answers is not None:
        every = np.arange(len(answers))
        agree |= answers[every, chosen] == answers[every, view]
    top = np.sort(start, axis=-1)
    margin = top[:, -1] - top[:, -2]
    agreements = []
    for teacher in range(n_teachers):
        own = np.flatnonzero(chosen == teacher)
        surest = own[np.argsort(-margin[own])[: len(own) // 2]]
        agreements.append(float(agree[surest].mean()) if len(own) >= _FEWEST else 0.0)
    alpha = float(np.mean(agreements))
    chance = (1 - alpha) / (n_teachers - 1)
    everywhere = float(agree.mean())
    return alpha, (everywhere - chance) / (alpha - chance) if alpha > chance else 1.0
