"""Label names: what they say of a text, when they are heard, and what they are worth on pools with known owners."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from test_routing import PLUS, made, pool, right
from tiny import save_encoder

from muki.config import StudentConfig
from muki.formulas import cohens_kappa, softmax
from muki.integration.fitting import fit_router
from muki.integration.router import Router
from muki.labels import LabelSpace
from muki.routing.names import LabelNames, are_words, mean_something, name_agreement, readable
from muki.routing.scores import routing_scores
from muki.routing.weights import log_agreement, surest
from muki.teachers.outputs import TeacherOutputs
from muki.view import Encoder, make_names, read_view

VIEW_ONLY = PLUS.model_copy(update={"refinement": "view"})
Pool = tuple[list[TeacherOutputs], LabelSpace, np.ndarray, np.ndarray, np.ndarray]


def named_pool(n: int = 1200, seed: int = 0, noise: float = 0.5) -> Pool:
    """Two weak teachers whose features and certainty say little of who owns a text, and names near their classes.

    A teacher answers texts that are not its own like a class of its own, as surely as its own texts.
    """
    _, _, view, owner = pool(n=n, seed=seed)
    rng = np.random.default_rng(seed)
    label = pool_labels(n, seed)
    means = np.stack([view[label == c].mean(axis=0) for c in range(6)])
    outputs = []
    for teacher in range(2):
        own = owner == teacher
        said = np.where(own & (rng.random(n) < 0.9), label - 3 * teacher, rng.integers(3, size=n))
        logits = np.eye(3)[said] * (2 + rng.normal(size=n))[:, None]
        outputs.append(made(logits, features=rng.normal(size=(n, 8)) + (1.5 * own)[:, None] * np.eye(8)[said]))
    names = means + noise * rng.normal(size=means.shape) / np.sqrt(means.shape[1])
    words = ("tennis", "chess", "rowing", "bonds", "shares", "taxes")
    space = LabelSpace(words, {"sports": (0, 1, 2), "money": (3, 4, 5)})
    return outputs, space, view, owner, names.astype(np.float16)


def pool_labels(n: int, seed: int) -> np.ndarray:
    """The classes that `pool` draws with this seed."""
    rng = np.random.default_rng(seed)
    owner = rng.choice(2, n, p=(0.5, 0.5))
    return np.asarray(owner * 3 + rng.integers(3, size=n))


def fitted(found: Pool, names: np.ndarray | None) -> tuple[Router, float]:
    """The default's router, and how often it is right."""
    outputs, space, view, owner, _ = found
    router = fit_router(PLUS, outputs, space, view, names)
    return router, right(router(outputs, view).weights, owner)


# --- by hand ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("comp.sys.mac", "comp sys mac"),
        ("card_arrival", "card arrival"),
        ("BookRestaurant", "book restaurant"),
        ("Sci/Tech", "sci tech"),
        ("culture-arts", "culture arts"),
        ("C++", "c++"),
        ("体育", "体育"),
        ("_", "_"),
    ],
)
def test_names_are_read_as_words(label: str, words: str):
    assert readable(label) == words


def test_codes_and_numbers_are_no_words():
    assert not are_words(["LABEL_0", "LABEL_1"])
    assert not are_words(["0", "1", "2"])
    assert not are_words(["C01", "C02", "class 7"])
    assert are_words(["体育", "财经"])
    assert are_words(["男", "女"])
    assert are_words(["खेल", "व्यापार", "विज्ञान"])
    assert are_words(["กีฬา", "ธุรกิจ"])
    assert are_words(["sports", "LABEL_1"])  # half of them
    assert not are_words(["sports", "LABEL_1", "LABEL_2"])


def test_a_text_belongs_to_the_name_that_is_nearer_than_usual():
    view = np.array([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [0.0, 1.0]])
    names = LabelNames.fit([[2.0, 0.0], [0.0, 5.0]], view, [np.full((4, 1), 1.0)] * 2, [(0,), (1,)])
    similar = view  # the names are the axes
    z = (similar - similar.mean(axis=0)) / similar.std(axis=0)
    np.testing.assert_allclose(names.log_probabilities(view), np.log(softmax(z)))
    np.testing.assert_allclose(names.log_weights(view, [np.ones((4, 1))] * 2), np.log(softmax(z)))
    scores = names.scores(names.log_weights(view, [np.ones((4, 1))] * 2))
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(scores.std(axis=0), 1)


def test_agreement_is_the_mass_on_what_the_teacher_says():
    log_class = np.log([[0.4, 0.2, 0.4]])
    agreement = np.exp(log_agreement(log_class, [np.array([[0.75, 0.25]]), np.array([[1.0]])], [(0, 1), (2,)]))
    np.testing.assert_allclose(agreement, [[0.4 * 0.75 + 0.2 * 0.25, 0.4]])


def test_names_that_know_nothing_favour_no_teacher_however_many_labels_it_has():
    view = np.eye(4)[[0, 1, 2, 3, 0, 1, 2, 3]]
    distributions = [np.full((8, 2), 0.5), np.full((8, 20), 0.05)]
    names = LabelNames.fit(np.ones((22, 4)), view, distributions, [range(2), range(2, 22)])
    np.testing.assert_allclose(np.exp(names.log_weights(view, distributions)), 0.5)


def test_kappa_is_agreement_beyond_chance():
    assert cohens_kappa([0, 1, 0, 1], [0, 1, 0, 1], 2) == 1
    assert cohens_kappa([0, 1, 0, 1], [0, 0, 1, 1], 2) == 0
    assert cohens_kappa([0, 0, 0, 1], [0, 0, 1, 1], 2) == pytest.approx((0.75 - 0.5) / 0.5)
    assert cohens_kappa([0, 0], [0, 0], 2) == 0  # chance alone
    assert cohens_kappa([], [], 2) == 0


def test_two_names_may_lie_in_the_right_order_by_luck():
    """So teachers of two labels must agree with them more: 0.3 + 0.4 / labels."""
    two, twenty = [(0, 1), (2, 3)], [tuple(range(20)), tuple(range(20, 40))]
    assert mean_something(0.5, two)
    assert not mean_something(0.49, two)
    assert mean_something(0.33, twenty)
    assert not mean_something(0.31, twenty)


def test_names_from_a_view_that_is_worse_than_the_scores_count_less():
    names = LabelNames(np.eye(2), np.zeros(2), np.ones(2), [(0,), (1,)], agreement=0.5)
    assert names.prior(good_view=True) == 8
    assert names.prior(good_view=False) == 8 * 0.5**2


def test_a_teacher_that_gets_no_text_has_no_say_in_whether_names_are_heard():
    said = np.log(np.array([[0.9, 0.1, 0.5, 0.5], [0.1, 0.9, 0.5, 0.5]] * 10))
    answers, columns = softmax(said[:, :2]), [(0, 1), (2, 3)]
    idle = np.tile([1.0, 0.0], (20, 1))
    assert name_agreement(said, [answers, answers], columns, idle) == pytest.approx(1.0)
    assert name_agreement(said[:0], [answers[:0], answers[:0]], columns, idle[:0]) == 0.0


def test_the_surest_texts_of_each_teacher_are_its_upper_half():
    found = surest([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 9.0]])
    assert [sorted(own.tolist()) for own in found] == [[0, 2], [3]]


# --- what they are worth ---------------------------------------------------------------------------------------------


def test_names_find_the_teacher_where_scores_hardly_can():
    found = named_pool()
    _, without = fitted(found, None)
    router, with_names = fitted(found, found[-1])
    assert router.findings is not None
    assert router.findings["names_heard"] == 1
    assert without < 0.7
    assert with_names > 0.8
    assert router.refinement is None  # the names alone do that: nothing bears the view out but they


@pytest.mark.parametrize("seed", range(3))
def test_names_that_mean_nothing_are_not_heard(seed: int):
    found = named_pool(seed=seed)
    rng = np.random.default_rng(seed)
    random = rng.normal(size=found[-1].shape).astype(np.float16)
    turned = found[-1][[1, 2, 0, 4, 5, 3]]  # each class has the name of another of its teacher's
    for names in (random, turned):
        router, accuracy = fitted(found, names)
        assert router.findings is not None
        assert router.findings["names_heard"] == 0
        assert accuracy == fitted(found, None)[1]


def test_names_do_not_make_a_poor_view_trusted():
    """Both teachers know the same three subjects under other names, and the view shows the subject, not the owner."""
    rng = np.random.default_rng(0)
    outputs, space, _, owner = pool(n=1200)
    subject = pool_labels(1200, 0) % 3
    centers = rng.normal(size=(3, 24))
    view = (centers[subject] + 0.8 * rng.normal(size=(1200, 24))).astype(np.float16)
    names = (np.tile(centers, (2, 1)) + 0.1 * rng.normal(size=(6, 24))).astype(np.float16)
    words = LabelSpace(("tennis", "chess", "rowing", "bonds", "shares", "taxes"), space.columns)
    alone = fit_router(VIEW_ONLY, outputs, words, view)
    router = fit_router(PLUS, outputs, words, view, names)
    assert router.names is not None
    assert router.refinement is None
    assert right(router(outputs, view).weights, owner) > right(alone(outputs, view).weights, owner) - 0.01


def test_names_can_speak_against_the_pools_classes(monkeypatch: pytest.MonkeyPatch):
    outputs, space, view, _ = pool(n=1200)
    words = LabelSpace(("tennis", "chess", "rowing", "bonds", "shares", "taxes"), space.columns)
    label = pool_labels(1200, 0)
    names = np.stack([view[label == c].mean(axis=0) for c in range(6)])
    assert fit_router(PLUS, outputs, words, view, names).refinement is not None
    scores = routing_scores(outputs, "relative-mahalanobis")
    monkeypatch.setattr(LabelNames, "log_weights", lambda *_: np.log(softmax(scores)))  # they choose as the scores do
    router = fit_router(PLUS, outputs, words, view, names)
    assert router.names is not None
    assert router.refinement is None


def test_a_teacher_of_few_labels_is_heard_beside_one_of_many():
    rng = np.random.default_rng(1)
    owner = rng.integers(2, size=1600)
    label = np.where(owner == 0, rng.integers(2, size=1600), 2 + rng.integers(20, size=1600))
    centers = rng.normal(size=(22, 48))
    view = (centers[label] + 2.5 * rng.normal(size=(1600, 48))).astype(np.float16)
    outputs = []
    for own, columns in ((owner == 0, range(2)), (owner == 1, range(2, 22))):
        said = np.where(own, label - columns[0], rng.integers(len(columns), size=1600))
        logits = np.eye(len(columns))[said] * (np.where(own, 4.0, 2.0) + rng.normal(size=1600))[:, None]
        near = np.eye(24)[said] * np.where(own, 2.0, 0.5)[:, None]
        outputs.append(made(logits, features=near + 0.3 * rng.normal(size=(1600, 24))))
    space = LabelSpace(tuple(f"name {i} word" for i in range(22)), {"few": (0, 1), "many": tuple(range(2, 22))})
    names = (centers + 0.1 * rng.normal(size=centers.shape)).astype(np.float16)
    with_names = fit_router(PLUS, outputs, space, view, names)
    without = fit_router(VIEW_ONLY, outputs, space, view)
    assert with_names.names is not None
    found = with_names(outputs, view).weights
    assert right(found, owner) >= right(without(outputs, view).weights, owner) - 0.01
    assert right(found[owner == 0], owner[owner == 0]) > 0.9


def test_names_without_words_are_not_looked_at():
    outputs, space, view, _owner, names = named_pool()
    codes = LabelSpace(tuple(f"LABEL_{i}" for i in range(6)), space.columns)
    router = fit_router(PLUS, outputs, codes, view, names)
    assert router.names is None
    assert router.findings is not None
    assert router.findings["names_heard"] == 0


def test_names_are_heard_where_the_pools_classes_are_not_trusted():
    outputs, space, view, owner, names = named_pool()
    router = fit_router(PLUS, outputs, space, view, names)
    kept = fit_router(PLUS, [one.take(slice(0, 160)) for one in outputs], space, view[:160], names)
    for one in (router, kept):
        assert one.reads_view
        with pytest.raises(ValueError, match="view, and none was given"):
            one(outputs)
    assert right(kept(outputs, view).weights, owner) > 0.8


def test_borne_out_is_the_teachers_own_view_of_the_names():
    rng = np.random.default_rng(0)
    said = rng.integers(3, size=(600, 2))
    distributions = [softmax(4 * np.eye(3)[own]) for own in said.T]
    owner = rng.integers(2, size=600)
    scores = np.eye(2)[owner] + 0.1 * rng.random(size=(600, 2))
    log_p = np.log(softmax(rng.normal(size=(600, 6))))
    columns = [(0, 1, 2), (3, 4, 5)]
    assert abs(name_agreement(log_p, distributions, columns, scores)) < 0.15
    agreeing = np.concatenate([np.log(p) for p in distributions], axis=1)
    assert name_agreement(agreeing, distributions, columns, scores) == 1


# --- on disk ---------------------------------------------------------------------------------------------------------


def test_names_are_encoded_once_and_anew_when_a_label_is_renamed(tmp_path: Path):
    encoder = save_encoder(tmp_path / "encoder")
    student, path = StudentConfig(model=str(encoder), max_length=16), tmp_path / "names"
    load = partial(Encoder, student)
    make_names(LabelSpace(("news_item", "Sports"), {"a": (0,), "b": (1,)}), student, path, load)
    first, written = read_view(path), path.stat().st_mtime_ns
    assert first.shape[0] == 2
    make_names(LabelSpace(("news.item", "sports"), {"a": (0,), "b": (1,)}), student, path, load)  # the same words
    assert path.stat().st_mtime_ns == written
    make_names(LabelSpace(("news item", "markets"), {"a": (0,), "b": (1,)}), student, path, load)
    np.testing.assert_array_equal(read_view(path)[0], first[0])
    assert (read_view(path)[1] != first[1]).any()
