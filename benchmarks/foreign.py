"""How well texts that belong to nobody are told from a pool's own.

    python benchmarks/foreign.py GRID.yaml --foreign DATA_FOLDER … [--texts 400] [--data NAME …] [--output FILE.json]

Takes the groups of a grid that `muki compare` has scored (`grids/routing.yaml`), one seed a data set; lets the teachers
read texts of other data sets' tests, mixes them in, and prints the area under the ROC curve of P(foreign), that of each
of its two parts alone, and the mean of P(foreign).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from pools import METHOD, START, Pool, Record, arguments, report
from scipy.stats import rankdata

from muki.experiments.tasks import read_data
from muki.formulas import Array
from muki.integration.fitting import fit_router
from muki.integration.router import usual_of
from muki.preparation import load_from_config
from muki.routing.density import neighbour_distance, unit_length
from muki.routing.foreign import ForeignTexts
from muki.teachers.outputs import TeacherOutputs
from muki.teachers.scoring import score_texts
from muki.texts import Text
from muki.view import Encoder


def measured(pool: Pool, folders: list[Path], count: int) -> Record:
    teachers = [load_from_config(teacher) for teacher in pool.config.teachers]
    encoder = Encoder(pool.config.student)
    found: Record = {}
    for folder in folders:
        rows = read_data(str(folder))[0].test
        some = np.random.default_rng(0).permutation(len(rows))[:count].tolist()
        texts = [Text(len(pool.gold) + i, rows[row]["text"]) for i, row in enumerate(some)]
        read = [score_texts(teacher, texts, passes=0, keep="features") for teacher in teachers]
        outputs = [TeacherOutputs.concatenate([own, more]) for own, more in zip(pool.outputs, read, strict=True)]
        x = unit_length(np.concatenate([pool.view, encoder.encode(texts)]))
        parts = fit_router(START, outputs, pool.space).parts(outputs)
        usual = usual_of(parts, METHOD)
        fitted = ForeignTexts.fit(x, usual, known=parts.max(axis=1).sum(axis=-1))
        p, isolated = fitted(x, usual), neighbour_distance(x, fitted.references)
        areas = [area(values, len(texts)) for values in (p, isolated, -usual.max(axis=-1))]
        both, neighbours, distances = (f"{value:.3f}" for value in areas)
        found[folder.name] = f"{both} (neighbours alone {neighbours}, distances {distances}), mean {p.mean():.3f}"
    return found


def area(values: Array, outside: int) -> float:
    """Under the ROC curve, of values that should be larger for the last `outside` texts."""
    ranks = rankdata(values)[-outside:].sum() - outside * (outside + 1) / 2
    return float(ranks / (outside * (len(values) - outside)))


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--foreign", type=Path, nargs="+", required=True, help="folders of data sets")
    parser.add_argument("--texts", type=int, default=400)
    args = parser.parse_args()
    report(args, partial(measured, folders=args.foreign, count=args.texts))
