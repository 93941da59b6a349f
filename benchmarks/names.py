"""What the label names are worth.

    python benchmarks/names.py GRID.yaml [--data NAME …] [--output FILE.json]

Takes the groups of a grid that `muki compare` has scored (`grids/routing.yaml`), one seed a data set. Prints how far
the teachers agree with the names (Cohen's kappa), and the routing accuracy of the names alone, of the scores alone, and
of the default without and with names; "kept": the view was not trusted. `views.py` reads them in poorer views.
"""

from __future__ import annotations

from pools import METHOD, START, Pool, Record, Vectors, arguments, report

from muki.formulas import softmax
from muki.integration.fitting import fit_router
from muki.routing.density import unit_length
from muki.routing.names import LabelNames


def measured(pool: Pool) -> Record:
    distributions, x = [softmax(one.logits) for one in pool.outputs], unit_length(pool.view)

    def routed(names: Vectors | None) -> str:
        router = fit_router(METHOD, pool.outputs, pool.space, pool.view, names)
        kept = ", kept" if router.refinement is None else ""
        return f"{pool.accuracy(router(pool.outputs, pool.view).weights)}{kept}"

    alone = LabelNames.fit(pool.names, x, distributions, pool.columns)
    findings = fit_router(METHOD, pool.outputs, pool.space, pool.view, pool.names).findings or {}
    agreement = findings.get("names_agreement")
    return {
        "names agreement": "no words" if agreement is None else round(agreement, 3),
        "names alone": pool.accuracy(alone.scores(alone.log_weights(x, distributions))),
        "scores": pool.accuracy(fit_router(START, pool.outputs, pool.space)(pool.outputs).weights),
        "without names": routed(None),
        "with names": routed(pool.names),
    }


if __name__ == "__main__":
    report(arguments(__doc__).parse_args(), measured)
