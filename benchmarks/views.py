"""How the default's routing depends on the neutral view and on the size of the pool, without and with label names.

    python benchmarks/views.py GRID.yaml [--data NAME …] [--output FILE.json]

Takes the groups of a grid that `muki compare` has scored (`grids/routing.yaml`), one seed a data set, and fits
`muki-plus` with other views in the place of the student's encoder: spoiled ones, early layers, random weights, the
teachers' own features; and with pools cut down. The labels' names are read in the same view. Prints the routing
accuracy without and with them; "kept" where the view was not trusted and the scores stayed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pools import METHOD, START, Pool, Record, Vectors, arguments, report
from transformers import AutoModel

from muki.batches import BATCH_TOKENS, length_batches, tokenize
from muki.config import StudentConfig
from muki.formulas import Array
from muki.hidden_states import mean_state
from muki.integration.fitting import fit_router
from muki.routing.density import unit_length
from muki.routing.names import readable
from muki.teachers.outputs import TeacherOutputs
from muki.texts import Text
from muki.view import Encoder

SIZES = (200, 400, 800)
DIMENSIONS = 24


@dataclass(frozen=True)
class View:
    """Vectors of the texts, shape (n, H), and of the label names, shape (C, H), if there are any."""

    texts: Vectors
    names: Vectors | None = None


def measured(pool: Pool) -> Record:
    """Routing accuracy with each view, without and with names, and of cut pools without and with refinement."""
    encoder, everything = View(pool.view, pool.names), np.arange(len(pool.gold))
    texts = [*pool.texts, *(Text(number, readable(label)) for number, label in enumerate(pool.space.labels))]
    views = {
        "encoder": encoder,
        **dict(others(encoder, pool.outputs)),
        **dict(layers(pool.config.student, texts, len(pool.gold))),
    }
    record: Record = {"start": routed(pool, everything, None)}
    for name, view in views.items():
        record[name] = routed(pool, everything, View(view.texts))
        if view.names is not None:
            record[f"{name}, names"] = routed(pool, everything, view)
    order = np.random.default_rng(pool.group.seed).permutation(everything)
    for size in SIZES:
        some = np.sort(order[:size])
        record[f"{size} texts, start"] = routed(pool, some, None)
        record[f"{size} texts"] = routed(pool, some, View(encoder.texts))
        record[f"{size} texts, names"] = routed(pool, some, encoder)
    return record


def routed(pool: Pool, some: NDArray[np.int64], view: View | None) -> str | float:
    """Routing accuracy of a pool of some of the texts, with "kept" where the view was not trusted."""
    outputs = [one.take(some) for one in pool.outputs]
    texts, names = (view.texts[some], view.names) if view else (None, None)
    router = fit_router(START if view is None else METHOD, outputs, pool.space, texts, names)
    accuracy = pool.accuracy(router(outputs, texts).weights, some)
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
    report(arguments(__doc__).parse_args(), measured)
