"""Dropout is on for real, its masks are right, and a text's scores belong to the text."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import WORDS, model_and_tokenizer

from muki.certainty import certainty
from muki.errors import DropoutError
from muki.formulas import entropy, softmax
from muki.teachers.dropout import dropout_on, dropout_rates, require_spread
from muki.teachers.loading import Teacher, wrap_teacher
from muki.teachers.masks import DropoutMasks, _by_gather, _by_windows, pass_keys
from muki.teachers.scoring import Passes, _outputs, probe_dropout, score_texts
from muki.texts import Text

LABELS = ["sports", "politics", "business"]


def make_teacher(kind: str = "bert", **config: object) -> Teacher:
    model, tokenizer = model_and_tokenizer(kind, LABELS, **config)
    return wrap_teacher(model, tokenizer, name="t", max_length=32, passes_dtype=torch.float32)


def texts(n: int = 12) -> list[Text]:
    words = WORDS.split()[20:40]
    return [Text(row, " ".join(words[: 2 + row])) for row in range(n)]


def forward(teacher: Teacher, text: str = "the match ended after a late goal") -> torch.Tensor:
    with torch.inference_mode():
        inputs = teacher.tokenizer(text, return_tensors="pt", truncation=True, max_length=teacher.max_length)
        return teacher.model(**inputs).logits


# --- switching -------------------------------------------------------------------------------------------------


def test_dropout_is_on_inside_and_every_mode_is_restored_even_after_an_error():
    model = make_teacher().model
    model.bert.pooler.train()  # a mixed state, to be put back as it was
    before = [m.training for m in model.modules()]
    with pytest.raises(RuntimeError, match=r"^boom$"), dropout_on(model):
        assert all(m.training for m in model.modules())
        raise RuntimeError("boom")
    assert [m.training for m in model.modules()] == before


def test_batch_norm_stays_in_eval_mode():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5)).eval()
    with dropout_on(model):
        assert not model[0].training
        assert model[1].training


def test_attention_dropout_alone_makes_passes_differ():
    teacher = make_teacher(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.3, classifier_dropout=0.0)
    outputs = score_texts(teacher, texts(), passes=4)
    assert (outputs.pass_spread > 0).all()


def test_switching_only_dropout_modules_would_leave_attention_dropout_off():
    """The mistake of tools that patch `nn.Dropout` modules: on this model nothing would vary."""
    teacher = make_teacher(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.3, classifier_dropout=0.0)
    for module in teacher.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.train()
    assert torch.equal(forward(teacher), forward(teacher))


def test_the_released_codes_mistake_is_caught(monkeypatch: pytest.MonkeyPatch):
    """There the teachers stay in eval mode, so that all passes are equal."""
    from contextlib import nullcontext

    monkeypatch.setattr("muki.teachers.scoring.dropout_on", lambda model: nullcontext())
    with pytest.raises(DropoutError, match="two passes are identical"):
        score_texts(make_teacher(), texts(), passes=4)


def test_a_teacher_that_gives_one_text_the_same_twice_by_chance_is_not_refused(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr("muki.teachers.scoring.require_spread", lambda first, second, *_: seen.append(first - second))
    probe_dropout(make_teacher())
    (difference,) = seen
    assert (difference != 0).any(axis=1).sum() >= 8


@pytest.mark.parametrize("tolerance", [None, 1e-9])  # every pass beyond the third in a round of its own
@pytest.mark.parametrize(("count", "compared"), [(1, []), (7, []), (12, [8])])
def test_dropout_is_judged_by_eight_texts_however_few_a_batch_holds(count, compared, tolerance, monkeypatch):
    seen = []
    monkeypatch.setattr("muki.teachers.scoring.require_spread", lambda first, second, *_: seen.append(len(first)))
    outputs = score_texts(make_teacher(), texts(count), passes=Passes(12, tolerance), batch_tokens=1)
    assert seen == compared
    assert (outputs.passes == 12).all()


def test_passes_are_identical_only_where_those_of_every_text_are():
    model = make_teacher().model
    first = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    second = first.copy()
    second[5, 1] += 0.01
    require_spread(first, second, model, "t")
    with pytest.raises(
        DropoutError, match=r"^teacher 't': Monte-Carlo dropout has no effect, two passes are identical"
    ):
        require_spread(first, first + 1e-7, model, "t")


def test_a_very_sure_teacher_is_not_taken_for_one_without_dropout():
    teacher = make_teacher()
    with torch.no_grad():
        for model in (teacher.model, teacher.passes_model):
            model.classifier.bias.copy_(torch.tensor([40.0, *[0.0] * (len(LABELS) - 1)]))
    outputs = score_texts(teacher, texts(), passes=2)  # raises DropoutError where it looks at probabilities
    assert (outputs.passes == 2).all()
    np.testing.assert_allclose(outputs.mc_mean[:, 0], 1.0, atol=1e-6)  # they do not show what dropout does


def test_a_teacher_without_dropout_is_refused_with_rates_and_choices():
    model, tokenizer = model_and_tokenizer("modernbert", LABELS)
    teacher = wrap_teacher(model, tokenizer, name="modern", max_length=32)
    with pytest.raises(DropoutError) as caught:
        probe_dropout(teacher)
    assert str(caught.value) == (
        "teacher 'modern': Monte-Carlo dropout has no effect, two passes are identical (found: attention_dropout=0, "
        "classifier_dropout=0, embedding_dropout=0, mlp_dropout=0, nn.Dropout=0). Choose one: a score without dropout "
        "(method: {score: entropy, passes: 0}, or --set method.score=entropy), or an explicit rate for this teacher "
        "(dropout_override: 0.1), which is written into the run's record"
    )


def test_dropout_override_gives_a_model_without_dropout_an_explicit_rate():
    model, tokenizer = model_and_tokenizer("modernbert", LABELS)
    before = model(**tokenizer("the match ended", return_tensors="pt")).logits
    teacher = wrap_teacher(model, tokenizer, name="modern", max_length=32, dropout_override=0.1)
    assert set(dropout_rates(teacher.model.config).values()) == {0.1}
    assert torch.allclose(forward(teacher, "the match ended"), before, atol=1e-6)  # the weights are the same
    assert (score_texts(teacher, texts(), passes=4).pass_spread > 0).all()


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_the_model_is_untouched_after_scoring(kind: str):
    teacher = make_teacher(kind)
    before = forward(teacher)
    score_texts(teacher, texts(), passes=2)
    assert torch.equal(forward(teacher), before)
    assert not any(module.training for module in teacher.model.modules())


def test_scoring_leaves_the_global_random_state_alone():
    teacher = make_teacher()
    before = torch.random.get_rng_state()
    score_texts(teacher, texts(), passes=2)
    assert torch.equal(torch.random.get_rng_state(), before)


# --- scores belong to the text ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_scores_do_not_depend_on_batches_or_order(kind: str):
    teacher = make_teacher(kind)
    together = score_texts(teacher, texts(), passes=4)
    alone = [score_texts(teacher, [text], passes=4) for text in reversed(texts())]
    for text, one in zip(reversed(texts()), alone, strict=True):
        for name in ("logits", "mc_mean", "pass_entropy", "pass_spread"):
            assert getattr(one, name)[0] == pytest.approx(getattr(together, name)[text.row], abs=2e-5), name


def test_another_seed_pass_or_teacher_draws_other_masks():
    rows = np.arange(5)
    keys = [pass_keys(1, rows, 0), pass_keys(2, rows, 0), pass_keys(1, rows, 1)]
    assert len(np.unique(np.concatenate(keys))) == 15
    teacher = make_teacher()
    first, second = (score_texts(teacher, texts(), passes=Passes(4, seed=seed)).mc_mean for seed in (0, 1))
    assert not np.allclose(first, second, atol=1e-3)
    twin = make_teacher()  # the same weights under another fingerprint
    assert np.array_equal(score_texts(twin, texts(), passes=4).mc_mean, first)
    twin.fingerprint = "of another teacher"
    assert not np.allclose(score_texts(twin, texts(), passes=4).mc_mean, first, atol=1e-3)


def test_equal_texts_in_other_rows_draw_other_masks():
    same = [Text(row, "the match ended after a late goal") for row in range(2)]
    outputs = score_texts(make_teacher(), same, passes=4)
    assert outputs.logits[0] == pytest.approx(outputs.logits[1], abs=1e-6)
    assert not np.allclose(outputs.mc_mean[0], outputs.mc_mean[1], atol=1e-3)


# --- masks are dropout -----------------------------------------------------------------------------------------


def mask_values(lines: int, width: int, p: float, passes: int = 1) -> np.ndarray:
    masks = DropoutMasks(max_length=32, widest=width)
    drawn = []
    for number in range(passes):
        with masks.batch(pass_keys(0, np.arange(lines), number)):
            drawn.append(F.dropout(torch.ones(lines, 4, width // 4), p, training=True).reshape(lines, -1).numpy())
    return np.stack(drawn)  # (passes, lines, width)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_masks_have_the_mean_and_variance_of_inverted_dropout(p: float):
    values = mask_values(200, 4000, p)
    n = values.size
    assert set(np.unique(values)) == {np.float32(0.0), np.float32(1.0 / (1.0 - p))}
    assert values.mean() == pytest.approx(1.0, abs=5 * np.sqrt(p / (1 - p) / n))
    assert values.var() == pytest.approx(p / (1 - p), rel=0.01)


def test_masks_of_lines_passes_and_neighbours_are_uncorrelated():
    values = mask_values(100, 4000, 0.3, passes=4) - 1.0
    bound = 5 / np.sqrt(4000)
    lines = np.corrcoef(values[0])
    passes = [
        np.corrcoef(values[a, line], values[b, line])[0, 1] for a in range(4) for b in range(a) for line in range(50)
    ]
    assert np.abs(lines - np.eye(100)).max() < bound
    assert np.abs(passes).max() < bound
    flat = values.reshape(-1)
    for shift in (1, 2, 17, 1000):
        assert abs(np.mean(flat[shift:] * flat[:-shift]) / flat.var()) < 5 / np.sqrt(flat.size)


def test_two_sites_of_one_pass_draw_different_masks():
    masks = DropoutMasks(max_length=32, widest=4000)
    with masks.batch(pass_keys(0, np.arange(3), 0)):
        first, second = (F.dropout(torch.ones(3, 4000), 0.5) for _ in range(2))
    assert abs(np.corrcoef(first[0], second[0])[0, 1]) < 5 / np.sqrt(4000)


@pytest.mark.parametrize("shape", [(3, 7), (3, 5, 8), (3, 2, 6, 6), (3, 2, 4, 6)])
def test_the_accelerators_way_gives_the_same_masks(shape: tuple[int, ...]):
    masks = DropoutMasks(max_length=8, widest=100)
    strides, size = masks._layout(torch.Size(shape[1:]))
    table = masks._table(0.2, torch.float32, torch.device("cpu"))
    starts = np.array([5, 99, 12345], dtype=np.int64)
    x = torch.randn(shape)
    assert torch.equal(_by_windows(x, table, starts, strides), _by_gather(x, table, starts, strides))
    assert size <= masks.table_length


def test_attention_with_masks_is_attention_with_dropout():
    """With a rate near zero it is plain attention, with every form of mask."""
    q, k, v = (torch.randn(2, 2, 5, 4) for _ in range(3))
    keep = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])[:, None, None, :]
    masks = DropoutMasks(max_length=8, widest=200)
    for kwargs in (
        {}, {"attn_mask": keep}, {"attn_mask": torch.zeros(2, 1, 1, 5).masked_fill(~keep, -1e9)},
        {"is_causal": True}, {"scale": 0.3},
    ):  # fmt: skip
        expected = F.scaled_dot_product_attention(q, k, v, **kwargs)
        with masks.batch(pass_keys(0, np.arange(2), 0)):
            found = F.scaled_dot_product_attention(q, k, v, dropout_p=1e-9, **kwargs)
        assert torch.allclose(found, expected, atol=1e-6), kwargs


@pytest.mark.parametrize("form", ["boolean", "added"])
def test_padding_that_may_attend_nowhere_gives_numbers_and_the_text_what_it_had(form: str):
    q, k, v = (torch.randn(1, 2, 5, 4) for _ in range(3))
    keep = torch.ones(5, 5, dtype=torch.bool).tril()
    keep[:, :2] = False  # two places of padding on the left: their own rows are empty
    mask = keep if form == "boolean" else torch.zeros(5, 5).masked_fill(~keep, float("-inf"))
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)[:, :, 2:]
    with DropoutMasks(max_length=8, widest=200).batch(pass_keys(0, np.arange(1), 0)):
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=1e-9)
    assert torch.isfinite(found).all()
    assert torch.allclose(found[:, :, 2:], expected, atol=1e-6)


def test_attention_with_masks_repeats_grouped_keys():
    q, k, v = torch.randn(2, 4, 5, 4), torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 4)
    expected = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    with DropoutMasks(max_length=8, widest=200).batch(pass_keys(0, np.arange(2), 0)):
        found = F.scaled_dot_product_attention(q, k, v, dropout_p=1e-9, enable_gqa=True)
    assert torch.allclose(found, expected, atol=1e-6)


# --- the numbers are those of the definition ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_many_passes_agree_with_stock_dropout(kind: str):
    """Mean softmax over 3,000 passes: our masks against torch's own dropout, within five standard errors.

    Masks are drawn for each row, so 60 rows of one text with 50 passes each are 3,000 passes.
    """
    teacher, rows, passes = make_teacher(kind), 60, 3000
    text = "the match ended after a late goal by our captain"
    ours = score_texts(teacher, [Text(row, text) for row in range(rows)], passes=passes // rows)
    inputs = dict(teacher.tokenizer([text] * passes, return_tensors="pt"))
    torch.manual_seed(0)
    with dropout_on(teacher.model), torch.inference_mode():
        stock = softmax(teacher.model(**inputs).logits.numpy())
    error = np.sqrt(2 * stock.var(axis=0) / passes)
    assert (np.abs(ours.mc_mean.mean(axis=0) - stock.mean(axis=0)) < 5 * error).all()
    spread_error = entropy(stock).std() / np.sqrt(passes)
    assert abs(ours.pass_entropy.mean() - entropy(stock).mean()) < 5 * np.sqrt(2) * spread_error
    assert np.sqrt((ours.pass_spread**2).mean()) == pytest.approx(entropy(stock).std(ddof=1), rel=0.1)


def test_without_passes_the_monte_carlo_columns_say_so():
    outputs = score_texts(make_teacher(), texts(), passes=0)
    assert (outputs.passes == 0).all()
    assert np.isnan(outputs.mc_mean).all()
    assert np.isfinite(outputs.logits).all()


def test_the_deterministic_pass_is_the_models_own():
    teacher = make_teacher("roberta")
    outputs = score_texts(teacher, texts(), passes=2, batch_tokens=64)
    for text in texts():
        assert outputs.logits[text.row] == pytest.approx(forward(teacher, text.text)[0].numpy(), abs=1e-5)


def test_pass_statistics_by_hand():
    draws = np.array([[[0.5, 0.5], [1.0, 0.0], [0.3, 0.7]]], dtype=np.float32)
    outputs = _outputs(np.array([7]), np.zeros((1, 2), dtype=np.float32), draws, np.array([2], dtype=np.int32))
    assert outputs.mc_mean[0] == pytest.approx([0.75, 0.25])
    assert outputs.pass_entropy[0] == pytest.approx(np.log(2) / 2)
    assert outputs.pass_spread[0] == pytest.approx(np.log(2) / np.sqrt(2))  # sample standard deviation of (ln 2, 0)


# --- adaptive passes ---------------------------------------------------------------------------------------------


def test_adaptive_passes_stop_where_the_standard_error_is_small_enough():
    teacher = make_teacher()
    exact = score_texts(teacher, texts(), passes=16)
    outputs = score_texts(teacher, texts(), passes=Passes(16, tolerance=0.02))
    assert outputs.passes.min() >= 3
    assert outputs.passes.mean() < 16
    stopped = outputs.passes < 16
    assert stopped.any()
    # A text that needed all passes has exactly the scores of K = 16: the passes are the same ones.
    assert outputs.mc_mean[~stopped] == pytest.approx(exact.mc_mean[~stopped], abs=1e-5)
    assert np.abs(certainty(outputs.mc_mean) - certainty(exact.mc_mean)).max() < 0.1


def test_a_tolerance_of_zero_error_draws_all_and_a_wide_one_the_fewest():
    teacher = make_teacher()
    assert (score_texts(teacher, texts(), passes=Passes(8, tolerance=1e-12)).passes == 8).all()
    assert (score_texts(teacher, texts(), passes=Passes(8, tolerance=1.0)).passes == 3).all()


def test_adaptive_progress_adds_up_to_all_passes():
    done = []
    score_texts(make_teacher(), texts(), passes=Passes(16, tolerance=0.02), advance=done.append)
    assert sum(done) == 12 * 17


def test_masks_are_laid_out_for_the_longest_text():
    masks = make_teacher().masks
    assert masks.max_length == 32
    assert masks.table_length >= 4 * 2 * 32 * 32


def test_features_are_what_the_last_linear_layer_reads():
    teacher = make_teacher()
    outputs = score_texts(teacher, texts(), passes=0, keep="features+states")
    head = teacher.model.classifier
    again = outputs.features.astype(np.float32) @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    np.testing.assert_allclose(again, outputs.logits, atol=2e-3)  # float16 features
    with torch.inference_mode():
        layers = teacher.model(**teacher.tokenizer(texts()[3].text, return_tensors="pt"), output_hidden_states=True)
    mean = torch.stack([layer[0].mean(dim=0) for layer in layers.hidden_states]).numpy()
    np.testing.assert_allclose(outputs.states[3], mean, atol=2e-3)
    assert score_texts(teacher, texts(), passes=0).features is None
