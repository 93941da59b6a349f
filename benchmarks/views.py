"""How the default's routing depends on the neutral view and on the size of the pool, without and with label names.

    python benchmarks/views.py GRID.yaml [--output FILE.json]

Takes the groups of a grid that `muki compare` has scored (`grids/routing.yaml`), one seed a data set, and fits
`muki-plus` with other views in the place of the student's encoder: spoiled ones, early layers, random weights, the
teachers' own features; and with pools cut down. The labels' names are read in the same view. Prints the routing
accuracy without and with them; "kept" where the view was not trusted and the scores stayed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from muki.batches import BATCH_TOKENS, length_batches, tokenize
from muki.config import RunConfig, StudentConfig
from muki.errors import MukiError
from muki.evaluation.metrics import routing_accuracy
from muki.experiments.grid import Group, load_grid
from muki.experiments.harness import Laboratory
from muki.formulas import Array
from muki.integration.fitting import fit_router
from muki.integration.pool import load_outputs
from muki.labels import LabelSpace
from muki.methods import PRESETS
from muki.routing.density import unit_length
from muki.routing.names import readable
from muki.run_folder import RunFolder
from muki.teachers.features import mean_state
from muki.teachers.outputs import TeacherOutputs
from muki.texts import Text, TextShards
from muki.view import Encoder, neutral_view

METHOD = PRESETS["muki-plus"]
START = METHOD.model_copy(update={"refinement": "none", "reweight": "none"})
SIZES = (200, 400, 800)
DIMENSIONS = 24

Vectors = NDArray[np.float16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    grid = load_grid(args.grid)
    records = []
    for group in (group for group in grid.groups() if group.seed == min(grid.seeds)):
        config = Laboratory(grid, group).config(METHOD)
        run = RunFolder(Path(config.output))
        if not run.config.exists():
            print(f"{group}: not scored yet; run muki compare {args.grid} first", flush=True)
            continue
        record = measured(group, run, config)
        records.append(record)
        print("\n  ".join(f"{key}: {value}" for key, value in record.items()), flush=True)
    if args.output:
        args.output.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class View:
    """Vectors of the texts, shape (n, H), and of the label names, shape (C, H), if there are any."""

    texts: Vectors
    names: Vectors | None = None


def measured(group: Group, run: RunFolder, config: RunConfig) -> dict[str, str | float]:
    """Routing accuracy with each view, without and with names, and of cut pools without and with refinement."""
    space, texts = LabelSpace.load(run.labels), TextShards.load(run.texts("pool"))
    assert space is not None and texts is not None
    outputs = load_outputs(config, run, "pool", features=True)
    found = neutral_view(config, run, "pool")
    assert found is not None
    encoder = View(np.concatenate([found(number) for number in range(len(texts.shards))]), found.names)
    gold = np.array([space.label2id.get(text.label or "", -1) for text in texts])
    record: dict[str, str | float] = {"data": group.data, "seed": group.seed}
    record["start"] = routed(outputs, space, None, gold)
    read = [*texts, *(Text(number, readable(label)) for number, label in enumerate(space.labels))]
    views = {"encoder": encoder, **dict(others(encoder, outputs)), **dict(layers(config.student, read, len(gold)))}
    for name, view in views.items():
        record[name] = routed(outputs, space, View(view.texts), gold)
        if view.names is not None:
            record[f"{name}, names"] = routed(outputs, space, view, gold)
    order = np.random.default_rng(group.seed).permutation(len(gold))
    for size in SIZES:
        some = np.sort(order[:size])
        cut = [one.take(some) for one in outputs]
        record[f"{size} texts, start"] = routed(cut, space, None, gold[some])
        record[f"{size} texts"] = routed(cut, space, View(encoder.texts[some]), gold[some])
        record[f"{size} texts, names"] = routed(cut, space, View(encoder.texts[some], encoder.names), gold[some])
    return record


def routed(outputs: list[TeacherOutputs], space: LabelSpace, view: View | None, gold: NDArray[np.int64]) -> str | float:
    """Routing accuracy on the texts that belong to somebody, with "kept" where the view was not trusted."""
    texts, names = (view.texts, view.names) if view else (None, None)
    router = fit_router(START if view is None else METHOD, outputs, space, texts, names)
    known = gold >= 0
    weights = router(outputs, texts).weights
    accuracy = round(routing_accuracy(weights[known], gold[known], list(space.columns.values())), 4)
    return f"{accuracy}, kept" if view is not None and router.refinement is None else accuracy


def others(own: View, outputs: list[TeacherOutputs]) -> Iterator[tuple[str, View]]:
    """Spoiled views, and what the teachers themselves see."""
    random = np.random.default_rng(0)
    assert own.names is not None
    x, names = unit_length(own.texts), unit_length(own.names)
    noise = unit_length(random.normal(size=x.shape))
    noise_of_names = unit_length(random.normal(size=names.shape))
    yield f"{DIMENSIONS} of its {x.shape[1]} dimensions", View(own.texts[:, :DIMENSIONS], own.names[:, :DIMENSIONS])
    yield "noise of twice its length", View(half(x + 2 * noise), half(names + 2 * noise_of_names))
    yield "other texts' vectors", View(own.texts[random.permutation(len(x))], own.names)
    yield "noise alone", View(half(noise), half(noise_of_names))
    features = [unit_length(one.features) for one in outputs if one.features is not None]
    yield "teachers' features", View(half(np.concatenate(features, axis=1)))
    yield "encoder and teachers' features", View(half(np.concatenate([x, *features], axis=1)))


def layers(student: StudentConfig, texts: list[Text], first_name: int) -> Iterator[tuple[str, View]]:
    """Early layers of the student's encoder, and one with random weights; the label names follow the texts."""
    encoder = Encoder(student)
    words, _, second, *_ = mean_states(encoder, texts)
    torch.manual_seed(0)
    encoder.model = AutoModel.from_config(encoder.model.config).eval()  # type: ignore[no-untyped-call]
    random = mean_states(encoder, texts)[-1]
    for name, found in {"word embeddings": words, "second layer": second, "random weights": random}.items():
        yield name, View(half(found[:first_name]), half(found[first_name:]))


def mean_states(encoder: Encoder, texts: list[Text]) -> list[Array]:
    """Mean hidden states of each layer, the word embeddings first, each of shape (n, H)."""
    encodings = tokenize(encoder.tokenizer, texts, encoder.max_length, encoder.prefix)
    shape = len(texts), encoder.model.config.hidden_size
    found: list[Array] = [np.zeros(shape) for _ in range(encoder.model.config.num_hidden_layers + 1)]
    for index, batch in length_batches(encoder.tokenizer, encodings, BATCH_TOKENS):
        with torch.inference_mode():
            states = encoder.model(**batch, output_hidden_states=True).hidden_states
        for layer, vectors in enumerate(found):
            vectors[index] = mean_state(states[layer], batch["attention_mask"]).numpy()
    return found


def half(vectors: Array) -> Vectors:
    """As views are stored."""
    result: Vectors = unit_length(vectors).astype(np.float16)
    return result


if __name__ == "__main__":
    try:
        main()
    except MukiError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
