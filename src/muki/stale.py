"""Refuse supervision or a student made from other settings, scores or texts than the run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from muki.checkpoints import folder_fingerprint
from muki.config import IN_MEMORY, RunConfig, load_config
from muki.errors import RunFolderError, StaleError
from muki.files import is_remote, read_json
from muki.integration.pool import scored_pool
from muki.integration.stage import SUPERVISION_VERSION
from muki.run_folder import RunFolder
from muki.scored import scored_teachers, texts_of
from muki.student.merging import merge_fingerprint
from muki.student.training import student_fingerprint, training_settings
from muki.texts import TextShards
from muki.texts.shards import texts_fingerprint

_NAMED = 3  # settings that a message names


def require_current(config: RunConfig, run: RunFolder) -> None:
    """Supervision and student are those of the run.

    Raises:
        RunFolderError: they are not; names the command that makes them anew.
    """
    require_supervision(config, run)
    require_student(config, run)


def require_described(config: RunConfig, run: RunFolder) -> None:
    """Supervision and student are what the settings say, as far as the run folder alone tells.

    Neither teachers nor the student's start are needed, so that a report can be made wherever the folder was moved to.

    Raises:
        StaleError: they are of other settings.
    """
    if changed := _changed_method(config, run):
        raise _stale(run.supervision, "the supervision", changed, "supervise")
    if changed := _changed_training(config, run):
        raise _stale(run.student, "the student", changed, "train")


def require_teachers(config: RunConfig, run: RunFolder) -> None:
    """The teachers that were scored are those that the settings name, with the same labels, prefixes and lengths.

    Raises:
        StaleError: they are others.
    """
    here, there = _teachers(config.absolute()), _teachers(load_config(run.config))
    for teacher in here.keys() & there.keys():
        before = Path(there[teacher]["model"])
        if before.is_absolute() and not before.exists():  # moved, which changes nothing
            there[teacher]["model"] = here[teacher]["model"]
    same = here.keys() == there.keys()
    if changed := _changed(there, here) if same else f"teachers ({len(there)} there, {len(here)} here)":
        raise _stale(run.root, "the scoring", changed, "run")


def require_texts(config: RunConfig, run: RunFolder) -> None:
    """The texts that were cut are those that the settings name.

    Files are compared by their bytes. Those that are gone are told by their name, and what never was on this machine
    by its whole address: neither is read again.

    Raises:
        StaleError: they are others.
    """
    for split, columns, part in texts_of(config):
        if part.path == IN_MEMORY:
            continue
        cut, source, rows = TextShards.load(run.texts(split)), Path(part.path), config.texts.shard_rows
        if cut is None:
            same = False
        elif source.exists():
            wanted = texts_fingerprint(part.path, columns, split=part.split, shard_rows=rows, limit=part.limit)
            same = cut.fingerprint == wanted
        elif Path(cut.source).is_absolute():
            same = Path(cut.source).name == source.name
        else:
            same = cut.source == part.path
        if not same:
            named = part.path if source.exists() or is_remote(part.path) else f"{part.path}: no such file here"
            raise StaleError(
                f"{run.texts(split)}: the {split}'s texts there are not those that the settings name ({named}), or "
                "these have changed; run `muki run` first, with the run file and settings that you gave here"
            )


def require_supervision(config: RunConfig, run: RunFolder) -> None:
    """The supervision is the run's.

    Raises:
        RunFolderError: it is not there.
        StaleError: it was made with other settings, scores or texts.
    """
    made = _made(run.supervision_summary, run.supervision, "finished supervision", "supervise")
    if made != scored_pool(config, run, write=False).fingerprint(SUPERVISION_VERSION, config.method):
        others = _changed_method(config, run) or "settings, scores or texts"
        raise _stale(run.supervision, "the supervision", others, "supervise")


def require_student(config: RunConfig, run: RunFolder) -> None:
    """The student is that of the supervision, which is the run's; nothing is asked of a method without one.

    Raises:
        RunFolderError: it is not there.
        StaleError: it was made with other settings or supervision.
    """
    if config.method.student == "none":
        return
    made = _made(run.training, run.student, "student yet", "train")
    records, space = scored_teachers(run)
    if config.method.student == "merged":
        wanted = merge_fingerprint([record.fingerprint for record in records], space, records[0].settings["max_length"])
    else:
        taught = _made(run.supervision_summary, run.supervision, "finished supervision", "supervise")
        wanted = student_fingerprint(taught, config.student, config.training, space)
    if made != wanted:
        raise _stale(run.student, "the student", _changed_training(config, run) or "settings or supervision", "train")


def _made(record: Path, folder: Path, what: str, stage: str) -> str:
    """The fingerprint that a stage has recorded."""
    known = read_json(record)
    if known is None:
        raise RunFolderError(f"{folder}: no {what}; run `muki {stage} {folder.parent}` first")
    return str(known["fingerprint"])


def _changed_method(config: RunConfig, run: RunFolder) -> str:
    there = (read_json(run.supervision_summary) or {}).get("method")
    return "" if there is None else _changed({"method": there}, {"method": config.method.model_dump(mode="json")})


def _changed_training(config: RunConfig, run: RunFolder) -> str:
    there, here = (read_json(run.training) or {}).get("settings"), training_settings(config.student, config.training)
    if there is None:
        return ""
    if _same_checkpoint(there["student"]["model"], config.student.model):
        there["student"]["model"] = here["student"]["model"]
    return _changed(there, here)


def _same_checkpoint(before: str, now: str) -> bool:
    """Whether a student's start was only moved or copied; one that is gone from where it was counts as moved."""
    if not Path(before).is_absolute():
        return before == now
    return not Path(before).exists() or folder_fingerprint(before) == folder_fingerprint(now)


def _changed(there: dict[str, Any], here: dict[str, Any]) -> str:
    """In words the settings that differ, by the names that --set takes; empty if none does."""
    differ = [
        f"{part}.{name} {_value(there[part].get(name))} there, {_value(here[part].get(name))} here"
        for part in here
        for name in {**there[part], **here[part]}
        if there[part].get(name) != here[part].get(name)
    ]
    more = f", and {len(differ) - _NAMED} more" if len(differ) > _NAMED else ""
    return f"settings ({'; '.join(differ[:_NAMED])}{more})" if differ else ""


def _teachers(config: RunConfig) -> dict[str, dict[str, Any]]:
    return {f"teachers.{i}": teacher.model_dump() for i, teacher in enumerate(config.teachers)}


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value) or "''"


def _stale(folder: Path, what: str, others: str, stage: str) -> StaleError:
    return StaleError(
        f"{folder}: {what} there was made with other {others}; run `muki {stage}` first, with the run file and "
        "settings that you gave here"
    )
