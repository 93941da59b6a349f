"""What a finished run's files hold about each text of the pool: the only place of the report that reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muki.config import RunConfig
from muki.evaluation.answers import StudentAnswers, asked_rows
from muki.evaluation.method_words import estimates_routing
from muki.formulas import Array
from muki.integration.pool import load_outputs
from muki.integration.store import Supervision, load_supervision
from muki.integration.supervision import right_probability
from muki.labels import LabelSpace
from muki.routing.weights import soft_weights
from muki.run_folder import RunFolder
from muki.scored import scored_texts
from muki.teachers.outputs import teacher_certainty, teacher_predictions
from muki.texts import TextShards


@dataclass(frozen=True)
class PoolEvidence:
    """Arrays over the n texts of the pool, N teachers and C labels; all in the order of `rows`.

    Attributes:
        texts: the pool.
        space: the label space.
        rows: row ids, shape (n,).
        target: what the student was to predict, shape (n, C).
        weight: how much each text counted, shape (n,), mean 1.
        routing: how much each teacher was heard, shape (n, N). Of a method that hears the teacher of the highest score
            alone, the weights that the soft rule would have given: who came second is what a reader wants to know.
        right: probability that the text's label comes from a teacher that knows it, shape (n,); None for a method whose
            weights are not meant as probabilities.
        certainty: of each teacher, in [0, 1], shape (n, N): of the mean over dropout passes where there were some.
        predictions: each teacher's top class as an index into the union, shape (n, N).
        foreign: how far a text seems to belong to no label, in [0, 1], shape (n,): the method's own probability, or one
            minus the certainty of the surest teacher.
        foreign_estimated: whether it is the former.
        asked: positions of the texts that the student was asked about, shape (m,), ascending.
        student: its probabilities for them, shape (m, C).
    """

    texts: TextShards
    space: LabelSpace
    rows: NDArray[np.int64]
    target: NDArray[np.float32]
    weight: NDArray[np.float32]
    routing: Array
    right: Array | None
    certainty: Array
    predictions: NDArray[np.int64]
    foreign: Array
    foreign_estimated: bool
    asked: NDArray[np.int64]
    student: NDArray[np.float32]

    @property
    def names(self) -> list[str]:
        """The teachers' names."""
        return list(self.space.columns)


def gather(run: RunFolder, config: RunConfig, space: LabelSpace) -> PoolEvidence:
    """Read the run's files; the student is loaded only where its answers are not among them.

    Raises:
        RunFolderError: a stage is not finished.
    """
    pool = scored_texts(run, "pool")
    supervision = load_supervision(run.supervision)
    outputs = load_outputs(config, run, "pool")
    rows = asked_rows(supervision.rows, config.training.holdout, config.training.seed)
    sure = teacher_certainty(outputs)
    routing = supervision.routing.astype(np.float64)
    if config.method.integration == "hard" and not (config.method.refines or config.method.needs_gold):
        routing = soft_weights(supervision.scores, config.method.temperature)
    predictions = teacher_predictions(outputs, space)
    return PoolEvidence(
        texts=pool,
        space=space,
        rows=supervision.rows,
        target=supervision.target,
        weight=supervision.weight,
        routing=routing,
        right=right_probability(routing, predictions) if estimates_routing(config.method) else None,
        certainty=sure,
        predictions=predictions,
        foreign=_foreign(supervision, sure),
        foreign_estimated=supervision.foreign is not None,
        asked=np.searchsorted(supervision.rows, rows),
        student=StudentAnswers(run, config).of("pool", pool, rows),
    )


def _foreign(supervision: Supervision, sure: Array) -> Array:
    """The method's own estimate where it makes one, else one minus the certainty of the surest teacher."""
    return np.asarray(1.0 - sure.max(axis=-1) if supervision.foreign is None else supervision.foreign, dtype=np.float64)
