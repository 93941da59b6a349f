"""What the student minimises, with numbers worked by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from muki.labels import LabelSpace, union
from muki.student.losses import integration_loss, maximum_mean_discrepancy, squared_error, within_group_loss
from muki.student.objectives import (
    CommonFeatures,
    Decoupled,
    Divergence,
    LayerAmalgamation,
    WithinGroups,
    make_objective,
)

JUNK = 99.0  # where nothing may look
JUNK_2 = [JUNK, JUNK]
MASK = torch.tensor([[1, 0]])  # one token and padding
SPACE = union({"a": ["x", "y"], "b": ["v", "w"]})

# Σ exp(−2 / b) over the bandwidths ¼, ½, 1, 2, 4: how alike two vectors are whose squared distance is 2 σ²
ALIKE = math.exp(-8) + math.exp(-4) + math.exp(-2) + math.exp(-1) + math.exp(-0.5)


def set_to(layer: Any, weight: list[list[float]], bias: list[float] | None = None) -> None:
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias or [0.0] * len(weight)))


def one_text(*layers: list[float]) -> torch.Tensor:
    """A teacher's states of one text, the embeddings first."""
    return torch.tensor([layers]).half()


def student(*layers: list[list[float]]) -> SimpleNamespace:
    """Outputs for texts of one token and padding; each layer is given as the token's state of each text."""
    states = [torch.stack([torch.tensor(one), torch.full((len(one), len(one[0])), JUNK)], dim=1) for one in layers]
    return SimpleNamespace(logits=torch.zeros(len(layers[0]), 2), hidden_states=states)


def about(texts: int, *states: torch.Tensor) -> dict[str, torch.Tensor]:
    """Supervision that alone costs a student of equal logits 2 ln 2: the target is sure, and each text counts twice."""
    target = torch.tensor([[1.0, 0.0]] * texts)
    return {"target": target, "weight": torch.full((texts,), 2.0)} | {f"states_{i}": s for i, s in enumerate(states)}


# --- losses ----------------------------------------------------------------------------------------------------------


def test_integration_loss_by_hand():
    # ln 2 with weight 1.5; ½ ln(½ / ¼) + ½ ln(½ / ¾) = 0.143841 with weight 0.5
    q, target = torch.tensor([[0.5, 0.5], [0.25, 0.75]]), torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    weight = torch.tensor([1.5, 0.5])
    found = integration_loss(q.log(), target, weight)
    assert found.item() == pytest.approx((1.5 * math.log(2) + 0.5 * 0.14384103622589045) / 2)
    again = Divergence()(SimpleNamespace(logits=q.log()), torch.ones(2, 1), {"target": target, "weight": weight})
    assert again.item() == found.item()


def test_within_group_loss_by_hand():
    # First text: 0.143841 and ln 2. Second: the student says within each group what its teacher says.
    q = torch.tensor([[1.0, 3.0, 1.0, 1.0], [1.0, 3.0, 20.0, 20.0]])
    teachers = torch.tensor([[0.5, 0.5, 1.0, 0.0], [0.25, 0.75, 0.5, 0.5]])
    found = within_group_loss(q.log(), teachers, [(0, 1), (2, 3)])
    assert found.item() == pytest.approx((0.14384103622589045 + math.log(2)) / 2)
    objective = WithinGroups([(0, 1), (2, 3)])
    assert objective(SimpleNamespace(logits=q.log()), torch.ones(2, 1), {"teachers": teachers}).item() == found.item()


def test_uhc_compares_no_classes_of_different_teachers():
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    teachers = torch.tensor([[0.9, 0.1, 0.3, 0.7]] * 8)
    louder = logits + torch.tensor([0.0, 0.0, 5.0, 5.0])
    columns = [(0, 1), (2, 3)]
    torch.testing.assert_close(
        within_group_loss(louder, teachers, columns), within_group_loss(logits, teachers, columns)
    )


def test_squared_error_is_a_mean_over_texts_and_dimensions():
    # (1 + 9 + 0 + 4) / 4
    x, y = torch.tensor([[1.0, 0.0], [2.0, 2.0]]), torch.tensor([[0.0, 3.0], [2.0, 0.0]])
    assert squared_error(x, y).item() == 3.5
    assert squared_error(x.half(), y).dtype == torch.float32


def test_discrepancy_by_hand():
    # Squared distances: 4 within each batch; 0, 4, 4 and 8 between them; σ² = 2 (4 + 4 + 0 + 4 + 4 + 8) / 12 = 4.
    # With k(d) = Σ exp(−d / 4b): (10 + 2 k(4)) / 4 for each batch, less twice (5 + 2 k(4) + k(8)) / 4.
    x, y = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    assert maximum_mean_discrepancy(x, y).item() == pytest.approx((5 - ALIKE) / 2, abs=1e-6)
    assert maximum_mean_discrepancy(10 * x, 10 * y).item() == pytest.approx((5 - ALIKE) / 2, abs=1e-6)
    # Distances 0 within and d between: σ² = 8 d / 12, so k = Σ exp(−1.5 / b)
    apart = sum(math.exp(-1.5 / b) for b in (0.25, 0.5, 1, 2, 4))
    far = maximum_mean_discrepancy(torch.zeros(2, 2), torch.full((2, 2), 7.0))
    assert far.item() == pytest.approx(10 - 2 * apart, abs=1e-5)


def test_discrepancy_is_between_distributions_not_between_texts():
    x, y = (torch.randn(16, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    torch.testing.assert_close(maximum_mean_discrepancy(x, y), maximum_mean_discrepancy(x, y.flip(0)))


# --- DFA -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "teachers", "mine", "theirs"),
    [
        (12, [6, 4], [12, 9, 6, 3], [[6, 5, 4, 3], [4, 3, 2, 1]]),
        (2, [4, 2], [2, 1], [[4, 2], [2, 1]]),
        (3, [12, 12], [3, 2, 1], [[12, 8, 4], [12, 8, 4]]),
        (6, [1, 24], [6], [[1], [24]]),
    ],
)
def test_layers_are_paired_from_the_top_with_a_stride_for_each_model(
    depth: int, teachers: list[int], mine: list[int], theirs: list[list[int]]
):
    objective = LayerAmalgamation(depth, 2, [(layers, 2) for layers in teachers])
    assert objective.student_layers == mine
    assert objective.teacher_layers == theirs


def layer_amalgamation() -> tuple[Any, SimpleNamespace, dict[str, torch.Tensor]]:
    """A student of two layers, teachers of four and two; the code is the first number of each teacher's state."""
    objective: Any = LayerAmalgamation(2, 2, [(4, 2), (2, 1)])
    for pair in range(2):
        set_to(objective.project[pair], [[1.0, 0.0], [0.0, 1.0]])
        set_to(objective.encode[pair], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        set_to(objective.decode[pair][0], [[1.0, 0.0], [0.0, 1.0]])
        set_to(objective.decode[pair][1], [[0.0, 0.0]], [1.0])
    mine = student([JUNK_2], [[0.0, 0.0]], [[1.0, 2.0]])
    first, second = one_text(JUNK_2, JUNK_2, [1.0, 0.0], JUNK_2, [3.0, 1.0]), one_text([JUNK], [1.0], [2.0])
    return objective, mine, about(1, first, second)


def test_dfa_by_hand():
    objective, mine, batch = layer_amalgamation()
    # Last layers: code (3, 2); the student's (1, 2) is off by 4 / 2, rebuilt (3, 2) for (3, 1) by 1 / 2, 1 for 2 by 1.
    # Layers below: code (1, 1); the student's (0, 0) is off by 2 / 2, rebuilt (1, 1) for (1, 0) by 1 / 2, 1 for 1 by 0.
    assert objective(mine, MASK, batch).item() == pytest.approx(2 * math.log(2) + (2 + 0.5 + 1) + (1 + 0.5 + 0))


def test_the_student_follows_the_code_and_not_the_code_the_student():
    objective, mine, batch = layer_amalgamation()
    for rebuilt in objective.decode:
        set_to(rebuilt[0], [[0.0, 0.0], [0.0, 0.0]])  # nothing can be rebuilt from the code, so nothing moves it
    objective(mine, MASK, batch).backward()
    assert all((layer.weight.grad == 0).all() for layer in objective.encode)
    assert all((layer.bias.grad != 0).any() for layer in objective.project)


# --- CFL -------------------------------------------------------------------------------------------------------------


def common_features() -> tuple[Any, SimpleNamespace, dict[str, torch.Tensor]]:
    """Two texts, two teachers; the student's last states, doubled, are (0, 0) and (2, 0)."""
    objective: Any = CommonFeatures(2, [2, 1])
    set_to(objective.project, [[2.0, 0.0], [0.0, 2.0]])
    set_to(objective.encode[0], [[1.0, 0.0], [0.0, 1.0]])
    set_to(objective.decode[0], [[0.0, 0.0], [0.0, 0.0]])
    set_to(objective.encode[1], [[0.0], [0.0]], [2.0, 0.0])
    set_to(objective.decode[1], [[1.0, 0.0]])
    mine = student([JUNK_2, JUNK_2], [[0.0, 0.0], [1.0, 0.0]])
    first = torch.tensor([[JUNK_2, [0.0, 0.0]], [JUNK_2, [0.0, 2.0]]]).half()
    second = torch.tensor([[[JUNK], [1.0]], [[JUNK], [1.0]]]).half()
    return objective, mine, about(2, first, second)


def test_cfl_by_hand():
    objective, mine, batch = common_features()
    # First teacher: (0, 0) and (0, 2), as in the discrepancy by hand; rebuilt as 0, off by 4 / 4.
    # Second: (2, 0) twice, with squared distances 4 and 0 to the student's, 4 within these, 0 within its own, σ² = 2:
    # (10 + 2 k) / 4 + 5 − 2 (10 + 2 k) / 4 = (5 − k) / 2 once more; rebuilt as 2 for 1, off by 1.
    found = objective(mine, MASK.expand(2, 2), batch)
    assert found.item() == pytest.approx(2 * math.log(2) + 2 * (5 - ALIKE) / 2 + 1 + 1, abs=1e-5)


def test_both_the_student_and_the_teachers_come_into_the_common_space():
    objective, mine, batch = common_features()
    set_to(objective.decode[1], [[0.0, 0.0]])  # nothing but the discrepancy moves the encoders
    objective(mine, MASK.expand(2, 2), batch).backward()
    for layer in (objective.project, *objective.encode):
        assert (layer.bias.grad != 0).any()


# --- by name ---------------------------------------------------------------------------------------------------------


def made(name: str, seed: int = 0) -> Any:
    model: Any = SimpleNamespace(config=SimpleNamespace(num_hidden_layers=2, hidden_size=6))
    states = (np.zeros((3, 5, 8), np.float16), np.zeros((3, 3, 4), np.float16))
    supervision: Any = SimpleNamespace(states=states)
    return make_objective(name, model, supervision, SPACE, seed)


def test_where_all_teachers_know_all_labels_the_decoupled_loss_weighs_which_label():
    shared = LabelSpace(SPACE.labels, {name: tuple(range(4)) for name in SPACE.columns})
    model: Any = SimpleNamespace(config=None)
    objective = make_objective("decoupled", model, cast("Any", None), shared)
    assert cast("Any", objective).groups == [[0], [1], [2], [3]]
    target = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1]])
    losses = [
        objective.of_logits(torch.zeros(2, 4), {"target": target, "weight": torch.tensor(weight)})
        for weight in ([0.0, 2.0], [1.0, 1.0], [2.0, 0.0])
    ]
    plain = (target * (target * 4).log()).sum(dim=-1)
    torch.testing.assert_close(losses, [plain[1], plain.mean(), plain[0]])


def test_objectives_are_laid_out_for_the_student_and_the_teachers():
    assert made("uhc").columns == [(0, 1), (2, 3)]
    assert made("decoupled").groups == [[0, 1], [2, 3]]
    assert isinstance(made("decoupled"), Decoupled)
    assert type(made("kl")) is Divergence
    dfa, cfl = made("dfa"), made("cfl")
    assert (dfa.student_layers, dfa.teacher_layers) == ([2, 1], [[4, 2], [2, 1]])
    assert [tuple(layer.weight.shape) for layer in dfa.encode] == [(6, 12), (6, 12)]
    assert [tuple(layer.weight.shape) for layer in cfl.encode] == [(6, 8), (6, 4)]
    assert [tuple(layer.weight.shape) for layer in cfl.decode] == [(8, 6), (4, 6)]


@pytest.mark.parametrize("name", ["dfa", "cfl"])
def test_blocks_depend_on_the_seed_alone_and_draw_nothing_from_others(name: str):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = made(name, 0).state_dict()
    assert torch.rand(1) == expected
    again, other = made(name, 0).state_dict(), made(name, 1).state_dict()
    for key, value in first.items():
        torch.testing.assert_close(again[key], value)
        assert not torch.equal(other[key], value)
