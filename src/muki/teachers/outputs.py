"""What is kept of a teacher's view of some texts: enough for every routing score, small enough for every pool."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from muki.certainty import certainty
from muki.formulas import Array, softmax, union_predictions
from muki.labels import LabelSpace

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]


@dataclass(frozen=True)
class TeacherOutputs:
    """One teacher's outputs for n texts, C classes (float32 unless said).

    Attributes:
        rows: row ids of the texts, shape (n,), int64.
        logits: of the deterministic pass, shape (n, C); their softmax is what is distilled.
        mc_mean: mean softmax over the dropout passes, shape (n, C); NaN where there were none.
        passes: dropout passes drawn, shape (n,), int32.
        pass_entropy: mean over the passes of each pass's entropy in nats, shape (n,); NaN without passes.
        pass_spread: standard deviation over the passes of each pass's entropy in nats, shape (n,); NaN without.
        features: input of the last linear layer in the deterministic pass, shape (n, H), float16 (half the disk, and
            far finer than what tells classes apart); None if not asked for.
        states: mean over the tokens of each layer's hidden states, embeddings first, in the deterministic pass, shape
            (n, layers + 1, H), float16; None if not asked for.
    """

    rows: NDArray[np.int64]
    logits: Floats
    mc_mean: Floats
    passes: NDArray[np.int32]
    pass_entropy: Floats
    pass_spread: Floats
    features: Halves | None = None
    states: Halves | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: NDArray[np.int64] | slice) -> Self:
        """The outputs of some of the texts."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        taken: dict[str, Any] = {name: None if value is None else value[index] for name, value in values.items()}
        return type(self)(**taken)

    @classmethod
    def concatenate(cls, parts: list[Self]) -> Self:
        """Join outputs of one teacher."""
        columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(cls)}
        joined: dict[str, Any] = {
            name: np.concatenate(values) if all(v is not None for v in values) else None
            for name, values in columns.items()
        }
        return cls(**joined)


def teacher_predictions(outputs: list[TeacherOutputs], space: LabelSpace) -> NDArray[np.int64]:
    """Each teacher's top class as an index into the union, shape (n, N)."""
    return union_predictions([one.logits for one in outputs], list(space.columns.values()))


def teacher_certainty(outputs: list[TeacherOutputs]) -> Array:
    """Each teacher's certainty in [0, 1], comparable for every method, shape (n, N)."""
    return np.stack([certainty(one.mc_mean if (one.passes > 0).all() else softmax(one.logits)) for one in outputs], -1)
