"""What the student minimises: one objective for each name that a method can give, all with the same call.

    objective(outputs of the student, attention mask, supervision of the batch) -> loss

DFA and CFL learn linear maps (blocks) together with the student and throw them away afterwards. They imitate a mean
hidden state for each text, not one for each token, so that teachers of any width, depth and tokenizer can be mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from muki.hidden_states import mean_state
from muki.routing.overlap import decided_groups
from muki.student.losses import (
    decoupled_loss,
    integration_loss,
    maximum_mean_discrepancy,
    squared_error,
    within_group_loss,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from muki.integration.store import Supervision
    from muki.labels import LabelSpace

Batch = dict[str, torch.Tensor]


class Divergence(nn.Module):
    """The integration loss alone."""

    needs_states = False

    def forward(self, outputs: Any, mask: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The loss of one batch."""
        return self.of_logits(outputs.logits, batch)

    def of_logits(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The part that the logits decide: mean weighted KL divergence from the target, convex in them."""
        return integration_loss(logits, batch["target"], batch["weight"])


class Decoupled(Divergence):
    """The integration loss, with the instance weights on which teacher's classes, not on which of them."""

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.groups = groups

    def of_logits(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Mean of the weighted routing term and the plain within-group terms."""
        return decoupled_loss(logits, batch["target"], batch["weight"], self.groups)


class WithinGroups(Divergence):
    """UHC (Vongkulbhisal et al., CVPR 2019): each teacher's distribution among its own labels."""

    def __init__(self, columns: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.columns = columns

    def of_logits(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Sum over the teachers of the divergence within their labels."""
        return within_group_loss(logits, batch["teachers"], self.columns)


class LayerAmalgamation(Divergence):
    """DFA (Shen et al., AAAI 2019): the target, and a code of all teachers' states at paired layers.

    At each pair of layers, `code = E_t [h_1 ‖ … ‖ h_N]`; `D_i code` rebuilds each h_i, which trains the code, and
    `E_s h_s` follows the code, which trains the student. Layers are paired from the top, with a stride for each model.

    Args:
        depth: the student's layers.
        width: the student's hidden size, also the code's.
        shapes: layers and hidden size of each teacher.
    """

    needs_states = True

    def __init__(self, depth: int, width: int, shapes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        pairs = min(depth, *(layers for layers, _ in shapes))
        self.student_layers = _from_the_top(depth, pairs)
        self.teacher_layers = [_from_the_top(layers, pairs) for layers, _ in shapes]
        widths = [size for _, size in shapes]
        self.project = nn.ModuleList(nn.Linear(width, width) for _ in range(pairs))
        self.encode = nn.ModuleList(nn.Linear(sum(widths), width) for _ in range(pairs))
        self.decode = nn.ModuleList(nn.ModuleList(nn.Linear(width, size) for size in widths) for _ in range(pairs))

    def forward(self, outputs: Any, mask: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The integration loss, plus imitation and reconstruction at each pair of layers."""
        loss = self.of_logits(outputs.logits, batch)
        for pair, layer in enumerate(self.student_layers):
            states = [batch[f"states_{i}"][:, own[pair]].float() for i, own in enumerate(self.teacher_layers)]
            code = self.encode[pair](torch.cat(states, dim=-1))
            mine = self.project[pair](mean_state(outputs.hidden_states[layer], mask))
            loss = loss + squared_error(mine, code.detach())
            rebuilt = self.decode[pair]
            for i, state in enumerate(states):
                loss = loss + squared_error(rebuilt[i](code), state)  # type: ignore[index]
        return loss


class CommonFeatures(Divergence):
    """CFL (Luo et al., IJCAI 2019): the target, and the last states of all models alike in distribution in one space.

    Args:
        width: the student's hidden size, also the common space's.
        widths: each teacher's hidden size.
    """

    needs_states = True

    def __init__(self, width: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.project = nn.Linear(width, width)
        self.encode = nn.ModuleList(nn.Linear(size, width) for size in widths)
        self.decode = nn.ModuleList(nn.Linear(width, size) for size in widths)

    def forward(self, outputs: Any, mask: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The integration loss, plus discrepancy and reconstruction for each teacher."""
        loss = self.of_logits(outputs.logits, batch)
        mine = self.project(mean_state(outputs.hidden_states[-1], mask))
        for i, (encode, decode) in enumerate(zip(self.encode, self.decode, strict=True)):
            state = batch[f"states_{i}"][:, -1].float()
            common = encode(state)
            loss = loss + maximum_mean_discrepancy(mine, common) + squared_error(decode(common), state)
        return loss


def make_objective(
    name: str, student: PreTrainedModel, supervision: Supervision, space: LabelSpace, seed: int = 0
) -> Divergence:
    """The objective that a method names, laid out for this student and these teachers; `seed` is of its blocks."""
    if name == "uhc":
        return WithinGroups(list(space.columns.values()))
    if name == "decoupled":
        return Decoupled(decided_groups(list(space.columns.values()), len(space.labels)))
    if name in ("dfa", "cfl"):
        config: Any = student.config
        shapes = [(states.shape[1] - 1, states.shape[2]) for states in supervision.states]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if name == "cfl":
                return CommonFeatures(config.hidden_size, [size for _, size in shapes])
            return LayerAmalgamation(config.num_hidden_layers, config.hidden_size, shapes)
    return Divergence()


def _from_the_top(depth: int, pairs: int) -> list[int]:
    """Indices into hidden states (0 is the embeddings) of `pairs` layers, the last layer first."""
    return [depth - pair * (depth // pairs) for pair in range(pairs)]
