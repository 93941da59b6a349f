"""What lies where a run should be written: what is not this run's own is refused and left alone."""

from __future__ import annotations

import shutil

import pytest
from refused import assert_refused, file, muki, snapshot, work, works
from runs import write_yaml
from tiny import save_teacher

pytestmark = pytest.mark.usefixtures("alone")


def test_the_folder_of_another_run_is_refused_and_left_alone(tmp_path, finished_small, teachers, integrate):
    output = shutil.copytree(finished_small / "run", tmp_path / "run")
    before = snapshot(output)
    other = save_teacher(tmp_path / "other", "bert", ["war", "peace"])
    message = (
        f"output '{output}': holds another run, with teachers news, culture (now news, other); texts "
        f"{finished_small}/pool.jsonl (now {tmp_path}/pool.jsonl); choose another output folder, or delete this one"
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
    config, output = write_yaml(tmp_path / "r.yaml", settings()), tmp_path / "run"
    message = f"run '{output}': nothing scored yet; run "
    assert_refused(f"{message}`muki score` with its run file first", stage, config)
    output.mkdir()
    shutil.copy(config, output / "config.yaml")
    assert_refused(f"{message}`muki score {output}` first", stage, output, continues=output)


def test_later_stages_say_which_one_is_missing(tmp_path, settings):
    config, output = write_yaml(tmp_path / "r.yaml", settings()), tmp_path / "run"
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
