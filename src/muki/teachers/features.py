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


class HeadInputs:
    """What the head of a model was given in its last forward pass.

    Attributes:
        head: the linear layer with one output for each class that was used last.
    """

    def __init__(self, padding: int | None) -> None:
        self.head: nn.Linear | None = None
        self._padding = padding
        self._values: torch.Tensor | None = None

    def note(self, head: nn.Linear, values: tuple[torch.Tensor, ...]) -> None:
        """A hook for the linear layer."""
        self.head, self._values = head, values[0]

    def take(self, batch: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """The features of the texts of a batch, shape (b, H), forgotten then; None where no such layer was used."""
        values, self._values = self._values, None
        return None if values is None else _of_text(values, batch, self._padding)


@contextmanager
def head_inputs(model: Any, n_labels: int) -> Iterator[HeadInputs]:
    """Within this context the inputs of the model's linear layers with `n_labels` outputs are noted."""
    seen = HeadInputs(model.config.pad_token_id)
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == n_labels]
    hooks = [head.register_forward_pre_hook(seen.note) for head in heads]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


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
