"""What a model shows of its inside: the inputs of its head, and its hidden states as one vector a text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


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
    """Mean over the tokens that are not padding, in float32: (b, T, H) and (b, T) to (b, H)."""
    mask = attention_mask.to(states.device, torch.float32)[..., None]  # (b, T, 1)
    return (states.float() * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)


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
