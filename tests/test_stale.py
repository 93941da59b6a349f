"""What was made with earlier settings does not pass for what the new ones would make."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import invoke, works
from conftest import write_jsonl
from runs import QUICK, Folder, write_yaml
from tiny import WORDS

import muki
from muki import pipeline as stages
from muki.config import load_config, make_config
from muki.errors import RunFolderError, StaleError
from muki.labels import LabelSpace
from muki.preparation import Sources, cut_texts
from muki.run_folder import RunFolder
from muki.stale import require_supervision


def test_a_student_of_earlier_settings_is_not_evaluated_as_one_of_the_new(tmp_path: Path, finished: Folder):
    shutil.copytree(finished.root, tmp_path / "run")
    content = yaml.safe_load((finished.root / "config.yaml").read_text(encoding="utf-8"))
    changed = make_config({**content, "method": "vanilla-kd", "output": str(tmp_path / "run")}, "test")
    with pytest.raises(RunFolderError, match=r"with other settings \(method\..*more\); run `muki supervise"):
        stages.train(changed)
    stages.supervise(changed)
    with pytest.raises(RunFolderError, match="was made with other settings or supervision; run `muki train"):
        stages.evaluate(changed)
    longer = make_config(
        {**content, "training": {**content["training"], "epochs": 9}, "output": str(tmp_path / "run")}, ""
    )
    stages.supervise(longer)
    with pytest.raises(RunFolderError, match=r"other settings \(training.epochs 2 there, 9 here\); run `muki train"):
        stages.evaluate(longer)
    result = invoke("evaluate", write_yaml(tmp_path / "longer.yaml", longer.model_dump(mode="json", exclude_none=True)))
    assert result.exit_code == 2
    assert result.stderr.endswith(  # and no hint to continue, which would name the settings of before
        f"muki: {tmp_path}/run/student: the student there was made with other settings (training.epochs 2 there, 9 "
        "here); run `muki train` first, with the run file and settings that you gave here\n"
    )


def test_a_student_of_earlier_settings_is_not_reported_as_one_of_the_new(tmp_path: Path, finished: Folder):
    root = Path(shutil.copytree(finished.root, tmp_path / "run"))
    works("score", root, "--set", "method=vanilla-kd")
    for command in (["report", root], ["evaluate", root, "--labels", root / "report" / "to-label.csv"]):
        result = invoke(*command)
        assert result.exit_code == 2
        assert "the supervision there was made with other settings (method." in result.stderr
        assert "run `muki supervise`" in result.stderr
    works("supervise", root)
    assert f"student: supervision or settings have changed; it is made anew and replaces the one in {root}/student" in (
        works("train", root, "--set", "training.epochs=1").stderr
    )
    works("evaluate", root)  # the folder knows of it
    works("report", root)
    content = yaml.safe_load((root / "config.yaml").read_text(encoding="utf-8"))
    write_yaml(root / "config.yaml", {**content, "training": {**content["training"], "epochs": 2}})
    said = "the student there was made with other settings (training.epochs 1 there, 2 here); run `muki train`"
    assert said in invoke("report", root).stderr


def test_a_student_whose_start_was_moved_or_copied_is_reported(tmp_path: Path, finished: Folder, teachers: list[Path]):
    root = Path(shutil.copytree(finished.root, tmp_path / "run"))
    record = json.loads((root / "training.json").read_text(encoding="utf-8"))
    start = record["settings"]["student"]["model"]
    for place in (str(tmp_path / "gone"), shutil.copytree(start, tmp_path / "copy")):
        record["settings"]["student"]["model"] = str(place)
        (root / "training.json").write_text(json.dumps(record), encoding="utf-8")
        works("report", root)
    record["settings"]["student"]["model"] = str(teachers[0])
    (root / "training.json").write_text(json.dumps(record), encoding="utf-8")
    refused = invoke("report", root)
    assert refused.exit_code == 2
    assert f"other settings (student.model {teachers[0]} there, {start} here); run `muki train" in refused.stderr


def test_to_see_whether_supervision_is_stale_nothing_is_made_anew(tmp_path: Path, teachers: list[Path], encoder: Path):
    texts = [f"{word} {i}" for i, word in enumerate(WORDS.split() * 4)]
    settings: dict[str, Any] = {**QUICK, "method": "muki-plus"}
    root = muki.integrate(list(map(str, teachers)), str(encoder), texts, output=tmp_path / "run", **settings).folder
    view = {path: path.read_bytes() for path in (root / "view").rglob("*") if path.is_file()}
    assert view
    changed = load_config(root / "config.yaml", ["student.max_length=16"])
    with pytest.raises(StaleError):
        require_supervision(changed, RunFolder(root))
    assert {path: path.read_bytes() for path in (root / "view").rglob("*") if path.is_file()} == view


def test_scores_of_earlier_test_texts_are_not_evaluated_as_those_of_the_new(tmp_path: Path, finished: Folder):
    shutil.copytree(finished.root, tmp_path / "run")
    content = yaml.safe_load((finished.root / "config.yaml").read_text(encoding="utf-8"))
    other = write_jsonl(tmp_path / "test.jsonl", [{"text": f"a late goal {i}", "label": "sports"} for i in range(8)])
    changed = make_config({**content, "test": {"path": str(other)}, "output": str(tmp_path / "run")}, "test")
    run = RunFolder(tmp_path / "run")
    space = LabelSpace.load(run.labels)
    assert space is not None
    cut_texts(changed, run, Sources(), space)  # as by a scoring that was stopped here
    with pytest.raises(RunFolderError, match=r"scores cannot be used \(changed: texts\); run `muki score` first"):
        stages.evaluate(changed)


def test_texts_that_the_settings_name_and_the_run_has_not_are_not_passed_over(tmp_path: Path, finished: Folder):
    root = Path(shutil.copytree(finished.root, tmp_path / "run"))
    metrics = (root / "report" / "metrics.json").read_bytes()
    other = write_jsonl(tmp_path / "other.jsonl", [{"text": "a late goal", "label": finished.space["labels"][0]}])
    for command in (["evaluate", f"test={other}"], ["supervise", f"texts.path={other}"], ["evaluate", "texts.limit=3"]):
        result = invoke(command[0], root, "--set", command[1])
        assert result.exit_code == 2
        assert "texts there are not those that the settings name" in result.stderr
        assert "run `muki run` first" in result.stderr
    assert (root / "report" / "metrics.json").read_bytes() == metrics


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prefix": "query: "}, "settings (teachers.0.prefix '' there, query:  here)"),
        ({"labels": {"sports": "sport"}}, "settings (teachers.0.labels {} there, {'sports': 'sport'} here)"),
        (None, "teachers (2 there, 3 here)"),
    ],
)
def test_teachers_that_were_not_scored_so_are_not_passed_over(
    change: dict[str, Any] | None, said: str, tmp_path: Path, finished: Folder
):
    content = yaml.safe_load((finished.root / "config.yaml").read_text(encoding="utf-8"))
    shutil.copytree(finished.root, tmp_path / "run")
    content["output"] = str(tmp_path / "run")
    if change:
        content["teachers"][0] |= change
    else:
        content["teachers"].append({**content["teachers"][0], "name": "third"})
    for stage in (stages.supervise, stages.train, stages.evaluate):
        with pytest.raises(StaleError) as caught:
            stage(make_config(content, "test"))
        assert f"run: the scoring there was made with other {said}; run `muki run` first" in str(caught.value)


def test_teachers_that_were_moved_are_the_same(tmp_path: Path, finished: Folder):
    content = yaml.safe_load((finished.root / "config.yaml").read_text(encoding="utf-8"))
    root = Path(shutil.copytree(finished.root, tmp_path / "run"))
    config = make_config({**content, "output": str(root)}, "test")
    made = json.loads((root / "supervision" / "supervision.json").read_text(encoding="utf-8"))["fingerprint"]
    content["teachers"][0]["model"] = str(tmp_path / "gone" / "teacher")
    write_yaml(root / "config.yaml", content)
    assert stages.supervise(config) == made
    content["teachers"][0]["model"] = str(tmp_path)  # there, and so another one
    write_yaml(root / "config.yaml", content)
    with pytest.raises(StaleError, match=r"made with other settings \(teachers\.0\.model "):
        stages.supervise(config)


def test_a_run_whose_texts_are_gone_can_still_be_evaluated(tmp_path: Path, finished: Folder):
    root = Path(shutil.copytree(finished.root, tmp_path / "run"))
    content = yaml.safe_load((root / "config.yaml").read_text(encoding="utf-8"))
    pool = Path(content["texts"]["path"])
    content["texts"]["path"] = str(tmp_path / "gone" / pool.name)
    write_yaml(root / "config.yaml", content)
    metrics = root / "report" / "metrics.json"
    before = json.loads(metrics.read_text(encoding="utf-8"))
    metrics.unlink()
    works("evaluate", root)
    assert json.loads(metrics.read_text(encoding="utf-8"))["student"] == before["student"]
    works("evaluate", root, "--set", f"texts.path=elsewhere/{pool.name}")  # as in a run file of another folder
    for other in (tmp_path / "gone" / "other.jsonl", "org/another-data-set"):
        said = invoke("evaluate", root, "--set", f"texts.path={other}")
        assert said.exit_code == 2
        assert f"not those that the settings name ({other}: no such file here), or" in said.stderr


def test_a_stage_called_from_python_with_relative_paths_is_the_command_lines(
    tmp_path: Path, finished_small: Path, monkeypatch: pytest.MonkeyPatch
):
    content = yaml.safe_load((finished_small / "run.yaml").read_text(encoding="utf-8"))
    shutil.copytree(content["student"]["model"], tmp_path / "base")
    shutil.copytree(finished_small / "run", tmp_path / "run")
    content["student"]["model"], content["output"] = "base", "run"
    write_yaml(tmp_path / "run.yaml", content)
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "run" / "student" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    stages.train(load_config("run.yaml"))  # the same base at another place, so the same student
    assert weights.stat().st_mtime_ns == before
    works("evaluate", "run")
