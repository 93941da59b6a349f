"""What the label names are worth.

    python benchmarks/names.py GRID.yaml [--data NAME …] [--output FILE.json]

Takes the groups of a grid that `muki compare` has scored (`grids/routing.yaml`), one seed a data set. Prints how far
the teachers agree with the names (Cohen's kappa), and the routing accuracy of the names alone, of the scores alone, and
of the default without and with names; "kept": the view was not trusted. `views.py` reads them in poorer views.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muki.errors import MukiError
from muki.evaluation.metrics import routing_accuracy
from muki.experiments.grid import load_grid
from muki.experiments.harness import Laboratory
from muki.formulas import Array, softmax
from muki.integration.fitting import fit_router
from muki.integration.pool import load_outputs
from muki.labels import LabelSpace
from muki.methods import PRESETS
from muki.routing.density import unit_length
from muki.routing.names import LabelNames
from muki.run_folder import RunFolder
from muki.texts import TextShards
from muki.view import neutral_view

METHOD = PRESETS["muki-plus"]
START = METHOD.model_copy(update={"refinement": "none", "reweight": "none"})
Vectors = NDArray[np.float16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--data", nargs="*", help="only these data sets")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    grid = load_grid(args.grid)
    records = []
    for group in grid.groups():
        if group.seed != min(grid.seeds) or (args.data and group.data not in args.data):
            continue
        laboratory = Laboratory(grid, group)
        if not (Path(laboratory.config(METHOD).output) / "config.yaml").exists():
            print(f"{group}: not scored yet; run muki compare {args.grid} first", flush=True)
            continue
        records.append({"data": group.data, "seed": group.seed, **measured(laboratory)})
        print(", ".join(f"{key} {value}" for key, value in records[-1].items()), flush=True)
    if args.output:
        args.output.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def measured(laboratory: Laboratory) -> dict[str, str | float]:
    """Routing accuracy on the texts that belong to somebody."""
    config = laboratory.config(METHOD)
    run = RunFolder(Path(config.output))
    texts, space = TextShards.load(run.texts("pool")), LabelSpace.load(run.labels)
    found = neutral_view(config, run, "pool")
    assert texts is not None and space is not None and found is not None and found.names is not None
    outputs = load_outputs(config, run, "pool", features=True)
    view, names = np.concatenate([found(number) for number in range(len(texts.shards))]), found.names
    gold = np.array([space.label2id.get(text.label or "", -1) for text in texts])
    columns, distributions = list(space.columns.values()), [softmax(one.logits) for one in outputs]

    def accuracy(weights: Array) -> float:
        return round(routing_accuracy(weights[gold >= 0], gold[gold >= 0], columns), 4)

    def routed(heard: Vectors | None, title: str) -> dict[str, str | float]:
        router = fit_router(METHOD, outputs, space, view, heard)
        kept = ", kept" if router.refinement is None else ""
        return {title: f"{accuracy(router(outputs, view).weights)}{kept}"}

    alone = LabelNames.fit(names, unit_length(view), distributions, columns)
    agreement = (fit_router(METHOD, outputs, space, view, names).findings or {}).get("names_agreement")
    return {
        "names agreement": "no words" if agreement is None else round(agreement, 3),
        "names alone": accuracy(alone.scores(alone.log_weights(unit_length(view), distributions))),
        "scores": accuracy(fit_router(START, outputs, space)(outputs).weights),
        **routed(None, "without names"),
        **routed(names, "with names"),
    }


if __name__ == "__main__":
    try:
        main()
    except MukiError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
