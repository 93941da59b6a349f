"""What each detail of the default's routing is worth: the chain without it, on pools that are scored.

    python benchmarks/ablations.py GRID.yaml [--data NAME …] [--output FILE.json]

Takes the groups of a grid that `muki compare` has scored (`grids/routing.yaml`), one seed a data set. Prints the
routing accuracy of the whole chain and of the chain with one detail taken out.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import numpy as np
from pools import METHOD, Pool, Record, arguments, report

from muki.formulas import Array, log_softmax
from muki.integration import fitting
from muki.routing.evidence import Evidence
from muki.routing.refinement import PoolModel, Refined, Trust

_fit, _log_weights = PoolModel.fit, PoolModel.log_weights


def fit_on_all(texts: Any, *args: Any) -> PoolModel:
    """One model of the whole pool for every fold: each text is judged by what it was fitted on."""
    nobody = np.full_like(texts.folds, -1)
    return _fit(type(texts)(texts.view, texts.distributions, nobody), *args)


def without_priors(model: PoolModel, texts: Any) -> Array:
    """As if a teacher of many labels were not heard less by that."""
    return log_softmax(_log_weights(model, texts) - np.log([len(own) for own in model.columns]))


def view_alone(evidence: Evidence, voices: list[Array], scores: Array) -> Array:
    """The pool's classes decide."""
    return log_softmax(voices[0])


ABLATIONS: dict[str, list[Any]] = {
    "the whole chain": [],
    "no cross-fitting": [patch.object(PoolModel, "fit", fit_on_all)],
    "every part of the score believed alike (no ρ²)": [patch("muki.routing.refinement.coherence", lambda *_: 1.0)],
    "equal shares (no new start)": [patch("muki.routing.refinement.RESTARTS", 1)],
    "no factor |L_i|": [patch.object(PoolModel, "log_weights", without_priors)],
    "the view alone decides (no second judge)": [patch.object(Evidence, "log_weights", view_alone)],
    "names always heard": [patch.object(fitting, "mean_something", lambda *_: True)],
    "names cannot speak against the view": [patch.object(fitting, "agreement", lambda _: np.ones(1))],
    "teachers as they are (no temperatures)": [
        patch.object(fitting, "teacher_temperatures", lambda logits, *_: np.ones(len(logits)))
    ],
    "the view always trusted": [
        patch.object(Refined, "trusted", True),
        patch.object(Trust, "earned", True),
        patch.object(fitting, "agreement", lambda _: np.ones(1)),
    ],
}


def measured(pool: Pool) -> Record:
    found: Record = {}
    for name, changes in ABLATIONS.items():
        with ExitStack() as stack:
            for change in changes:
                stack.enter_context(change)
            router = fitting.fit_router(METHOD, pool.outputs, pool.space, pool.view, pool.names)
            found[name] = pool.accuracy(router(pool.outputs, pool.view).weights)
    return found


if __name__ == "__main__":
    report(arguments(__doc__).parse_args(), measured)
