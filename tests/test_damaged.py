"""Files that were damaged or are gone are noticed and made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import invoke
from interrupting import assert_same_result, counted, go_on, stopped, times, works

from muki.errors import RunFolderError
from muki.integration.store import load_supervision


def flip(path: Path, column: int) -> None:
    """Flip one bit in the middle of a column's values."""
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(column)
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size - 20] ^= 0x04
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "emptied": lambda path: path.write_bytes(b""),
    "a bit flipped in the logits": lambda path: flip(path, 1),
    "a bit flipped in the means": lambda path: flip(path, 2),
    "another file": lambda path: path.write_text("text"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_scores_are_noticed_and_made_again(
    unbroken_copy_with_passes: Path, unbroken_with_passes: Path, damage: str
):
    copy, unbroken = unbroken_copy_with_passes, unbroken_with_passes
    path = copy / "scores" / "news" / "shard-00001.parquet"
    before = path.read_bytes()
    DAMAGE[damage](path)
    assert path.read_bytes() != before
    stamps = times(copy)
    said = works("run", copy)
    assert "scores of news: reusing 2 of 3 shards (same teacher, texts and settings)\n" in said
    assert "scores of news: 1 shards to be scored again (damaged)\n" in said
    assert "scores of culture: reusing 3 of 3 shards (same teacher, texts and settings)\n" in said
    changed = {name for name, stamp in times(copy).items() if stamp != stamps[name]}
    assert changed == {"scores/news/shard-00001.parquet"}  # its content is the same again, so nothing depends on it
    assert_same_result(copy, unbroken)


def test_scores_that_are_gone_are_made_again(unbroken_copy: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch):
    (unbroken_copy / "test" / "scores" / "culture" / "shard-00000.parquet").unlink()
    scored = counted(monkeypatch, "muki.engines.local.score_shard")
    works("run", unbroken_copy)
    assert len(scored) == 1
    assert_same_result(unbroken_copy, unbroken)


def test_damaged_scores_stop_a_single_later_stage_with_the_way_out(unbroken_copy: Path):
    path = unbroken_copy / "scores" / "news" / "shard-00001.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    (unbroken_copy / "supervision" / "supervision.json").unlink()
    result = invoke("supervise", unbroken_copy)
    assert result.exit_code == 2
    assert f"muki: {path}: scores cannot be used (missing or damaged); run `muki score` first\n" in result.stderr
    go_on(result.stderr)


def test_damaged_supervision_stops_a_single_later_stage_with_the_way_out(unbroken_copy: Path):
    path = unbroken_copy / "supervision" / "shard-00001.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RunFolderError) as caught:
        load_supervision(path.parent)
    assert str(caught.value) == (f"{path.parent}: files are missing or damaged; run `muki supervise {unbroken_copy}`")


@pytest.mark.parametrize(
    "name",
    [
        "texts/shard-00001.parquet",
        "supervision/shard-00001.parquet",
        "student/model.safetensors",
        "student/tokenizer.json",
        "texts/texts.json",
        "supervision/supervision.json",
        "training.json",
        "teachers.json",
        "labels.json",
        "report/metrics.json",
    ],
)
@pytest.mark.parametrize("damage", ["cut short", "gone"])
def test_whatever_else_is_damaged_or_gone_is_made_again(unbroken_copy: Path, unbroken: Path, name: str, damage: str):
    path = unbroken_copy / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = invoke("run", unbroken_copy)
    assert result.exit_code == 0, result.stderr
    assert_same_result(unbroken_copy, unbroken)
    assert path.exists()


@pytest.mark.parametrize(("name", "kept"), [("texts/texts.json", "shards"), ("teachers.json", "")])
def test_what_another_version_of_muki_wrote_is_made_again(unbroken_copy: Path, unbroken: Path, name: str, kept: str):
    path = unbroken_copy / name
    content = json.loads(path.read_text(encoding="utf-8"))
    for item in content[kept] if kept else content:
        item["of_another_version"] = item.pop("fingerprint")
    path.write_text(json.dumps(content), encoding="utf-8")
    result = invoke("report", unbroken_copy)
    assert result.exit_code == 2
    assert f"{path.parent if kept else path} is of another version of muki" in result.stderr
    assert f"run `muki score {unbroken_copy}` first\n" in result.stderr
    assert invoke("run", unbroken_copy).exit_code == 0
    assert_same_result(unbroken_copy, unbroken)


def test_a_checkpoint_that_was_cut_short_is_not_used(
    tmp_path: Path, resumable: Callable[..., Path], unbroken: Path, monkeypatch: pytest.MonkeyPatch
):
    root = tmp_path / "run"
    result = stopped(monkeypatch, "muki.student.trainer.IntegrationTrainer._save_checkpoint", "run", resumable(root))
    half = shutil.copytree(root / "checkpoints" / "checkpoint-4", root / "checkpoints" / "checkpoint-7")
    (half / "trainer_state.json").unlink()
    (half / "model.safetensors").write_bytes(b"half")
    assert "continuing from " + str(root / "checkpoints" / "checkpoint-4") in go_on(result.stderr)
    assert_same_result(root, unbroken)
