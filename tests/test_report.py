"""The report: its numbers, its sentences, and that no text becomes markup."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from commands import invoke, works
from conftest import write_jsonl
from tiny import save_teacher

from muki.config import load_config
from muki.evaluation.card import foreign_limit
from muki.evaluation.contest import contest, seems_foreign
from muki.evaluation.method_words import cause, how_it_was_made, reference, whom_it_hears
from muki.evaluation.metrics import paired_difference
from muki.evaluation.outlook import checked_outlook, foreign_outlook, routing_outlook
from muki.evaluation.table import summary
from muki.files import digests, read_json, write_json
from muki.integration.store import load_supervision
from muki.labels import LabelSpace
from muki.methods import PRESETS, Method
from muki.report import words
from muki.report.choose import conflicting_pairs, worth_labelling
from muki.report.compare import Paired, figures, paired, verdict as verdict_of_two
from muki.report.evidence import _foreign, gather
from muki.report.facts import Answered, _foreign_share
from muki.report.page import clean, cut
from muki.report.tables import _harmless
from muki.run_folder import RunFolder
from muki.texts import Text

HOSTILE = [
    "<script>alert('text')</script> the match ended",
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)> shares fell',
    "{{ 99989 * 99971 }} {% raw %} a new phone",
    "\u202egnihsarc si enohp eht\u202c rates again",
    "\u200f\u2067 doctors found \u0627\u0644\u0646\u0635 that",
    "=HYPERLINK(\"http://example.com\",\"film\") parliament voted",
    "&lt;b&gt; already escaped & not &amp;",
    "a\x00b\x08 bell\x1b[31m red",
    "$\\frac{1}{0}$ tax law today",
]  # fmt: skip
LABELS = ["<b>sports</b>", "{{ 99991 * 99989 }}", "business & $x_1$"], ["technology\u202e", "health\"'", "film"]


class Page(HTMLParser):
    """What a browser would see: elements with attributes, and text by the elements around it."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.scripts: list[str] = []
        self.text: list[tuple[tuple[str, ...], str]] = []
        self._open: list[str] = []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, key, value) for key, value in attrs]
        if tag not in ("meta", "br", "path", "use", "rect", "image"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while tag in self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        else:
            self.text.append((tuple(self._open), data))

    @property
    def words(self) -> str:
        return " ".join(" ".join(data for _, data in self.text).split())


def make_run(
    folder: Path,
    teachers: list[Path],
    encoder: Path,
    texts: list[str],
    test: list[dict[str, str]],
    method: Any = None,
) -> Path:
    content: dict[str, Any] = {
        "teachers": [{"model": str(path), "max_length": 32} for path in teachers],
        "student": {"model": str(encoder), "max_length": 32},
        "texts": {"path": str(write_jsonl(folder / "pool.jsonl", [{"text": text} for text in texts]))},
        "method": method or {"passes": 2},
        "training": {"epochs": 1, "batch_size": 8},
        "output": str(folder / "run"),
    }
    if test:
        content["test"] = {"path": str(write_jsonl(folder / "test.jsonl", test))}
    (folder / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    works("run", folder / "run.yaml")
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, encoder: Path, pool_texts: list[str]) -> Path:
    """A run of which every text and every label name is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    teachers = [
        save_teacher(folder / "news", "bert", LABELS[0], seed=1),
        save_teacher(folder / "culture", "roberta", LABELS[1], seed=2),
    ]
    texts = [f"{HOSTILE[i % len(HOSTILE)]} {text}" for i, text in enumerate(pool_texts)]
    labels = [*LABELS[0], *LABELS[1]]
    test = [{"text": text, "label": labels[i % 6]} for i, text in enumerate(texts)]
    return make_run(folder, teachers, encoder, texts, [*test, {"text": "x", "label": "<i>nobody</i>"}])


@pytest.fixture(scope="module")
def unlabelled(
    tmp_path_factory: pytest.TempPathFactory, teachers: list[Path], encoder: Path, pool_texts: list[str]
) -> Path:
    return make_run(tmp_path_factory.mktemp("unlabelled"), teachers, encoder, pool_texts, [])  # fmt: skip


@pytest.fixture(scope="module")
def plus(tmp_path_factory: pytest.TempPathFactory, teachers: list[Path], encoder: Path, pool_texts: list[str]) -> Path:
    """A run of the default method, with a test file."""
    labels = ["sports", "politics", "business", "technology", "health", "film"]
    test = [{"text": text, "label": labels[i % 6]} for i, text in enumerate(pool_texts)]
    return make_run(tmp_path_factory.mktemp("plus"), teachers, encoder, pool_texts, test, method="muki-plus")


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page((run / "report" / "report.html").read_text(encoding="utf-8"))


# --- hostile texts ---------------------------------------------------------------------------------------------------


def test_no_text_and_no_label_becomes_an_element_or_an_attribute(page: Page):
    assert page.tags["script"] == 1
    assert not {"img", "iframe", "object", "form", "input"} & set(page.tags)
    assert [key for _, key, _ in page.attributes if key.startswith("on")] == []
    for hostile in HOSTILE[:4]:
        assert " ".join(clean(hostile).split()) in page.words


def test_the_only_script_is_ours_and_the_policy_allows_no_other(page: Page):
    policy = next(
        v for tag, key, v in page.attributes if tag == "meta" and key == "content" and "default-src" in str(v)
    )
    digest = base64.b64encode(hashlib.sha256("".join(page.scripts).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in str(policy)
    assert "default-src 'none'" in str(policy)
    assert "alert" not in "".join(page.scripts)


def test_template_syntax_in_texts_and_labels_is_not_evaluated(page: Page):
    assert "{{ 99989 * 99971 }}" in page.words
    assert "{{ 99991 * 99989 }}" in page.words
    assert str(99989 * 99971) not in page.words
    assert str(99991 * 99989) not in page.words


def test_marks_that_reorder_text_are_shut_in(page: Page):
    shut_in = {"bdi", "text"}  # an SVG text is an island of its own
    loose = [data for around, data in page.text if re.search("[\u202a-\u202e\u2066-\u2069\u200f]", data)
             and not shut_in & set(around) and "pre" not in around]  # fmt: skip
    assert loose == []


def test_characters_that_html_forbids_are_replaced(run: Path):
    content = (run / "report" / "report.html").read_bytes()
    assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]", content)
    assert clean("a\x00b\x1bc\td") == "a\ufffdb\ufffdc\td"


def test_nothing_is_fetched_and_the_page_is_small(run: Path, page: Page):
    pointing = [str(value) for _, key, value in page.attributes if key in ("src", "href", "xlink:href", "action")]
    fetching = [value for value in pointing if not value.startswith(("#", "data:"))]
    assert fetching == []
    assert "url(http" not in (run / "report" / "report.html").read_text(encoding="utf-8")
    assert (run / "report" / "report.html").stat().st_size < 3_000_000
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))


def test_no_path_of_this_machine_is_on_the_page(run: Path):
    assert str(run.parent) not in (run / "report" / "report.html").read_text(encoding="utf-8")


def test_many_labels_make_a_picture_in_the_place_of_a_table(run: Path, monkeypatch: pytest.MonkeyPatch):
    from muki.config import load_config
    from muki.report import page as page_module
    from muki.report.facts import collect
    from muki.run_folder import RunFolder

    monkeypatch.setattr(page_module, "_MOST_LABELS_IN_TABLE", 3)
    page = Page(page_module.render(collect(RunFolder(run), load_config(run / "config.yaml"))))
    assert ("svg", "aria-label", "Confusion matrix") in page.attributes
    pictures = [str(value) for tag, key, value in page.attributes if tag == "image" and key == "xlink:href"]
    assert [picture[:22] for picture in pictures] == ["data:image/png;base64,"]


def test_three_teachers_that_share_a_label_and_a_hard_method(tmp_path: Path, encoder: Path, pool_texts: list[str]):
    own = {"one": ["sports", "film"], "two": ["sports", "health"], "three": ["politics", "business"]}
    teachers = [save_teacher(tmp_path / name, "bert", labels, seed=i) for i, (name, labels) in enumerate(own.items())]
    run = make_run(tmp_path, teachers, encoder, pool_texts, [], method="muki-hard")
    page = Page((run / "report" / "report.html").read_text(encoding="utf-8"))
    assert "One classifier over 5 labels, taught by 3 teachers" in page.words
    assert "sports one two" in page.words


def test_a_hard_method_hears_whom_its_own_score_chose(
    tmp_path: Path, teachers: list[Path], encoder: Path, monkeypatch: pytest.MonkeyPatch
):
    texts = [f"a text {i} about {word}" for i, word in enumerate(("tax", "film", "goal", "bank") * 10)]
    method = {"score": "energy", "integration": "hard", "reweight": "none", "passes": 0}
    run = RunFolder(make_run(tmp_path, teachers, encoder, texts, [], method=method))
    space = LabelSpace.load(run.labels)
    assert space is not None
    heard = load_supervision(run.supervision)
    others = 1 - heard.routing.astype(np.float64)
    monkeypatch.setattr("muki.report.evidence.teacher_certainty", lambda outputs: others)
    seen = gather(run, load_config(run.config), space)
    np.testing.assert_array_equal(seen.routing.argmax(axis=1), heard.routing.argmax(axis=1))


# --- the texts to label ----------------------------------------------------------------------------------------------


def test_the_csv_on_the_page_is_the_one_beside_it_and_names_each_text(run: Path, page: Page):
    link = next(
        str(v) for tag, key, v in page.attributes if tag == "a" and key == "href" and str(v).startswith("data:")
    )
    content = base64.b64decode(link.partition("base64,")[2]).decode("utf-8-sig")
    beside = (run / "report" / "to-label.csv").read_bytes().decode("utf-8-sig")
    assert content == beside
    rows = list(csv.DictReader(io.StringIO(content, newline="")))
    assert 0 < len(rows) <= 50
    assert len({row["row"] for row in rows}) == len(rows)
    assert {row["label"] for row in rows} == {""}
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_a_cell_that_a_spreadsheet_would_run_is_quoted(cell: str):
    assert _harmless(cell) == f"'{cell}"
    assert _harmless(f" {cell}") == f" {cell}"


def test_long_texts_are_cut_on_the_page():
    assert cut("a" * 500) == "a" * 399 + "…"
    assert cut("a" * 400) == "a" * 400


# --- numbers and order -----------------------------------------------------------------------------------------------


def test_the_page_answers_in_the_order_in_which_a_person_asks(page: Page):
    order = [value for tag, key, value in page.attributes if tag == "section" and key == "id"]
    assert order == ["got", "trust", "taught", "conflicts", "look", "made"]


def test_the_page_shows_the_metrics_of_the_run(run: Path, page: Page):
    metrics = json.loads((run / "report" / "metrics.json").read_text(encoding="utf-8"))
    accuracy = metrics["student"]["accuracy"]
    assert f"{100 * accuracy:.1f} %" in page.words
    assert "1 test text left out: no teacher knows the label “<i>nobody</i>”." in page.words


def test_a_report_can_be_made_again_without_the_student(run: Path, tmp_path: Path):
    before = (run / "report" / "report.html").read_text(encoding="utf-8")
    assert works("report", run).stdout == f"report: {run / 'report' / 'report.html'}\n"
    after = (run / "report" / "report.html").read_text(encoding="utf-8")
    assert re.sub(r"time</dt>.*?</dd>", "", after) == re.sub(r"time</dt>.*?</dd>", "", before)


def test_without_a_test_file_the_page_says_what_cannot_be_known(unlabelled: Path):
    page = Page((unlabelled / "report" / "report.html").read_text(encoding="utf-8"))
    assert "One classifier over 6 labels, taught by 2 teachers on 40 unlabelled texts. Nobody has told it the right " \
        "answers yet, so its accuracy is unknown." in page.words  # fmt: skip
    assert "Nothing on this page says how often the student is right." in page.words
    assert "Right answers" not in page.words


def test_the_default_method_says_what_it_expects_and_nothing_of_passes(plus: Path, unlabelled: Path):
    metrics = json.loads((plus / "report" / "metrics.json").read_text(encoding="utf-8"))
    found = json.loads((plus / "supervision" / "supervision.json").read_text(encoding="utf-8"))["findings"]
    outlook = metrics["pool"]["routing"]
    assert 0.5 <= outlook["expected_accuracy"] <= 1
    assert outlook["refined"] == bool(found["refined"])
    assert set(outlook) == {"expected_accuracy", "refined"}  # a pool of so few texts is not refined
    assert metrics["pool"].get("foreign_share") == pytest.approx(found.get("foreign_share"))
    assert "`pool.foreign_share`" in (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert metrics["pool"]["teacher_temperature"] == {"news": 1.0, "culture": 1.0}
    assert {"expected_accuracy", "expected_calibration_error"} < set(metrics["routing"])
    documented = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert [key for key in outlook if f"`pool.routing.{key}`" not in documented] == []
    assert "`routing.expected_accuracy`, `routing.expected_calibration_error`" in documented
    page = Page((plus / "report" / "report.html").read_text(encoding="utf-8"))
    assert "Probability, by the method's own estimate, that the text's label comes from a teacher" in page.words
    assert "dropout passes" not in page.words
    assert "surest of it" not in page.words
    said = works("report", plus, unlabelled).stdout
    assert "paired" in Page(Path(said.removeprefix("report: ").strip()).read_text(encoding="utf-8")).words
    unknown = works("run", plus, "--set", "test=null").stdout
    expected = "estimated without labels: unknown (not refined over the pool)\n"
    assert f"expected routing accuracy on the pool, {expected}" in unknown
    page = Page((plus / "report" / "report.html").read_text(encoding="utf-8"))
    assert f"was heard on {100 * outlook['expected_accuracy']:.1f} % of the texts." in page.words


def test_a_page_of_a_run_that_estimated_it_says_how_many_texts_belong_to_nobody(plus: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(plus, copy)
    (shard,) = (copy / "supervision").glob("shard-*.parquet")
    content = pq.read_table(shard)
    without = content.drop_columns([name for name in content.column_names if name == "foreign"])
    pq.write_table(without.append_column("foreign", pa.array(np.linspace(0, 0.6, 40, dtype=np.float32))), shard)
    summary = read_json(shard.with_name("supervision.json"))
    write_json(shard.with_name("supervision.json"), {**summary, "files": digests(shard.parent, [shard.name])})
    works("report", copy)
    page = Page((copy / "report" / "report.html").read_text(encoding="utf-8"))
    assert "About 30 % of the texts seem to belong to none of the labels and counted little in training." in page.words
    assert "foreign (by the method's own estimate it more likely than not belongs to none of the labels)" in page.words
    rows = csv.DictReader(io.StringIO((copy / "report" / "to-label.csv").read_text(encoding="utf-8-sig"), newline=""))
    assert {int(row["row"]) for row in rows if "foreign" in row["why"]} == set(range(33, 40))


def test_two_runs_side_by_side(run: Path, unlabelled: Path):
    said = works("report", run, unlabelled).stdout
    path = run / "report" / "with-run.html"
    assert said == f"report: {path}\n"
    page = Page(path.read_text(encoding="utf-8"))
    assert page.tags["script"] == 1
    assert [value for tag, key, value in page.attributes if tag == "section" and key == "id"] == [
        "figures", "settings", "disputed",
    ]  # fmt: skip


def test_a_run_beside_itself_is_refused(run: Path):
    result = invoke("report", run, run)
    assert result.exit_code == 2
    assert f"muki: run '{run}': cannot be set beside itself; give two different runs\n" in result.stderr


def test_a_run_without_metrics_is_refused(run: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "report" / "metrics.json").unlink()
    result = invoke("report", copy)
    assert result.exit_code == 2
    assert f"muki: run '{copy}': nothing evaluated yet; run `muki evaluate {copy}` first\n" in result.stderr


def test_a_run_without_a_student_has_no_report(run: Path):
    from muki.config import load_config
    from muki.errors import RunFolderError
    from muki.report.facts import collect
    from muki.run_folder import RunFolder

    with pytest.raises(RunFolderError) as error:
        collect(RunFolder(run), load_config(run / "config.yaml", ["method=ensemble"]))
    assert str(error.value) == (
        f"run '{run}': its method has no student to report on; its figures are in {run / 'report' / 'metrics.json'}"
    )


# --- which texts: arrays with known answers --------------------------------------------------------------------------

# Three teachers; teachers 0 and 2 share class 0.
ROUTING = np.array([[0.9, 0.05, 0.05], [0.5, 0.4, 0.1], [0.45, 0.1, 0.45], [0.2, 0.41, 0.39]])
PREDICTIONS = np.array([[0, 2, 4], [1, 2, 4], [0, 3, 0], [0, 2, 4]])


def test_a_contest_is_between_the_winner_and_the_most_heard_teacher_that_contradicts_it():
    found = contest(ROUTING, PREDICTIONS)
    assert found.winner.tolist() == [0, 0, 0, 1]
    assert found.rival.tolist() == [1, 1, 1, 2]  # in the third text teacher 2 says what the winner says
    assert found.strength == pytest.approx([0.05 / 0.9, 0.8, 0.1 / 0.45, 0.39 / 0.41])
    assert found.contested.tolist() == [False, True, False, True]


def test_teachers_that_agree_do_not_contest():
    found = contest(np.array([[0.5, 0.5]]), np.array([[1, 1]]))
    assert (found.winner[0], found.rival[0], found.strength[0]) == (0, 0, 0.0)


def test_pairs_of_classes_are_counted_whoever_wins():
    routing = np.array([[0.6, 0.4], [0.4, 0.6], [0.55, 0.45], [0.5, 0.5]])
    predictions = np.array([[0, 2], [0, 2], [1, 2], [1, 1]])
    pairs = conflicting_pairs(contest(routing, predictions), predictions)
    assert [(p.first, p.second, len(p.positions), p.first_wins) for p in pairs] == [
        ((0, 0), (1, 2), 2, 1), ((0, 1), (1, 2), 1, 1),
    ]  # fmt: skip


def test_the_texts_to_label_take_each_kind_in_turn_and_no_text_twice():
    found = contest(ROUTING, PREDICTIONS)
    target = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]], dtype=np.float32)
    student = np.array([[0.1, 0.9], [0.3, 0.7], [0.8, 0.2], [0.9, 0.1]], dtype=np.float32)
    foreign = np.array([0.1, 0.1, 0.9, 0.2])
    picks = worth_labelling(["a", "b", "c", "b"], found, PREDICTIONS, foreign, student, np.arange(4), target)
    assert [(pick.position, pick.reasons) for pick in picks] == [
        (3, ("contested",)), (0, ("student against target",)), (2, ("foreign",)),
    ]  # fmt: skip
    two = worth_labelling(list("abcd"), found, PREDICTIONS, foreign, student, np.arange(4), target, most=2)
    assert [pick.position for pick in two] == [3, 0]


def test_a_text_is_foreign_from_one_half_on_where_the_method_estimates_it():
    foreign = np.array([0.49, 0.5, 0.6, 0.99])
    assert seems_foreign(foreign, estimated=True).tolist() == [False, True, True, True]
    assert seems_foreign(foreign, estimated=False).tolist() == [False, False, True, True]
    agreed, student = np.zeros((4, 3), dtype=np.int64), np.eye(2, dtype=np.float32)[[0, 0, 0, 0]]
    found = contest(ROUTING, agreed)
    for estimated, wanted in ((True, [3, 2, 1]), (False, [3, 2])):
        picks = worth_labelling(
            list("abcd"), found, agreed, foreign, student, np.arange(4), student, estimated=estimated
        )  # fmt: skip
        assert [(pick.position, pick.reasons) for pick in picks] == [(i, ("foreign",)) for i in wanted]


def test_the_methods_own_estimate_is_averaged_over_the_pool_and_doubt_is_counted():
    sure = np.array([[0.3, 0.2], [0.9, 0.1], [0.35, 0.6], [0.1, 0.1]])
    foreign = np.array([0.9, 0.1, 0.2, 0.4], dtype=np.float32)
    for column, wanted in ((foreign, 0.4), (None, 0.5)):
        far = _foreign(SimpleNamespace(foreign=column), sure)  # type: ignore[arg-type]
        seen: Any = SimpleNamespace(foreign=far, foreign_estimated=column is not None)
        assert _foreign_share(seen) == pytest.approx(wanted)


# --- sentences -------------------------------------------------------------------------------------------------------


def test_numbers_in_words():
    assert (words.percent(0.774), words.percent(0.5, 0)) == ("77.4 %", "50 %")
    assert (words.count(1, "text"), words.count(1240, "text")) == ("1 text", "1,240 texts")
    assert words.listed(["a"]) == "a"
    assert words.listed(["a", "b", "c"]) == "a, b and c"
    assert words.listed(list("abcdef")) == "a, b, c, d and 2 more"


def facts(accuracy: float, ensemble: float, routing: float = 0.9, **student: Any) -> Any:
    per_class = {"a": {"recall": 0.9, "n": 50}, "b": {"recall": 0.1, "n": 50}, "c": {"recall": 0.0, "n": 3}}
    student = {"accuracy": accuracy, "accuracy_interval": [accuracy - 0.03, accuracy + 0.03], "n": 103,
               "per_class": per_class, "calibration": [{"confidence": 0.9, "accuracy": 0.7, "n": 103}],
               **student}  # fmt: skip
    metrics = {"student": student, "ensemble": {"accuracy": ensemble}, "routed_ensemble": {"accuracy": 0.1},
               "routing": {"accuracy": routing}, "test": {"left_out": {}, "texts": 103, "source": "t"}}  # fmt: skip
    metrics["pool"] = {"texts": 40}
    return SimpleNamespace(has_test=True, metrics=metrics, name="run", labelled=None)


@pytest.mark.parametrize(
    ("accuracy", "tone", "said"),
    [
        (0.85, "good", "The student beats all its teachers running together by 5.0 points."),
        (0.81, "plain", "The student is as good as all its teachers running together, within the interval."),
        (0.70, "warn", "The teachers running together are 10.0 points better than the student; more unlabelled texts, "
                       "more epochs or a larger student may close the gap."),
    ],
)  # fmt: skip
def test_the_student_against_its_teachers_in_words(accuracy: float, tone: str, said: str):
    first = words.trust(facts(accuracy, ensemble=0.8))[0]
    assert (first.tone, first.text) == (tone, said)


def test_weak_labels_overconfidence_and_routing_in_words():
    assert [(one.tone, one.text) for one in words.trust(facts(0.8, 0.8, routing=0.6))[1:]] == [
        ("warn", "“b” is mostly missed: 5 of 50 texts found."),
        ("plain", "Fewer than 10 test texts of “c”: too few to judge."),
        ("warn", "It is surer than it should be: its confidence is 20 points above its accuracy."),
        ("warn", "On 60.0 % of the test texts the teacher that is heard most is one that knows the right label; texts "
                 "like the others mostly taught the student a wrong label."),
    ]  # fmt: skip


JUDGED = {"view_accuracy": 0.94, "score_accuracy": 0.853}
KNOWN = (
    "The method expects that a teacher which knows the answer was heard on 91.3 % of the texts. This is an estimate "
    "without labels; on nearly all pools with known labels its calibration error was 1 to 10 points, and on three, "
    "with weak teachers or very short texts, 12 to 26, the estimate being far too high. A teacher that knows the "
    "answer can still be wrong."
)
HINT = (
    "The method expects that a teacher which knows the answer was heard on 91.3 % of the texts. Only the teachers' "
    "scores say so, and nothing checked them: take it as a hint."
)


@pytest.mark.parametrize(
    ("outlook", "said"),
    [
        ({"refined": True, **JUDGED}, [
            ("plain", KNOWN),
            ("plain", "The classes that the pool shows in the student's encoder corrected the scores; by estimates "
                      "without labels it is right on 94 % of the texts, they on 85 %."),
        ]),
        ({"refined": False, **JUDGED}, [
            ("warn", HINT),
            ("warn", "The student's encoder does not show the pool's classes well enough to correct the teachers' "
                     "scores, which decided without them; by estimates without labels it is right on 94 % of the "
                     "texts, they on 85 %. A student that starts from a sentence encoder may help."),
        ]),
        ({"refined": False, "view_accuracy": 0.55}, [
            ("warn", HINT),
            ("warn", "The student's encoder does not show the pool's classes well enough to correct the teachers' "
                     "scores, which decided without them; by estimates without labels it is right on 55 % of the "
                     "texts. A student that starts from a sentence encoder may help."),
        ]),
        ({"refined": True, **JUDGED, "names_heard": True}, [
            ("plain", KNOWN),
            ("plain", "The classes that the pool shows in the student's encoder corrected the scores; by estimates "
                      "without labels it is right on 94 % of the texts, they on 85 %."),
            ("plain", "The labels' names were heard too: the teachers choose among their labels as these suggest."),
        ]),
        ({"refined": True, **JUDGED, "names_heard": False}, [
            ("plain", KNOWN),
            ("plain", "The classes that the pool shows in the student's encoder corrected the scores; by estimates "
                      "without labels it is right on 94 % of the texts, they on 85 %."),
            ("plain", "The labels' names were not heard: they are codes, or the teachers do not choose among their "
                      "labels as the names suggest. Names that say what a class is about (labels: {LABEL_0: sports}) "
                      "often route texts better."),
        ]),
        ({"refined": False}, [
            ("warn", HINT),
            ("warn", "The student's encoder gave no view of the texts, or there were too few texts to judge it by, so "
             "it did not correct the teachers' scores."),
        ]),
        (None, []),
    ],
)  # fmt: skip
def test_what_the_method_expects_without_labels_in_words(outlook: dict[str, Any] | None, said: list[tuple[str, str]]):
    pool: dict[str, Any] = {"texts": 40, "held_out": {"n": 4}}
    if outlook:
        pool["routing"] = {"expected_accuracy": 0.913, **outlook}
    unknown = SimpleNamespace(has_test=False, metrics={"pool": pool}, labelled=None, contested=0.1, foreign=0.0,
                              foreign_estimated=False)  # fmt: skip
    remarks = [(one.tone, one.text) for one in words.trust(unknown)]
    assert remarks[1:-2] == said
    assert remarks[-2:] == [
        ("plain", "On 10.0 % of the texts two teachers contradict each other and are heard about alike."),
        ("plain", "On 0.0 % of the texts no teacher is sure; some may belong to no label."),
    ]


ELSEWHERE = (
    "This is a rough estimate without labels: on pools without such texts it was 1 to 10 %; on pools of which a "
    "fifth was such texts, 6 to 17 %."
)


@pytest.mark.parametrize(
    ("share", "method", "tone", "said"),
    [
        (0.124, PRESETS["muki-plus"], "warn",
         f"About 12 % of the texts seem to belong to none of the labels and counted little in training. {ELSEWHERE}"),
        (0.02, PRESETS["muki-plus"], "plain",
         f"About 2 % of the texts seem to belong to none of the labels and counted little in training. {ELSEWHERE}"),
        (0.004, PRESETS["muki-plus"], "plain",
         "Hardly any text seems to belong to none of the labels; this is a rough estimate without labels."),
        (0.124, PRESETS["muki-plus"].model_copy(update={"reweight": "none"}), "warn",
         f"About 12 % of the texts seem to belong to none of the labels. {ELSEWHERE}"),
    ],
)  # fmt: skip
def test_texts_that_belong_to_nobody_in_words(share: float, method: Method, tone: str, said: str):
    seen: Any = SimpleNamespace(
        contested=0.1, foreign=share, foreign_estimated=True, pairs=[], config=SimpleNamespace(method=method)
    )
    last = words.conflicts(seen)[-1]
    assert (last.tone, last.text) == (tone, said)


@pytest.mark.parametrize(
    ("share", "line", "limit"),
    [
        (0.124, "texts that seem to belong to none of the labels, a rough estimate without labels: 12%",
         "About 12 % of the unlabelled texts seemed to belong to none of its labels and counted little in training; "
         "this is a rough estimate, made without labels."),
        (0.01, None, None),
        (None, None, None),
    ],
)  # fmt: skip
def test_summary_and_card_mention_texts_that_belong_to_nobody_where_they_are_many(
    share: float | None, line: str | None, limit: str | None
):
    pool = {"texts": 40, "teacher_share": {"a": 1.0}, "margin": {"median": 0.5}, "held_out": {"n": 4}}
    metrics = {"pool": pool | foreign_outlook(None if share is None else np.array([share]))}
    assert ("foreign_share" in metrics["pool"]) == (share is not None)
    assert summary(metrics).splitlines()[2:] == ([line] if line else [])
    assert foreign_limit(PRESETS["muki-plus"], metrics) == limit


def test_an_estimate_and_doubt_are_not_subtracted():
    def one(foreign: float, estimated: bool) -> Any:
        return SimpleNamespace(metrics={}, contested=0.1, foreign=foreign, foreign_estimated=estimated)

    changes = [figures(one(0.1, a), one(0.3, b), None)[-1].change for a, b in ((True, True), (True, False))]
    assert changes == [pytest.approx(20.0), None]


def test_with_labels_the_expectation_stands_beside_the_truth():
    tested = facts(0.8, 0.8)
    tested.metrics["routing"]["expected_accuracy"] = 0.93
    tested.metrics["pool"]["routing"] = {"expected_accuracy": 0.92, "refined": True, **JUDGED}
    assert [one.text for one in words.trust(tested)][-2] == (
        "On 90.0 % of the test texts the teacher that is heard most is one that knows the right label (without labels "
        "the method expected 93.0 %)."
    )


def test_the_expectation_counts_all_teachers_that_name_the_targets_class():
    weights = np.array([[0.6, 0.4], [0.45, 0.55], [0.3, 0.7]])
    predictions = np.array([[0, 1], [2, 2], [0, 1]])
    plus, columns = PRESETS["muki-plus"], [(0, 2), (1, 2)]
    outlook = routing_outlook(plus, weights, predictions, {"refined": 1.0, "score_accuracy": 1.2})
    assert outlook == {"expected_accuracy": pytest.approx((0.6 + 1.0 + 0.7) / 3), "refined": True, "score_accuracy": 1}
    checked = checked_outlook(plus, weights, predictions, np.array([0, 2, 0]), columns)
    assert checked["expected_accuracy"] == outlook["expected_accuracy"]
    assert checked["expected_calibration_error"] == pytest.approx((0.4 + 0.0 + 0.7) / 3)  # each in a bin of its own
    assert routing_outlook(PRESETS["muki"], weights, predictions, {}) == {}
    assert routing_outlook(plus, weights, predictions, {"names_heard": 0.0})["names_heard"] is False


@pytest.mark.parametrize(
    ("preset", "refined", "said"),
    [
        ("muki-plus", True,
         "A teacher is heard with the probability that it is the one to know the text's label. Two judges give it: its "
         "certainty and relative Mahalanobis distance (how usual the text is for it), each standardised over the pool; "
         "and the classes that the pool shows in the student's encoder. A text counts as much as its label is likely "
         "to come from a right teacher, and less where it seems to belong to none of the labels. "
         "Teachers that are surer among their own labels than they say are sharpened."),
        ("muki-plus", False,
         "How much a teacher is heard follows its certainty and relative Mahalanobis distance (how usual the text is "
         "for it), each standardised over the pool; the pool's classes were not trusted to correct this. A text counts "
         "as much as its label is likely to come from a right teacher. Teachers that are surer among their own labels "
         "than they say are sharpened."),
        ("muki", False, "Each text is taught mostly by the teacher that is surest of it. Texts on which two teachers "
                        "are about equal count less."),
        ("muki-hard", False, "Each text is taught by the teacher that is surest of it, by no other."),
        ("vanilla-kd", False, "How much a teacher is heard follows its energy (the size of its logits)."),
        ("dfa", False, "How much a teacher is heard follows its energy (the size of its logits). The student also "
                       "imitated the teachers' hidden states."),
        ("uhc", False, "The student matched each teacher among that teacher's own labels; nobody chose between "
                       "teachers."),
        ("weight-merge", False, "The student is the average of the teachers' weights; no text taught it."),
        ("oracle", False, "The texts' gold labels decided which teacher was heard: a ceiling for other methods, not a "
                          "way without."),
        ("supervised", False, "The student learned the texts' gold labels; no teacher was heard."),
    ],
)  # fmt: skip
def test_each_method_in_words(preset: str, refined: bool, said: str):
    assert whom_it_hears(PRESETS[preset], refined) == said


def test_names_that_were_heard_are_said_so():
    plus = PRESETS["muki-plus"]
    assert "in the student's encoder, with the labels' names. A text" in whom_it_hears(plus, True, named=True)
    entropy = plus.model_copy(update={"score": "entropy"})
    assert cause(entropy, False, named=True) == "scores and label names"
    assert cause(entropy, True, named=True) == "scores, label names and the pool's classes"
    assert "how well the text fits the names" in whom_it_hears(entropy, False, named=True)
    kept = whom_it_hears(plus, False, named=True)
    assert "over the pool, and how well the text fits the names of its labels; the pool's classes were not" in kept


@pytest.mark.parametrize("preset", PRESETS)
def test_only_a_method_without_gold_labels_says_so(preset: str):
    made = how_it_was_made(PRESETS[preset], 2, 2000)
    assert ("without labelled texts" in made) == (not PRESETS[preset].needs_gold)
    assert ("gold labels" in made) == PRESETS[preset].needs_gold
    assert reference(PRESETS[preset])


@pytest.mark.parametrize(
    ("both", "said"),
    [
        (None, "The runs have no test text in common; their accuracies cannot be compared."),
        (Paired(103, 2.0, (-1.2, 5.1), whole=True),
         "On the same 103 test texts the student of new is right 2.0 points more often: this may be chance (95 % "
         "interval of the difference, paired bootstrap: -1.2 to 5.1 points)."),
        (Paired(50, -10.0, (-16.0, -4.0), whole=False),
         "On the 50 test texts of both the student of old is right 10.0 points more often: more than chance (95 % "
         "interval of the difference, paired bootstrap: 4.0 to 16.0 points)."),
        (Paired(1, 0.0, (0.0, 0.0), whole=True),
         "On the same 1 test text the two students are right equally often (95 % interval of the difference, paired "
         "bootstrap: 0.0 to 0.0 points)."),
    ],
)  # fmt: skip
def test_two_students_in_words(both: Paired | None, said: str):
    old, new = SimpleNamespace(name="old", has_test=True), SimpleNamespace(name="new", has_test=True)
    assert verdict_of_two(old, new, both) == said


def test_the_paired_bootstrap_by_hand():
    # Of 100 texts 10 are right for the second alone and 4 for the first alone: 0.06 ± 1.96 · √(0.14 − 0.06²) / 10.
    first = [True] * 4 + [False] * 10 + [True] * 86
    second = [False] * 4 + [True] * 10 + [True] * 86
    difference, (low, high) = paired_difference(first, second)
    assert difference == pytest.approx(0.06)
    assert (low, high) == pytest.approx((-0.012, 0.132), abs=0.015)
    assert paired_difference(second, first)[0] == pytest.approx(-0.06)
    assert paired_difference(first, first) == (0.0, (0.0, 0.0))


def asked_on(texts: list[tuple[str, str]], answers: list[str], labels: list[str]) -> Any:
    gold = np.array([labels.index(label) for _, label in texts])
    said = np.eye(len(labels), dtype=np.float32)[[labels.index(answer) for answer in answers]]
    student = Answered([Text(i, text) for i, (text, _) in enumerate(texts)], gold, said)
    return SimpleNamespace(tested=student, space=SimpleNamespace(labels=labels))


def test_students_are_compared_on_the_texts_that_both_were_tested_on():
    first = asked_on([("x", "a"), ("y", "b"), ("z", "c")], ["a", "a", "c"], ["a", "b", "c"])
    second = asked_on([("y", "b"), ("x", "a"), ("z", "b")], ["b", "a", "b"], ["b", "a"])  # z has another gold label
    both = paired(first, second)
    assert both is not None
    assert (both.texts, both.change, both.whole) == (2, 50.0, False)
    assert paired(first, asked_on([("w", "a")], ["a"], ["a"])) is None
    assert paired(first, SimpleNamespace(tested=None)) is None
