"""What else a deterministic pass shows: the input of the head (features), and the mean hidden state of each layer.

The density of the features says whether a teacher has seen such texts; the states are what DFA and CFL imitate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from muki.errors import TeacherError
from muki.hidden_states import head_inputs, mean_state

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
    layers: list[tuple[torch.Tensor, ...] | None] = []
    hooks = []
    if "states" in wanted:
        hooks.append(model.register_forward_hook(lambda _, __, out: layers.append(out.hidden_states)))
        before, model.config.output_hidden_states = model.config.output_hidden_states, True

    def kept(batch: dict[str, torch.Tensor]) -> Kept:
        found: Kept = {}
        if seen is not None:
            features = seen.take(batch)
            if features is None:
                raise TeacherError(
                    f"teacher '{teacher.name}': no linear layer with {len(teacher.labels)} outputs was used, so there "
                    "are no features; choose a method that needs none (--method muki)"
                )
            found["features"] = _halves(features)
        if "states" in wanted:
            if not layers or layers[-1] is None:
                raise TeacherError(
                    f"teacher '{teacher.name}': {type(model).__name__} shows no hidden states, which the methods dfa "
                    "and cfl imitate; choose another method"
                )
            means = [mean_state(layer, batch["attention_mask"]) for layer in layers[-1]]
            found["states"] = _halves(torch.stack(means, dim=1))
        layers.clear()
        return found

    try:
        with ExitStack() as stack:
            seen = stack.enter_context(head_inputs(model, len(teacher.labels))) if "features" in wanted else None
            yield kept
    finally:
        for hook in hooks:
            hook.remove()
        if "states" in wanted:
            model.config.output_hidden_states = before


def _halves(values: torch.Tensor) -> NDArray[np.float16]:
    return values.float().clamp(-_LARGEST, _LARGEST).cpu().numpy().astype(np.float16)
