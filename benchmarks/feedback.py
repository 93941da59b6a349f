"""Whether the student, after some training, routes its own pool better than the router that taught it.

    python benchmarks/feedback.py GRID.yaml [--epochs 1] [--data NAME …] [--output FILE.json]

Takes the groups of a grid that `muki compare` has scored (`grids/routing.yaml`), one seed a data set; trains a student
on the default's supervision for so many epochs, and routes the pool again in four ways: by how much the student agrees
with each teacher, by that and the teachers' scores weighed as evidence, by that times the router's weights, and by the
default with the trained student's features as the view. Prints the routing accuracy of each.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from pools import METHOD, Pool, Record, arguments, report

from muki import pipeline
from muki.config import StudentConfig
from muki.experiments.grid import Grid
from muki.integration.fitting import fit_router
from muki.integration.router import neighbourhood
from muki.predict import Classifier
from muki.routing.evidence import Evidence
from muki.routing.names import readable
from muki.routing.weights import log_agreement
from muki.run_folder import RunFolder
from muki.texts import Text
from muki.view import Encoder


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--epochs", type=float, default=1)
    args = parser.parse_args()

    def shorter(grid: Grid) -> Grid:
        return grid.model_copy(update={"training": grid.training.model_copy(update={"epochs": args.epochs})})

    report(args, measured, change=shorter)


def measured(pool: Pool) -> Record:
    """Routing accuracy before the student and by its help."""
    with tempfile.TemporaryDirectory() as scratch:
        return _measured(pool, RunFolder(pool.run.root, results=Path(scratch)))


def _measured(pool: Pool, run: RunFolder) -> Record:
    config, outputs, space, view = pool.config, pool.outputs, pool.space, pool.view
    pipeline.supervise(config, run)
    pipeline.train(config, run=run)
    router = fit_router(METHOD, outputs, space, view, pool.names)
    before = router(outputs, view).weights

    prefix = config.student.prefix
    said = np.log(Classifier.load(run.student, prefix=prefix).probabilities(list(pool.texts)) + 1e-12)
    distributions = router.distributions(outputs)
    agreement = log_agreement(said, distributions, pool.columns)
    parts = router.parts(outputs).reshape(len(before), -1)
    tops = neighbourhood(outputs[0].rows, distributions, view.astype(np.float64)).predictions(pool.columns)
    evidence = Evidence.fit([agreement], parts, tops).log_weights([agreement], parts)
    student = StudentConfig(model=str(run.student), prefix=prefix, max_length=config.student.max_length)
    trained = Encoder(student)
    features = trained.encode(list(pool.texts))
    names = trained.encode([Text(row, readable(label)) for row, label in enumerate(space.labels)])

    by_features = fit_router(METHOD, outputs, space, features, names)(outputs, features).weights
    return {
        "router": pool.accuracy(before),
        "student": pool.accuracy(agreement),
        "student and scores": pool.accuracy(evidence),
        "student and router": pool.accuracy(agreement + np.log(before + 1e-12)),
        "student's features as view": pool.accuracy(by_features),
    }


if __name__ == "__main__":
    main()
