"""Routing scores: how sure is a teacher about each text? One number a text, higher is surer.

A score is fitted on the teachers' outputs for the pool and then reads any outputs of a teacher; most need no fitting.
They are found by name in `SCORES`; names joined by `+` are added up after calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muki.certainty import certainty
from muki.formulas import Array, entropy, logsumexp, softmax
from muki.routing.calibration import standardise
from muki.routing.density import ClassGaussians, neighbour_distance, references_among, unit_length
from muki.teachers.outputs import TeacherOutputs

Scorer = Callable[[TeacherOutputs], Array]

_SCOPE_ROUNDS = 3  # of finding out which texts are in a teacher's scope


def mc_entropy(outputs: TeacherOutputs) -> Array:
    """Certainty of the mean over Monte-Carlo dropout passes: the score of MUKI (Li et al., 2022)."""
    return certainty(outputs.mc_mean)


def deterministic_entropy(outputs: TeacherOutputs) -> Array:
    """Certainty of the deterministic pass: MUKI without Monte-Carlo."""
    return certainty(softmax(outputs.logits))


def mutual_information(outputs: TeacherOutputs) -> Array:
    """Minus the mutual information of prediction and dropout mask, `−(H(p̄) − mean H(p_k))`, in nats (BALD)."""
    result: Array = outputs.pass_entropy - entropy(outputs.mc_mean)
    return result


def energy(outputs: TeacherOutputs) -> Array:
    """`log Σ exp z`, unbounded; softmax over teachers at temperature 1 makes it the routing of vanilla distillation."""
    return logsumexp(outputs.logits)


def max_logit(outputs: TeacherOutputs) -> Array:
    """The largest logit."""
    result: Array = outputs.logits.max(axis=-1).astype(np.float64)
    return result


def fit_mahalanobis(pool: TeacherOutputs) -> Scorer:
    """Minus the squared distance of the teacher's features to its nearest class.

    Class means and covariance come from the pool with the teacher's own predictions.
    """
    model = _own_classes(pool)
    return lambda outputs: -model.squared_distances(_features(outputs)).min(axis=-1)


def fit_relative_mahalanobis(pool: TeacherOutputs) -> Scorer:
    """`mahalanobis`, less the same distance to one Gaussian for all texts: what is unusual for every class alike."""
    model = _own_classes(pool)
    everything = ClassGaussians.fit(_features(pool), np.ones((len(pool), 1)))

    def score(outputs: TeacherOutputs) -> Array:
        x = _features(outputs)
        result: Array = everything.squared_distances(x)[:, 0] - model.squared_distances(x).min(axis=-1)
        return result

    return score


def fit_in_scope_mahalanobis(pool: Sequence[TeacherOutputs]) -> list[Scorer]:
    """`mahalanobis` among the texts of the pool that fall to the teacher, with the covariance's log-determinant.

    Which texts fall to whom follows from the standardised score itself, beginning with `mahalanobis`. The determinant
    makes it a log density, `−(d² + log |Σ|)`, which can be compared between teachers of features of equal width.
    """
    scorers = [fit_mahalanobis(one) for one in pool]
    for _ in range(_SCOPE_ROUNDS):
        found = [score(one) for score, one in zip(scorers, pool, strict=True)]
        owner = np.stack([standardise(one)(one) for one in found], axis=-1).argmax(axis=-1)
        for i in np.unique(owner):
            scorers[i] = _log_density(pool[i].take(np.flatnonzero(owner == i)))
    return scorers


def fit_neighbours(pool: TeacherOutputs) -> Scorer:
    """Minus the distance of the teacher's features to near neighbours among the pool's."""
    references = references_among(unit_length(_features(pool)))
    return lambda outputs: -neighbour_distance(unit_length(_features(outputs)), references)


@dataclass(frozen=True)
class RoutingScore:
    """A routing score with what it needs and where it comes from.

    Attributes:
        fit: from the teachers' outputs for the pool to one function of a teacher's outputs for each.
        description: one line.
        words: what a reader of the report calls it.
        reference: its source.
        needs_passes: the fewest Monte-Carlo dropout passes that it can be told from; 0 where it reads none.
        needs_features: it reads the head's input.
        is_certainty: it lies in [0, 1], from a teacher that knows nothing to one that is sure.
        prior: how much it counts in a sum of scores. How usual a text is says more than how sure the teacher is.
    """

    fit: Callable[[Sequence[TeacherOutputs]], list[Scorer]]
    description: str
    words: str
    reference: str
    needs_passes: int = 0
    needs_features: bool = False
    is_certainty: bool = False
    prior: float = 1.0


def _alone(fit: Callable[[TeacherOutputs], Scorer]) -> Callable[[Sequence[TeacherOutputs]], list[Scorer]]:
    """A score that is fitted for each teacher without the others."""
    return lambda pool: [fit(one) for one in pool]


def _pointwise(function: Scorer) -> Callable[[Sequence[TeacherOutputs]], list[Scorer]]:
    """A score that looks at one text at a time and needs no fitting."""
    return _alone(lambda pool: function)


SCORES: dict[str, RoutingScore] = {
    "mc-entropy": RoutingScore(
        _pointwise(mc_entropy), "1 − normalised entropy of the mean over dropout passes",
        "certainty over the dropout passes",
        "Li et al. 2022, arXiv 2210.05230", needs_passes=1, is_certainty=True,
    ),
    "entropy": RoutingScore(
        _pointwise(deterministic_entropy), "1 − normalised entropy of the deterministic pass",
        "certainty",
        "Li et al. 2022, without MC", is_certainty=True,
    ),
    "bald": RoutingScore(
        _pointwise(mutual_information), "minus the mutual information of prediction and dropout mask",
        "agreement of the dropout passes",
        "Houlsby et al. 2011, arXiv 1112.5745", needs_passes=2,
    ),
    "energy": RoutingScore(
        _pointwise(energy), "log-sum-exp of the logits",
        "energy (the size of its logits)",
        "Liu et al. 2020, arXiv 2010.03759; equals vanilla KD's routing",
    ),
    "max-logit": RoutingScore(
        _pointwise(max_logit), "largest logit",
        "largest logit",
        "Hendrycks et al. 2022, arXiv 1911.11132",
    ),
    "mahalanobis": RoutingScore(
        _alone(fit_mahalanobis), "minus the squared distance of the features to the nearest class",
        "Mahalanobis distance (how usual the text is for it)",
        "Lee et al. 2018, arXiv 1807.03888; statistics from the pool", needs_features=True, prior=2.0,
    ),
    "relative-mahalanobis": RoutingScore(
        _alone(fit_relative_mahalanobis), "mahalanobis, less the distance to one Gaussian for all texts",
        "relative Mahalanobis distance (how usual the text is for it)",
        "Ren et al. 2021, arXiv 2106.09022; statistics from the pool", needs_features=True, prior=8.0,
    ),
    "in-scope-mahalanobis": RoutingScore(
        fit_in_scope_mahalanobis, "log density of the features among the texts that fall to the teacher",
        "Mahalanobis distance among its own texts (how usual the text is for it)",
        "Lee et al. 2018, arXiv 1807.03888; statistics from its part of the pool", needs_features=True, prior=2.0,
    ),
    "neighbours": RoutingScore(
        _alone(fit_neighbours), "minus the distance of the features to near neighbours",
        "distance to near neighbours (how usual the text is for it)",
        "Sun et al. 2022, arXiv 2204.06507; neighbours from the pool", needs_features=True, prior=2.0,
    ),
}  # fmt: skip


def parts_of(score: str) -> list[str]:
    """The names in `entropy+energy`."""
    return score.split("+")


def gold_scores(gold: NDArray[np.int64], columns: Sequence[Sequence[int]]) -> Array:
    """1 for a teacher that knows the text's gold label, else 0; shape (n, N): the ceiling of every routing.

    Args:
        gold: index of the gold label in the union, shape (n,); negative for a label outside it.
        columns: each teacher's columns in the union.
    """
    return np.stack([np.isin(gold, list(own)).astype(np.float64) for own in columns], axis=-1)


def fit_scores(pool: list[TeacherOutputs], name: str) -> list[Scorer]:
    """One scorer for each teacher.

    Raises:
        ValueError: the score needs dropout passes or features, and these outputs have none.
    """
    score = SCORES[name]
    if any((one.passes < score.needs_passes).any() for one in pool):
        raise ValueError(
            f"score '{name}' needs {score.needs_passes} dropout passes or more, and these outputs have fewer"
        )
    if score.needs_features and any(one.features is None for one in pool):
        raise ValueError(f"score '{name}' needs features, and these outputs have none")
    return score.fit(pool)


def routing_scores(outputs: list[TeacherOutputs], score: str) -> Array:
    """One score for each text and teacher, fitted on these very texts; shape (n, N), teachers in the given order."""
    return np.stack([s(one) for s, one in zip(fit_scores(outputs, score), outputs, strict=True)], axis=-1)


def available(outputs: list[TeacherOutputs]) -> list[str]:
    """The scores that these outputs suffice for."""
    passes = min((int(one.passes.min()) for one in outputs if len(one)), default=0)
    features = all(one.features is not None for one in outputs)
    return [n for n, s in SCORES.items() if passes >= s.needs_passes and (features or not s.needs_features)]


def _own_classes(pool: TeacherOutputs) -> ClassGaussians:
    """Gaussians of the classes that the teacher finds in the pool: of the others nothing is known."""
    predicted = pool.logits.argmax(axis=-1)
    return ClassGaussians.fit(_features(pool), predicted[:, None] == np.unique(predicted))


def _log_density(own: TeacherOutputs) -> Scorer:
    """Twice the log density in the nearest of the classes that these texts show, up to a constant."""
    model = _own_classes(own)
    return lambda outputs: -model.squared_distances(_features(outputs)).min(axis=-1) - model.log_determinant


def _features(outputs: TeacherOutputs) -> NDArray[np.float16]:
    if outputs.features is None:
        raise ValueError("these outputs have no features")
    return outputs.features
