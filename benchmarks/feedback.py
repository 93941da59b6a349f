"""Whether the student, after some training, routes its own pool better than the router that taught it.

    python benchmarks/feedback.py GRID.yaml [--epochs 1] [--output FILE.json]

Takes the groups of a grid that `muki compare` has scored (`grids/routing.yaml`), one seed a data set; trains a student
on the default's supervision for so many epochs, and routes the pool again in four ways: by how much the student agrees
with each teacher, by that and the teachers' scores weighed as evidence, by that times the router's weights, and by the
default with the trained student's features as the view. Prints the routing accuracy of each.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from muki import pipeline
from muki.config import StudentConfig
from muki.errors import MukiError
from muki.evaluation.metrics import routing_accuracy
from muki.experiments.grid import Group, load_grid
from muki.experiments.harness import Laboratory
from muki.formulas import Array, softmax
from muki.integration.fitting import fit_router
from muki.integration.pool import load_outputs, scored_pool
from muki.integration.router import neighbourhood
from muki.labels import LabelSpace
from muki.methods import PRESETS
from muki.predict import Classifier
from muki.routing.evidence import Evidence
from muki.routing.names import readable
from muki.routing.weights import log_agreement
from muki.run_folder import RunFolder
from muki.texts import Text, TextShards
from muki.view import Encoder

METHOD = PRESETS["muki-plus"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    grid = load_grid(args.grid)
    grid = grid.model_copy(update={"training": grid.training.model_copy(update={"epochs": args.epochs})})
    records = []
    for group in (group for group in grid.groups() if group.seed == min(grid.seeds)):
        laboratory = Laboratory(grid, group)
        if not (Path(laboratory.config(METHOD).output) / "config.yaml").exists():
            print(f"{group}: not scored yet; run muki compare {args.grid} first", flush=True)
            continue
        with tempfile.TemporaryDirectory() as scratch:
            records.append(measured(laboratory, group, Path(scratch)))
        print(", ".join(f"{key} {value}" for key, value in records[-1].items()), flush=True)
    if args.output:
        args.output.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def measured(laboratory: Laboratory, group: Group, scratch: Path) -> dict[str, str | float]:
    """Routing accuracy before the student and by its help."""
    config = laboratory.config(METHOD)
    run = RunFolder(Path(config.output), results=scratch)
    texts, space = TextShards.load(run.texts("pool")), LabelSpace.load(run.labels)
    assert texts is not None and space is not None
    pipeline.supervise(config, run)
    pipeline.train(config, run=run)

    columns = list(space.columns.values())
    gold = np.array([space.label2id.get(text.label or "", -1) for text in texts])
    outputs = load_outputs(config, run, "pool", features=True)
    pool = scored_pool(config, run)
    assert pool.view is not None
    view = np.concatenate([pool.view(number) for number in range(len(texts.shards))])
    router = fit_router(METHOD, outputs, space, view, pool.view.names)
    before = router(outputs, view).weights

    prefix = config.student.prefix
    said = np.log(Classifier.load(run.student, prefix=prefix).probabilities(list(texts)) + 1e-12)
    agreement = log_agreement(said, [softmax(one.logits) for one in outputs], columns)
    parts = router.parts(outputs).reshape(len(before), -1)
    answers = neighbourhood(outputs, view.astype(np.float64)).answers(columns)
    evidence = Evidence.fit([agreement], parts, answers).log_weights([agreement], parts)
    student = StudentConfig(model=str(run.student), prefix=prefix, max_length=config.student.max_length)
    trained = Encoder(student)
    features = trained.encode(list(texts))
    names = trained.encode([Text(row, readable(label)) for row, label in enumerate(space.labels)])

    def accuracy(weights: Array) -> float:
        known = gold >= 0
        return round(routing_accuracy(weights[known], gold[known], columns), 4)

    return {
        "data": group.data,
        "seed": group.seed,
        "router": accuracy(before),
        "student": accuracy(agreement),
        "student and scores": accuracy(evidence),
        "student and router": accuracy(agreement + np.log(before + 1e-12)),
        "student's features as view": accuracy(
            fit_router(METHOD, outputs, space, features, names)(outputs, features).weights
        ),
    }


if __name__ == "__main__":
    try:
        main()
    except MukiError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
