"""A teacher's temperature: by hand, against gold labels on synthetic pools, and in the target that it makes."""

from __future__ import annotations

import numpy as np
import pytest
from test_routing import PLUS, pool, right

from muki.formulas import integrate_distributions, softmax
from muki.integration.fitting import fit_router
from muki.methods import Method
from muki.routing.temperature import LOWEST, fit_temperature, teacher_temperatures

RAW = PLUS.model_copy(update={"teacher_temperature": "one"})
COLUMNS = [(0, 1, 2), (3, 4, 5)]


def answers(n: int, too_flat: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits over three classes and the classes that were drawn from `softmax(too_flat · logits)`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 3))
    return logits, (softmax(too_flat * logits).cumsum(axis=-1) < rng.random((n, 1))).sum(axis=-1)


def judge(choices: np.ndarray, teacher: int) -> np.ndarray:
    """Log probabilities over the union by someone who is sure of these classes of this teacher."""
    said = np.full((len(choices), 6), np.log(0.01))
    said[np.arange(len(choices)), 3 * teacher + choices] = np.log(0.95)
    return said


def test_the_temperature_by_hand():
    # two classes, logits (1, 0), right three times of four: 1 / (1 + e^(-1/T)) = 3/4, so T = 1 / log 3
    logits, choices = np.tile([1.0, 0.0], (400, 1)), np.repeat([0, 0, 0, 1], 100)
    assert fit_temperature(logits, choices) == pytest.approx(1 / np.log(3), rel=1e-3)


@pytest.mark.parametrize("too_flat", [0.5, 1.0, 4.0])
def test_the_temperature_of_which_the_classes_were_drawn_is_found(too_flat: float):
    logits, drawn = answers(8000, too_flat)
    assert fit_temperature(logits, drawn) == pytest.approx(1 / too_flat, rel=0.06)


def test_two_judges_meet_halfway():
    logits, drawn = answers(4000, 4.0)
    same_logits, drawn_flatter = answers(4000, 2.0)
    np.testing.assert_array_equal(logits, same_logits)
    weights = np.eye(2)[np.zeros(4000, dtype=int)]  # all texts are the first teacher's
    found = teacher_temperatures([logits, logits], [judge(drawn, 0), judge(drawn_flatter, 0)], weights, COLUMNS)
    expected = np.sqrt(fit_temperature(logits, drawn) * fit_temperature(logits, drawn_flatter))
    np.testing.assert_allclose(found, [expected, 1.0])


def test_each_teacher_is_judged_on_its_own_texts():
    """On the other's texts a judge's choices among a teacher's labels are random, and would make it flatter."""
    owner = np.repeat([0, 1], 4000)
    rng = np.random.default_rng(2)
    logits, said = [], np.full((8000, 6), np.log(0.01))
    expected = []
    for teacher, too_flat in enumerate((4.0, 2.0)):
        z, drawn = answers(8000, too_flat, seed=teacher)
        own = owner == teacher
        choices = np.where(own, drawn, rng.integers(3, size=8000))
        said[np.arange(8000), 3 * teacher + choices] = np.log(0.48)
        logits.append(z)
        expected.append(fit_temperature(z[own], drawn[own]))
    found = teacher_temperatures(logits, [said], np.eye(2)[owner], COLUMNS)
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(found, [1 / 4, 1 / 2], rtol=0.1)


def test_a_target_is_never_made_flatter_and_a_teacher_that_is_always_right_stays_finite():
    logits, drawn = answers(2000, 0.3)
    weights = np.eye(2)[np.zeros(2000, dtype=int)]
    assert teacher_temperatures([logits, logits], [judge(drawn, 0)], weights, COLUMNS)[0] == 1.0
    best = logits.argmax(axis=-1)
    assert teacher_temperatures([logits, logits], [judge(best, 0)], weights, COLUMNS)[0] == pytest.approx(
        LOWEST, rel=1e-3
    )


def test_a_teacher_that_says_the_same_of_every_text_is_not_borne_out_by_what_was_learned_from_it():
    logits, drawn = answers(400, 4.0)
    collapsed, weights = np.tile([1.0, 0.0, 0.0], (400, 1)), np.eye(2)[np.repeat([0, 1], 200)]
    said = np.logaddexp(judge(drawn, 0), judge(np.zeros(400, dtype=int), 1))
    found = teacher_temperatures([logits, collapsed], [said], weights, COLUMNS)
    assert found[1] == 1.0
    assert found[0] == teacher_temperatures([logits, logits], [said], weights, COLUMNS)[0] < 1.0


def test_without_judges_or_with_few_texts_a_teacher_stays_as_it_is():
    logits, drawn = answers(29, 4.0)
    weights = np.eye(2)[np.zeros(29, dtype=int)]
    assert teacher_temperatures([logits, logits], [judge(drawn, 0)], weights, COLUMNS).tolist() == [1.0, 1.0]
    logits, _ = answers(200, 4.0)
    assert teacher_temperatures([logits], [], np.ones((200, 1)), COLUMNS[:1]).tolist() == [1.0]


def test_teachers_that_are_surer_than_they_say_are_sharpened_without_labels():
    outputs, space, view, owner = pool(n=2400, flat=(0.2, 1.0))
    router = fit_router(PLUS, outputs, space, view)
    gold = [(softmax(one.logits).argmax(axis=-1))[owner == i] for i, one in enumerate(outputs)]
    by_gold = [
        fit_temperature(one.logits[owner == i], said) for i, (one, said) in enumerate(zip(outputs, gold, strict=True))
    ]
    assert by_gold[0] < 0.3
    assert router.temperatures[0] < 0.4
    assert router.temperatures[0] < 0.5 * router.temperatures[1]
    assert right(router(outputs, view).weights, owner) > 0.97


def test_the_view_is_judged_once_by_the_teachers_as_they_are():
    outputs, space, view, _ = pool(n=1200, flat=(0.2, 0.2))
    raw, plus = (fit_router(method, outputs, space, view).findings or {} for method in (RAW, PLUS))
    judged = ("view_accuracy", "score_accuracy", "refined")
    assert [raw[key] for key in judged] == [plus[key] for key in judged]
    assert raw["view_exponent"] != plus["view_exponent"]


def test_the_target_is_made_of_the_sharpened_answers():
    outputs, space, view, _ = pool(n=1200, flat=(0.2, 0.2))
    columns, n_labels = list(space.columns.values()), len(space.labels)
    surest = []
    for method in (RAW, PLUS):
        router = fit_router(method, outputs, space, view)
        target = integrate_distributions(
            router(outputs, view).weights, router.distributions(outputs), columns, n_labels
        )
        np.testing.assert_allclose(target.sum(axis=-1), 1.0)
        surest.append(target.max(axis=-1).mean())
    assert surest[0] < 0.6
    assert surest[1] > 0.8


def test_the_published_method_takes_the_teachers_as_they_are():
    outputs, space, view, _ = pool(flat=(0.2, 0.2))
    assert fit_router(RAW, outputs, space, view).temperatures.tolist() == [1.0, 1.0]
    assert fit_router(Method(score="entropy"), outputs, space).temperatures.tolist() == [1.0, 1.0]


def test_without_a_view_to_judge_by_teachers_stay_as_they_are():
    method = Method(score="entropy", teacher_temperature="pool")
    outputs, space, _, _ = pool(flat=(0.2, 0.2))
    assert fit_router(method, outputs, space).temperatures.tolist() == [1.0, 1.0]
    assert "sharpened" not in method.spelled_out()
    assert "sharpened" in PLUS.spelled_out()
