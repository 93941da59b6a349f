"""The student's first head is the best linear map from its encoder's features, whatever is minimised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import WORDS, model_and_tokenizer, save_encoder
from torch import nn
from transformers import PreTrainedConfig

from muki.batches import tokenize
from muki.errors import StudentError
from muki.integration.store import Supervision
from muki.student.data import SupervisedTexts
from muki.student.head import fit_head, probe
from muki.student.losses import integration_loss, within_group_loss
from muki.student.model import load_student
from muki.student.objectives import Decoupled, Divergence, WithinGroups
from muki.texts import Text

LABELS = ["a", "b", "c"]


def supervised(target: torch.Tensor, weight: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    return {"target": target, "weight": torch.ones(len(target)) if weight is None else weight}


def task(n: int = 400, width: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features, and logits of three labels that are linear in them."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=random)
    return x, x @ torch.randn(width, 3, generator=random) + torch.tensor([1.0, 0.0, -1.0])


def test_a_linear_target_is_found_whatever_the_features_scale():
    x, z = task()
    for features in (x, 0.07 + 0.01 * x, 300 - 100 * x):
        weight, bias = probe(features, supervised(z.softmax(dim=-1)), Divergence(), 3)
        found = integration_loss(features @ weight.T + bias, z.softmax(dim=-1), torch.ones(len(x)))
        assert found < 1e-3


def test_without_features_it_is_the_mean_target_by_hand():
    # Logits are the bias alone; the best distribution is the targets' weighted mean, (3·(½, ¼, ¼) + 1·(0, 1, 0)) / 4.
    target = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])
    weight, bias = probe(torch.full((2, 4), 7.0), supervised(target, torch.tensor([1.5, 0.5])), Divergence(), 3)
    assert weight.abs().max() < 1e-6
    torch.testing.assert_close(bias.softmax(dim=-1), torch.tensor([0.375, 0.4375, 0.1875]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["dead", "saturated"])
def test_features_that_hardly_vary_get_no_great_weight(kind: str):
    # A linear map could give them any weight; but the dropout before the head takes them away at times.
    x, z = task()
    random = torch.Generator().manual_seed(3)
    noise = torch.randn(len(x), 20, generator=random)
    steady = torch.full((len(x), 4), 0.7) if kind == "dead" else torch.tanh(4 + 0.3 * noise)
    features = torch.cat([x, steady], dim=-1)
    target = torch.eye(3)[torch.multinomial(z.softmax(dim=-1), 1, generator=random)[:, 0]]
    weight, bias = probe(features, supervised(target), Divergence(), 3)
    assert weight.abs().max() < 5.0  # 300 and 450 for features divided by their deviation alone
    torch.manual_seed(0)
    dropped = torch.cat([x, nn.functional.dropout(steady, 0.1, training=True)], dim=-1)
    whole, without = (nn.functional.cross_entropy(f @ weight.T + bias, target) for f in (features, dropped))
    assert without < whole + 0.05


def test_texts_without_weight_are_not_heard():
    x, z = task()
    wrong = torch.arange(len(x)) % 2 == 0
    target = torch.where(wrong[:, None], torch.tensor([0.0, 0.0, 1.0]), z.softmax(dim=-1))
    weight, bias = probe(x, supervised(target, 2.0 * ~wrong), Divergence(), 3)
    assert integration_loss(x @ weight.T + bias, z.softmax(dim=-1), torch.ones(len(x))) < 1e-2


def test_features_that_say_nothing_are_not_believed():
    random = torch.Generator().manual_seed(1)
    target = torch.eye(3)[torch.randint(3, (300,), generator=random)]
    weight, _ = probe(torch.randn(300, 200, generator=random), supervised(target), Divergence(), 3)
    assert weight.norm(dim=-1).max() < 1.0  # unpenalised, 200 features separate 300 texts: it would grow without end


def test_it_is_the_minimum_of_what_training_minimises():
    x, z = task()
    teachers = torch.cat([z[:, :2].softmax(dim=-1), torch.ones(len(x), 1)], dim=-1)
    weight, bias = probe(x, {"teachers": teachers}, WithinGroups([(0, 1), (2,)]), 3)
    assert within_group_loss(x @ weight.T + bias, teachers, [(0, 1), (2,)]) < 1e-3
    batch = supervised(z.softmax(dim=-1))
    objective = Decoupled([(0, 1), (2,)])
    weight, bias = probe(x, batch, objective, 3)
    assert objective.of_logits(x @ weight.T + bias, batch) < 1e-3


# --- models ----------------------------------------------------------------------------------------------------------


def pool(model: Any, tokenizer: Any, n: int = 60) -> SupervisedTexts:
    """Texts of random words, and targets that a sharper head over the model's own features would give."""
    random = np.random.default_rng(0)
    words = WORDS.split()
    texts = [Text(i, " ".join(random.choice(words, size=random.integers(3, 12)))) for i in range(n)]
    encodings = tokenize(tokenizer, texts, 32)
    with torch.inference_mode():
        logits = torch.cat([model.eval()(**_one(encoding)).logits for encoding in encodings])
    spread = (logits - logits.mean(dim=0)) / logits.std(dim=0)
    target = (3 * spread).softmax(dim=-1).numpy()
    ones = np.ones((n, 1), dtype=np.float32)
    supervision = Supervision(np.arange(n), target, ones[:, 0], ones, ones)
    return SupervisedTexts(encodings, supervision, np.arange(n)[::-1].copy())


def _one(encoding: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {key: torch.tensor([value]) for key, value in encoding.items()}


def loss(model: Any, texts: SupervisedTexts) -> float:
    """Over single texts, each without padding, without dropout."""
    with torch.inference_mode():
        items = [texts[i] for i in range(len(texts))]
        logits = torch.cat(
            [model.eval()(**_one({k: v for k, v in one.items() if k != "supervision"})).logits for one in items]
        )
    target = torch.from_numpy(np.stack([one["supervision"]["target"] for one in items]))
    return integration_loss(logits, target, torch.ones(len(items))).item()


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "gpt2", "modernbert"])
def test_every_architecture_starts_with_what_its_features_allow(kind: str):
    model, tokenizer = model_and_tokenizer(kind, LABELS)
    texts = pool(model, tokenizer)
    with torch.no_grad():  # the head that made the targets is forgotten
        head = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 3][-1]
        head.weight.mul_(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, dull = torch.get_rng_state(), loss(model, texts)
    assert fit_head(model, tokenizer, texts, Divergence())
    assert torch.equal(torch.get_rng_state(), state)
    assert loss(model, texts) < 0.95 * dull  # features of a random encoder hardly vary, so that little is believed
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed <= {name for name in before if before[name].shape[0] == 3 and before[name].dim() <= 2}


class _NoLinearHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config: Any = PreTrainedConfig(num_labels=3, pad_token_id=0)
        self.table = nn.Embedding(500, 3)

    @property
    def device(self) -> torch.device:
        return self.table.weight.device

    def forward(self, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        return self.table(input_ids).mean(dim=1)


def test_a_model_without_a_linear_head_is_left_as_it_is():
    model, tokenizer = model_and_tokenizer("bert", LABELS)
    texts, other = pool(model, tokenizer), _NoLinearHead()
    before = other.table.weight.clone()
    assert not fit_head(other, tokenizer, texts, Divergence())  # type: ignore[arg-type]
    assert torch.equal(other.table.weight, before)


def test_an_encoder_that_gives_nan_is_refused():
    model, tokenizer = model_and_tokenizer("bert", LABELS)
    texts = pool(model, tokenizer)
    with torch.no_grad():
        model.bert.pooler.dense.bias.fill_(float("nan"))
    with pytest.raises(StudentError, match="not finite"):
        fit_head(model, tokenizer, texts, Divergence())


def test_only_so_many_texts_are_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("muki.student.head.MOST_TEXTS", 20)
    model, tokenizer = model_and_tokenizer("bert", LABELS)
    texts = pool(model, tokenizer)
    seen: list[int] = []
    model.register_forward_hook(lambda _, __, out: seen.append(len(out.logits)))
    fit_head(model, tokenizer, texts, Divergence())
    assert sum(seen) == 20


def test_a_fresh_student_of_an_encoder_has_it_too(tmp_path: Path):
    model, tokenizer = load_student(str(save_encoder(tmp_path / "encoder")), LABELS)
    texts = pool(model, tokenizer)
    dull = loss(model, texts)
    assert fit_head(model, tokenizer, texts, Divergence())
    assert loss(model, texts) < 0.99 * dull  # features of a random encoder hardly vary, so that little is believed
