"""`muki inspect`: every planted fault is found, with what to do about it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from broken import copied as with_config, own_code
from commands import invoke, works
from conftest import write_jsonl
from refused import REMOTE
from safetensors.torch import load_file, save_file
from tiny import save_adapter, save_teacher

from muki.config import TeacherConfig, load_config, make_config
from muki.inspection import findings
from muki.inspection.estimate import Speed, StudentSpeed, estimate
from muki.inspection.findings import Finding
from muki.inspection.look import Inspection, inspect
from muki.inspection.render import cost_line, rendered, size
from muki.inspection.texts import guess_language, look
from muki.labels import union
from muki.preparation import load_from_config
from muki.teachers.loading import Teacher
from muki.texts import Text

Settings = Callable[..., dict[str, Any]]
ENGLISH = [f"the match {i} ended after a late goal and fans sang all night" for i in range(40)]
CHINESE = [f"会议在{i}点结束,球迷们整夜唱歌,部长们争论新的税法" for i in range(40)]


def said(config: dict[str, Any]) -> list[str]:
    return [f"{one.level} {one}" for one in inspect(make_config(config, "test")).findings]


def teacher(path: Path, **more: Any) -> dict[str, Any]:
    return {"model": str(path), "max_length": 32, **more}


# --- planted faults --------------------------------------------------------------------------------------------------


def test_zero_dropout_is_found_and_the_rest_is_still_looked_at(
    tmp_path: Path, settings: Settings, teachers: list[Path]
):
    silent = save_teacher(tmp_path / "silent", "modernbert", ["rain", "snow"], seed=3)
    seen = inspect(make_config(settings(teachers=[teacher(teachers[0]), teacher(silent)]), "test"))
    (found,) = [str(one) for one in seen.findings if one.level == "problem"]
    assert found.startswith(
        "teacher silent: Monte-Carlo dropout has no effect, two passes are identical (found: attention_dropout=0, "
    )
    assert found.endswith(
        "; choose one: a score without dropout (method: {score: entropy, passes: 0}, or --set method.score=entropy), "
        "or an explicit rate for this teacher (dropout_override: 0.1), which is written into the run's record"
    )
    assert [one.passes_differ for one in seen.teachers] == [True, False]
    assert seen.cost is not None


def test_zero_dropout_is_told_but_no_fault_of_a_method_without_passes(
    tmp_path: Path, settings: Settings, teachers: list[Path]
):
    silent = save_teacher(tmp_path / "silent", "modernbert", ["rain", "snow"], seed=3)
    (silent / "README.md").write_text("---\nlicense: gpl-3.0\nbase_model: some/base\n---\n", encoding="utf-8")
    config = settings(teachers=[teacher(teachers[0]), teacher(silent)], method="muki-plus")
    seen = inspect(make_config(config, "test"))
    assert [one for one in seen.findings if one.level == "problem"] == []
    assert [one.passes_differ for one in seen.teachers] == [True, False]
    shown = rendered(seen)
    assert "; passes do not differ\n" in shown
    assert f"  from       {silent}; licence gpl-3.0; base some/base\n" in shown
    assert "WARNING  licences: some restrict what may be done with a student: silent (gpl-3.0); " in shown
    assert seen.cost is not None
    assert list(seen.cost.seconds) == ["start", "score", "supervise", "train", "evaluate"]


def test_copies_of_one_base_are_pointed_out(tmp_path: Path, settings: Settings, teachers: list[Path]):
    bases = "\n\nbases: "
    seen = inspect(make_config(settings(), "test"))
    assert f"{bases}different (news and culture: BertForSequenceClassification and RobertaForSe" in rendered(seen)
    assert "weight-merge" not in {one.about for one in seen.findings}  # no fault of a method that trains a student
    assert (
        "problem weight-merge: different bases, news and culture: BertForSequenceClassification and "
        "RobertaForSequenceClassification; only copies of one base can be averaged: choose a method that trains a "
        "student"
    ) in said(settings(method="weight-merge"))
    original = save_teacher(tmp_path / "original", "bert", ["sports", "politics"], seed=1)
    copy = shutil.copytree(original, tmp_path / "copy")
    content = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    content.update(id2label={"0": "rain", "1": "snow"}, label2id={"rain": 0, "snow": 1})
    (copy / "config.json").write_text(json.dumps(content), encoding="utf-8")
    seen = inspect(make_config(settings(teachers=[teacher(original), teacher(copy)], method="weight-merge"), "test"))
    assert [one for one in seen.findings if one.level == "problem"] == []
    assert f"{bases}one for all teachers; --method weight-merge averages their weights in seconds" in rendered(seen)


@pytest.mark.parametrize(
    ("one", "other", "line"),
    [
        ("sports", "Sport", "labels: {Sport: sports}"),
        ("Health Care", "health-care", "labels: {health-care: Health Care}"),
        ("PoliticsSociety", "society & politics", 'labels: {"society & politics": PoliticsSociety}'),
        ("technology", "tecnology", "labels: {tecnology: technology}"),
        ("yes", "YES", 'labels: {"YES": "yes"}'),
    ],
)
def test_labels_that_look_like_one_class_come_with_the_line_that_merges_them(one: str, other: str, line: str):
    (found,) = findings.alike_labels({"a": [one, "film"], "b": [other, "business"]})
    assert str(found) == (
        f"labels: “{one}” of a and “{other}” of b look like one class; to merge them, give teacher b the line   {line}"
    )
    renaming = yaml.safe_load(line)["labels"]
    assert renaming == {other: one}


def test_advice_on_labels_of_three_teachers_ends_in_one_spelling():
    labels = {"a": ["sports", "film"], "b": ["Sports", "rain"], "c": ["sports", "Film"]}
    lines = [str(one).partition("give teacher ")[2] for one in findings.alike_labels(labels)]
    assert lines == ["b the line   labels: {Sports: sports}", "c the line   labels: {Film: film}"]
    merged = {"a": ["sports", "film"], "b": ["sports", "rain"], "c": ["sports", "film"]}
    assert findings.alike_labels(merged) == []


def test_lengths_are_those_that_model_and_tokenizer_can_take(
    tmp_path: Path, settings: Settings, teachers: list[Path], encoder: Path
):
    long = write_jsonl(tmp_path / "long.jsonl", [{"text": " ".join(["match"] * 90)} for _ in range(40)])
    config = settings(texts={"path": str(long)}, student={"model": str(encoder), "max_length": 128})
    found = [one for one in said(config) if "are longer than its" in one]
    assert (
        "warning student: 100 % of the texts are longer than its 64 tokens and are cut; it can take no more; split "
        in (found[-1])
    )
    written = works("inspect", "--init", *teachers, "--texts", long, "-o", tmp_path / "run.yaml")
    assert written.exit_code == 0
    assert "    max_length: 64   # it can take no more; 95 % of the texts need 9" in (tmp_path / "run.yaml").read_text(
        encoding="utf-8"
    )


def test_a_run_that_would_stop_is_told_by_the_exit_code(tmp_path: Path, settings: Settings, teachers: list[Path]):
    good, bad = (tmp_path / name for name in ("good.yaml", "bad.yaml"))
    good.write_text(yaml.safe_dump(settings()), encoding="utf-8")
    bad.write_text(yaml.safe_dump(settings(method="weight-merge")), encoding="utf-8")
    assert [invoke("inspect", path).exit_code for path in (good, bad)] == [0, 1]


@pytest.mark.parametrize(("one", "other"), [("sports", "sports"), ("art", "car"), ("billing", "sailing"), ("a", "b")])
def test_labels_that_are_equal_or_different_are_not_pointed_out(one: str, other: str):
    assert findings.alike_labels({"a": [one], "b": [other]}) == []


def test_labels_that_are_codes_are_pointed_out_with_the_line_that_names_them():
    (found,) = findings.coded_labels({"a": ["C01", "C02", "C03", "C04"], "b": ["sports", "film"]})
    assert str(found) == (
        "teacher a: its labels are codes (C01, C02, C03, …) and say nothing of the texts; if you know names in words, "
        "give them (labels: {C01: …}): texts are routed better then"
    )


def test_labels_that_claim_the_texts_of_other_teachers_are_named():
    labels = {"billing": ["refund", "other"], "legal": ["notary", "other"], "mail": ["spam", "not spam"]}
    assert [one.text.partition(" sounds like ")[0] for one in findings.catch_all_labels(labels)] == [
        "“other” of billing and legal", "“not spam” of mail",
    ]  # fmt: skip
    assert "equal names become one class" in findings.catch_all_labels(labels)[0].text
    for plain in ("otherness", "note", "nothing to wear", "miscarriage", "unknown artists"):
        assert findings.catch_all_labels({"a": [plain]}) == []


def test_alike_labels_of_real_teachers(tmp_path: Path, settings: Settings, teachers: list[Path]):
    other = save_teacher(tmp_path / "other", "bert", ["Sport", "rain"], seed=3)
    found = said(settings(teachers=[teacher(teachers[0]), teacher(other)]))
    assert (
        "warning labels: “sports” of news and “Sport” of other look like one class; to merge them, give teacher other "
        "the line   labels: {Sport: sports}" in found
    )


def test_a_vocabulary_of_another_language_is_called_out(tmp_path: Path, settings: Settings):
    pool = write_jsonl(tmp_path / "chinese.jsonl", [{"text": text} for text in CHINESE])
    seen = inspect(make_config(settings(texts={"path": str(pool)}), "test"))
    assert seen.texts is not None
    assert seen.texts.languages == {"Chinese": 1.0}
    found = [str(one) for one in seen.findings]
    assert any(
        one.startswith("student: ") and one.endswith(
            "of the tokens are unknown to its vocabulary (the texts look mostly Chinese); start the student from a "
            "model of that language, or a multilingual one"
        ) for one in found
    )  # fmt: skip
    # The second teacher's vocabulary is of bytes, which are never unknown.
    assert any(
        "teacher culture: its vocabulary breaks the texts into bytes" in one and "(they look mostly Chinese)" in one
        for one in found
    )


def test_truncation_is_found_with_the_length_that_helps(tmp_path: Path, settings: Settings, teachers: list[Path]):
    pool = write_jsonl(tmp_path / "english.jsonl", [{"text": text} for text in ENGLISH])
    config = settings(teachers=[teacher(path, max_length=8) for path in teachers], texts={"path": str(pool)})
    found = [one for one in said(config) if "teacher news: 100 %" in one]
    assert found == [
        "warning teacher news: 100 % of the texts are longer than its 8 tokens and are cut; set max_length: 15"
    ]


def test_a_model_that_can_take_no_more_is_not_asked_to():
    (found,) = findings.truncation("student", 0.5, 512, 900, 512)
    assert str(found) == (
        "student: 50 % of the texts are longer than its 512 tokens and are cut; it can take no more; split long texts, "
        "or put what matters first"
    )


def test_labels_without_a_meaning_stop_nothing_but_are_a_problem(
    tmp_path: Path, settings: Settings, teachers: list[Path]
):
    generic = save_teacher(tmp_path / "generic", "bert", ["LABEL_0", "LABEL_1"], seed=3)
    seen = inspect(make_config(settings(teachers=[teacher(teachers[0]), teacher(generic)]), "test"))
    (found,) = [one for one in seen.findings if one.level == "problem"]
    assert str(found).startswith("teacher generic: label names LABEL_0, LABEL_1 say nothing, and would be merged")
    assert "LABEL_0: <name>" in found.remedy
    assert [one.name for one in seen.teachers] == ["news"]
    assert seen.cost is None


def problems(seen: Inspection) -> list[Finding]:
    return [one for one in seen.findings if one.level == "problem"]


def test_teachers_whose_labels_do_not_fit_together_are_a_problem_and_the_rest_is_still_told(
    tmp_path: Path, settings: Settings
):
    stars = [save_teacher(tmp_path / name, "bert", ["1", "2"], seed=i) for i, name in enumerate(("one", "two"), 3)]
    seen = inspect(make_config(settings(teachers=[teacher(path) for path in stars]), "test"))
    (found,) = problems(seen)
    assert str(found).startswith("teachers one and two: both have a label ")
    assert "a number alone does not say whether it is the same class; name them in the run file" in str(found)
    assert [one.name for one in seen.teachers] == ["one", "two"]
    assert seen.student is not None
    assert (seen.labels, seen.sample, seen.cost) == ([], None, None)


@pytest.mark.parametrize("tensor", ["classifier.weight", "bert.embeddings.word_embeddings.weight"])
def test_a_teacher_that_gives_no_numbers_is_a_problem_and_the_rest_is_still_told(
    tensor: str, tmp_path: Path, settings: Settings, teachers: list[Path]
):
    bad = save_teacher(tmp_path / "bad", "bert", ["rain", "snow"], seed=3)
    always = tensor == "classifier.weight"
    weights = load_file(bad / "model.safetensors")
    weights[tensor][0 if always else 1] = torch.nan  # of one label, or of [UNK], which the probe's text does not have
    save_file(weights, bad / "model.safetensors", {"format": "pt"})
    pool = write_jsonl(tmp_path / "p.jsonl", [{"text": "日" if row == 20 else "a late goal"} for row in range(24)])
    config = settings(teachers=[teacher(bad), teacher(teachers[1])], texts={"path": str(pool)})
    seen = inspect(make_config(config, "test"))
    (found,) = problems(seen)
    assert str(found).startswith("teacher bad: logits are not finite (nan for the text in row ")
    assert found.remedy.startswith("finite numbers are expected: check the checkpoint")
    assert [one.name for one in seen.teachers] == ["bad", "culture"]
    assert seen.teachers[1].passes_differ
    assert seen.labels == ["rain", "snow", "technology", "health", "film"]
    assert seen.sample is not None
    assert seen.sample.teacher_share == {"culture": 1.0}
    assert seen.cost is None


def test_a_teacher_without_what_the_method_needs_and_a_student_that_is_broken_are_told_together(
    tmp_path: Path, settings: Settings, encoder: Path, monkeypatch: pytest.MonkeyPatch
):
    class Bilinear(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :3] * x[:, 3:6]

    def without_head(wanted: TeacherConfig, *args: Any, **kwargs: Any) -> Teacher:
        loaded = load_from_config(wanted, *args, **kwargs)
        if loaded.name == "news":
            loaded.model.classifier = Bilinear()
        return loaded

    monkeypatch.setattr("muki.inspection.look.load_from_config", without_head)
    student = Path(shutil.copytree(encoder, tmp_path / "student"))
    weights = student / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    config = settings(method="muki-plus", student={"model": str(student), "max_length": 32})
    seen = inspect(make_config(config, "test"))
    first, second = problems(seen)
    assert str(first).startswith("teacher news: no linear layer with 3 outputs was used")
    assert str(second).startswith(f"student {student}: cannot be loaded (")
    assert [one.name for one in seen.teachers] == ["news", "culture"]
    assert seen.sample is not None
    assert seen.cost is None


def test_the_same_model_twice(settings: Settings, teachers: list[Path]):
    config = settings(teachers=[teacher(teachers[0], name="one"), teacher(teachers[0], name="two")])
    assert "problem teacher two: the same model as teacher one; give each teacher once" in said(config)


def test_few_repeated_and_empty_texts():
    assert [str(one) for one in findings.pool(count=100, duplicates=30, empty=50)] == [
        "texts: only 100 texts; give thousands if you can; unlabelled texts are cheap",
        "texts: 30 % repeat an earlier text; drop the repetitions; they cost time and count twice",
        "texts: 50 of 150 are empty and would be skipped; check the column (texts: {text: …})",
    ]
    assert findings.pool(count=1000, duplicates=10, empty=10) == []


def test_a_teacher_that_is_never_heard():
    assert [str(one) for one in findings.sample({"a": 0.995, "b": 0.005}, foreign=0.4)] == [
        "teacher b: is the surest on under 1 % of the sampled texts only; check that the texts hold what it was "
        "trained for; without such texts its labels cannot be taught",
        "texts: on 40 % of the sample no teacher is sure; many texts may belong to none of the labels; closer ones "
        "teach better",
    ]


@pytest.mark.parametrize(
    "licence", ["cc-by-nc-4.0", "cc-by-sa-4.0", "gpl-3.0", "llama3.1", "gemma", "openrail", "other"]
)
def test_licences_that_restrict_are_named(licence: str):
    (found,) = findings.licences({"a": "apache-2.0", "b": licence, "c": None})
    assert str(found) == (
        f"licences: some restrict what may be done with a student: b ({licence}); read them before the student is used "
        "or passed on"
    )


def test_two_licences_that_both_want_their_own_terms_do_not_fit():
    (found,) = findings.licences({"a": "gpl-3.0", "b": "cc-by-sa-4.0", "c": "mit"})
    assert str(found) == (
        "licences: they do not fit together: a (gpl-3.0), b (cc-by-sa-4.0) each want what is made from them under "
        "their own terms; read them before the student is used or passed on"
    )


def test_free_licences_are_no_finding():
    assert findings.licences({"a": "apache-2.0", "b": "mit", "c": "cc-by-4.0", "d": "bsd-3-clause", "e": None}) == []


# --- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("the match ended and fans sang", "English"),
        ("das Spiel ist aus und die Fans singen nicht", "German"),
        ("le match est fini et les fans chantent dans la nuit", "French"),
        ("el partido no es para los niños", "Spanish"),
        ("会议结束了", "Chinese"),
        ("会議は終わりました", "Japanese"),
        ("회의가 끝났다", "Korean"),
        ("матч закончился", "Cyrillic script"),
        ("انتهت المباراة", "Arabic script"),
        ("12345 !?", "unclear"),
        ("cheap laptop notebook computer parts with store online shop", "unclear"),
    ],
)
def test_languages_are_guessed(text: str, language: str):
    assert guess_language(text) == language


def test_texts_are_counted_with_their_repetitions():
    rows = ["One text", "one  TEXT", "", " \t", "another", "One text"]
    seen = look(Text(i, text) for i, text in enumerate(rows))
    assert (seen.count, seen.empty, seen.duplicates, seen.capped) == (4, 2, 2, False)
    assert [text.row for text in seen.sample] == [0, 1, 4, 5]
    assert look((Text(i, "x") for i in range(9)), most=5).capped


# --- cost ------------------------------------------------------------------------------------------------------------


def test_the_estimate_scales_what_was_measured(settings: Settings):
    config = make_config(settings(training={"epochs": 2, "batch_size": 10}, scoring={"processes": 2}), "test")
    space = union({"a": ["x", "y"], "b": ["z"]})
    speeds = [Speed(deterministic=0.001, dropout=0.016), Speed(0.002, 0.021)]
    cost = estimate(
        config, space, pool=1000, test=200, mean_bytes=100.0, mean_tokens=20.0, speeds=speeds,
        student=StudentSpeed(step=0.1, prediction=0.002, parameters=1_000_000),
    )  # fmt: skip
    assert cost.seconds == {
        "start": 12.0,
        "score": pytest.approx(1200 * 0.04 / 2),
        "train": pytest.approx(90 * 2 * 0.1 + 2 * 100 * 0.002 + 900 * 0.002),  # steps, held-out texts, first head
        "evaluate": pytest.approx(1200 * 0.002),
    }
    assert 4_000_000 < cost.disk < 7_000_000
    assert cost.disk_peak - cost.disk == 24_000_000
    assert cost_line(cost).startswith(
        "estimate for this machine: 0:59 (start 0:12, score 0:24, train 0:20, evaluate 0:02)"
    )


def test_the_estimate_of_a_method_that_refines_counts_view_features_and_fit(settings: Settings):
    config = make_config(settings(method="muki-plus", training={"epochs": 2, "batch_size": 10}), "test")
    space = union({"a": ["x", "y"], "b": ["z"]})
    speeds = [Speed(deterministic=0.001, dropout=0.0, kept=768), Speed(0.002, 0.0, kept=256)]
    known = {"pool": 1000, "mean_bytes": 100.0, "mean_tokens": 20.0, "speeds": speeds}
    student = StudentSpeed(step=0.1, prediction=0.002, parameters=1_000_000, width=32)
    cost = estimate(config, space, test=200, student=student, **known)
    fit = cost.seconds["supervise"] - 1000 * 0.002
    assert 0 < fit < 1
    assert cost.seconds["score"] == pytest.approx(1200 * 0.003)
    assert cost.seconds["evaluate"] == pytest.approx(1200 * 0.002 + 200 * 0.002, abs=1)
    plain = estimate(
        make_config(settings(method="vanilla-kd"), "test"), space, test=200, student=student, **known
    )  # fmt: skip
    assert "supervise" not in plain.seconds
    assert cost.disk - plain.disk == 1200 * 2 * 32  # the view; both keep the same features here
    assert estimate(config, space, test=0, student=student, **known).seconds["evaluate"] == pytest.approx(1000 * 0.002)


def test_sizes_in_words():
    assert [size(n) for n in (7, 1500, 92_000_000, 3_240_000_000)] == ["7 B", "1.5 kB", "92.0 MB", "3.2 GB"]


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_shows_everything_and_writes_nothing(tmp_path: Path, settings: Settings):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(settings()), encoding="utf-8")
    before = sorted(path.name for path in tmp_path.iterdir())
    shown = works("inspect", file).stdout
    assert "teacher news: BertForSequenceClassification, " in shown
    assert "passes differ" in shown
    assert "texts: 40, 0 empty, " in shown
    assert "WARNING  texts: only 40 texts; give thousands if you can; unlabelled texts are cheap" in shown
    assert shown.splitlines()[-1].startswith("estimate for this machine: ")
    content = json.loads(works("inspect", file, "--json").stdout)
    assert content["labels"] == ["sports", "politics", "business", "technology", "health", "film"]
    assert content["cost"]["total_seconds"] > 0
    assert sum(content["sample"]["teacher_share"].values()) == pytest.approx(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_init_writes_a_run_file_that_works(tmp_path: Path, teachers: list[Path], pool: Path):
    file = tmp_path / "start.yaml"
    shown = works("inspect", "--init", *teachers, "--texts", pool, "-o", file).stdout
    assert shown == f"run file: {file}; look at it, then: muki inspect {file}\n"
    config = load_config(file)
    assert [one.model for one in config.teachers] == [str(path) for path in teachers]
    assert [one.max_length for one in config.teachers] == [32, 48]
    assert (config.student.model, config.texts.path) == (str(teachers[0]), str(pool))
    better = "#   muki-plus compares texts with it; sentence-transformers/all-MiniLM-L6-v2 is a better start\n"
    assert better in file.read_text(encoding="utf-8")
    said = "student: starts from teacher news, whose encoder shows that teacher's classes better than the others'; "
    assert said in " ".join(works("inspect", file).stdout.split())
    again = invoke("inspect", "--init", *teachers, "--texts", pool, "-o", file)
    assert again.exit_code == 2
    assert f"muki: muki inspect --init: '{file}' is there already; choose another with --output\n" in again.stderr


def test_init_takes_the_student_that_is_asked_for(tmp_path: Path, teachers: list[Path], encoder: Path, pool: Path):
    file = tmp_path / "start.yaml"
    works("inspect", "--init", *teachers, "--texts", pool, "--student", encoder, "-o", file)
    assert load_config(file).student.model == str(encoder)
    assert "better start" not in file.read_text(encoding="utf-8")
    assert "student: starts from" not in " ".join(works("inspect", file).stdout.split())


@pytest.mark.parametrize("kind", ["its own code", "label names with a gap"])
def test_init_refuses_what_a_run_would_refuse(kind: str, tmp_path: Path, teachers: list[Path], pool: Path):
    if kind == "its own code":
        bad, said = own_code(teachers[0], tmp_path / "bad"), REMOTE
    else:
        bad = with_config(teachers[0], tmp_path / "bad", id2label={"0": "a", "2": "b", "3": "c"})
        said = "its config.json has no label name for column 1 (id2label has 0, 2, 3); name every column there"
    result = invoke("inspect", "--init", teachers[1], bad, "--texts", pool, "-o", tmp_path / "run.yaml")
    assert result.exit_code == 2
    assert f"muki: teacher 'bad': {said}\n" in result.stderr
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "run.yaml").exists()


def test_init_reads_an_adapter_as_a_teacher(tmp_path: Path, teachers: list[Path], encoder: Path, pool: Path):
    adapter = save_adapter(tmp_path / "adapter", encoder)
    (adapter / "config.json").unlink()  # most have none, and so no label names
    works("inspect", "--init", teachers[0], adapter, "--texts", pool, "-o", tmp_path / "run.yaml")
    first, second = yaml.safe_load((tmp_path / "run.yaml").read_text(encoding="utf-8"))["teachers"]
    assert second["labels"] == {f"LABEL_{column}": "<name>" for column in range(3)}
    assert (second["model"], second["max_length"]) == (str(adapter), first["max_length"])


def test_init_points_out_what_the_teachers_lack(tmp_path: Path, teachers: list[Path], pool: Path):
    generic = save_teacher(tmp_path / "generic", "bert", ["LABEL_0", "LABEL_1"], seed=3)
    silent = save_teacher(tmp_path / "silent", "modernbert", ["Sport", "snow"], seed=3)
    file = tmp_path / "start.yaml"
    works("inspect", "--init", teachers[0], generic, silent, "--texts", pool, "-o", file)
    content = file.read_text(encoding="utf-8")
    assert "      LABEL_0: <name>\n      LABEL_1: <name>\n" in content
    assert "    # dropout_override: 0.1   # it was trained without dropout, which muki and muki-fast need\n" in content
    alike = "“sports” of news and “Sport” of silent look like one class"
    assert f"  # {alike}; to merge them, give teacher silent the line   labels: {{Sport: sports}}\n" in content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--init", "a", "b"], "muki inspect --init: give the unlabelled texts with --texts FILE"),
        (["a", "b"], "muki inspect: one run file is expected, found 2; for teachers add --init"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str):
    result = invoke("inspect", *arguments)
    assert result.exit_code == 2
    assert f"muki: {message}\n" in result.stderr
