"""Dropout masks that are cheap, and that belong to the text and not to its batch.

Stock dropout draws a random number for each activation at each pass; on a processor this can cost more than the matrix
products. Here one long table of scaled Bernoulli draws is made once for each rate, and a mask is a window of it at a
random place:

    mask(text, pass, site)  =  table[ o : o + size ],    o = hash(seed, teacher, row, pass, site) mod places

`site` counts the dropout calls of a forward pass. So one mask costs one random number and one multiplication. What is
kept: each activation is dropped with the stated rate (the table holds exactly that share of zeros; the half in which
windows begin holds it to some 1e-4) and is scaled by 1 / (1 - rate), in the passes' number format; masks of other
texts, passes and sites are uncorrelated up to two parts in the table's length (two activations share a draw only where
two random windows are shifted by exactly their distance).

Because a window depends only on its text and pass, a text's scores do not depend on its batch, on padding, on the
order of work, on threads or processes. (Up to float rounding, since matrix products of other shapes round otherwise.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from muki.hashing import splitmix64

_MIN_TABLE = 1 << 22
_MAX_TABLE = 1 << 28  # 1 GiB in float32; wider sites (attention over thousands of tokens) take torch's own dropout
_TABLE_SEED = 20_221_005


class DropoutMasks(TorchFunctionMode):
    """While active, `F.dropout` and the dropout inside `F.scaled_dot_product_attention` take masks from the table.

    Args:
        max_length: the most tokens a text can have; windows of attention masks are laid out for it, so that they do
            not depend on the padding of a batch.
        widest: activations of one text at the widest dropout site; it sets the table's length.
    """

    def __init__(self, max_length: int, widest: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.table_length = min(_MAX_TABLE, max(_MIN_TABLE, 1 << (4 * widest - 1).bit_length()))
        self._tables: dict[tuple[float, torch.dtype, torch.device], torch.Tensor] = {}
        self._keys: NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)
        self._site = 0

    @contextmanager
    def batch(self, keys: NDArray[np.uint64]) -> Iterator[None]:
        """Run one forward pass in this context; `keys` (one for each line of the batch) name text and pass."""
        self._keys, self._site = keys, 0
        with self:
            yield

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace the dropout calls; let everything else through."""
        kwargs = kwargs or {}
        if func is F.dropout:
            return self._dropout_call(*args, **kwargs)
        if func is F.scaled_dot_product_attention and kwargs.get("dropout_p", 0.0) > 0.0:
            return self._attention_call(*args, **kwargs)
        return func(*args, **kwargs)

    def _dropout_call(
        self, x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> torch.Tensor:
        return self.drop(x, p) if training and p > 0.0 else x

    def _attention_call(
        self,
        query: torch.Tensor,  # (batch, heads, tokens, size)
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
        scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-1, -2)
        lowest = torch.finfo(scores.dtype).min  # not -inf: padding that may attend nowhere would become NaN
        if is_causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores.masked_fill_(future, lowest)
        if attn_mask is not None:
            if attn_mask.dtype == torch.bool:
                scores.masked_fill_(~attn_mask, lowest)
            else:
                scores.add_(attn_mask).clamp_(min=lowest)
        return self.drop(scores.softmax(-1), dropout_p) @ value

    def drop(self, x: torch.Tensor, p: float) -> torch.Tensor:
        """Drop each element of `x` with probability `p` and scale the rest by `1 / (1 - p)`.

        `x` has one block for each line of the batch: its first dimension is the batch size or a multiple of it.
        """
        lines = len(self._keys)
        self._site += 1
        if lines == 0 or x.shape[0] % lines:
            return F.dropout(x, p)  # no line to tie the mask to: the global generator, seeded by the caller
        blocks = x.reshape(lines, -1, *x.shape[1:]) if x.shape[0] != lines else x
        shape = blocks.shape[1:]
        strides, size = self._layout(shape)
        if size > self.table_length // 2:
            return F.dropout(x, p)
        table = self._table(p, x.dtype, x.device)
        site = splitmix64(np.array([self._site], dtype=np.uint64))
        places = np.uint64(self.table_length // 2)  # not what the window leaves over: that would depend on padding
        starts = splitmix64(self._keys ^ site) % places
        multiply = _by_windows if x.device.type == "cpu" else _by_gather
        return multiply(blocks, table, starts.astype(np.int64), strides).reshape(x.shape)

    def _layout(self, shape: torch.Size) -> tuple[tuple[int, ...], int]:
        """Strides into a window for one text's activations, and the window's size; both independent of padding."""
        length = self.max_length
        if len(shape) == 3 and shape[1] <= length and shape[2] <= length:  # (heads, tokens, tokens)
            return (length * length, length, 1), shape[0] * length * length
        strides = [1]
        for size in reversed(shape[1:]):
            strides.insert(0, strides[0] * size)
        return tuple(strides), shape.numel()

    def _table(self, p: float, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        table = self._tables.get((p, dtype, device))
        if table is None:
            generator = torch.Generator().manual_seed(_TABLE_SEED)
            table = torch.full((self.table_length,), 1.0 / (1.0 - p))
            table[: round(p * self.table_length)] = 0.0
            table = table[torch.randperm(self.table_length, generator=generator)].to(device, dtype)
            self._tables[p, dtype, device] = table
        return table


def widest_site(config: Any, max_length: int) -> int:
    """Activations of one text at a model's widest dropout site: attention, hidden or feed-forward."""
    heads = getattr(config, "num_attention_heads", None) or 1
    sizes = [getattr(config, name, None) or 1 for name in ("hidden_size", "intermediate_size", "embedding_size")]
    return max(heads * max_length * max_length, max_length * max(sizes))


def pass_keys(seed: int, rows: NDArray[np.int64], number: int) -> NDArray[np.uint64]:
    """Keys of one dropout pass: one 64-bit number for each (seed, row, pass).

    Args:
        seed: of this teacher and run, any size of integer.
        rows: row ids of the texts, shape (n,).
        number: of the pass, from 0.
    """
    base = splitmix64(splitmix64(np.array([seed % 2**64], dtype=np.uint64)) + np.uint64(number))
    return splitmix64(base + rows.astype(np.uint64))  # nested, not xor-ed: (seed, row) and (row, seed) must differ


def _by_windows(
    blocks: torch.Tensor, table: torch.Tensor, starts: NDArray[np.int64], strides: tuple[int, ...]
) -> torch.Tensor:
    """One multiplication a text, with no copy of the mask: fastest where a call costs little (CPU)."""
    out = torch.empty_like(blocks)
    shape = blocks.shape[1:]
    for line, start in enumerate(starts.tolist()):
        torch.mul(blocks[line], table.as_strided(shape, strides, start), out=out[line])
    return out


def _by_gather(
    blocks: torch.Tensor, table: torch.Tensor, starts: NDArray[np.int64], strides: tuple[int, ...]
) -> torch.Tensor:
    """All masks of the batch at once: fewer calls (accelerators)."""
    places = torch.from_numpy(starts).to(table.device).view(-1, *[1] * len(strides))
    for axis, stride in enumerate(strides):
        steps = torch.arange(blocks.shape[axis + 1], device=table.device) * stride
        places = places + steps.view([-1 if d == axis + 1 else 1 for d in range(len(strides) + 1)])
    return blocks * table[places]
