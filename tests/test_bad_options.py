"""Whatever is wrong with a run file, `--set` or other options: all of it is shown, and nothing is begun."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from refused import METHODS, assert_refused, file
from runs import write_yaml

pytestmark = pytest.mark.usefixtures("alone")


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({"teacher": []}, ["teacher: unknown key; did you mean 'teachers'?"]),
        (
            {"zzz": 1},
            [
                "zzz: unknown key; known: method, output, scoring, student, teachers, test, texts, training, "
                "trust_remote_code"
            ],
        ),
        ({"student": {"model": "x", "maxlength": 3}}, ["student.maxlength: unknown key; did you mean 'max_length'?"]),
        ({"training": {"warmup_step": 3}}, ["training: unknown key 'warmup_step'; did you mean 'warmup_steps'?"]),
        ({"training": {"num_train_epochs": 3}}, ["training: 'num_train_epochs': set epochs instead"]),
        (
            {"training": {"epochs": "many"}},
            ["training.epochs: input should be a valid number, unable to parse string as a number (found 'many')"],
        ),
        ({"method": "muki-hrd"}, [f"method: unknown method 'muki-hrd'; did you mean 'muki-hard'?; known: {METHODS}"]),
        ({"method": {"passes": 0}}, ["method: passes: score 'mc-entropy' needs 1 or more dropout passes, found 0"]),
        (
            {"method": {"score": "bald", "passes": 1}},
            ["method: passes: score 'bald' needs 2 or more dropout passes, found 1"],
        ),
        ({"teachers": [{"model": "a"}]}, ["teachers: two or more teachers are needed, found 1"]),
        (
            {"teachers": [{"model": "a", "name": "x"}, {"model": "b", "name": "x"}]},
            ["teachers: name 'x' is given twice; names must differ, and not in upper and lower case alone"],
        ),
        (
            {"teachers": [{"model": "a", "name": "x"}, {"model": "b", "name": "X"}]},
            ["teachers: name 'X' is given twice; names must differ, and not in upper and lower case alone"],
        ),
        (
            {
                "teachers": [{"model": "a", "maxlength": 3}, {"modle": "b"}], "student": {}, "method": "mukki",
                "training": {"batch_size": 0}, "outptu": "x",
            },
            [
                "teachers.0.maxlength: unknown key; did you mean 'max_length'?",
                "teachers.1.model: is missing",
                "teachers.1.modle: unknown key; did you mean 'model'?",
                "student.model: is missing",
                f"method: unknown method 'mukki'; did you mean 'muki'?; known: {METHODS}",
                "training.batch_size: input should be greater than or equal to 1 (found 0)",
                "outptu: unknown key; did you mean 'output'?",
            ],
        ),

        (
            {"student": {"model": "x", "prefix": {"query": None}}},
            [
                "student.prefix: input should be a valid string (found {'query': None}, as YAML reads text with a "
                "colon; put it in quotes, and with --set in two sorts: 'student.prefix=\"...\"')"
            ],
        ),

        (
            {"method": {"preset": "muki-plus", "passes": 16}},
            [
                "method: passes: 16 would change nothing, score 'entropy+relative-mahalanobis' needs no dropout; leave "
                "it out"
            ],
        ),

        (
            {"texts": {"path": "x", "label": "label"}, "method": {"preset": "oracle", "passes": 16}},
            ["method: score: gold reads the labels alone, so passes would change nothing; leave it out"],
        ),

        (
            {"training": {"batch_size": 0, "epoch": 3}},
            [
                "training.batch_size: input should be greater than or equal to 1 (found 0)",
                "training: unknown key 'epoch'; did you mean 'epochs'?",
            ],
        ),
    ],
    ids=[
        "unknown key", "unlike any key", "unknown key in a section", "unknown training key", "a key of ours",
        "not a number", "unknown method", "no pass", "one pass", "one teacher", "one name twice",
        "one name in two cases", "many at once",
        "a colon in text", "passes for a score without dropout", "a ceiling with passes", "two in training",
    ],
)  # fmt: skip
def test_wrong_settings_are_all_shown_at_once(changes, problems, tmp_path, settings):
    config = write_yaml(tmp_path / "r.yaml", settings(**changes))
    count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
    assert_refused("\n  ".join([f"{config}: {count}", *problems]), "run", config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--method", "muki-hrd"],
            "muki integrate: 1 problem\n"
            f"  method: unknown method 'muki-hrd'; did you mean 'muki-hard'?; known: {METHODS}",
        ),
        (["--set", "training.epochs"], "--set training.epochs: expected key=value, e.g. training.epochs=2"),
        (["--set", "=2"], "--set =2: expected key=value, e.g. training.epochs=2"),
        (["--set", "teachers.7.prefix=x"], "--set teachers.7.prefix=x: there is no 'teachers.7.prefix' to set"),
        (["--set", "output.x=1"], "--set output.x=1: there is no 'output.x' to set"),
        (
            ["--set", "training.epoch=1"],
            "muki integrate: 1 problem\n  training: unknown key 'epoch'; did you mean 'epochs'?",
        ),
    ],
)
def test_wrong_options_are_refused(options, message, tmp_path, teachers, encoder, pool):
    inputs = ["-t", teachers[0], "-t", teachers[1], "--student", encoder, "--texts", pool, "-o", tmp_path / "run"]
    assert_refused(message, "integrate", *inputs, *options)
    assert not (tmp_path / "run").exists()


def test_one_teacher_is_not_enough(tmp_path, teachers, integrate):
    assert_refused(
        "muki integrate: 1 problem\n  teachers: two or more teachers are needed, found 1",
        *integrate(teachers=teachers[:1]),
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such run file"),
        (
            "teachers: [a\n",
            "not readable YAML (while parsing a flow sequence in \"<unicode string>\", line 1, column 11: "
            "teachers: [a ^ expected ',' or ']', but got '<stream end>' in \"<unicode string>\", line 2, column 1: ^)",
        ),
        (b"\xff\xfe", "not readable YAML ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte)"),
        ("- a\n", "found list, expected keys such as teachers, student, texts, output"),
    ],
    ids=["missing", "not YAML", "not UTF-8", "a list"],
)  # fmt: skip
def test_a_run_file_that_cannot_be_read_is_refused(content, message, tmp_path):
    config = tmp_path / "r.yaml"
    if content is not None:
        file(config, content)
    assert_refused(f"{config}: {message}", "run", config)


def test_a_wrong_path_is_answered_before_heavy_imports(tmp_path: Path):
    calls = [["run", "a.yaml"], ["compare", "a.yaml"], ["inspect", "a.yaml"], ["report", "a"], ["report", "a", "b"],
             ["explain", "a", "text"], ["evaluate", "a"], ["push", "a", "--repo", "r"], ["export", "a"]]  # fmt: skip
    code = (
        "import sys; from typer.testing import CliRunner; from muki.cli import app\n"
        f"print([CliRunner().invoke(app, call).exit_code for call in {calls}], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{[2] * len(calls)} False"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["score", "run.yaml", "--address", "auto"],
         "--address auto: is of a Ray cluster; add --engine ray, or leave it out"),
        (["score", "run.yaml", "--processes", "2", "--shard-of", "1/2"],
         "--processes 2: with --shard-of each call is one process; leave one of them out"),
        (["score", "run.yaml", "--engine", "ray", "--processes", "2"],
         "--processes 2: with --engine ray the cluster shares the work; leave one of them out"),
        (["score", "run.yaml", "--engine", "ray", "--shard-of", "1/2"],
         "--shard-of 1/2: with --engine ray the cluster shares the work; leave one of them out"),
        (["predict", "model", "--texts", "-", "-o", "-", "--text-column", "body"],
         "muki predict: standard input has no columns; leave --text-column and --text-pair-column out"),
        (["inspect", "run.yaml", "--texts", "pool.jsonl"],
         "muki inspect: --texts, --text-column, --student and --output go with --init; a run file says its own"),
    ],
)  # fmt: skip
def test_an_option_that_would_be_ignored_is_refused(args, message, tmp_path, teachers, pool, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"teachers": [str(one) for one in teachers[:2]], "texts": str(pool), "student": "x", "output": "run"}
    file(tmp_path / "run.yaml", yaml.safe_dump(settings))
    assert_refused(message, *args)
