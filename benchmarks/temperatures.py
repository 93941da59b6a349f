"""How close the teachers' temperatures that are found without labels come to those that gold labels give.

    python benchmarks/temperatures.py GRID.yaml [--data NAME …] [--output FILE.json]

Takes the groups of a grid that `muki compare` has scored (`grids/routing.yaml`), one seed a data set. Prints, as a mean
over the teachers, how often a teacher is right on its own texts and how sure it says it is there, its temperature by
gold labels and as found; and the log loss (nats) of the target's distribution on the pool's gold labels with the
teachers as they are, with the temperatures that were found, and with those by gold labels. The routing is the same.
"""

from __future__ import annotations

import numpy as np
from pools import METHOD, Pool, Record, arguments, report

from muki.formulas import Array, integrate_distributions, softmax
from muki.integration.fitting import fit_router
from muki.routing.temperature import fit_temperature


def measured(pool: Pool) -> Record:
    router = fit_router(METHOD, pool.outputs, pool.space, pool.view, pool.names)
    weights = router(pool.outputs, pool.view).weights
    by_gold, right, sure = [], [], []
    for one, columns in zip(pool.outputs, pool.columns, strict=True):
        own = np.isin(pool.gold, columns)
        label = np.array([columns.index(int(gold)) for gold in pool.gold[own]])
        by_gold.append(fit_temperature(one.logits[own], label))
        p = softmax(one.logits[own])
        right.append((p.argmax(axis=-1) == label).mean())
        sure.append(p.max(axis=-1).mean())
    return {
        "right on own texts": round(float(np.mean(right)), 3),
        "sure there": round(float(np.mean(sure)), 3),
        "temperatures by gold labels": " ".join(f"{one:.2f}" for one in by_gold),
        "temperatures found": " ".join(f"{one:.2f}" for one in router.temperatures),
        "log loss, as they are": log_loss(pool, weights, np.ones(len(by_gold))),
        "log loss, found": log_loss(pool, weights, router.temperatures),
        "log loss, by gold labels": log_loss(pool, weights, np.array(by_gold)),
    }


def log_loss(pool: Pool, weights: Array, temperatures: Array) -> float:
    """Mean of `− log g(gold label | x)`, in nats, over the texts that belong to somebody."""
    answers = [softmax(one.logits, float(t)) for one, t in zip(pool.outputs, temperatures, strict=True)]
    target = integrate_distributions(weights, answers, pool.columns, len(pool.space.labels))
    known = pool.gold >= 0
    return round(float(-np.log(target[known, pool.gold[known]] + 1e-12).mean()), 4)


if __name__ == "__main__":
    report(arguments(__doc__).parse_args(), measured)
