"""How the default's routing depends on the neutral view and on the size of the pool.

    python benchmarks/views.py GRID.yaml [--output FILE.json]

Takes the groups of a grid that `muki compare` has scored (`grids/routing.yaml`), one seed a data set, and fits
`muki-plus` with other views in the place of the student's encoder: spoiled ones, early layers, the teachers' own
features; and with pools cut down. Prints the routing accuracy; "kept" where the view was not trusted and the
standardised scores stayed. The labels' names are not heard here: they would hide what a view is worth.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from muki.batches import BATCH_TOKENS, length_batches, tokenize
from muki.config import load_config
from muki.errors import MukiError
from muki.evaluation.evaluate import load_outputs
from muki.evaluation.metrics import routing_accuracy
from muki.experiments.grid import Group, load_grid
from muki.experiments.harness import Laboratory
from muki.formulas import Array
from muki.integration.fitting import fit_router
from muki.labels import LabelSpace
from muki.methods import PRESETS
from muki.routing.density import unit_length
from muki.run_folder import RunFolder
from muki.teachers.features import mean_state
from muki.teachers.outputs import TeacherOutputs
from muki.texts import Text, TextShards
from muki.view import Encoder, read_view

METHOD = PRESETS["muki-plus"]
START = METHOD.model_copy(update={"refinement": "none", "reweight": "none"})
SIZES = (200, 400, 800)
DIMENSIONS = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    grid = load_grid(args.grid)
    records = []
    for group in (group for group in grid.groups() if group.seed == min(grid.seeds)):
        run = RunFolder(Path(Laboratory(grid, group).config(METHOD).output))
        if not run.config.exists():
            print(f"{group}: not scored yet; run muki compare {args.grid} first", flush=True)
            continue
        record = measured(group, run)
        records.append(record)
        print(", ".join(f"{key} {value}" for key, value in record.items()), flush=True)
    if args.output:
        args.output.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def measured(group: Group, run: RunFolder) -> dict[str, str | float]:
    """Routing accuracy with each view, and of cut pools without and with refinement."""
    space, texts = LabelSpace.load(run.labels), TextShards.load(run.texts("pool"))
    assert space is not None and texts is not None
    outputs = load_outputs(run, "pool", list(space.columns), texts)
    own = np.concatenate([read_view(run.view("pool") / shard.name) for shard in texts.shards])
    gold = np.array([space.label2id.get(text.label or "", -1) for text in texts])
    record: dict[str, str | float] = {"data": group.data, "seed": group.seed}
    record["start"] = routed(outputs, space, None, gold)
    for name, view in {"encoder": own, **dict(others(own, outputs)), **dict(layers(run, list(texts)))}.items():
        record[name] = routed(outputs, space, view, gold)
    order = np.random.default_rng(group.seed).permutation(len(gold))
    for size in SIZES:
        some = np.sort(order[:size])
        cut = [one.take(some) for one in outputs]
        record[f"{size} texts, start"] = routed(cut, space, None, gold[some])
        record[f"{size} texts"] = routed(cut, space, own[some], gold[some])
    return record


def routed(
    outputs: list[TeacherOutputs], space: LabelSpace, view: NDArray[np.float16] | None, gold: NDArray[np.int64]
) -> str | float:
    """Routing accuracy on the texts that belong to somebody, or "kept" where the view was not used."""
    router = fit_router(START if view is None else METHOD, outputs, space, view)
    if view is not None and router.refinement is None:
        return "kept"
    known = gold >= 0
    weights = router(outputs, view).weights
    return round(routing_accuracy(weights[known], gold[known], list(space.columns.values())), 4)


def others(own: NDArray[np.float16], outputs: list[TeacherOutputs]) -> Iterator[tuple[str, NDArray[np.float16]]]:
    """Spoiled views, and what the teachers themselves see."""
    random = np.random.default_rng(0)
    noise = unit_length(random.normal(size=own.shape))
    x = unit_length(own)
    yield f"{DIMENSIONS} of its {own.shape[1]} dimensions", own[:, :DIMENSIONS]
    yield "noise of twice its length", half(x + 2 * noise)
    yield "other texts' vectors", own[random.permutation(len(own))]
    yield "noise alone", half(noise)
    features = [unit_length(one.features) for one in outputs if one.features is not None]
    yield "teachers' features", half(np.concatenate(features, axis=1))
    yield "encoder and teachers' features", half(np.concatenate([x, *features], axis=1))


def layers(run: RunFolder, texts: list[Text]) -> Iterator[tuple[str, NDArray[np.float16]]]:
    """Early layers of the student's encoder."""
    config = load_config(run.config)
    encoder = Encoder(config.student)
    encodings = tokenize(encoder.tokenizer, texts, encoder.max_length, encoder.prefix)
    found: list[Array] = [np.zeros((len(texts), encoder.model.config.hidden_size)) for _ in range(3)]
    for index, batch in length_batches(encoder.tokenizer, encodings, BATCH_TOKENS):
        with torch.inference_mode():
            states = encoder.model(**batch, output_hidden_states=True).hidden_states
        for layer, vectors in enumerate(found):
            vectors[index] = mean_state(states[layer], batch["attention_mask"]).numpy()
    yield "word embeddings", half(found[0])
    yield "second layer", half(found[2])


def half(vectors: Array) -> NDArray[np.float16]:
    """As views are stored."""
    result: NDArray[np.float16] = unit_length(vectors).astype(np.float16)
    return result


if __name__ == "__main__":
    try:
        main()
    except MukiError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
