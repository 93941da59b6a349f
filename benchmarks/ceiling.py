"""How much of a routing's mistakes labels could mend: a router that was trained with labels.

    python benchmarks/ceiling.py GRID.yaml [--data NAME …] [--output FILE.json]

Takes the groups of a grid that `muki compare` has scored (`grids/routing.yaml`), one seed a data set. A logistic
regression learns from the gold labels which teacher knows a text, from all that the default reads (the neutral view,
the teachers' log probabilities, their scores, the label names), and is measured on texts that it did not learn from:
three quarters of the pool train it, four times over. The best of three regularisations counts, chosen by the same
labels, so that this errs upwards. Printed beside it: the default, which sees no label.
"""

from __future__ import annotations

import numpy as np
from pools import METHOD, Pool, Record, arguments, report
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from muki.formulas import Array, log_softmax, softmax
from muki.integration.fitting import fit_router
from muki.routing.density import unit_length
from muki.routing.names import LabelNames

FOLDS = 4
STRENGTHS = (0.0003, 0.003, 0.03)  # scikit-learn's C, for columns of deviation 1


def measured(pool: Pool) -> Record:
    router = fit_router(METHOD, pool.outputs, pool.space, pool.view, pool.names)
    x, distributions = unit_length(pool.view), [softmax(one.logits) for one in pool.outputs]
    parts = router.parts(pool.outputs).reshape(len(x), -1)
    names = LabelNames.fit(pool.names, x, distributions, pool.columns).log_weights(x, distributions)
    answers = np.concatenate([log_softmax(one.logits) for one in pool.outputs], axis=1)
    return {
        "default, without labels": pool.accuracy(router(pool.outputs, pool.view).weights),
        "view alone, with labels": with_labels(pool, x),
        "all that the default reads, with labels": with_labels(pool, np.hstack([x, answers, parts, names])),
    }


def with_labels(pool: Pool, inputs: Array) -> float:
    """Accuracy of the best router that these inputs (n, F) allow to learn, on texts that it was not trained with."""
    known = pool.gold >= 0
    owner = np.array([[label in columns for columns in pool.columns] for label in pool.gold[known]]).argmax(axis=1)
    weights = np.zeros((len(inputs), len(pool.columns)))
    found = []
    for strength in STRENGTHS:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
        weights[known] = np.eye(len(pool.columns))[cross_val_predict(model, inputs[known], owner, cv=FOLDS)]
        found.append(pool.accuracy(weights))
    return max(found)


if __name__ == "__main__":
    report(arguments(__doc__).parse_args(), measured)
