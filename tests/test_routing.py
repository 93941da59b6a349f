"""Routing: scores by hand, calibration, and refinement on synthetic pools where the right answer is known."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import multivariate_normal

from muki.formulas import softmax
from muki.integration.fitting import FIT_ROWS, fit_router, needs_pool
from muki.integration.pool import even_sample, fit_on_pool
from muki.integration.router import fold_of, neighbourhood, plain_distributions
from muki.integration.supervision import raw_weights, right_probability
from muki.labels import LabelSpace
from muki.methods import DEFAULT_METHOD, PRESETS, Method
from muki.routing.calibration import match_shares, mixture, normal_ranks, standardise
from muki.routing.density import (
    REFERENCES,
    ClassGaussians,
    neighbour_distance,
    principal_axes,
    references_among,
    unit_length,
)
from muki.routing.evidence import Evidence, temper
from muki.routing.foreign import ForeignTexts, excess_on_the_right
from muki.routing.refinement import FOLDS, Neighbourhood, PoolModel, Refined, Trust, agreement, has_fallen, trust
from muki.routing.scores import fit_scores, routing_scores
from muki.teachers.outputs import TeacherOutputs

PLUS = PRESETS["muki-plus"]
START = PLUS.model_copy(update={"refinement": "none", "reweight": "none"})


# --- a pool whose right routing is known -----------------------------------------------------------------------------


def pool(
    shares: tuple[float, ...] = (0.5, 0.5),
    n: int = 1200,
    per_teacher: int = 3,
    surer: float = 1.0,
    flat: tuple[float, ...] | None = None,
    seed: int = 0,
) -> tuple[list[TeacherOutputs], LabelSpace, np.ndarray, np.ndarray]:
    """Teachers with classes of their own, a view that shows the classes, and each text's owner.

    A teacher is right on most of its own texts and answers others at random with less certainty; the first is `surer`
    times as loud as the others on everything, and each one's logits are `flat` times what they would be.
    """
    rng = np.random.default_rng(seed)
    teachers = len(shares)
    owner = rng.choice(teachers, n, p=shares)
    label = owner * per_teacher + rng.integers(per_teacher, size=n)
    centers = rng.normal(size=(teachers * per_teacher, 24))
    view = (centers[label] + 0.8 * rng.normal(size=(n, 24))).astype(np.float16)
    outputs = []
    for teacher in range(teachers):
        own = owner == teacher
        said = np.where(own, label - teacher * per_teacher, rng.integers(per_teacher, size=n))
        strength = np.where(own, 3.0, 1.5) + rng.normal(size=n)
        logits = np.eye(per_teacher)[said] * (strength * (surer if teacher == 0 else 1.0))[:, None]
        features = np.where(own[:, None], np.eye(8)[said], 0.4 * rng.normal(size=(n, 8))) + 0.2 * rng.normal(
            size=(n, 8)
        )
        outputs.append(made(logits * (flat[teacher] if flat else 1.0), features=features))
    columns = {f"t{i}": tuple(range(i * per_teacher, (i + 1) * per_teacher)) for i in range(teachers)}
    return outputs, LabelSpace(tuple(f"c{i}" for i in range(teachers * per_teacher)), columns), view, owner


def made(logits: Any, features: Any = None, passes: Any = None) -> TeacherOutputs:
    z = np.asarray(logits, dtype=np.float32)
    n = len(z)
    drawn = softmax(z[None]) if passes is None else np.asarray(passes)
    entropies = -(drawn * np.log(np.maximum(drawn, 1e-12))).sum(axis=-1)
    return TeacherOutputs(
        rows=np.arange(n), logits=z, mc_mean=drawn.mean(axis=0).astype(np.float32),
        passes=np.full(n, len(drawn), dtype=np.int32), pass_entropy=entropies.mean(axis=0).astype(np.float32),
        pass_spread=entropies.std(axis=0).astype(np.float32),
        features=None if features is None else np.asarray(features, dtype=np.float16),
    )  # fmt: skip


@dataclass(frozen=True)
class InMemory:
    """A neutral view that lies in memory, cut into shards."""

    vectors: np.ndarray
    shard_rows: int
    names: None = None

    def __call__(self, number: int) -> np.ndarray:
        return self.vectors[number * self.shard_rows : (number + 1) * self.shard_rows]


def right(weights: np.ndarray, owner: np.ndarray) -> float:
    return float((weights.argmax(axis=-1) == owner).mean())


# --- scores ----------------------------------------------------------------------------------------------------------


def test_mutual_information_is_what_passes_disagree_about():
    agree = made(np.zeros((1, 2)), passes=[[[0.5, 0.5]], [[0.5, 0.5]]])
    differ = made(np.zeros((1, 2)), passes=[[[1.0, 0.0]], [[0.0, 1.0]]])
    assert routing_scores([agree], "bald")[:, 0][0] == pytest.approx(0.0, abs=1e-6)
    assert routing_scores([differ], "bald")[:, 0][0] == pytest.approx(-np.log(2), abs=1e-5)


def test_squared_distances_are_those_of_the_formula():
    rng = np.random.default_rng(0)
    x, classes = rng.normal(size=(300, 4)) @ rng.normal(size=(4, 4)), rng.integers(3, size=300)
    model = ClassGaussians.fit(x, np.eye(3)[classes], shrinkage=0.0)
    means = np.stack([x[classes == c].mean(axis=0) for c in range(3)])
    within = sum((x[classes == c] - means[c]).T @ (x[classes == c] - means[c]) for c in range(3)) / 300
    gap = x[:, None] - means
    expected = np.einsum("ncd,de,nce->nc", gap, np.linalg.inv(within), gap)
    np.testing.assert_allclose(model.squared_distances(x), expected, rtol=1e-3)
    np.testing.assert_allclose(np.exp(model.log_prior), np.bincount(classes) / 300)


def test_a_text_far_from_every_class_of_the_teacher_scores_low():
    outputs, _, _, _ = pool()
    strange = replace(outputs[0], features=outputs[0].features + 5)
    for name in ("mahalanobis", "relative-mahalanobis"):
        score = fit_scores(outputs[:1], name)[0]
        assert score(strange).mean() < score(outputs[0]).mean() - 1


@pytest.mark.parametrize("name", ["mahalanobis", "relative-mahalanobis"])
def test_a_class_that_no_text_of_the_pool_has_is_no_class_to_be_near_to(name: str):
    one = pool()[0][0]
    more = replace(one, logits=np.hstack([one.logits, np.full((len(one), 5), -9.0, dtype=np.float32)]))
    np.testing.assert_allclose(routing_scores([more], name), routing_scores([one], name))


def test_an_in_scope_distance_is_a_log_density_of_the_teachers_own_texts():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3))).astype(np.float16)
    found = routing_scores([made(np.zeros((500, 2)), features=x)], "in-scope-mahalanobis")[:, 0]
    covariance = np.cov(x.T.astype(float), bias=True)
    covariance = 0.9 * covariance + 0.1 * np.trace(covariance) / 3 * np.eye(3)
    expected = 2 * multivariate_normal(x.mean(axis=0, dtype=float), covariance).logpdf(x) + 3 * np.log(2 * np.pi)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)


def test_an_in_scope_distance_learns_from_the_texts_that_fall_to_the_teacher_alone():
    outputs, _, _, owner = pool((0.7, 0.3))
    noise = 0.5 * np.random.default_rng(1).normal(size=(len(owner), 8))
    far = [replace(o, features=np.where((owner == i)[:, None], o.features, noise)) for i, o in enumerate(outputs)]
    plain, scoped = (right(routing_scores(far, f"{kind}mahalanobis"), owner) for kind in ("", "in-scope-"))
    assert plain < 0.95
    assert scoped > 0.97


def test_a_teacher_to_whom_no_text_falls_keeps_its_distance():
    outputs, _, _, _ = pool(n=300)
    never = made(np.zeros((300, 3)), features=np.zeros((300, 8)))
    assert np.isfinite(routing_scores([outputs[0], outputs[1], never], "in-scope-mahalanobis")).all()


def test_a_text_without_neighbours_scores_low():
    rng = np.random.default_rng(0)
    features = np.concatenate([[3.0, 0, 0] + 0.1 * rng.normal(size=(400, 3)), [[0.0, -1.0, 0.0]]])
    found = routing_scores([made(np.zeros((401, 2)), features=features)], "neighbours")[:, 0]
    assert found[-1] == pytest.approx(-1.0, abs=0.1)
    assert found[:-1].min() > -0.02


def test_a_text_is_not_its_own_neighbour_however_few_there_are():
    x = unit_length(np.random.default_rng(0).normal(size=(60, 8)))
    assert neighbour_distance(x, x).min() > 0.01
    assert neighbour_distance(x[:1], x[:1]).shape == (1,)


def test_a_teacher_that_tells_no_text_from_another_hides_no_foreign_text():
    rng = np.random.default_rng(0)
    foreign = np.arange(800) >= 640
    view = unit_length(rng.normal(size=(800, 24)))
    telling = rng.normal(size=800) - 4 * foreign
    found = [
        ForeignTexts.fit(view, usual, known=telling)(view, usual)
        for usual in (telling[:, None], np.stack([telling, np.zeros(800)], axis=-1))
    ]
    np.testing.assert_array_equal(*found)
    assert found[1][foreign].mean() > 0.3 > 0.05 > found[1][~foreign].mean()


def test_hardly_any_text_of_a_small_pool_is_foreign():
    rng = np.random.default_rng(0)
    x, usual = unit_length(rng.normal(size=(152, 24))), rng.normal(size=(152, 2))
    assert ForeignTexts.fit(x, usual, known=usual.max(axis=1))(x, usual).mean() < 0.2


def test_distances_count_more_than_the_entropy_only_where_there_are_texts_enough_for_them():
    small, large = (fit_router(START, *pool(n=n)[:2]).importance.tolist() for n in (149, 150))
    assert (small, large) == ([1.0, 1.0], [1.0, 8.0])


def test_a_score_says_what_it_needs():
    outputs = [made(np.zeros((2, 2))), made(np.zeros((2, 2)))]
    with pytest.raises(ValueError, match=r"^score 'mahalanobis' needs features, and these outputs have none$"):
        fit_scores(outputs, "mahalanobis")
    none = [replace(one, passes=np.zeros(2, dtype=np.int32)) for one in outputs]
    with pytest.raises(
        ValueError, match=r"^score 'bald' needs 2 dropout passes or more, and these outputs have fewer$"
    ):
        fit_scores(none, "bald")


# --- calibration -----------------------------------------------------------------------------------------------------


def test_standardised_scores_have_mean_0_and_deviation_1():
    x = np.array([1.0, 2.0, 3.0, 10.0])
    z = standardise(x)(x)
    assert z.mean() == pytest.approx(0)
    assert z.std() == pytest.approx(1)
    assert standardise(np.full(3, 7.0))(np.array([7.0])) == pytest.approx(0)
    alike = np.full(20, 0.1) * np.arange(1, 21) / np.arange(1, 21)  # equal but for rounding
    assert np.ptp(alike) > 0
    assert not standardise(alike)(alike).any()


def test_a_mixture_gives_the_log_odds_of_the_higher_hump_whatever_its_share():
    rng = np.random.default_rng(0)
    x = 5 + 3 * np.concatenate([rng.normal(-2, 1, 9000), rng.normal(2, 1, 1000)])
    middle, up = mixture(x)(np.array([5.0, 8.0]))
    assert middle == pytest.approx(np.log(1 / 9), abs=0.15)
    assert up - middle == pytest.approx(4.0, abs=0.3)
    assert np.isfinite(mixture(np.full(9, 7.0))(np.array([7.0, 8.0]))).all()


def test_normal_ranks_keep_the_order_and_lose_the_tail():
    x = np.array([-1e6, 0.0, 1.0, 2.0, 3.0])
    z = normal_ranks(x)(x)
    assert (np.diff(z) > 0).all()
    assert z[0] == pytest.approx(-z[-1])
    assert normal_ranks(x)(np.array([1e9]))[0] == z[-1]


def test_equal_scores_get_the_middle_of_their_ranks():
    # two of four texts share ranks 1 and 2: a quarter of the normal distribution lies below the middle of these
    z = normal_ranks(np.array([0.0, 0.0, 1.0, 1.0]))(np.array([0.0, 0.0, 1.0, 1.0]))
    np.testing.assert_allclose(z, [-0.67449, -0.67449, 0.67449, 0.67449], atol=1e-5)


def test_matched_shares_are_the_ones_that_were_asked_for():
    scores = np.random.default_rng(0).normal(size=(2000, 3))
    wanted = np.array([0.7, 0.2, 0.1])
    found = softmax(4.0 * (scores + match_shares(scores, wanted, 4.0))).mean(axis=0)
    np.testing.assert_allclose(found, wanted, atol=0.005)


# --- the chain -------------------------------------------------------------------------------------------------------


def test_standardising_mends_a_teacher_that_is_simply_louder():
    outputs, space, _, owner = pool(surer=4.0)
    raw = right(routing_scores(outputs, "energy"), owner)
    calibrated = right(fit_router(START, outputs, space)(outputs).weights, owner)
    assert raw < 0.65
    assert calibrated > raw + 0.2


def test_refinement_finds_the_classes_of_the_pool():
    outputs, space, view, owner = pool()
    start = right(fit_router(START, outputs, space)(outputs).weights, owner)
    router = fit_router(PLUS, outputs, space, view)
    assert router.findings is not None
    assert router.findings["refined"] == 1.0
    assert right(router(outputs, view).weights, owner) > max(0.97, start + 0.03)


@pytest.mark.parametrize("shares", [(0.9, 0.1), (0.1, 0.9), (0.6, 0.3, 0.1)])
def test_uneven_pools_are_learned_from_the_pool(shares: tuple[float, ...]):
    outputs, space, view, owner = pool(shares)
    start = fit_router(START, outputs, space)(outputs).weights
    weights = fit_router(PLUS, outputs, space, view)(outputs, view).weights
    balanced = np.mean([right(weights[owner == i], owner[owner == i]) for i in range(len(shares))])
    assert right(weights, owner) > right(start, owner) + 0.05
    assert balanced > 0.9
    np.testing.assert_allclose(weights.mean(axis=0), shares, atol=0.06)


def test_the_probability_of_right_routing_is_calibrated():
    outputs, space, view, owner = pool(n=3000)
    weights = fit_router(PLUS, outputs, space, view)(outputs, view).weights
    assert abs(weights.max(axis=-1).mean() - right(weights, owner)) < 0.05


@pytest.mark.parametrize("kind", ["noise", "shuffled"])
def test_a_view_that_does_not_show_the_classes_is_noticed(kind: str):
    outputs, space, view, owner = pool()
    rng = np.random.default_rng(1)
    poor = view[rng.permutation(len(view))] if kind == "shuffled" else rng.normal(size=view.shape).astype(np.float16)
    start = fit_router(START, outputs, space)(outputs).weights
    router = fit_router(PLUS, outputs, space, poor)
    assert router.findings is not None
    assert router.findings["refined"] == 0.0
    assert router.findings["view_accuracy"] < 0.7
    assert right(router(outputs, poor).weights, owner) == right(start, owner)


def test_trust_estimates_both_accuracies_without_labels():
    rng = np.random.default_rng(0)
    n = 20_000
    owner = rng.integers(2, size=n)
    margin = np.abs(rng.normal(size=n))
    wrong = rng.random(n) < 0.4 * np.exp(-3 * margin)  # the start errs where it is unsure
    start = np.zeros((n, 2))
    start[np.arange(n), np.where(wrong, 1 - owner, owner)] = margin
    seen = np.where(rng.random(n) < 0.1, 1 - owner, owner)  # the view errs anywhere
    found = trust(start, np.eye(2)[seen])
    assert found.view_accuracy == pytest.approx(0.9, abs=0.02)
    assert found.score_accuracy == pytest.approx(1 - wrong.mean(), abs=0.03)
    assert found.beyond_chance == pytest.approx(0.8, abs=0.04)


def test_two_judges_that_give_all_to_one_teacher_earn_no_trust():
    rng = np.random.default_rng(0)
    start = np.stack([np.full(2000, 2.0), rng.normal(size=2000)], axis=-1)
    seen = np.eye(2)[(rng.random(2000) < 0.03).astype(int)]
    assert trust(start, seen).view_accuracy > 0.9
    assert not trust(start, seen).earned


def test_trust_is_earned_by_accuracy_and_by_agreement_beyond_chance():
    assert Trust(view_accuracy=0.95, score_accuracy=0.9, beyond_chance=0.8).earned
    assert not Trust(view_accuracy=0.95, score_accuracy=0.9, beyond_chance=0.1).earned
    assert not Trust(view_accuracy=0.85, score_accuracy=0.9, beyond_chance=0.8).earned


def test_a_pool_is_trusted_only_where_the_parts_of_the_score_converge():
    good, poor = Trust(0.95, 0.9, 0.8), Trust(0.95, 0.9, 0.1)
    found = Refined(PoolModel([], []), np.ones(2), np.zeros(2), converging=True, trust=good)
    assert found.trusted
    assert not replace(found, converging=False).trusted
    assert not replace(found, trust=poor).trusted


def test_a_small_pool_with_a_small_teacher_is_refined():
    for seed in range(5):
        outputs, space, view, owner = pool(shares=(0.9, 0.1), n=400, seed=seed)
        start = right(fit_router(START, outputs, space)(outputs).weights, owner)
        found = right(fit_router(PLUS, outputs, space, view)(outputs, view).weights, owner)
        assert found > max(0.9, start)


def test_a_teacher_that_owns_nothing_of_the_pool_is_left_out():
    outputs, space, view, owner = pool(shares=(0.5, 0.5, 0.0), n=1000)
    assert right(fit_router(PLUS, outputs, space, view)(outputs, view).weights, owner) > 0.95


def test_a_pool_of_one_teachers_texts_is_warned_of(caplog: pytest.LogCaptureFixture):
    outputs, space, view, owner = pool(shares=(0.98, 0.02), n=600)
    assert right(fit_router(PLUS, outputs, space, view)(outputs, view).weights, owner) > 0.99
    assert not caplog.messages
    outputs, space, view, _ = pool(shares=(1.0, 0.0), n=600)
    router = fit_router(PLUS, outputs, space, view)
    assert router.findings == {"refined": 0.0}
    assert caplog.messages == [
        "refinement: view and scores give nearly all texts to 't0'; if the pool has none of the others' labels, leave "
        "these teachers out, or add such texts"
    ]


def test_principal_axes_hold_the_variance():
    x = np.random.default_rng(0).normal(size=(50, 5)) * [1, 9, 1, 5, 1]
    axes = principal_axes(x, 2)
    np.testing.assert_allclose(axes.T @ axes, np.eye(2), atol=1e-12)
    assert np.abs(axes[[1, 3], [0, 1]]).min() > 0.95
    np.testing.assert_array_equal(principal_axes(x, 12), np.eye(5))


@pytest.mark.parametrize(("n", "axes"), [(200, 50), (600, 96)])
def test_a_small_pool_is_looked_at_in_one_dimension_for_four_texts(n: int, axes: int):
    outputs, space, view, owner = pool(n=n)
    turned, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(96, 24)))
    wide = (view @ turned.T).astype(np.float16)
    router = fit_router(PLUS, outputs, space, wide)
    assert router.refinement is not None
    assert router.refinement.axes.shape == (96, axes)
    assert router.refinement.pool.models[0].means.shape == (6, axes)
    assert right(router(outputs, wide).weights, owner) > 0.9


def test_a_pool_that_is_too_small_to_show_its_classes_keeps_its_scores():
    outputs, space, view, _ = pool(n=149)
    router = fit_router(PLUS, outputs, space, view)
    assert router.refinement is None
    np.testing.assert_allclose(router(outputs, view).weights, softmax(4 * router(outputs, view).scores))


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_never_trusted_on_a_small_pool(seed: int):
    outputs, space, _, owner = pool(n=200, seed=seed)
    noise = np.random.default_rng(seed + 100).normal(size=(200, 24)).astype(np.float16)
    router = fit_router(PLUS, outputs, space, noise)
    assert router.findings is not None
    assert router.findings["refined"] == 0.0
    assert (
        right(router(outputs, noise).weights, owner)
        >= right(fit_router(START, outputs, space)(outputs).weights, owner) - 0.01
    )


def test_a_part_that_the_view_does_not_bear_out_counts_little():
    outputs, space, view, owner = pool()
    rng = np.random.default_rng(1)
    spoiled = [replace(one, features=rng.normal(size=(len(owner), 8)).astype(np.float16)) for one in outputs]
    entropy, distance = fit_router(PLUS, spoiled, space, view).importance
    assert distance < 0.1 * entropy
    entropy, distance = fit_router(PLUS, outputs, space, view).importance
    assert distance > 0.5 * entropy


def test_hard_routing_is_weighed_by_its_probability():
    outputs, space, view, _ = pool()
    router = fit_router(PLUS.model_copy(update={"integration": "hard"}), outputs, space, view)
    routing = router(outputs, view)
    assert set(np.unique(routing.weights)) == {0.0, 1.0}
    assert routing.probabilities.max(axis=-1).min() < 0.95


def test_a_shared_class_is_no_conflict():
    weights = np.array([[0.5, 0.5], [0.7, 0.3]])
    same, other = np.array([[2, 2], [2, 2]]), np.array([[0, 3], [0, 3]])
    np.testing.assert_allclose(right_probability(weights, same), [1.0, 1.0])
    np.testing.assert_allclose(right_probability(weights, other), [0.5, 0.7])


def test_overlapping_labels_are_routed_by_either_owner():
    outputs, space, view, owner = pool()
    shared = LabelSpace(space.labels[:5], {"t0": (0, 1, 2), "t1": (2, 3, 4)})  # t1 calls its first class as t0's last
    router = fit_router(PLUS, outputs, shared, view)
    weights = router(outputs, view).weights
    label = np.stack([one.logits.argmax(axis=-1) for one in outputs], axis=-1)
    clear = ~((owner == 0) & (label[:, 0] == 2)) & ~((owner == 1) & (label[:, 1] == 0))
    assert right(weights[clear], owner[clear]) > 0.95


def test_a_text_is_judged_by_a_model_that_was_fitted_without_it_wherever_it_lies():
    assert fold_of(np.arange(5)).tolist() == fold_of(np.arange(10))[:5].tolist()
    assert np.bincount(fold_of(np.arange(4000))).min() > 900


def test_what_a_text_was_routed_to_says_nothing_of_itself_or_its_fold():
    outputs, space, view, owner = pool(n=400)
    texts, columns = (
        neighbourhood(outputs[0].rows, plain_distributions(outputs), unit_length(view)),
        list(space.columns.values()),
    )
    weights = np.eye(2)[owner]
    before = PoolModel.fit(texts, weights, columns, 6).log_weights(texts)
    weights[7] = weights[7, ::-1]
    after = PoolModel.fit(texts, weights, columns, 6).log_weights(texts)
    fold = texts.folds == texts.folds[7]
    assert 0 < fold.sum() < 400
    np.testing.assert_array_equal(after[fold], before[fold])
    assert (after[~fold] != before[~fold]).all()


def test_second_moments_are_of_the_texts_of_all_other_folds_whatever_the_targets():
    rng = np.random.default_rng(0)
    view, targets, folds = (
        rng.normal(size=(60, 3)) + 1,
        rng.dirichlet(np.ones(4), size=60),
        rng.integers(FOLDS, size=60),
    )
    found = Neighbourhood(view, [], folds).second_moments
    assert len(found) == FOLDS
    for fold in range(FOLDS):
        others = view[folds != fold]
        np.testing.assert_allclose(found[fold], others.T @ others / len(others))
        known = ClassGaussians.fit(others, targets[folds != fold], second_moment=found[fold])
        unknown = ClassGaussians.fit(others, targets[folds != fold])
        np.testing.assert_allclose(known.factor, unknown.factor)
        np.testing.assert_allclose(known.log_joint(view), unknown.log_joint(view), atol=1e-8)


def test_agreement_is_the_mean_over_all_pairs_of_judges():
    first, second = np.eye(2)[[0, 0, 1]], np.eye(2)[[0, 1, 1]]
    np.testing.assert_allclose(agreement([first, second, first]), [1, 1 / 3, 1])
    np.testing.assert_array_equal(agreement([first]), np.ones(3))


def test_agreement_has_fallen_only_where_chance_cannot_explain_it():
    before, after = np.zeros(400), np.zeros(400)
    before[:50], after[50:75] = 1, 1  # mean change -25 / 400, deviation sqrt(75 / 400 - 1 / 256) = 0.4286
    assert has_fallen(before, after)  # 0.0625 is more than 2 * 0.4286 / 20 = 0.0429
    after[75:90] = 1  # -10 / 400, deviation 0.4743
    assert not has_fallen(before, after)  # 0.025 is less than 0.0474
    assert not has_fallen(before, before)
    assert not has_fallen(after, before)


def test_a_pool_is_trusted_where_the_parts_end_further_apart_by_chance_only(monkeypatch: pytest.MonkeyPatch):
    outputs, space, view, owner = pool()
    before, after = np.r_[np.ones(1000), np.zeros(1000)], np.r_[np.zeros(100), np.ones(995), np.zeros(905)]
    judged = itertools.cycle([before, after])  # 0.500 and 0.4975
    monkeypatch.setattr("muki.routing.refinement.agreement", lambda _: next(judged))
    router = fit_router(PLUS, outputs, space, view)
    assert router.findings["refined"] == 1.0
    assert right(router(outputs, view).weights, owner) > 0.95


def test_a_view_that_says_nothing_favours_no_teacher_however_many_labels_it_has():
    columns = [range(2), range(2, 22)]
    answers = [softmax(np.random.default_rng(i).normal(size=(40, size))) for i, size in enumerate((2, 20))]
    texts = Neighbourhood(np.eye(4)[np.arange(40) % 4], answers, np.arange(40) % FOLDS)
    log_prior = np.log([1 / 4] * 2 + [1 / 40] * 20)
    model = PoolModel([ClassGaussians(np.zeros((22, 4)), np.eye(4), log_prior)] * FOLDS, columns)
    np.testing.assert_allclose(np.exp(model.log_weights(texts)), 0.5)


def test_weights_do_not_depend_on_the_shard_that_a_text_lies_in():
    outputs, space, view, _ = pool()
    router = fit_router(PLUS, outputs, space, view)
    whole = router(outputs, view).weights
    part = slice(100, 150)
    np.testing.assert_allclose(router([one.take(part) for one in outputs], view[part]).weights, whole[part], atol=1e-9)


def in_shards(outputs: list[TeacherOutputs], rows: int) -> Iterator[list[TeacherOutputs]]:
    for start in range(0, len(outputs[0]), rows):
        yield [one.take(slice(start, start + rows)) for one in outputs]


def test_statistics_of_a_large_pool_come_from_an_even_sample(monkeypatch: pytest.MonkeyPatch):
    outputs, _, view, _ = pool(n=1000)
    monkeypatch.setattr("muki.integration.pool.FIT_ROWS", 300)  # so that one of four texts is taken
    sampled, seen = even_sample(in_shards(outputs, 130), 1000, InMemory(view, 130))
    rows = sampled[0].rows
    assert (rows // 4).tolist() == list(range(250))
    assert np.bincount(rows % 4).min() > 40  # whatever their order: every second text may be of one source
    for one, whole in zip(sampled, outputs, strict=True):
        np.testing.assert_array_equal(one.rows, rows)
        np.testing.assert_array_equal(one.logits, whole.logits[rows])
    np.testing.assert_array_equal(seen, view[rows])


def test_the_references_of_a_pool_that_is_dealt_from_two_sources_are_of_both():
    dealt = np.tile([[1.0, 0.0], [0.0, 1.0]], (REFERENCES, 1))
    references = references_among(dealt)
    assert len(references) == REFERENCES
    assert 0.45 < references[:, 0].mean() < 0.55
    np.testing.assert_array_equal(references_among(dealt[:REFERENCES]), dealt[:REFERENCES])


def test_a_pool_is_read_as_far_as_there_is_something_to_learn_from_it():
    outputs, space, view, _ = pool(n=1000)
    read = []

    def shards() -> Iterator[list[TeacherOutputs]]:
        for shard in in_shards(outputs, 100):
            read.append(shard[0].rows[0])
            yield shard

    fit_on_pool(shards(), 1000, InMemory(view, 100), PLUS, space)
    assert len(read) == 10
    read.clear()
    fit_on_pool(shards(), 1000, None, PRESETS["muki-no-mc"], space)
    assert len(read) == 1
    assert FIT_ROWS >= 10_000
    assert needs_pool(PLUS)
    assert not needs_pool(PRESETS["muki"])


def test_temper_finds_how_far_a_judge_can_be_believed():
    rng = np.random.default_rng(0)
    p = softmax(rng.normal(size=(20_000, 2)))
    choices = (rng.random(20_000) < p[:, 1]).astype(np.int64)
    start = np.array([0.2])
    assert temper([np.log(p)], choices, start) == pytest.approx(1.0, abs=0.1)
    assert temper([3 * np.log(p)], choices, start) == pytest.approx(1 / 3, abs=0.05)
    assert temper([np.log(p)], rng.integers(2, size=20_000), start) < 0.1


def test_temper_hears_of_two_voices_the_one_that_knows_something():
    rng = np.random.default_rng(0)
    p, noise = softmax(rng.normal(size=(20_000, 2))), softmax(rng.normal(size=(20_000, 2)))
    choices = (rng.random(20_000) < p[:, 1]).astype(np.int64)
    exponents = temper([np.log(noise), 2 * np.log(p)], choices, np.array([0.2, 0.2]))
    assert exponents == pytest.approx([0.0, 0.5], abs=0.05)


def two(n: int) -> np.ndarray:
    """Answers of two teachers that never give the same class."""
    return np.tile([0, 1], (n, 1))


def test_texts_on_which_teachers_give_one_class_do_not_count_as_disagreement():
    rng = np.random.default_rng(0)
    owner = rng.integers(2, size=4000)
    sign = 2 * owner - 1
    view = np.log(softmax(np.stack([0 * sign, 3 * (sign + rng.normal(size=4000))], axis=-1)))
    scores = (sign + rng.normal(size=4000))[:, None]
    plain = Evidence.fit([view], scores, two(4000))
    same = np.zeros((3000, 2), dtype=np.int64)
    either = np.log(np.full((3000, 2), 0.5)) + 0.1 * rng.normal(size=(3000, 2))
    joined = Evidence.fit(
        [np.concatenate([view, either])],
        np.concatenate([scores, rng.normal(size=(3000, 1))]),
        np.concatenate([two(4000), same]),
    )
    assert joined.exponents == pytest.approx(plain.exponents)
    np.testing.assert_allclose(joined.slope, plain.slope)


def test_two_judges_are_better_than_each():
    rng = np.random.default_rng(0)
    owner = rng.integers(2, size=4000)
    sign = 2 * owner - 1
    view = np.stack([0 * sign, 3 * (sign + rng.normal(size=4000))], axis=-1)
    scores = (sign + rng.normal(size=4000))[:, None]
    voices = [np.log(softmax(view))]
    both = Evidence.fit(voices, scores, two(4000)).log_weights(voices, scores)
    assert right(both, owner) > max(right(view, owner), ((scores[:, 0] > 0) == owner).mean()) + 0.05


def test_what_both_judges_know_of_the_shares_counts_once():
    shares = np.array([0.8, 0.2])
    evidence = Evidence(np.ones(1), np.zeros((2, 1)), np.log(shares), np.log(shares))
    nothing, doubt = np.log(shares), np.log([0.2, 0.8])
    found = np.exp(evidence.log_weights([np.stack([nothing, doubt])], np.zeros((2, 1))))
    np.testing.assert_allclose(found, [[0.8, 0.2], [0.2, 0.8]])


@pytest.mark.parametrize("seed", range(3))
def test_a_small_teacher_keeps_its_share_where_two_judges_agree(seed: int):
    rng = np.random.default_rng(seed)
    owner = (rng.random(4000) < 0.1).astype(int)
    seen, score = (2 * owner - 1 + rng.normal(size=4000) for _ in range(2))
    voices = [np.log(softmax(np.stack([np.full(4000, np.log(9)), 2 * seen], axis=-1)))]
    evidence = Evidence.fit(voices, score[:, None], two(4000))
    np.testing.assert_allclose(np.exp(evidence.log_shares), [0.9, 0.1], atol=0.03)
    weights = np.exp(evidence.log_weights(voices, score[:, None]))
    np.testing.assert_allclose(weights.mean(axis=0), [0.9, 0.1], atol=0.03)


# --- methods ---------------------------------------------------------------------------------------------------------


def test_the_default_needs_one_deterministic_pass_and_features():
    assert PRESETS[DEFAULT_METHOD] == PLUS
    assert PLUS.passes == 0
    assert PLUS.keep == "features"


def test_instance_weights_follow_the_method():
    outputs, space, view, _ = pool()
    routing = fit_router(PLUS, outputs, space, view)(outputs, view)
    predictions = np.stack([one.logits.argmax(axis=-1) + 3 * i for i, one in enumerate(outputs)], axis=-1)
    wanted = routing.weights.max(axis=-1) * (1 - routing.foreign)
    np.testing.assert_allclose(raw_weights(routing, predictions, PLUS), wanted)
    assert (raw_weights(routing, predictions, START) == 1).all()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"score": "entropy+energy"}, "calibration: a sum of scores (entropy+energy) needs calibration: standardise"),
        (
            {"refinement": "view"},
            "calibration: refinement needs scores that can be compared; set calibration: standardise",
        ),
        (
            {"reweight": "probability"},
            "reweight: probability needs routing weights that are probabilities; set refinement: view",
        ),
        (
            {**PLUS.model_dump(), "temperature": 0.5},
            "temperature: 0.5 would change nothing, refined routing weights are probabilities; leave it out",
        ),
        (
            {"score": "entropy", "tolerance": 0.1},
            "tolerance: 0.1 would change nothing without dropout passes; leave it out",
        ),
        ({"score": "gold", "tolerance": 0.1}, "score: gold reads the labels alone, so tolerance would change nothing"),
        (
            {"objective": "uhc"},
            "objective: uhc routes no text, so passes, reweight would change nothing; leave it out",
        ),
        (
            {"student": "merged", "score": "entropy", "calibration": "standardise", "reweight": "none"},
            "student: merged routes no text, so calibration would change nothing; leave it out",
        ),
        ({"score": "entropy+mud", "calibration": "standardise"}, "score: unknown routing score 'mud'; known: "),
    ],
)
def test_chains_that_cannot_work_are_refused(fields: dict[str, Any], said: str):
    with pytest.raises(ValidationError) as error:
        Method(**fields)
    assert said in str(error.value)


def test_a_pool_of_one_teacher_alone_breaks_nothing():
    outputs, space, view, _ = pool((1.0, 0.0), n=300)
    weights = fit_router(PLUS, outputs, space, view)(outputs, view).weights
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0)
    everything = np.log(np.tile([1.0, 1e-9], (300, 1)))
    evidence = Evidence.fit([everything], np.zeros((300, 2)), two(300))
    assert np.isfinite(evidence.log_weights([everything], np.zeros((300, 2)))).all()


@pytest.mark.parametrize("seed", range(4))
def test_copies_of_one_text_are_no_evidence_for_a_teacher(seed: int):
    rng = np.random.default_rng(seed)
    outputs = [
        made(np.tile(z, (20, 1)), features=np.tile(rng.normal(size=8), (20, 1))) for z in rng.normal(size=(2, 2))
    ]
    space = LabelSpace(("a", "b", "c", "d"), {"x": (0, 1), "y": (2, 3)})
    view = np.tile(rng.normal(size=24), (20, 1)).astype(np.float16)
    np.testing.assert_allclose(fit_router(PLUS, outputs, space, view)(outputs, view).weights, 0.5)


# --- texts that belong to nobody --------------------------------------------------------------------------------------


def test_excess_is_what_the_mirrored_left_side_lacks():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=8000), rng.normal(5.0, 0.5, size=2000)])
    places, excess = excess_on_the_right(x)
    foreign = np.interp(x, places, excess)
    assert foreign[8000:].mean() > 0.95
    assert foreign[:8000].mean() < 0.05
    assert (np.diff(excess) >= 0).all()


def test_a_symmetric_distribution_has_no_excess():
    for seed in range(5):
        x = np.random.default_rng(seed).normal(size=5000)
        assert np.interp(x, *excess_on_the_right(x)).mean() < 0.06
    assert excess_on_the_right(np.ones(10))[1].tolist() == [0.0]


def foreign_pool(share: float, seed: int = 0) -> tuple[list[TeacherOutputs], LabelSpace, Any, Any, Any]:
    """`pool`, of which this share belongs to nobody; and which texts do not."""
    outputs, space, view, owner = pool(n=1500, seed=seed)
    rng = np.random.default_rng(5)
    outside = rng.random(1500) < share
    view[outside] = (2 * rng.normal(size=(outside.sum(), 24))).astype(np.float16)
    around = 0.5 * rng.normal(size=(1500, 8))  # as far from the origin as texts of other teachers
    strange = [
        replace(one, features=np.where(outside[:, None], around, one.features).astype(np.float16)) for one in outputs
    ]
    return strange, space, view, owner, outside


def test_foreign_texts_are_found_and_count_little():
    strange, space, view, owner, outside = foreign_pool(0.2)
    routing = fit_router(PLUS, strange, space, view)(strange, view)
    assert routing.foreign[outside].mean() > 0.6
    assert routing.foreign[~outside].mean() < 0.1
    weights = raw_weights(routing, np.tile([0, 3], (1500, 1)), PLUS)
    assert weights[outside].mean() < 0.4 < 0.8 < weights[~outside].mean()
    assert right(routing.weights[~outside], owner[~outside]) > 0.9


def test_foreign_texts_of_one_topic_are_no_neighbours_that_make_each_other_at_home():
    strange, space, view, _, outside = foreign_pool(0.2)
    rng = np.random.default_rng(6)
    view[outside] = rng.normal(size=24) + 0.5 * rng.normal(size=(outside.sum(), 24))
    unsure = np.where(outside[:, None], 0.3, 1).astype(np.float32)
    strange = [replace(one, logits=one.logits * unsure) for one in strange]
    routing = fit_router(PLUS, strange, space, view)(strange, view)
    assert routing.foreign[outside].mean() > 0.6
    assert routing.foreign[~outside].mean() < 0.1


@pytest.mark.parametrize("seed", range(5))
def test_a_pool_without_foreign_texts_has_hardly_any(seed: int):
    outputs, space, view, _, outside = foreign_pool(0.0, seed)
    assert not outside.any()
    router = fit_router(PLUS, outputs, space, view)
    assert router.findings is not None
    assert router.findings["foreign_share"] < 0.06
    assert (router(outputs, view).foreign > 0.5).mean() < 0.03


@pytest.mark.parametrize("seed", range(3))
def test_the_share_of_foreign_texts_is_found(seed: int):
    found = []
    for share in (0.05, 0.2, 0.4):
        outputs, space, view, _, outside = foreign_pool(share, seed)
        routing = fit_router(PLUS, outputs, space, view)(outputs, view)
        assert routing.foreign[outside].mean() > 0.6
        assert routing.foreign[~outside].mean() < 0.05
        found.append(routing.foreign.mean())
    np.testing.assert_allclose(found, [0.05, 0.2, 0.4], atol=0.08)
