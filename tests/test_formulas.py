"""The formulas, with numbers worked by hand, and the two identities of the method."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from muki.certainty import certainty, certainty_error
from muki.config import TrainingConfig
from muki.errors import TextsError
from muki.formulas import entropy, integrate_distributions, kl_divergence, log_softmax, logsumexp, pad, softmax
from muki.integration.supervision import mean_one, raw_weights
from muki.methods import PRESETS, Method
from muki.routing.weights import hard_weights, margin, soft_weights

rng = np.random.default_rng(0)


def test_entropy_of_a_fair_coin_is_log_two_and_of_a_sure_answer_zero():
    assert entropy([[0.5, 0.5], [1.0, 0.0]]) == pytest.approx([0.6931471805599453, 0.0])


def test_entropy_by_hand():
    # −(¼ ln ¼ + ¾ ln ¾) = 0.34657 + 0.21576
    assert entropy([0.25, 0.75]) == pytest.approx(0.5623351446188083)


def test_softmax_by_hand_and_without_overflow():
    assert softmax([0.0, np.log(3.0)]) == pytest.approx([0.25, 0.75])
    assert softmax([1000.0, 1000.0, -1000.0]) == pytest.approx([0.5, 0.5, 0.0])
    assert softmax([0.0, np.log(3.0)], temperature=0.5) == pytest.approx([0.1, 0.9])  # 1 : 3²


def test_log_softmax_stays_finite_where_the_softmax_underflows():
    assert log_softmax([0.0, -2000.0]) == pytest.approx([0.0, -2000.0])


def test_kl_by_hand_and_with_a_zero_in_the_target():
    # ½ ln(½ / ¼) + ½ ln(½ / ¾) = ½ ln 2 − ½ ln 1.5
    assert kl_divergence([0.5, 0.5], [0.25, 0.75]) == pytest.approx(0.14384103622589045)
    assert kl_divergence([1.0, 0.0], [0.5, 0.5]) == pytest.approx(np.log(2.0))
    assert kl_divergence([0.0, 1.0], [0.0, 1.0]) == pytest.approx(0.0)


def test_certainty_by_hand():
    # two classes: 1 − 0.56234 / 0.69315; four classes, two of them equally likely: 1 − ln 2 / ln 4 = ½
    assert certainty([0.25, 0.75]) == pytest.approx(0.18872187554086717)
    assert certainty([0.5, 0.5, 0.0, 0.0]) == pytest.approx(0.5)
    assert certainty([[0.2] * 5, [0, 0, 1, 0, 0]]) == pytest.approx([0.0, 1.0])


def test_certainty_refuses_a_single_class():
    with pytest.raises(ValueError, match=r"^certainty needs two or more classes, found 1$"):
        certainty([[1.0]])


def test_certainty_error_by_hand():
    # Passes (1, 0) and (½, ½): without the first the certainty is 0, without the second 1; σ² = ½ · 2 · ¼
    assert certainty_error([[[1.0, 0.0], [0.5, 0.5]]]) == pytest.approx([0.5])
    assert certainty_error([[[0.9, 0.1]] * 4]) == pytest.approx([0.0])


def test_certainty_error_estimates_the_spread_of_repeated_estimates():
    """The mean squared jackknife error is the variance of the certainty over many sets of eight passes."""
    draws = rng.dirichlet([6.0, 2.0, 1.0], size=(4000, 8))
    assert np.sqrt((certainty_error(draws) ** 2).mean()) == pytest.approx(certainty(draws.mean(axis=1)).std(), rel=0.1)


def test_soft_weights_by_hand():
    # exp(0.9 / 0.2) : exp(0.7 / 0.2) = e : 1
    assert soft_weights([[0.9, 0.7]], temperature=0.2) == pytest.approx(np.array([[0.7310585786, 0.2689414214]]))


def test_hard_weights_take_the_first_of_equals():
    assert hard_weights([[0.2, 0.9, 0.9], [0.5, 0.1, 0.2]]).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_margin_is_best_minus_second_best():
    assert margin([[0.9, 0.2, 0.7], [0.5, 0.5, 0.1]]) == pytest.approx([0.2 + 1e-6, 1e-6])


def test_margin_looks_for_the_second_best_among_those_that_contradict():
    scores = np.array([[0.9, 0.8, 0.3], [0.9, 0.8, 0.3]])
    agree, conflict = [4, 4, 7], [4, 5, 7]
    assert margin(scores, np.array([agree, conflict])) == pytest.approx([0.6 + 1e-6, 0.1 + 1e-6])


def test_margin_of_teachers_that_all_agree_is_the_best_score():
    assert margin([[0.9, 0.8]], np.array([[3, 3]])) == pytest.approx([0.9 + 1e-6])


def test_margin_of_teachers_that_all_agree_is_above_the_score_of_one_that_knows_nothing():
    scores = np.array([[-1.0, -2.0], [-1.0, -1.3], [-5.0, -4.0]])
    found = margin(scores, np.array([[3, 3], [3, 4], [3, 4]]), nothing=-5.0)
    assert found == pytest.approx([4.0 + 1e-6, 0.3 + 1e-6, 1.0 + 1e-6])


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        (PRESETS["muki-no-mc"], [0.9, 0.2]),  # a certainty: nothing is 0
        (Method(score="energy"), [0.4, 0.2]),  # logits have no such point: nothing is the lowest of the pool
        (Method(score="entropy", calibration="standardise"), [0.4, 0.2]),
    ],
    ids=lambda one: one.score if isinstance(one, Method) else "",
)
def test_where_all_agree_the_weight_is_measured_from_a_teacher_that_knows_nothing(method: Method, wanted: list[float]):
    scores, predictions = np.array([[0.9, 0.6], [0.7, 0.5]]), np.array([[3, 3], [3, 4]])
    routing: Any = SimpleNamespace(scores=scores)
    among_all = raw_weights(routing, predictions, method)
    assert among_all == pytest.approx(np.array(wanted) + 1e-6)
    first: Any = SimpleNamespace(scores=scores[:1])
    assert raw_weights(first, predictions[:1], method, scores.min()) == among_all[:1]  # one text as among all


def test_margin_is_the_plain_one_where_no_class_is_shared():
    scores, predictions = rng.random((50, 3)), np.tile([0, 5, 9], (50, 1))
    assert margin(scores, predictions) == pytest.approx(margin(scores))


def test_pad_puts_columns_where_they_belong():
    assert pad([[0.3, 0.7]], [2, 0], 4).tolist() == [[0.7, 0, 0.3, 0]]


def test_shared_classes_add_up():
    # 0.6 · (0.5, 0.5, ·) + 0.4 · (·, 0.25, 0.75)
    target = integrate_distributions([[0.6, 0.4]], [[[0.5, 0.5]], [[0.25, 0.75]]], [(0, 1), (1, 2)], 3)
    assert target == pytest.approx(np.array([[0.3, 0.4, 0.3]]))


def test_targets_are_distributions():
    p = [softmax(rng.normal(size=(20, 3))), softmax(rng.normal(size=(20, 4)))]
    weights = soft_weights(rng.random((20, 2)))
    target = integrate_distributions(weights, p, [(0, 1, 2), (2, 3, 4, 5)], 6)
    assert target.sum(axis=-1) == pytest.approx(np.ones(20))


def test_mean_one():
    assert mean_one([1.0, 3.0]).tolist() == [0.5, 1.5]
    with pytest.raises(TextsError, match="no text counts"):
        mean_one([0.0, 0.0])


def test_identity_1_vanilla_distillation_is_soft_integration_with_logsumexp_routing():
    z = [rng.normal(size=(30, 3)) * 3, rng.normal(size=(30, 5)) * 2]
    routing = softmax(np.stack([logsumexp(one) for one in z], axis=-1))
    integrated = integrate_distributions(routing, [softmax(one) for one in z], [(0, 1, 2), (3, 4, 5, 6, 7)], 8)
    assert np.abs(integrated - softmax(np.concatenate(z, axis=-1))).max() < 1e-15


def test_identity_2_kl_is_a_routing_term_plus_within_group_terms():
    groups = [slice(0, 3), slice(3, 8)]
    p = [softmax(rng.normal(size=(30, 3))), softmax(rng.normal(size=(30, 5)))]
    w = softmax(rng.normal(size=(30, 2)))
    q = softmax(rng.normal(size=(30, 8)))
    whole = kl_divergence(integrate_distributions(w, p, [range(3), range(3, 8)], 8), q)
    mass = np.stack([q[:, group].sum(axis=-1) for group in groups], axis=-1)
    within = [kl_divergence(p[i], q[:, group] / mass[:, i, None]) for i, group in enumerate(groups)]
    parts = kl_divergence(w, mass) + sum(w[:, i] * within[i] for i in range(2))
    assert np.abs(whole - parts).max() < 1e-14


@pytest.mark.parametrize(("asked", "steps_per_epoch", "epochs"), [(None, 200, 3.0), (None, 6, 84.0), (2.5, 6, 2.5)])
def test_a_small_pool_is_read_more_often(asked: float | None, steps_per_epoch: int, epochs: float):
    assert TrainingConfig(epochs=asked).epochs_of(steps_per_epoch) == epochs
