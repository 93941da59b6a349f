"""Teachers that share labels, some or all of them: who is heard, and when the pool's classes are trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from test_routing import PLUS, START, made

from muki.formulas import integrate_distributions, knower_groups
from muki.integration.fitting import fit_router
from muki.integration.router import Router
from muki.labels import LabelSpace
from muki.methods import PRESETS
from muki.routing.overlap import decided_groups, expected_shares, first_offsets, group_probabilities, group_scores
from muki.routing.refinement import trust
from muki.teachers.outputs import TeacherOutputs

NESTED = [range(3), range(6)]
TWINS = [range(3), range(3), range(3, 6)]
CHAIN = [(0, 1, 2, 3), (2, 3, 4, 5), (0, 1, 4, 5)]  # two of three know each label
THREE_SIZES = [range(2), range(4), range(8)]
SAME = [range(6), range(6)]


# --- the parts, by hand ----------------------------------------------------------------------------------------------


def test_labels_that_the_same_teachers_know_are_a_group():
    assert knower_groups([(0, 1), (2, 3)], 4) == [[0, 1], [2, 3]]
    assert knower_groups([(0, 1, 2), (2, 3)], 4) == [[0, 1], [2], [3]]
    assert decided_groups([(0, 1), (0, 1)], 2) == [[0], [1]]


def test_who_shares_its_labels_expects_less_of_the_pool():
    np.testing.assert_allclose(expected_shares([range(2), range(2, 9)]), [0.5, 0.5])
    np.testing.assert_allclose(expected_shares(TWINS), [0.25, 0.25, 0.5])
    np.testing.assert_allclose(expected_shares(NESTED), [0.4, 0.6])  # 1/2 against (3 · 1/2 + 3) / 6


def test_scores_are_shifted_to_the_expected_shares_only_where_labels_are_shared():
    scores = np.random.default_rng(0).normal(size=(2000, 2))
    np.testing.assert_array_equal(first_offsets(scores, [(0, 1), (2,)], 4.0), [0.0, 0.0])
    shifted = scores + first_offsets(scores, NESTED, 4.0)
    weights = np.exp(4 * shifted) / np.exp(4 * shifted).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(weights.mean(axis=0), [0.4, 0.6], atol=1e-3)


def test_scores_and_probabilities_of_groups():
    scores, predictions = np.array([[0.3, 0.7, 0.1]]), np.array([[0, 1, 3]])
    groups = [[0, 1], [2], [3]]
    np.testing.assert_array_equal(group_scores(scores, predictions, groups), [[0.7, -np.inf, 0.1]])
    np.testing.assert_allclose(group_probabilities(np.array([[0.1, 0.2, 0.3, 0.4]]), groups), [[0.3, 0.3, 0.4]])


def test_only_texts_on_which_something_hangs_judge_the_scores():
    rng = np.random.default_rng(0)
    n = 20_000
    truth = rng.integers(2, size=n)
    view = np.where(rng.random(n) < 0.05, 1 - truth, truth)
    settled = rng.random(n) < 0.5  # all teachers name labels of the right group
    chosen = np.where(settled | (rng.random(n) > 0.3), truth, 1 - truth)
    lead = np.where(settled, 0.0, np.where(chosen == truth, 2.0, 0.1)) + rng.random(n)
    scores = np.where(np.arange(2) == chosen[:, None], lead[:, None], np.where(settled, -np.inf, 0.0)[:, None])
    found = trust(scores, np.eye(2)[view])
    assert found.view_accuracy == pytest.approx(0.95, abs=0.01)
    assert found.score_accuracy == pytest.approx(0.7, abs=0.02)
    assert found.earned


def test_too_few_open_texts_tell_nothing():
    scores = np.where(np.eye(2)[np.arange(1000) % 2] > 0, 1.0, -np.inf)
    found = trust(scores, np.eye(2)[np.arange(1000) % 2])
    assert np.isnan([found.view_accuracy, found.score_accuracy]).all()
    assert not found.earned


# --- pools whose right labels are known ------------------------------------------------------------------------------


def shared_pool(
    sets: Sequence[Sequence[int]], seed: int
) -> tuple[list[TeacherOutputs], LabelSpace, np.ndarray, np.ndarray]:
    """Teachers of the given label sets, a view that shows the classes, and each text's label.

    A teacher is right on 93 % of the texts of its labels and more; others it answers at random and less surely.
    """
    rng = np.random.default_rng(seed)
    n, n_labels = 1000, 1 + max(max(own) for own in sets)
    label = rng.integers(n_labels, size=n)
    view = rng.normal(size=(n_labels, 24))[label] + 0.8 * rng.normal(size=(n, 24))
    outputs = []
    for own in map(list, sets):
        size, knows = len(own), np.isin(label, own)
        place = np.array([own.index(one) if one in own else -1 for one in label])
        said = np.where(knows & (rng.random(n) > 0.07), place, rng.integers(size, size=n))
        logits = np.eye(size)[said] * (np.where(knows, 3.0, 1.5) + rng.normal(size=n))[:, None]
        features = np.where(knows[:, None], np.eye(8)[said], 0.4 * rng.normal(size=(n, 8)))
        outputs.append(made(logits, features=features + 0.2 * rng.normal(size=(n, 8))))
    columns = {f"t{i}": tuple(own) for i, own in enumerate(sets)}
    return outputs, LabelSpace(tuple(f"c{i}" for i in range(n_labels)), columns), view.astype(np.float16), label


def target_right(router: Router, outputs: list[TeacherOutputs], view: np.ndarray, label: np.ndarray) -> float:
    target = integrate_distributions(
        router(outputs, view).weights, router.distributions(outputs), router.columns, 1 + label.max()
    )
    return float((target.argmax(axis=-1) == label).mean())


@pytest.mark.parametrize("sets", [NESTED, TWINS, CHAIN, THREE_SIZES, SAME], ids=str)
def test_with_shared_labels_the_pool_corrects_the_scores_and_the_target_beats_every_teacher(sets: list[Sequence[int]]):
    for seed in range(3):
        outputs, space, view, label = shared_pool(sets, seed)
        router = fit_router(PLUS, outputs, space, view)
        assert router.findings["refined"] == 1.0
        found = target_right(router, outputs, view, label)
        alone = [
            (np.array(own)[one.logits.argmax(axis=-1)] == label).mean() for own, one in zip(sets, outputs, strict=True)
        ]
        assert found > max(0.94, *alone)
        assert found > target_right(fit_router(START, outputs, space), outputs, view, label) + 0.03


@pytest.mark.parametrize("sets", [NESTED, TWINS, CHAIN, THREE_SIZES, SAME], ids=str)
def test_with_shared_labels_a_view_of_noise_is_still_noticed(sets: list[Sequence[int]]):
    outputs, space, view, _ = shared_pool(sets, seed=0)
    noise = np.random.default_rng(1).normal(size=view.shape).astype(np.float16)
    assert fit_router(PLUS, outputs, space, noise).findings["refined"] == 0.0


def test_a_narrow_teacher_gets_what_is_expected_of_it_where_names_are_heard_and_the_view_is_not():
    outputs, space, view, label = shared_pool(NESTED, seed=1)
    named = replace(space, labels=("art", "bank", "chess", "dance", "earth", "film"))
    names = np.stack([view[label == one].mean(axis=0) for one in range(6)])
    blurred = (view + np.random.default_rng(1).normal(scale=3.0, size=view.shape)).astype(np.float16)
    router = fit_router(PLUS, outputs, named, blurred, names.astype(np.float16))
    assert (router.findings["refined"], router.findings["names_heard"]) == (0.0, 1.0)
    shares = router(outputs, blurred).probabilities.mean(axis=0)
    np.testing.assert_allclose(shares, expected_shares(router.columns), atol=1e-3)


def test_a_broad_teacher_is_expected_to_own_more_than_a_narrow_one_whose_labels_it_knows():
    outputs, space, view, label = shared_pool(NESTED, seed=0)
    shifted = fit_router(START, outputs, space)
    even = Router(**{**vars(shifted), "offsets": np.zeros(2)})
    assert target_right(shifted, outputs, view, label) > target_right(even, outputs, view, label) + 0.02
    assert not fit_router(PRESETS["muki"].model_copy(update={"score": "entropy"}), outputs, space).offsets.any()
