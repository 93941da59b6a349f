"""Whatever is wrong with the input: one clear message, exit code 2, no finished work lost; odd but good input works."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import commands
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from click.testing import Result
from commands import QUIET, invoke
from conftest import write_jsonl
from safetensors.torch import load_file, save_file
from tiny import byte_bpe, model_and_tokenizer, save_encoder, save_teacher

from muki.api import integrate as integrate_api
from muki.errors import ConfigError, LabelError, StudentError, TeacherError, TextsError
from muki.labels import union
from muki.methods import PRESETS
from muki.teachers.loading import load_teacher
from muki.teachers.survey import survey
from muki.texts import TextShards, cut, read
from muki.view import finite_unit_length

QUICK = ["method.passes=2", "training.epochs=1", "training.batch_size=8"]
SUFFIXES = "jsonl, csv, tsv, txt (also .gz of these) or parquet"
METHODS = ", ".join(PRESETS)
REMOTE = "its checkpoint wants to run code of its own (config.json has auto_map); read that code, then allow it with "


# --- the command line, and what it says ------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a folder of its own, and a look-up on the Hub fails at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", False)  # the command line sees to it at import


def muki(*args: object) -> Result:
    """Run a command that reports no progress."""
    return invoke("-q", *args)


def works(*args: object) -> str:
    """Run a command that must succeed; what it warned about."""
    return commands.works("-q", *args).stderr


def assert_refused(message: str, *args: object, continues: Path | None = None) -> None:
    """Run a command that must stop with exactly this message; `continues`: of a run that may have begun."""
    result = muki(*args)
    more = continues is not None and (continues / "config.yaml").exists() and (continues / "texts").exists()
    expected = f"muki: {message}\n"
    expected += f"What is done stays. To continue: muki run {continues}/config.yaml\n" if more else ""
    assert result.stderr == expected
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.fixture
def integrate(tmp_path: Path, teachers: list[Path], encoder: Path, pool: Path) -> Callable[..., list[object]]:
    """Arguments of a quick `muki integrate`; keyword arguments replace its inputs."""

    def arguments(*more: object, **changes: Any) -> list[object]:
        inputs = {"texts": pool, "student": encoder, "output": tmp_path / "run", "max-length": 32, **changes}
        named = [part for teacher in inputs.pop("teachers", teachers) for part in ("-t", teacher)]
        options = [part for key, value in inputs.items() for part in (f"--{key}", value)]
        return ["integrate", *named, *options, *(part for item in QUICK for part in ("--set", item)), *more]

    return arguments


def run_file(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def file(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """All files below a folder with time and content."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def work(run: Path, *parts: str) -> dict[str, tuple[int, bytes]]:
    """What a run has worked for, without what every call writes anew."""
    wanted = parts or ("texts/", "scores/", "supervision/", "student/", "training.json")
    return {p: c for p, c in snapshot(run).items() if p.startswith(wanted) and p != "student/README.md"}


def reason(call: Callable[[], object]) -> str:
    """What a library says about a broken file."""
    with pytest.raises(Exception) as caught:
        call()
    return str(caught.value).strip()


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, teachers: list[Path], encoder: Path, pool_texts: list[str]
) -> Path:
    """A finished run with its run file beside it; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("finished")
    pool = write_jsonl(folder / "pool.jsonl", [{"text": text} for text in pool_texts])
    content = {
        "teachers": [{"model": str(path), "max_length": 32} for path in teachers],
        "student": {"model": str(encoder), "max_length": 32}, "texts": {"path": str(pool), "shard_rows": 16},
        "method": {"passes": 2}, "training": {"epochs": 1, "batch_size": 8}, "output": str(folder / "run"),
    }  # fmt: skip
    works("run", run_file(folder / "run.yaml", content))
    return folder


@pytest.fixture
def done(tmp_path: Path, finished: Path) -> Callable[..., list[object]]:
    """Arguments that continue a copy of the finished run, in `tmp_path / "run"`."""
    shutil.copytree(finished / "run", tmp_path / "run")
    content = (finished / "run.yaml").read_text(encoding="utf-8").replace(str(finished / "run"), str(tmp_path / "run"))
    config = run_file(tmp_path / "run" / "config.yaml", content)
    copy = shutil.copy(config, tmp_path / "run.yaml")
    return lambda *settings: ["run", copy, *(part for item in settings for part in ("--set", item))]


# --- teachers --------------------------------------------------------------------------------------------------------


def copied(source: Path, folder: Path, **config: object) -> Path:
    """A checkpoint's copy with changes in its config.json; None removes a key."""
    shutil.copytree(source, folder)
    content = json.loads((folder / "config.json").read_text(encoding="utf-8")) | config
    (folder / "config.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}), "utf-8")
    return folder


def without(folder: Path, pattern: str) -> Path:
    for path in folder.glob(pattern):
        path.unlink()
    return folder


def cut_short(folder: Path) -> Path:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return folder


def poisoned(folder: Path, tensor: str, row: int) -> Path:
    weights = load_file(folder / "model.safetensors")
    weights[tensor][row] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def gpt2(folder: Path, eos: bool) -> Path:
    """A decoder whose tokenizer has no padding token."""
    model, _ = model_and_tokenizer("gpt2", ["war", "peace"], bos_token_id=0, eos_token_id=2)
    model.config.pad_token_id = None
    model.save_pretrained(folder)
    byte_bpe(pad=False, eos=eos).save_pretrained(folder)
    return folder


BAD_TEACHERS: dict[str, tuple[Callable[[Path, Path], object], Callable[[Path], str]]] = {
    "missing": (
        lambda p, good: None,
        lambda p: f"no such folder: '{p}'; give a save_pretrained folder or a Hub id",
    ),
    "a file": (
        lambda p, good: p.write_text(""),
        lambda p: f"'{p}' is a file; give the folder that save_pretrained wrote",
    ),
    "without config.json": (
        lambda p, good: without(copied(good, p), "config.json"),
        lambda p: (
            f"no config.json in '{p}'; give the folder that save_pretrained wrote "
            "(or a PEFT adapter's, with adapter_config.json)"
        ),
    ),
    "with broken config.json": (
        lambda p, good: file(copied(good, p) / "config.json", "{"),
        lambda p: (
            f"'{p}/config.json' is not readable JSON "
            "(Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"
        ),
    ),
    "without head": (
        lambda p, good: save_encoder(p),
        lambda p: (
            f"not a fine-tuned classifier: the checkpoint '{p}' lacks classifier.bias, classifier.weight; "
            "fine-tune it first (muki finetune), or give the fine-tuned folder"
        ),
    ),
    "regression": (
        lambda p, good: save_teacher(p, "bert", ["stars"], problem_type="regression"),
        lambda p: "a regression model (problem_type=regression); a classifier is expected",
    ),
    "multi-label": (
        lambda p, good: save_teacher(p, "bert", ["a", "b"], problem_type="multi_label_classification"),
        lambda p: (
            "a multi-label classifier (problem_type=multi_label_classification); "
            "one with exactly one label per text is expected"
        ),
    ),
    "one class": (
        lambda p, good: save_teacher(p, "bert", ["spam"]),
        lambda p: (
            "one class only (num_labels=1); its certainty is undefined, two or more classes are expected"
        ),
    ),
    "remote code": (
        lambda p, good: copied(good, p, auto_map={"AutoConfig": "mine.Config"}),
        lambda p: f"{REMOTE}--trust-remote-code",
    ),
    "NaN everywhere": (
        lambda p, good: poisoned(copied(good, p), "classifier.weight", 0),
        lambda p: (
            "logits are not finite (nan for the text in row 0); finite numbers are expected: "
            "check the checkpoint, or load it with dtype: float32"
        ),
    ),
    "no dropout": (
        lambda p, good: save_teacher(p, "bert", ["a", "b"], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        lambda p: (
            "Monte-Carlo dropout has no effect, two passes are identical (found: attention_probs_dropout_prob=0, "
            "classifier_dropout=0, hidden_dropout_prob=0, nn.Dropout=0). Choose one: a score without dropout "
            "(method: {score: entropy, passes: 0}, or --set method.score=entropy), or an explicit rate for this "
            "teacher (dropout_override: 0.1), which is written into the run's record"
        ),
    ),
    "generic names": (
        lambda p, good: save_teacher(p, "bert", ["LABEL_0", "LABEL_1"]),
        lambda p: (
            "label names LABEL_0, LABEL_1 say nothing, and would be merged with another teacher's; name them in the "
            "run file (`muki inspect --init` writes one):\n    - model: ...\n      labels:\n        LABEL_0: <name>\n"
            "        LABEL_1: <name>"
        ),
    ),
    "neither padding nor end token": (
        lambda p, good: gpt2(p, eos=False),
        lambda p: (
            "its tokenizer has neither a padding token nor an end token; set one (tokenizer.pad_token = ...) "
            "and save the tokenizer in the teacher's folder"
        ),
    ),

    "weights cut short": (
        lambda p, good: cut_short(copied(good, p)),
        lambda p: f"cannot be loaded from '{p}' (Error while deserializing header: invalid header length)",
    ),

    "without tokenizer": (
        lambda p, good: without(copied(good, p), "token*"),
        lambda p: f"no tokenizer in '{p}'; save the model's own tokenizer there (tokenizer.save_pretrained)",
    ),

    "label names with a gap": (
        lambda p, good: copied(
            save_teacher(p.with_name("good"), "bert", ["a", "b"]), p, id2label={"0": "a", "5": "b"}
        ),
        lambda p: "its config.json has no label name for column 1 (id2label has 0, 5); name every column there",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_TEACHERS)
def test_a_teacher_that_cannot_be_used_is_named_with_the_reason(kind, tmp_path, teachers, integrate):
    make, message = BAD_TEACHERS[kind]
    folder = tmp_path / "bad"
    make(folder, teachers[0])
    args = integrate(teachers=[teachers[1], folder])
    assert_refused(f"teacher 'bad': {message(folder)}", *args, continues=tmp_path / "run")


def test_nothing_but_the_message_reaches_a_real_terminal(tmp_path, encoder, teachers, integrate):
    args = integrate(teachers=[teachers[1], encoder])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for name in QUIET:
        environment.pop(name, None)
    command = [sys.executable, "-m", "muki", "-q", *map(str, args)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[0] == (
        f"muki: teacher 'base': not a fine-tuned classifier: the checkpoint '{encoder}' lacks classifier.bias, "
        "classifier.weight; fine-tune it first (muki finetune), or give the fine-tuned folder"
    )
    assert len(result.stderr.splitlines()) <= 2
    assert (result.returncode, result.stdout) == (2, "")


def test_a_teachers_own_code_runs_only_after_it_was_allowed(tmp_path, teachers, integrate, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", sys.path[:])
    folder = own_code(teachers[0], tmp_path / "own")
    args = integrate(teachers=[folder, teachers[1]])
    assert_refused(f"teacher 'own': {REMOTE}--trust-remote-code", *args, continues=tmp_path / "run")
    assert not (tmp_path / "ran").exists()
    works(*args, "--trust-remote-code")
    assert (tmp_path / "ran").exists()


def own_code(source: Path, folder: Path) -> Path:
    """A checkpoint that brings its code, which leaves a file `ran` beside the folder."""
    classes = {"AutoConfig": "mine.Config", "AutoModelForSequenceClassification": "mine.Mine"}
    copied(source, folder, model_type="mine", auto_map=classes, architectures=["Mine"])
    (folder / "mine.py").write_text(
        "from pathlib import Path\nfrom transformers import BertConfig, BertForSequenceClassification\n"
        f"Path({str(folder.parent / 'ran')!r}).touch()\n"
        "class Config(BertConfig):\n    model_type = 'mine'\n"
        "class Mine(BertForSequenceClassification):\n    config_class = Config\n"
    )
    return folder


def test_a_text_that_makes_logits_nan_is_named_and_the_scores_before_it_are_kept(tmp_path, teachers, settings):
    bad = poisoned(copied(teachers[0], tmp_path / "bad"), "bert.embeddings.word_embeddings.weight", 1)  # of [UNK]
    pool = write_jsonl(tmp_path / "p.jsonl", [{"text": "日" if row == 20 else "a late goal"} for row in range(24)])
    good = {"model": str(teachers[1]), "max_length": 32}
    content = settings(
        teachers=[good, {"model": str(bad), "max_length": 32}], texts={"path": str(pool), "shard_rows": 8}
    )
    config = run_file(tmp_path / "run.yaml", content)
    message = (
        "teacher 'bad': logits are not finite (nan for the text in row 20); finite numbers are expected: "
        "check the checkpoint, or load it with dtype: float32"
    )
    assert_refused(message, "run", config, continues=tmp_path / "run")
    kept = work(tmp_path / "run", "scores/culture/")
    assert (len(kept), len(work(tmp_path / "run", "scores/bad/"))) == (3, 2)

    shutil.copy(teachers[0] / "model.safetensors", bad)
    works("run", config)
    assert work(tmp_path / "run", "scores/culture/") == kept


@pytest.mark.parametrize("copy", [False, True], ids=["the same folder", "a copy"])
def test_the_same_teacher_twice_is_refused(copy, tmp_path, teachers, integrate):
    twin = shutil.copytree(teachers[0], tmp_path / "copy") if copy else teachers[0]
    second = "copy" if copy else f"{teachers[0].parent.name}-news"
    message = (
        f"teachers 'news' and '{second}': the same model twice (equal weights, labels and tokenizer); "
        "give each teacher once"
    )
    assert_refused(message, *integrate(teachers=[*teachers, twin]), continues=tmp_path / "run")


def test_the_yaml_that_the_message_about_generic_names_shows_works(tmp_path, teachers, settings):
    folder = save_teacher(tmp_path / "bad", "bert", ["LABEL_0", "LABEL_1"])
    content = settings(teachers=[{"model": str(teachers[1])}, {"model": str(folder)}])
    message = muki("score", run_file(tmp_path / "run.yaml", content)).stderr
    block = message[message.index("    - model") : message.index("What is done")]
    filled = block.replace("...", str(folder)).replace("<name>", "war", 1).replace("<name>", "peace", 1)
    entry = yaml.safe_load(filled)
    content["teachers"] = [{"model": str(teachers[1])}, *entry]
    works("score", run_file(tmp_path / "run.yaml", content))
    labels = json.loads((tmp_path / "run" / "labels.json").read_text(encoding="utf-8"))["labels"]
    assert labels == ["technology", "health", "film", "war", "peace"]


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        (
            {"sport": "x"},
            "labels: 'sport' is not among its labels (sports, politics, business); "
            "the left side must be a name the teacher's config has",
        ),
        (
            {"sports": "x", "business": "x"},
            "columns 0 and 2 are both named 'x'; one column, one name: change its `labels:` map",
        ),
        (
            {"sports": "politics"},
            "columns 0 and 1 are both named 'politics'; one column, one name: change its `labels:` map",
        ),
        ({"sports": " "}, "column 0 has an empty label name; give it a name"),
    ],
    ids=["unknown label", "one new name twice", "the name of another column", "empty name"],
)
def test_aliases_that_do_not_fit_are_refused(aliases, message, tmp_path, teachers, settings):
    content = settings(teachers=[{"model": str(teachers[0]), "labels": aliases}, {"model": str(teachers[1])}])
    assert_refused(
        f"teacher 'news': {message}", "run", run_file(tmp_path / "r.yaml", content), continues=tmp_path / "run"
    )


@pytest.mark.parametrize("value", [None, False], ids=["nothing", "no"])
def test_an_alias_that_yaml_does_not_read_as_text_is_refused(value, tmp_path, teachers, settings):
    content = settings(teachers=[{"model": str(teachers[0]), "labels": {"sports": value}}, {"model": str(teachers[1])}])
    config = run_file(tmp_path / "r.yaml", content)
    message = (
        f"{config}: 1 problem\n  teachers.0.labels: the name for 'sports' is {value}, expected text; "
        "put words like yes, no, on and off in quotes"
    )
    assert_refused(message, "run", config)


def test_a_decoder_without_padding_token_works_with_its_end_token(tmp_path, teachers, integrate):
    warned = works(*integrate(teachers=[teachers[0], gpt2(tmp_path / "gpt", eos=True)]))
    assert set(warned.splitlines()) == {"teacher 'gpt': no padding token; using '</s>'"}
    assert (tmp_path / "run" / "student" / "model.safetensors").exists()


def test_a_teachers_relative_path_is_not_looked_up_on_the_hub(tmp_path, teachers, integrate):
    (tmp_path / "models").mkdir()
    message = "teacher 'nope': no such folder: 'models/nope'; give a save_pretrained folder or a Hub id"
    assert_refused(message, *integrate(teachers=[teachers[0], "models/nope"]), continues=tmp_path / "run")


# --- texts -----------------------------------------------------------------------------------------------------------

OK = '{"text": "a late goal"}\n'
BAD_TEXTS: dict[str, tuple[str, str | bytes, Callable[[Path], str]]] = {
    "unknown suffix": ("t.doc", "a", lambda p: f"texts '{p}': unknown kind of file; expected {SUFFIXES}"),
    "wrong column": (
        "t.jsonl", '{"txt": "a", "id": 1}\n',
        lambda p: f"{p}, line 1: no column 'text'; the columns there are: txt, id",
    ),
    "wrong column, CSV": (
        "t.csv", "id,body\n1,a\n", lambda p: f"{p}, line 2: no column 'text'; the columns there are: id, body",
    ),
    "broken JSON": (
        "t.jsonl", OK + '{"text": "a"\n',
        lambda p: f"{p}, line 2: broken JSON (Expecting ',' delimiter at column 13); one object a line is expected",
    ),
    "two JSON objects in a line": (
        "t.jsonl", OK + "\n" + OK.strip() + OK,
        lambda p: f"{p}, line 3: broken JSON (Extra data at column 24); one object a line is expected",
    ),
    "JSON list": (
        "t.jsonl", OK + '["a"]\n', lambda p: f'{p}, line 2: found list, expected an object like {{"text": "..."}}',
    ),
    "number": ("t.jsonl", OK + '{"text": 12}\n', lambda p: f"{p}, line 2: 'text' is 12 (int), expected a string"),
    "unclosed quote": (
        "t.csv", 'text\nfine\n"open\nmore\n',
        lambda p: f"{p}, line 3: broken CSV (unexpected end of data); check the quotes there",
    ),
    "text after a quote": (
        "t.tsv", 'text\n"a" b\n',
        lambda p: f"{p}, line 2: broken TSV ('\t' expected after '\"'); check the quotes there",
    ),
    "too many cells": (
        "t.csv", "text,id\na,1\nb,2,3\n",
        lambda p: f"{p}, line 3: 3 cells, but the header has 2; quote cells that hold the separator",
    ),
    "too few cells": (
        "t.tsv", "text\tid\na\n",
        lambda p: f"{p}, line 2: 1 cells, but the header has 2; quote cells that hold the separator",
    ),
    "not UTF-8, JSON": (
        "t.jsonl", OK.encode() + b'{"text": "caf\xe9"}\n',
        lambda p: f"{p}, line 2: byte 14 (0xe9) is not UTF-8; save the file as UTF-8",
    ),
    "not UTF-8, CSV": (
        "t.csv", b"text\nok\ncaf\xe9\n", lambda p: f"{p}, line 3: byte 4 (0xe9) is not UTF-8; save the file as UTF-8",
    ),
    "UTF-16": (
        "t.txt", "a\nb\n".encode("utf-16"),
        lambda p: f"{p}, line 1: byte 1 (0xff) is not UTF-8; save the file as UTF-8",
    ),
    "truncated gzip": (
        "t.jsonl.gz", gzip.compress(OK.encode() * 3, mtime=0)[:-4],
        lambda p: (
            f"{p}, after line 3: broken gzip file "
            "(Compressed file ended before the end-of-stream marker was reached)"
        ),
    ),
    "not gzip": (
        "t.txt.gz", "plain", lambda p: f"{p}, after line 0: broken gzip file (Not a gzipped file (b'pl'))",
    ),

    "damaged gzip": (
        "t.txt.gz", gzip.compress(b"", mtime=0)[:10] + b"\x07" * 40,
        lambda p: f"{p}, after line 0: broken gzip file (Error -3 while decompressing data: invalid block type)",
    ),

    "unclosed quote, gzipped": (
        "t.csv.gz", gzip.compress(b'text\n"open\n', mtime=0),
        lambda p: f"{p}, line 2: broken CSV (unexpected end of data); check the quotes there",
    ),
    "not Parquet": (
        "t.parquet", "just some text",
        lambda p: f"{p}: not a readable Parquet file ({reason(lambda: pq.ParquetFile(p))})",
    ),

    "Parquet inside gzip": (
        "t.parquet.gz", gzip.compress(b"", mtime=0),
        lambda p: f"texts '{p}': Parquet inside gzip; Parquet has its own compression: gunzip the file",
    ),

    "JSON number of 5,000 digits": (
        "t.jsonl", '{"text": "a", "n": ' + "1" * 5000 + "}\n",
        lambda p: f"{p}, line 1: broken JSON ({reason(lambda: int('1' * 5000))}); one object a line is expected",
    ),

    "JSON nested too deeply": (
        "t.jsonl", "[" * 100_000 + "\n",
        lambda p: f"{p}, line 1: broken JSON (nested too deeply); one object a line is expected",
    ),
    "empty file": (
        "t.jsonl", "",
        lambda p: f"texts '{p}': no text left (0 empty ones skipped); at least one non-empty text is needed",
    ),
    "only empty texts": (
        "t.jsonl", '{"text": ""}\n{"text": " \\n"}\n{"text": null}\n',
        lambda p: f"texts '{p}': no text left (3 empty ones skipped); at least one non-empty text is needed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_TEXTS)
def test_texts_that_cannot_be_read_are_named_with_file_and_line(kind, tmp_path, integrate):
    name, content, message = BAD_TEXTS[kind]
    path = file(tmp_path / name, content)
    assert_refused(message(path), *integrate(texts=path), continues=tmp_path / "run")
    assert not (tmp_path / "run" / "texts").exists()  # nothing half-written


@pytest.mark.parametrize("row", [("my parcel is late", "delivery"), ("late", "again", "delivery"), ["late"], 7])
def test_rows_in_memory_that_are_no_texts_are_named(row):
    source: list[object] = [{"text": "a late goal"}, row]
    with pytest.raises(TextsError) as error:
        list(read(source))
    assert str(error.value) == (
        f"texts in memory, row 1: found {type(row).__name__}, expected a string or a mapping with 'text'"
    )


def test_rows_of_a_hub_data_set_that_lack_the_column_are_named(monkeypatch):
    stand_in = SimpleNamespace(load_dataset=lambda *args, **kwargs: [{"text": "a"}, {"body": "b"}])
    monkeypatch.setitem(sys.modules, "datasets", stand_in)  # an extra, which need not be installed
    with pytest.raises(TextsError) as error:
        list(read("team/set"))
    assert str(error.value) == "team/set, row 1: no column 'text'; the columns there are: body"


def test_hidden_files_and_folders_are_not_read(tmp_path):
    folder = tmp_path / ".kept" / "texts"  # hidden above the folder that was asked for: that is no matter
    for name in ("pool.txt", "more/pool.txt", ".pool.txt", ".ipynb_checkpoints/pool.txt", "more/.old/deep/pool.txt"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        file(path, f"{name}\n")
    assert [text.text for text in read(str(folder))] == ["more/pool.txt", "pool.txt"]


def test_missing_texts_and_empty_folders_are_named(tmp_path, integrate):
    path, folder = tmp_path / "nope.jsonl", tmp_path / "texts"
    folder.mkdir()
    file(folder / "notes.md", "a")
    missing = f"texts '{path}': no such file or folder; give a file ({SUFFIXES}), or a folder of such files"
    empty = f"texts '{folder}': a folder without text files; expected {SUFFIXES}"
    assert_refused(missing, *integrate(texts=path), continues=tmp_path / "run")
    looked_in = missing.replace(f"'{path}'", "'nope.jsonl'").replace("folder;", f"folder in {tmp_path};", 1)
    assert_refused(looked_in, *integrate(texts="nope.jsonl"), continues=tmp_path / "run")
    assert_refused(empty, *integrate(texts=folder, output=tmp_path / "r2"), continues=tmp_path / "r2")


@pytest.mark.parametrize("part", ["page", "footer"])
def test_a_damaged_parquet_file_is_reported(part, tmp_path, pool_texts, integrate):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": pool_texts}), path, use_dictionary=False, compression="gzip")
    column = pq.read_metadata(path).row_group(0).column(0)
    start = column.data_page_offset + column.total_compressed_size // 2 if part == "page" else -100
    content = bytearray(path.read_bytes())
    content[start : start + 20] = b"\xff" * 20
    path.write_bytes(content)
    said = reason(lambda: list(pq.ParquetFile(path).iter_batches()))
    assert_refused(f"{path}: not a readable Parquet file ({said})", *integrate(texts=path), continues=tmp_path / "run")


def test_empty_texts_are_skipped_counted_and_listed(tmp_path, integrate):
    path = file(tmp_path / "t.jsonl", '{"text": ""}\n{"text": " \\n\\t"}\n{"text": null, "id": "x"}\n' + OK * 3)
    listing = tmp_path / "run" / "texts" / "texts.json"
    assert works(*integrate(texts=path)) == f"texts: 3 empty texts skipped in {path}; listed in {listing}\n"
    manifest = json.loads(listing.read_text(encoding="utf-8"))
    assert (manifest["rows"], manifest["skipped"]) == (3, 3)
    assert manifest["skipped_rows"] == [
        {"row": 0, "id": None, "why": "empty"}, {"row": 1, "id": None, "why": "empty"},
        {"row": 2, "id": "x", "why": "empty"},
    ]  # fmt: skip
    metrics = json.loads((tmp_path / "run" / "report" / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["pool"]["texts"], metrics["pool"]["skipped"]) == (3, 3)


def test_strange_texts_go_the_whole_way_and_keep_their_order(tmp_path, integrate):
    strange = [
        "x" * 100_000, "goal " * 20_000, "😀 🎉 👨‍👩‍👧", "שלום עולם مرحبا \u202e", "bell\x07 esc\x1b[31m del\x7f",
        "nul\0inside", "\0", "lone \ud800 surrogate", "\u200b", "\ufeffmark", "a" + "\u0300" * 200, "tab\tand\r\nline",
    ]  # fmt: skip
    path = write_jsonl(tmp_path / "t.jsonl", [{"text": text} for text in strange])
    assert works(*integrate(texts=path)) == ""
    pool = TextShards.load(tmp_path / "run" / "texts")
    assert [text.text for text in pool] == [text.replace("\ud800", "?") for text in strange]
    works("predict", tmp_path / "run" / "student", "--texts", path, "-o", tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == [str(row) for row in range(len(strange))]


def test_lone_surrogates_in_ids_and_labels_are_handled_too(tmp_path, integrate):
    rows: list[dict[str, object]] = [
        {"text": "a late goal", "id": "\ud800", "label": "\udfff"},
        {"text": "b", "label": "film"},
    ]
    test = write_jsonl(tmp_path / "test.jsonl", [{"id": "1", **row} for row in rows])
    works(*integrate(test=test))
    works("predict", tmp_path / "run" / "student", "--texts", test, "-o", tmp_path / "out.jsonl")
    assert len((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_texts_that_break_later_leave_the_finished_run_as_it_was(tmp_path, done, pool_texts):
    pool = write_jsonl(tmp_path / "pool.jsonl", [{"text": text} for text in pool_texts])
    content = yaml.safe_load((tmp_path / "run.yaml").read_text(encoding="utf-8"))
    content["texts"]["path"] = str(pool)
    for config in (tmp_path / "run.yaml", tmp_path / "run" / "config.yaml"):
        run_file(config, content)
    works(*done())
    before, good = work(tmp_path / "run"), pool.read_bytes()
    pool.write_bytes(good + b"oops\n")
    message = f"{pool}, line 41: broken JSON (Expecting value at column 1); one object a line is expected"
    assert_refused(message, *done(), continues=tmp_path / "run")
    assert work(tmp_path / "run") == before
    pool.write_bytes(good)
    works(*done())
    assert work(tmp_path / "run") == before


def test_other_texts_in_a_call_that_is_refused_do_not_replace_those_of_the_finished_run(tmp_path, done):
    before, missing = work(tmp_path / "run"), tmp_path / "not-there"
    message = f"student '{missing}': no such folder; give a save_pretrained folder or a Hub id"
    assert_refused(message, *done("texts.limit=20", f"student.model={missing}"), continues=tmp_path / "run")
    test = write_jsonl(tmp_path / "test.jsonl", [{"text": "a", "label": "weather"}])
    refused = muki(*done("texts.limit=20", f"test={test}"))
    assert "no text has a label of the union" in refused.stderr
    assert work(tmp_path / "run") == before


def test_the_same_bytes_under_another_ending_are_read_anew(tmp_path):
    lines = b'{"text": "a late goal"}\n{"text": "shares fell"}\n'
    assert next(iter(cut(str(file(tmp_path / "pool.txt", lines)), tmp_path / "texts"))).text.startswith("{")
    renamed = (tmp_path / "pool.txt").rename(tmp_path / "pool.jsonl")
    assert [text.text for text in cut(str(renamed), tmp_path / "texts")] == ["a late goal", "shares fell"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, lambda p: f"texts '{p}': no such file or folder; give a file ({SUFFIXES}), or a folder of such files"),
        ('{"text": "a"}\n', lambda p: f"{p}, line 1: no column 'label'; the columns there are: text"),
        (
            '{"text": "a", "label": "weather"}\n{"text": "b", "label": "Sports"}\n',
            lambda p: (
                f"test '{p}': no text has a label of the union; found Sports, weather, "
                "known are sports, politics, business, technology, health, film"
            ),
        ),
    ],
    ids=["missing", "no label column", "labels outside the union"],
)
def test_a_test_file_that_cannot_be_used_costs_nothing_that_is_finished(content, message, tmp_path, done):
    path, before = tmp_path / "test.jsonl", work(tmp_path / "run")
    if content:
        file(path, content)
    assert_refused(message(path), *done(f"test={{path: {path}}}"), continues=tmp_path / "run")
    assert work(tmp_path / "run") == before
    works(*done())
    assert work(tmp_path / "run") == before


# --- the run file and --set ------------------------------------------------------------------------------------------


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
            ["teachers: name 'x' is given twice; names must differ"],
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
                "colon; put it in quotes)"
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
        "not a number", "unknown method", "no pass", "one pass", "one teacher", "one name twice", "many at once",
        "a colon in text", "a ceiling with passes", "two in training",
    ],
)  # fmt: skip
def test_wrong_settings_are_all_shown_at_once(changes, problems, tmp_path, settings):
    config = run_file(tmp_path / "r.yaml", settings(**changes))
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


# --- the run folder --------------------------------------------------------------------------------------------------


def test_the_folder_of_another_run_is_refused_and_left_alone(tmp_path, finished, teachers, integrate):
    output = shutil.copytree(finished / "run", tmp_path / "run")
    before = snapshot(output)
    other = save_teacher(tmp_path / "other", "bert", ["war", "peace"])
    message = (
        f"output '{output}': holds another run, with teachers news, culture (now news, other); texts "
        f"{finished}/pool.jsonl (now {tmp_path}/pool.jsonl); choose another output folder, or delete this one"
    )
    result = muki(*integrate(teachers=[teachers[0], other]))
    assert snapshot(output) == before
    assert (result.stderr, result.exit_code) == (f"muki: {message}\n", 2)


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path, integrate):
    output = tmp_path / "thesis"
    output.mkdir()
    file(output / "chapter.txt", "precious")
    message = (
        f"output '{output}': not empty, and not a run folder (no config.yaml of a run); choose another output folder"
    )
    assert_refused(message, *integrate(output=output))
    assert [p.name for p in output.iterdir()] == ["chapter.txt"]


def test_a_file_as_output_is_refused_and_left_alone(tmp_path, integrate):
    output = file(tmp_path / "notes", "precious")
    assert_refused(f"output '{output}': is a file; give a folder", *integrate(output=output))
    assert output.read_text() == "precious"


def test_an_output_below_a_file_is_refused(tmp_path, integrate):
    parent = file(tmp_path / "notes", "precious")
    assert_refused(
        f"output '{parent}/run': '{parent}' is a file; choose another output folder", *integrate(output=parent / "run")
    )


@pytest.mark.parametrize("wrong", ["teachers", "texts"])
def test_a_typing_error_in_the_first_call_does_not_block_the_output_folder(wrong, tmp_path, teachers, integrate):
    typo = {"teachers": [teachers[0], tmp_path / "cultrue"], "texts": tmp_path / "pol.jsonl"}[wrong]
    assert muki(*integrate(**{wrong: typo})).exit_code == 2
    works(*integrate())


@pytest.mark.parametrize("stage", ["supervise", "train", "evaluate"])
def test_a_stage_before_the_scores_says_what_to_run_first(stage, tmp_path, settings):
    config, output = run_file(tmp_path / "r.yaml", settings()), tmp_path / "run"
    message = f"run '{output}': nothing scored yet; run "
    assert_refused(f"{message}`muki score` with its run file first", stage, config)
    output.mkdir()
    shutil.copy(config, output / "config.yaml")
    assert_refused(f"{message}`muki score {output}` first", stage, output, continues=output)


def test_later_stages_say_which_one_is_missing(tmp_path, settings):
    config, output = run_file(tmp_path / "r.yaml", settings()), tmp_path / "run"
    works("score", config)
    before = work(output)
    supervise = f"{output}/supervision: no finished supervision; run `muki supervise {output}` first"
    assert_refused(supervise, "train", output, continues=output)
    assert_refused(supervise, "evaluate", output, continues=output)
    assert work(output) == before
    works("supervise", output)
    train = f"{output}/student: no student yet; run `muki train {output}` first"
    assert_refused(train, "evaluate", output, continues=output)
    assert_refused(f"{tmp_path}/nothing: no such run file", "train", tmp_path / "nothing")


# --- the student -----------------------------------------------------------------------------------------------------

BAD_STUDENTS: dict[str, tuple[Callable[[Path, Path], object], Callable[[Path], str]]] = {
    "missing": (lambda p, good: None, lambda p: "no such folder; give a save_pretrained folder or a Hub id"),
    "neither padding nor end token": (
        lambda p, good: gpt2(p, eos=False),
        lambda p: "its tokenizer has neither a padding token nor an end token; set one",
    ),

    "weights cut short": (
        lambda p, good: cut_short(copied(good, p)),
        lambda p: "cannot be loaded (Error while deserializing header: invalid header length)",
    ),

    "without tokenizer": (
        lambda p, good: without(copied(good, p), "token*"),
        lambda p: "no tokenizer there; save the model's own tokenizer in that folder (tokenizer.save_pretrained)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_STUDENTS)
def test_a_student_that_cannot_be_used_costs_nothing_that_is_finished(kind, tmp_path, encoder, done):
    make, message = BAD_STUDENTS[kind]
    path, before = tmp_path / "bad", work(tmp_path / "run")
    make(path, encoder)
    assert_refused(f"student '{path}': {message(path)}", *done(f"student.model={path}"), continues=tmp_path / "run")
    assert work(tmp_path / "run") == before
    works(*done())
    assert work(tmp_path / "run") == before


@pytest.mark.parametrize("command", ["integrate", "finetune", "predict"])
def test_a_missing_relative_folder_is_not_looked_up_on_the_hub(command, tmp_path, integrate, labelled):
    (tmp_path / "models").mkdir()
    args = {
        "integrate": integrate(student="models/nope"),
        "finetune": ["finetune", "--base", "models/nope", "--texts", labelled, "-o", tmp_path / "out"],
        "predict": ["predict", "models/nope", "--texts", labelled, "-o", tmp_path / "out"],
    }[command]
    what = "model" if command == "predict" else "student"
    message = f"{what} 'models/nope': no such folder; give a save_pretrained folder or a Hub id"
    assert_refused(message, *args, continues=tmp_path / "run")


def test_a_student_with_its_own_code_goes_the_whole_way_once_allowed(tmp_path, teachers, integrate, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", sys.path[:])
    works(*integrate(student=own_code(teachers[0], tmp_path / "own")), "--trust-remote-code")
    run = tmp_path / "run"
    labels = json.loads((run / "labels.json").read_text(encoding="utf-8"))["labels"]
    config = json.loads((run / "student" / "config.json").read_text(encoding="utf-8"))
    assert sorted(config["label2id"], key=config["label2id"].get) == labels
    assert load_file(run / "student" / "model.safetensors")["classifier.weight"].shape[0] == len(labels)
    assert (run / "report" / "metrics.json").exists()


def test_a_training_that_diverges_is_refused_and_the_earlier_student_stays(tmp_path, done, monkeypatch):
    before = work(tmp_path / "run", "student/model.safetensors", "training.json")

    def diverges(self, *_, **__):
        with torch.no_grad():
            next(self.model.parameters()).fill_(float("nan"))

    monkeypatch.setattr("muki.student.trainer.IntegrationTrainer.train", diverges)
    result = muki(*done("training.learning_rate=30"))
    assert result.exit_code == 2
    assert "muki: training: diverged, 1 weight tensors are no numbers any more ('" in result.stderr
    assert "set training.learning_rate lower (now 30)" in result.stderr
    assert work(tmp_path / "run", "student/model.safetensors", "training.json") == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"train": ["a"], "test": ["b"]},
            "texts is dict with train, test; give one split of a data set (texts=data['tra",
        ),
        ({"path": {"train": ["a"]}}, "texts is dict; expected a file, or a sequence of strings or mappings"),
        (7, "texts is int; expected a file, or a sequence of strings or mappings"),
    ],
    ids=["all splits at once", "splits as path", "a number"],
)
def test_texts_in_memory_that_are_no_texts_are_refused(given, message, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(f"muki.integrate: {message}")):
        integrate_api(["a", "b"], "c", given, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_empty_files_are_named_by_commands_that_look(tmp_path, finished):
    empty = file(tmp_path / "empty.jsonl", '{"text": " "}\n')
    content = yaml.safe_load((finished / "run.yaml").read_text(encoding="utf-8"))
    config = run_file(tmp_path / "r.yaml", content | {"texts": str(empty)})
    message = f"texts '{empty}': no text left (1 empty ones skipped); at least one non-empty text is needed"
    assert_refused(message, "inspect", config)
    teachers = [one["model"] for one in content["teachers"]]
    init = ["inspect", "--init", *teachers, "--texts", empty, "-o", tmp_path / "new.yaml"]
    assert_refused(f"texts '{empty}': no text with words in it; at least one is needed", *init)
    nothing = file(tmp_path / "nothing.jsonl", "")
    assert_refused(
        "explain: no text to explain was found; give a file with at least one",
        "explain", finished / "run", "--texts", nothing,
    )  # fmt: skip


# --- predict and finetune --------------------------------------------------------------------------------------------

BAD_MODELS: dict[str, tuple[Callable[[Path, Path], object], Callable[[Path], str]]] = {
    "no model": (
        lambda p, good: p.mkdir(), lambda p: "no config.json there; give the folder that save_pretrained wrote"
    ),

    "missing": (lambda p, good: None, lambda p: "no such folder; give a save_pretrained folder or a Hub id"),

    "without head": (
        lambda p, good: save_encoder(p),
        lambda p: "not a fine-tuned classifier: the checkpoint lacks classifier.bias, classifier.weight",
    ),

    "weights cut short": (
        lambda p, good: cut_short(copied(good, p)),
        lambda p: "cannot be loaded (Error while deserializing header: invalid header length)",
    ),

    "remote code": (lambda p, good: own_code(good, p), lambda p: f"{REMOTE}--trust-remote-code"),

    "no tokenizer": (
        lambda p, good: without(copied(good, p), "*token*"),
        lambda p: "no tokenizer there; save the model's own tokenizer in that folder (tokenizer.save_pretrained)",
    ),

    "weights that are no numbers": (
        lambda p, good: poisoned(copied(good, p), "classifier.weight", 0),
        lambda p: (
            "its logits are no numbers for the text in row 0; check the checkpoint, its training may have diverged"
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_predict_refuses_what_is_no_model_and_keeps_older_predictions(kind, tmp_path, teachers, pool):
    make, message = BAD_MODELS[kind]
    path, output = tmp_path / "bad", file(tmp_path / "out.jsonl", "older predictions")
    make(path, teachers[0])
    assert_refused(f"model '{path}': {message(path)}", "predict", path, "--texts", pool, "-o", output)
    assert output.read_text() == "older predictions"


def test_predict_keeps_older_predictions_when_a_line_is_broken(tmp_path, teachers):
    texts, output = file(tmp_path / "t.jsonl", OK * 3 + "oops\n"), file(tmp_path / "out.jsonl", "older predictions")
    message = f"{texts}, line 4: broken JSON (Expecting value at column 1); one object a line is expected"
    assert_refused(message, "predict", teachers[0], "--texts", texts, "-o", output)
    assert output.read_text() == "older predictions"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl", "t.jsonl"]


def test_predict_does_not_replace_a_folder(tmp_path, teachers, pool):
    output = tmp_path / "thesis"
    output.mkdir()
    file(output / "chapter.txt", "precious")
    assert_refused(
        f"output '{output}': is a folder; give a file", "predict", teachers[0], "--texts", pool, "-o", output
    )
    assert (output / "chapter.txt").read_text() == "precious"


@pytest.fixture
def labelled(tmp_path: Path, pool_texts: list[str]) -> Path:
    rows: list[dict[str, object]] = [{"text": t, "label": "ab"[i % 2]} for i, t in enumerate(pool_texts)]
    return write_jsonl(tmp_path / "labelled.jsonl", rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "a,c"], "labels: 'c' not in the texts (a, b)"),
        (["--labels", "a"], "labels: two or more are needed, found 1 (a)"),
        (["--labels", ""], "labels: two or more are needed, found 0 (none)"),
        (["--labels", "@nope"], "--labels @nope: no such file; give a,b,c or @file with one label a line"),
        (["--set", "epoch=1"], "muki finetune: 1 problem\n  unknown key 'epoch'; did you mean 'epochs'?"),
        (["--set", "epochs"], "--set epochs: expected key=value, e.g. training.epochs=2"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_finetune_refuses_wrong_options_and_keeps_an_older_teacher(options, message, tmp_path, encoder, labelled):
    output = save_teacher(tmp_path / "teacher", "bert", ["a", "b"])
    before = snapshot(output)
    assert_refused(message, "finetune", "--base", encoder, "--texts", labelled, "-o", output, *options)
    assert snapshot(output) == before


def test_finetune_needs_a_label_column_with_two_labels(tmp_path, encoder, pool):
    args = ["finetune", "--base", encoder, "-o", tmp_path / "teacher", "--texts"]
    assert_refused(f"{pool}, line 1: no column 'label'; the columns there are: text", *args, pool)
    same = write_jsonl(tmp_path / "same.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": None}])
    assert_refused("labels: two or more are needed, found 1 (x)", *args, same)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_finetune_does_not_replace_what_is_no_model(kind, tmp_path, encoder, labelled):
    output = tmp_path / "thesis"
    if kind == "folder":
        output.mkdir()
        message = "not empty, and not a model folder (no config.json); choose another output folder"
    else:
        message = "is a file; give a folder"
    kept = file(output / "chapter.txt" if kind == "folder" else output, "precious")
    args = ["--base", encoder, "--texts", labelled, "-o", output, "--max-length", 32, "--set", "epochs=1"]
    assert_refused(f"output '{output}': {message}", "finetune", *args)
    assert kept.read_text() == "precious"


def test_finetune_replaces_neither_its_base_nor_a_model_with_other_things_beside_it(tmp_path, encoder, labelled):
    output = save_teacher(tmp_path / "teacher", "bert", ["a", "b"])
    args = ["--texts", labelled, "-o", output]
    message = "is the base, which would be replaced; choose another output folder"
    assert_refused(f"output '{output}': {message}", "finetune", "--base", output, *args)
    kept = file(output / "notes.csv", "precious")
    message = "would be replaced, but holds more than a model (notes.csv); choose another output folder"
    assert_refused(f"output '{output}': {message}", "finetune", "--base", encoder, *args)
    assert kept.read_text() == "precious"


def test_numbered_labels_of_two_teachers_are_not_taken_for_one_class():
    with pytest.raises(LabelError) as error:
        union({"a": ["0", "1"], "b": ["spam", "1"]})
    assert str(error.value) == (
        "teachers 'a' and 'b': both have a label '1', and a number alone does not say whether it is the same class; "
        "name them in the run file, alike if they are:\n    - model: ...\n      labels:\n        '1': <name>"
    )
    assert union({"stars": ["1", "2"], "topics": ["sports", "film"]}).labels == ("1", "2", "sports", "film")


def test_a_head_without_features_is_found_before_the_texts_are_read(teachers):
    class Bilinear(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :3] * x[:, 3:6]

    teacher = load_teacher(str(teachers[0]))
    teacher.model.classifier = Bilinear()
    survey({"a": lambda: teacher}, {"a": "a"}, passes=0)
    with pytest.raises(TeacherError, match=r"no linear layer with 3 outputs was used.*--method muki"):
        survey({"a": lambda: teacher}, {"a": "a"}, passes=0, keep="features")


def test_an_encoder_that_gives_no_numbers_is_refused():
    with pytest.raises(StudentError, match="not finite"):
        finite_unit_length(torch.tensor([[1.0, float("inf")]]))
    torch.testing.assert_close(finite_unit_length(torch.tensor([[3e5, 4e5]])), torch.tensor([[0.6, 0.8]]))


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
        (["predict", "model", "--texts", "-", "-o", "-", "--text-column", "body"],
         "muki predict: standard input has no columns; leave --text-column and --text-pair-column out"),
        (["inspect", "run.yaml", "--texts", "pool.jsonl"],
         "muki inspect: --texts, --text-column and --output go with --init; a run file says its own"),
    ],
)  # fmt: skip
def test_an_option_that_would_be_ignored_is_refused(args, message, tmp_path, teachers, pool, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"teachers": [str(one) for one in teachers[:2]], "texts": str(pool), "student": "x", "output": "run"}
    file(tmp_path / "run.yaml", yaml.safe_dump(settings))
    assert_refused(message, *args)
