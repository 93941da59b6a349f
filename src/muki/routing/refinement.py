"""Refinement: the pool as a whole shows the classes; here each text is looked at together with all others.

In a neutral view (the student's encoder, which belongs to no teacher) every class of the union is a Gaussian. Its mean
comes from the current targets, and the discriminant then says again to which teacher a text belongs: EM. Each text is
judged by a model that was fitted without it (cross-fitting), so that a wrong start is not simply repeated.

    targets from weights → class Gaussians without this text → P(class | view) → weights

where a teacher's weight is how much the view agrees with what this teacher says, against what a teacher that knows
nothing would say:

    w_i ∝ Σ_{y ∈ L_i} P(y | view) p_i(y | x) / (1 / |L_i|)

(Bayes' rule with view and teacher independent given the class. The teacher's uniform prior over L_i is divided out, or
else a teacher of many classes would be heard less than one of few.)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from muki.formulas import Array, cohens_kappa, integrate_distributions, log_softmax, union_predictions
from muki.routing.calibration import match_shares
from muki.routing.density import ClassGaussians
from muki.routing.overlap import decided_groups, first_offsets, group_probabilities, group_scores
from muki.routing.weights import hard_weights, log_agreement, surest

FOLDS = 4
SHRINKAGE = 0.5  # strong: a sharp covariance repeats its start
ROUNDS = 3
RESTARTS = 8
SHARPNESS = 4.0  # of the start: softmax(4 · score), scores in standard deviations
_SETTLED = 0.02  # offsets that change less are settled, in standard deviations
_BEYOND_CHANCE = 0.5  # Cohen's kappa that a trusted view needs
_TELLING = 0.2  # a view that is right so much more often than each way of being wrong can judge the scores
_CHANCE = 2.0  # standard errors within which two means are not told apart
_FEWEST = 30  # texts on which something hangs on the choice, to judge the scores by


@dataclass(frozen=True)
class Neighbourhood:
    """What refinement reads of n texts.

    Attributes:
        view: neutral view in its principal axes, shape (n, D).
        distributions: each teacher's softmax, shapes (n, C_i).
        folds: which model may judge the text, shape (n,), in 0..FOLDS − 1: the one that was fitted without it.
    """

    view: Array
    distributions: list[Array]
    folds: NDArray[np.int64]

    @cached_property
    def second_moments(self) -> list[Array]:
        """For each fold the mean of v vᵀ over the texts of all others, shape (D, D): the same in every round of EM."""
        own = [self.view[self.folds == fold] for fold in range(FOLDS)]
        total = self.view.T @ self.view
        return [(total - view.T @ view) / max(len(self.view) - len(view), 1) for view in own]

    def predictions(self, columns: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """Each teacher's top class as an index into the union, shape (n, N)."""
        return union_predictions(self.distributions, columns)


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
        targets = integrate_distributions(weights, texts.distributions, columns, n_labels)
        models = []
        for fold in range(FOLDS):
            rest = texts.folds != fold
            known = texts.second_moments[fold]
            models.append(ClassGaussians.fit(texts.view[rest], targets[rest], SHRINKAGE, known))
        return cls(models, columns)

    def log_weights(self, texts: Neighbourhood) -> Array:
        """Log of how much the view agrees with each teacher, normalised over the teachers; shape (n, N)."""
        agreement = log_agreement(self.log_probabilities(texts), texts.distributions, self.columns)
        return log_softmax(agreement + np.log([len(own) for own in self.columns]))

    def log_probabilities(self, texts: Neighbourhood) -> Array:
        """Log of P(y | v), shape (n, C), each text by the Gaussians that were fitted without it."""
        log_class = np.empty((len(texts.view), len(self.models[0].means)))
        for fold, model in enumerate(self.models):
            own = texts.folds == fold
            log_class[own] = model.log_joint(texts.view[own])
        return log_softmax(log_class)


@dataclass(frozen=True)
class Trust:
    """Whether the view knows better than the scores that EM began with; see `trust`.

    Attributes:
        view_accuracy: of the view's routing, estimated, in [0, 1].
        score_accuracy: of the scores' routing, estimated, in [0, 1]; NaN where the view is too poor to judge them by.
        beyond_chance: Cohen's kappa of the two where the scores are sure.

    Both accuracies are NaN where there are too few texts to tell.
    """

    view_accuracy: float
    score_accuracy: float
    beyond_chance: float

    @property
    def earned(self) -> bool:
        """The view is at least as good as the scores, and the two do not agree by chance."""
        return self.view_accuracy >= self.score_accuracy and self.beyond_chance >= _BEYOND_CHANCE


@dataclass(frozen=True)
class Refined:
    """What refinement found.

    Attributes:
        model: of the pool.
        importance: how much each part of the score counts, shape (P,).
        offsets: of the joined scores, so that they fit the teachers' shares of the pool, shape (N,).
        converging: EM from the parts alone ends at routings that agree as often as the parts, up to chance.
        trust: in the view.
    """

    model: PoolModel
    importance: Array
    offsets: Array
    converging: bool
    trust: Trust

    @property
    def trusted(self) -> bool:
        """Whether the pool shows the classes; else the scores had better stay as they are."""
        return self.converging and self.trust.earned


def refine(
    texts: Neighbourhood, parts: Array, priors: Array, columns: Sequence[Sequence[int]], n_labels: int
) -> Refined:
    """EM over the pool from standardised scores.

    EM from each part of the score alone shows two things. If the pool shows the classes, parts that know different
    things end no further apart than they began. And a part is believed as far as the view bears it out (`coherence`).

    The start that joins them gives every teacher the same share of the pool, or less where others know its labels too.
    EM finds better shares; the start is shifted to these and EM begins anew, until they settle. The view can earn trust
    before or after that, and what it earned it with is kept; that says something only where the parts know nothing of
    the view.

    Args:
        texts: of the pool, or a sample of it.
        parts: calibrated scores, shape (n, N, P).
        priors: how much each part counts before the pool is looked at, shape (P,).
        columns: each teacher's columns in the union.
        n_labels: size of the union.
    """
    groups, predictions = decided_groups(columns, n_labels), texts.predictions(columns)
    by_group = partial(group_scores, predictions=predictions, groups=groups)
    em = partial(expectation_maximisation, texts, columns=columns, n_labels=n_labels)
    alone = list(np.moveaxis(parts, -1, 0))
    ends = [em(part)[1] for part in alone]
    converging = not has_fallen(agreement(map(by_group, alone)), agreement(map(by_group, ends)))
    borne_out = [coherence(part, end) for part, end in zip(alone, ends, strict=True)]
    importance = priors * np.square(borne_out) if max(borne_out) > 0 else priors
    start = join(parts, importance)

    offsets, found = first_offsets(start, columns, SHARPNESS), []
    for _ in range(RESTARTS):
        model, weights = em(start + offsets)
        view = group_probabilities(np.exp(model.log_probabilities(texts)), groups)
        verdict = trust(by_group(start + offsets), view)
        before, offsets = offsets, match_shares(start, weights.mean(axis=0), SHARPNESS)
        found.append(Refined(model, importance, offsets, converging, verdict))
        if np.abs(offsets - before).max() < _SETTLED:
            break
    first, last = found[0], found[-1]
    return first if first.trust.earned and not last.trust.earned else last


def expectation_maximisation(
    texts: Neighbourhood, scores: Array, columns: Sequence[Sequence[int]], n_labels: int
) -> tuple[PoolModel, Array]:
    """The pool's classes and the routing weights that they give, shape (n, N), from the surest teachers by `scores`."""
    weights = hard_weights(scores)
    for _ in range(ROUNDS):
        model = PoolModel.fit(texts, weights, columns, n_labels)
        weights = np.exp(model.log_weights(texts))
    return model, weights


def join(parts: Array, importance: Array) -> Array:
    """The weighted sum of the parts of a score, in standard deviations: (n, N, P) → (n, N)."""
    joined: Array = parts @ importance
    return joined / max(float(joined.std()), 1e-12)


def agreement(judges: Iterable[Array]) -> Array:
    """For each text, the share of pairs of judges (each of shape (n, G)) that choose one group; 1 for one judge."""
    chosen = [one.argmax(axis=-1) for one in judges]
    pairs = [a == b for a, b in itertools.combinations(chosen, 2)]
    return np.mean(pairs, axis=0) if pairs else np.ones(len(chosen[0]))


def has_fallen(before: Array, after: Array) -> bool:
    """Whether the mean over n texts, both of shape (n,), is lower after than before by more than chance can explain.

    That is by more than two standard errors of the paired difference.
    """
    change = after - before
    return bool(change.mean() < -_CHANCE * change.std() / np.sqrt(len(change)))


def coherence(scores: Array, weights: Array) -> float:
    """How far a score is borne out by what EM made of it: correlation with the log odds, mean over the teachers.

    A score of noise has none: its neighbours in the view, which were judged without it, say something else.

    Args:
        scores: shape (n, N).
        weights: shape (n, N).

    Returns:
        in [0, 1].
    """
    odds = np.log(weights + 1e-12) - np.log(1 - weights + 1e-12)
    found = [
        float(np.corrcoef(own, log_odds)[0, 1]) if own.std() > 0 and log_odds.std() > 0 else 0.0
        for own, log_odds in zip(scores.T, odds.T, strict=True)
    ]
    return max(0.0, float(np.mean(found)))


def trust(scores: Array, view: Array) -> Trust:
    """Whether the view knows better than the scores, without labels.

    Both say which group of labels (for teachers that share none: which teacher) a text belongs to. Where the scores are
    very sure (the surer half of each group's texts) they are nearly always right, so that how often the view agrees
    with them there estimates the view's own accuracy α. How often they agree where teachers name labels of several
    groups, A, then gives the scores' accuracy a on these texts, on which something hangs on the choice, if their
    mistakes are independent: `A = a α + (1 − a)(1 − α)/(G − 1)`. Two judges that give nearly all texts to one group
    agree by chance, hence Cohen's kappa.

    Args:
        scores: best score of a teacher that names a label of the group, −∞ where none does, shape (n, G).
        view: what the view says by itself, without hearing the teachers, shape (n, G).
    """
    n_groups = scores.shape[1]
    open_texts = np.isfinite(scores).sum(axis=-1) > 1
    if open_texts.sum() < _FEWEST:
        return Trust(float("nan"), float("nan"), 0.0)
    chosen, seen = scores.argmax(axis=-1), view.argmax(axis=-1)
    agree = chosen == seen
    sure = np.concatenate(surest(scores))
    alpha = float(agree[sure].mean())
    kappa = cohens_kappa(chosen[sure], seen[sure], n_groups)
    other = (1 - alpha) / (n_groups - 1)
    if alpha - other < _TELLING:
        return Trust(alpha, float("nan"), kappa)
    accuracy = (float(agree[open_texts].mean()) - other) / (alpha - other)
    return Trust(alpha, float(np.clip(accuracy, 1 / n_groups, 1.0)), kappa)
