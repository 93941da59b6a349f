"""Label names: what a class is called says which texts belong to it.

In the neutral view a label's name is a very short text, and a sentence encoder puts it near texts about that subject.
Similarities to the names, each standardised over the pool (a name that is near to everything says nothing), make a
classifier over the union that has seen no teacher:

    P(y | v) = softmax_y( (cos(v, name_y) − mean_y) / deviation_y ),      w_i ∝ Σ_{y ∈ L_i} P(y | v) p_i(y | x)

This classifier treats all labels alike, so a teacher's prior grows with |L_i|. Equal priors for the teachers would
divide by |L_i|; dividing out the teacher's own uniform prior, as `refinement.py` does, would multiply by it. The two
cancel. How much the names agree with each teacher is one more routing score (zero-shot classification by embeddings:
Veeranna et al., ESANN 2016; Yin et al. 2019, arXiv 1909.00161).

Names may also say nothing: `LABEL_3`, codes, another language. So each teacher is asked, among its own labels and on
the texts that it is surest to own, whether it chooses as the names do. It learned its classes from texts and knows
nothing of their names, so agreement beyond chance shows that the names mean what they say.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from muki.formulas import Array, cohens_kappa, log_softmax
from muki.routing.calibration import Scale, standardise
from muki.routing.density import unit_length
from muki.routing.weights import log_agreement, surest

PRIOR = 8.0  # in a sum of scores: as much as the relative Mahalanobis distance
START_PRIOR = 4.0  # where EM begins: the view that bears them out is the one they come from
_BORNE_OUT = 0.3
_FOR_FEW_LABELS = 0.4  # over the labels of a teacher: of two names even random ones may well lie in the right order
_EMPTY_WORDS = frozenset({"label", "class", "category", "target", "topic", "intent", "cluster", "type", "id"})


def readable(label: str) -> str:
    """A label's name as words: `comp.sys.mac`, `card_arrival` and `BookRestaurant` are no words."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"[_\-./\\|:]+", " ", label))
    return " ".join(spaced.split()).lower() or label


def are_words(labels: Sequence[str]) -> bool:
    """Whether at least half of the names have a word in them: `LABEL_3`, `7` and `C01` have none."""
    return 2 * sum(any(_is_word(part) for part in readable(label).split()) for label in labels) >= len(labels)


def _is_word(part: str) -> bool:
    """Two letters or more, or one of a script without case, where a letter can be a word."""
    kinds = [unicodedata.category(character) for character in part]
    letters = sum(kind[0] in "LM" for kind in kinds)  # a vowel sign is a mark
    return "Lo" in kinds or (letters >= 2 and part.strip("0123456789") not in _EMPTY_WORDS)


@dataclass(frozen=True)
class LabelNames:
    """The classifier that the names make, and how much it agrees with each teacher; fitted on the pool.

    Attributes:
        vectors: neutral view of the names, shape (C, H), rows of length 1.
        mean: of the pool's similarities to each, shape (C,).
        deviation: of these, shape (C,).
        columns: each teacher's columns in the union.
        scales: of the agreement with each teacher.
        agreement: how far the teachers choose among their own labels as the names do: Cohen's kappa (`name_agreement`).
    """

    vectors: Array
    mean: Array
    deviation: Array
    columns: Sequence[Sequence[int]]
    scales: Sequence[Scale] = ()
    agreement: float = 0.0

    @classmethod
    def fit(
        cls, vectors: ArrayLike, view: Array, distributions: Sequence[Array], columns: Sequence[Sequence[int]]
    ) -> Self:
        """Fit on the pool.

        Args:
            vectors: neutral view of the names, shape (C, H).
            view: of the texts, shape (n, H), rows of length 1.
            distributions: each teacher's softmax, shapes (n, C_i).
            columns: each teacher's columns in the union.
        """
        names = unit_length(vectors)
        similar = view @ names.T
        fitted = cls(names, similar.mean(axis=0), np.maximum(similar.std(axis=0), 1e-12), columns)
        return fitted.scaled(view, distributions)

    def scaled(self, view: Array, distributions: Sequence[Array]) -> Self:
        """The same names with the scales of their agreement with these answers; arguments as for `fit`."""
        return replace(self, scales=[standardise(own) for own in self.log_weights(view, distributions).T])

    def log_probabilities(self, view: Array) -> Array:
        """Log of P(y | v), shape (n, C), of texts whose view has rows of length 1."""
        return log_softmax((view @ self.vectors.T - self.mean) / self.deviation)

    def log_weights(self, view: Array, distributions: Sequence[Array]) -> Array:
        """Log of how much the names agree with each teacher, normalised over the teachers; shape (n, N)."""
        return log_softmax(log_agreement(self.log_probabilities(view), distributions, self.columns))

    def scores(self, log_weights: Array) -> Array:
        """The same as a score that can be added to others: standardised over the pool, each teacher's apart."""
        return np.stack([scale(own) for scale, own in zip(self.scales, log_weights.T, strict=True)], axis=-1)

    def prior(self, good_view: bool) -> float:
        """How much the names count beside the other parts of a score that is not refined.

        Names are no better than the view that they are read in. Where that is judged worse than the scores, they count
        as far as the teachers bear them out, squared, as every part does that the view bears out.
        """
        return PRIOR if good_view else PRIOR * self.agreement**2


def mean_something(agreement: float, columns: Sequence[Sequence[int]]) -> bool:
    """Whether the teachers' agreement with the names is more than luck: at least 0.3 + 0.4 / labels of a teacher.

    Of 70 pools those with names in words had 0.42 and more, but for one of teachers with 200 texts (0.23), those with
    digits 0.16 at most. Random directions in the place of two names give more than 0.3 for one pool in six.
    """
    return agreement >= _BORNE_OUT + _FOR_FEW_LABELS / float(np.mean([len(own) for own in columns]))


def name_agreement(
    log_probabilities: Array, distributions: Sequence[Array], columns: Sequence[Sequence[int]], scores: Array
) -> float:
    """How far the teachers choose among their own labels as the names do: Cohen's kappa, mean over teachers with texts.

    Args:
        log_probabilities: by the names, shape (n, C).
        distributions: each teacher's softmax, shapes (n, C_i).
        columns: each teacher's columns in the union.
        scores: of the teachers, comparable, shape (n, N): each is asked about the surer half of the texts it gets.

    Returns:
        in [−1, 1]; 0 is chance.
    """
    asked = surest(scores)
    found = []
    for own, p, here in zip(columns, distributions, asked, strict=True):
        if not len(here):
            continue
        said, named = p[here].argmax(axis=-1), log_probabilities[here][:, list(own)].argmax(axis=-1)
        found.append(cohens_kappa(said, named, len(own)))
    return float(np.mean(found)) if found else 0.0
