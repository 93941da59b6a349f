"""Foreign texts: those that belong to none of the labels (the literature's out-of-scope or out-of-distribution texts).

A foreign text is unusual for every teacher, and in the neutral view it has no near neighbours among the texts that the
teachers know best (half of the pool: foreign texts of one topic would else be neighbours to each other). Standardised
and added up, these two say how far out a text lies, x. Texts that belong to somebody lie nearly symmetrically around
the mode m of x; foreign ones make a bump on the right. The left side, mirrored, is what the right side would be without
them, and the excess is foreign:

    P(foreign | x) = max(0.01 Φ((x − m) / h), 1 − f(2m − x) / f(x))    for x > m, and never less for a text farther out

Left of the mode there is the first term alone. Here h is the width of the left side, and the floor keeps the texts in
order where nothing is in excess. This is a local false discovery rate (Efron 2004) whose null distribution comes from
symmetry.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import gaussian_kde, norm

from muki.formulas import Array
from muki.routing.calibration import Scale, standardise
from muki.routing.density import neighbour_distance, references_among

_BANDWIDTH = 0.25  # of the density, in half-widths of the left side
_MODE_BANDWIDTH = 0.5  # wider: a mode that is off makes an excess out of nothing
_LEAST = 0.01  # no text is at home for certain: a text far out may be foreign with this at least
_PLACES = 801


@dataclass(frozen=True)
class ForeignTexts:
    """What tells foreign texts from others; fitted on the pool.

    Attributes:
        references: neutral view of some texts of the pool that teachers know, shape (m, H), rows of length 1.
        isolation: scale of the distance to the neighbours.
        strangeness: scale of how unusual a text is for the teacher that it is most usual for.
        telling: which teachers tell texts apart at all, shape (N,).
        places: how far out, ascending, shape (G,).
        probabilities: of being foreign there, shape (G,).
    """

    references: Array
    isolation: Scale
    strangeness: Scale
    telling: NDArray[np.bool_]
    places: Array
    probabilities: Array

    @classmethod
    def fit(cls, view: Array, usual: Array, known: Array) -> ForeignTexts:
        """Fit on the pool.

        Args:
            view: neutral view, shape (n, H), rows of length 1.
            usual: how usual each text is for each teacher, comparable between teachers, shape (n, N).
            known: how well the teacher that knows it best knows each text, shape (n,).
        """
        references = references_among(view[known >= np.median(known)])
        telling = np.ptp(usual, axis=0) > 0
        telling = telling if telling.any() else np.ones_like(telling)
        isolation = standardise(neighbour_distance(view, references))
        strangeness = standardise(-usual[:, telling].max(axis=-1))
        fitted = cls(references, isolation, strangeness, telling, np.zeros(1), np.zeros(1))
        places, probabilities = excess_on_the_right(fitted.how_far_out(view, usual))
        return replace(fitted, places=places, probabilities=probabilities)

    def how_far_out(self, view: Array, usual: Array) -> Array:
        """x, in standard deviations of its two parts; shape (n,)."""
        strange = -usual[:, self.telling].max(axis=-1)
        return self.isolation(neighbour_distance(view, self.references)) + self.strangeness(strange)

    def __call__(self, view: Array, usual: Array) -> Array:
        """P(foreign) of each text, shape (n,), in [0, 1]; arguments as the first two of `fit`."""
        result: Array = np.interp(self.how_far_out(view, usual), self.places, self.probabilities)
        return result


def excess_on_the_right(x: Array) -> tuple[Array, Array]:
    """Where a distribution is heavier on the right than its mirrored left side.

    Args:
        x: shape (n,).

    Returns:
        places, ascending, shape (G,), and there the share of the density that is excess, never falling, shape (G,).
    """
    half_width = float(np.subtract(*np.quantile(x, [0.5, 0.16])))
    spread = float(x.std())
    if half_width <= 0 or len(x) < 3:
        return np.array([float(x.mean())]), np.zeros(1)
    places = np.linspace(x.min() - 3 * half_width, x.max() + 3 * half_width, _PLACES)
    density = gaussian_kde(x, bw_method=_BANDWIDTH * half_width / spread)(places)
    smooth = gaussian_kde(x, bw_method=_MODE_BANDWIDTH * half_width / spread)(places)
    mode = places[np.where(places <= np.quantile(x, 0.75), smooth, 0.0).argmax()]
    mirrored = np.interp(2 * mode - places, places, density, left=0.0, right=0.0)
    excess = np.where(places > mode, 1 - mirrored / np.maximum(density, 1e-9), 0.0)
    least = _LEAST * norm.cdf((places - mode) / half_width)  # keeps the order of texts where there is no excess
    return places, np.maximum.accumulate(np.maximum(np.clip(excess, 0.0, 1.0), least))
