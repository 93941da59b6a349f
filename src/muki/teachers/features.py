"""What else a deterministic pass shows: the input of the head (features), and the mean hidden state of each layer.

The density of the features says whether a teacher has seen such texts; the states are what DFA and CFL imitate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from muki.errors import TeacherError

if TYPE_CHECKING:
    from muki.teachers.loading import Teacher

Kept = dict[str, NDArray[np.float16]]

_LARGEST = float(np.finfo(np.float16).max)


@contextmanager
def keeping(teacher: Teacher, keep: str) -> Iterator[Callable[[dict[str, torch.Tensor]], Kept]]:
    """Within this context the model notes what `keep` names: "", "features", "states" or "features+states".

    Yields:
        a function that, called after a forward pass with its batch (ids and mask (b, T)), gives arrays by name:
        `features` (b, H), and `states` (b, layers + 1, H).

    Raises:
        TeacherError: the model has no linear layer with one output for each class, or shows no hidden states.
    """
    model: Any = teacher.model
    wanted = set(filter(None, keep.split("+")))
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == len(teacher.labels)]
    inputs: list[torch.Tensor] = []
    layers: list[tuple[torch.Tensor, ...] | None] = []
    hooks = []
    if "features" in wanted:
        hooks += [head.register_forward_pre_hook(lambda _, values: inputs.append(values[0])) for head in heads]
    if "states" in wanted:
        hooks.append(model.register_forward_hook(lambda _, __, out: layers.append(out.hidden_states)))
        before, model.config.output_hidden_states = model.config.output_hidden_states, True

    def kept(batch: dict[str, torch.Tensor]) -> Kept:
        found: Kept = {}
        if "features" in wanted:
            if not inputs:
                raise TeacherError(
                    f"teacher '{teacher.name}': no linear layer with {len(teacher.labels)} outputs was used, so there "
                    "are no features; choose a method that needs none (--method muki)"
                )
            found["features"] = _halves(_of_text(inputs[-1], batch, model.config.pad_token_id))
        if "states" in wanted:
            if not layers or layers[-1] is None:
                raise TeacherError(
                    f"teacher '{teacher.name}': {type(model).__name__} shows no hidden states, which the methods dfa "
                    "and cfl imitate; choose another method"
                )
            means = [mean_state(layer, batch["attention_mask"]) for layer in layers[-1]]
            found["states"] = _halves(torch.stack(means, dim=1))
        inputs.clear()
        layers.clear()
        return found

    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()
        if "states" in wanted:
            model.config.output_hidden_states = before


def mean_state(states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens that are not padding: (b, T, H) and (b, T) to (b, H)."""
    mask = attention_mask.to(states.device, states.dtype)[..., None]  # (b, T, 1)
    return (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)


def _of_text(values: torch.Tensor, batch: dict[str, torch.Tensor], padding: int | None) -> torch.Tensor:
    """The head's input for the text: a head that reads every token (causal models) counts at its last token.

    That is the last which is not the padding token, as in the model: where padding and end are one token, the end that
    a tokenizer adds does not count.
    """
    if values.dim() == 2:
        return values  # (b, H)
    counts = batch["attention_mask"] if padding is None else batch["input_ids"] != padding
    last = (torch.arange(values.shape[1]) * counts.cpu()).argmax(dim=-1)
    return values[torch.arange(len(values)), last]


def _halves(values: torch.Tensor) -> NDArray[np.float16]:
    return values.float().clamp(-_LARGEST, _LARGEST).cpu().numpy().astype(np.float16)
