"""Features: what a teacher's last linear layer reads. Their density says whether the teacher has seen such texts."""

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

_LARGEST = float(np.finfo(np.float16).max)


@contextmanager
def head_inputs(teacher: Teacher) -> Iterator[Callable[[torch.Tensor], NDArray[np.float16]]]:
    """Within this context the model's last linear layer notes its input.

    Yields:
        a function that, called after a forward pass with its attention mask (b, T), gives that input, shape (b, H).
        A head that reads every token (causal models) gives its input at the last token that is not padding.

    Raises:
        TeacherError: the model has no linear layer with one output for each class.
    """
    model: Any = teacher.model
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == len(teacher.labels)]
    seen: list[torch.Tensor] = []
    hooks = [head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for head in heads]

    def features(attention_mask: torch.Tensor) -> NDArray[np.float16]:
        if not seen:
            raise TeacherError(
                f"teacher '{teacher.name}': no linear layer with {len(teacher.labels)} outputs was used, so there are "
                "no features; choose a routing score that needs none (--method muki)"
            )
        values = seen[-1]  # (b, H), or (b, T, H)
        if values.dim() == 3:
            steps = torch.arange(values.shape[1]) * attention_mask.cpu()
            values = values[torch.arange(len(values)), steps.argmax(dim=-1)]
        seen.clear()
        return values.float().clamp(-_LARGEST, _LARGEST).cpu().numpy().astype(np.float16)

    try:
        yield features
    finally:
        for hook in hooks:
            hook.remove()
