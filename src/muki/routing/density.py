"""Densities: how usual a vector is among others.

One Gaussian for each class with a shared covariance, fitted on soft assignments: as a classifier this is linear
discriminant analysis; its distances say how far a text is from everything known. And distances to neighbours, which
assume no shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_triangular

from muki.formulas import Array
from muki.hashing import one_of_each_block

SHRINKAGE = 0.1
REFERENCES = 2000  # vectors among which neighbours are looked for
_NEIGHBOUR = 40  # the distance that counts is to the neighbour that 1/40 of the references are nearer than,
_NEAREST = 2  # but not to the first of few: a text can be one of the references itself


@dataclass(frozen=True)
class ClassGaussians:
    """`N(μ_c, Σ)` for C classes in H dimensions.

    Attributes:
        means: whitened class means, shape (C, H).
        factor: lower Cholesky factor of Σ, shape (H, H).
        log_prior: log of each class's share, shape (C,).
    """

    means: Array
    factor: Array
    log_prior: Array

    @classmethod
    def fit(
        cls,
        features: ArrayLike,
        assignments: ArrayLike,
        shrinkage: float = SHRINKAGE,
        second_moment: Array | None = None,
    ) -> Self:
        """Fit on soft assignments.

        Args:
            features: shape (n, H).
            assignments: how much each text belongs to each class, shape (n, C), not negative; rows need not sum to 1.
            shrinkage: in [0, 1], how far Σ is pulled to a multiple of the identity (Ledoit and Wolf's target). More is
                safer: with little data a sharp covariance repeats what it was fitted on.
            second_moment: mean of x xᵀ over the texts, shape (H, H), where it is known already and rows of assignments
                sum to 1; it does not depend on them then.
        """
        x = np.asarray(features, dtype=np.float64)
        r = np.asarray(assignments, dtype=np.float64)
        count = r.sum(axis=0) + 1e-9  # (C,)
        means = (r.T @ x) / count[:, None]  # (C, H)
        total = count.sum()
        if second_moment is None:
            second_moment = (x * r.sum(axis=1, keepdims=True)).T @ x / total
        covariance = second_moment - (means.T * (count / total)) @ means
        width = covariance.shape[0]
        scale = max(float(np.trace(covariance)) / width, 1e-12)
        factor = np.linalg.cholesky((1 - shrinkage) * covariance + (shrinkage + 1e-6) * scale * np.eye(width))
        whitened = solve_triangular(factor, means.T, lower=True).T
        return cls(whitened, factor, np.log(count / total))

    @property
    def log_determinant(self) -> float:
        """`log |Σ|`."""
        return 2 * float(np.log(np.diag(self.factor)).sum())

    def squared_distances(self, features: ArrayLike) -> Array:
        """Squared Mahalanobis distance to each class, shape (n, C)."""
        x = solve_triangular(self.factor, np.asarray(features, dtype=np.float64).T, lower=True).T
        d = (x**2).sum(axis=1)[:, None] - 2 * x @ self.means.T + (self.means**2).sum(axis=1)
        result: Array = np.maximum(d, 0.0)
        return result

    def log_joint(self, features: ArrayLike) -> Array:
        """`log π_c + log N(x; μ_c, Σ)` up to a constant for each text, shape (n, C)."""
        # x Σ⁻¹ μ − ½ μ Σ⁻¹ μ, without x Σ⁻¹ x, which is the same for all classes
        axes = solve_triangular(self.factor, self.means.T, lower=True, trans="T")
        x = np.asarray(features, dtype=np.float64)
        result: Array = self.log_prior + x @ axes - 0.5 * (self.means**2).sum(axis=1)
        return result


def unit_length(vectors: ArrayLike) -> Array:
    """Scale each row to length 1, shape (n, H)."""
    x = np.asarray(vectors, dtype=np.float64)
    result: Array = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    return result


def principal_axes(vectors: Array, most: int) -> Array:
    """The axes of largest variance, at most `most` and at least two; all axes as they are where there are no more.

    Args:
        vectors: shape (n, H).
        most: how many.

    Returns:
        orthonormal columns, shape (H, D).
    """
    width = vectors.shape[1]
    if most >= width:
        return np.eye(width)
    centered = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(centered.T @ centered)
    result: Array = axes[:, ::-1][:, : max(2, most)]
    return result


def references_among(vectors: Array) -> Array:
    """At most `REFERENCES` of the rows, evenly spread."""
    return vectors[one_of_each_block(0, len(vectors), max(1, -(-len(vectors) // REFERENCES)))]


def neighbour_distance(vectors: Array, references: Array) -> Array:
    """1 − cosine to the reference that 1/40 of the references are nearer than; shape (n,).

    Args:
        vectors: shape (n, H), rows of length 1.
        references: shape (m, H), rows of length 1.
    """
    place = min(max(_NEAREST, len(references) // _NEIGHBOUR), len(references))
    found = []
    for start in range(0, len(vectors), REFERENCES):
        cosine = vectors[start : start + REFERENCES] @ references.T
        found.append(1 - np.partition(cosine, -place, axis=1)[:, -place])
    result: Array = np.concatenate(found)
    return result
