"""The student's first head: the best that its encoder as it is allows for, found before any training.

A head of small random numbers has to grow first: with Adam a weight moves by about the learning rate in each step, so
that a few hundred steps end with a student that is far less sure than its targets, the more so the more labels there
are. The head is linear, so that its best value for fixed features is a convex problem, solved in seconds: linear
probing, then fine-tuning (Kumar et al., ICLR 2022, arXiv 2202.10054).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from muki import compute
from muki.batches import length_batches
from muki.errors import StudentError
from muki.hidden_states import head_inputs
from muki.student.data import SupervisedTexts, stacked_supervision

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from muki.student.objectives import Divergence

logger = logging.getLogger(__name__)

MOST_TEXTS = 10_000  # for a linear map that is plenty
RIDGES = (1.0, 0.1, 0.01, 0.001, 0.0001, 0.00001)  # the penalty's weight, strongest first
_HELD_OUT = 0.2  # of the texts, to choose the ridge by
_ITERATIONS = 100
_STEADY = 8.0  # deviations: a feature whose mean is larger hardly varies beside its size
_DROPOUT = 0.1  # the usual rate before a head

Batch = dict[str, torch.Tensor]


def fit_head(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: SupervisedTexts,
    objective: Divergence,
    seed: int = 0,
) -> bool:
    """Set the model's last linear layer to the least objective over the encoder's features as they are.

    Args:
        model: the student.
        tokenizer: pads the texts.
        texts: with their supervision; at most 10,000 of them are read, once, without dropout.
        objective: what training will minimise; here its part that the logits decide.
        seed: of the choice of texts.

    Returns:
        whether a linear layer gives the logits; if not, the model is left as it was.

    Raises:
        StudentError: the encoder gives numbers that are not finite.
    """
    chosen = np.random.default_rng(seed).permutation(len(texts))[:MOST_TEXTS]
    items = [texts[int(i)] for i in chosen]
    found = _features(model, tokenizer, items)
    if found is None:
        logger.info("student: no linear layer gives its logits; the head starts at random")
        return False
    head, features = found
    if not torch.isfinite(features).all():
        raise StudentError("student: its encoder gives numbers that are not finite (NaN or infinity); choose another")
    supervision = stacked_supervision(items, states=False)  # a head gives logits alone
    batch = {name: values.to(features.device) for name, values in supervision.items()}
    weight, bias = probe(features, batch, objective, head.out_features, with_bias=head.bias is not None)
    with torch.no_grad():
        head.weight.copy_(weight)
        if head.bias is not None:
            head.bias.copy_(bias)
    return True


def probe(
    features: torch.Tensor, batch: Batch, objective: Divergence, n_labels: int, with_bias: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """The linear map with the least objective plus a ridge penalty, the ridge with the least loss on held-out texts.

    The penalty is `ridge / 2 · ‖W‖²` for features of mean 0 and variance 1. The last fifth of the texts is held out
    to choose the ridge, and read again for the final fit.

    A feature that hardly varies beside its size (a dead or saturated unit) would get any weight. But the dropout before
    the head takes it away at times, which a bias cannot mend. Such a feature's variance is taken with that of dropout,
    and its weight pays for what dropout does to the loss, to second order and at most `p (1 − p) <= 1/4` for each logit
    (Wager et al. 2013, arXiv 1307.1493).

    Args:
        features: shape (n, H).
        batch: the supervision of these texts, in random order.
        objective: convex in the logits, but for `decoupled` where a text counts more than the average.
        n_labels: C.
        with_bias: whether the map may have one; without it the features' mean stays where it is.

    Returns:
        weight (C, H) and bias (C,), for the features as they are given.
    """
    mean, (scale, shaken) = features.mean(dim=0) * with_bias, _spread(features)
    x = torch.cat([(features - mean) / scale, features.new_full((len(features), 1), float(with_bias))], dim=-1)
    held_out = round(_HELD_OUT * len(x))
    ridge, start = RIDGES[0], x.new_zeros(n_labels, x.shape[1])
    if held_out:
        ridge, start = _best_ridge(x, batch, objective, shaken, start, len(x) - held_out)
    found = _minimum(x, batch, objective, ridge, shaken, start)
    weight = found[:, :-1] / scale
    return weight, found[:, -1] - weight @ mean


def _spread(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each feature's standard deviation, and which part of its variance is dropout's, in [0, 1]; both shape (H,).

    Only what a feature's mean exceeds eight deviations by counts as dropout's: of sentence encoders nothing.
    """
    deviation, mean = features.std(dim=0, correction=0), features.mean(dim=0)
    dropped = _DROPOUT / (1 - _DROPOUT) * (mean.square() - (_STEADY * deviation).square()).clamp(min=0.0)
    scale = torch.hypot(deviation, dropped.sqrt()).clamp(min=1e-6)
    return scale, dropped / scale.square()


def _best_ridge(
    x: torch.Tensor, batch: Batch, objective: Divergence, shaken: torch.Tensor, start: torch.Tensor, cut: int
) -> tuple[float, torch.Tensor]:
    """The ridge of least loss on the texts from `cut` on, and its map; each starts where the last ended."""
    seen, unseen = ({name: values[part] for name, values in batch.items()} for part in (slice(cut), slice(cut, None)))
    best, least, current = (RIDGES[0], start), float("inf"), start
    for ridge in RIDGES:
        current = _minimum(x[:cut], seen, objective, ridge, shaken, current)
        loss = float(objective.of_logits(x[cut:] @ current.T, unseen))
        logger.debug("first head: ridge %g, loss on held-out texts %.4f", ridge, loss)
        if not loss < least:
            break
        best, least = (ridge, current), loss
    return best


def _minimum(
    x: torch.Tensor, batch: Batch, objective: Divergence, ridge: float, shaken: torch.Tensor, start: torch.Tensor
) -> torch.Tensor:
    """Weight and bias side by side, shape (C, H + 1); the bias, the last column, is free of penalties."""
    parameters = start.clone().requires_grad_(True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        squares = parameters[:, :-1].square()
        penalty = 0.5 * ridge * squares.sum() + 0.125 * (squares * shaken).sum()
        loss = objective.of_logits(x @ parameters.T, batch) + penalty
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return parameters.detach()


def _features(
    model: Any, tokenizer: PreTrainedTokenizerBase, items: list[dict[str, Any]]
) -> tuple[nn.Linear, torch.Tensor] | None:
    """The layer that gives the logits, and its input for each text, shape (n, H); None where there is none."""
    encodings = [{key: value for key, value in item.items() if key != "supervision"} for item in items]
    result: torch.Tensor | None = None
    model.eval().to(compute.device())
    with head_inputs(model, model.config.num_labels) as seen, torch.inference_mode():
        for index, inputs in length_batches(tokenizer, encodings):
            model(**{key: value.to(model.device) for key, value in inputs.items()})
            features = seen.take(inputs)
            if features is None:
                return None
            if result is None:
                result = torch.zeros(len(items), features.shape[-1], device=model.device)
            result[torch.from_numpy(index)] = features.float()
    return None if result is None or seen.head is None else (seen.head, result)
