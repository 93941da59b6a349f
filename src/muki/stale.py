"""What lies in a run's folder must be of the run's settings, scores and texts, and not of earlier ones."""

from __future__ import annotations

from muki.config import RunConfig
from muki.errors import RunFolderError
from muki.files import read_json
from muki.integration.pool import scored_pool
from muki.integration.stage import SUPERVISION_VERSION
from muki.labels import LabelSpace
from muki.run_folder import RunFolder
from muki.student.merging import merge_fingerprint
from muki.student.training import student_fingerprint
from muki.teachers.survey import load_records


def require_current(config: RunConfig, run: RunFolder) -> None:
    """Supervision and student are those of the run.

    Raises:
        RunFolderError: they are not; names the command that makes them anew.
    """
    require_supervision(config, run)
    require_student(config, run)


def require_supervision(config: RunConfig, run: RunFolder) -> None:
    """The supervision is the run's.

    Raises:
        RunFolderError: it is not there, or was made with other settings, scores or texts.
    """
    made = (read_json(run.supervision / "supervision.json") or {}).get("fingerprint")
    if made is None:
        raise RunFolderError(f"{run.supervision}: no finished supervision; run `muki supervise {run.root}` first")
    if made != _supervision_key(config, run):
        raise RunFolderError(
            f"{run.supervision}: the supervision there was made with other settings, scores or texts; run "
            f"`muki supervise {run.root}` first"
        )


def require_student(config: RunConfig, run: RunFolder) -> None:
    """The student is the run's; nothing is asked of a method without one.

    Raises:
        RunFolderError: it is not there, or was made with other settings or supervision.
    """
    if config.method.student == "none":
        return
    made = (read_json(run.training) or {}).get("fingerprint")
    if made is None:
        raise RunFolderError(f"{run.student}: no student yet; run `muki train {run.root}` first")
    if made != _student_key(config, run):
        raise RunFolderError(
            f"{run.student}: the student there was made with other settings or supervision; run "
            f"`muki train {run.root}` first"
        )


def _supervision_key(config: RunConfig, run: RunFolder) -> str:
    return scored_pool(config, run).fingerprint(SUPERVISION_VERSION, config.method)


def _student_key(config: RunConfig, run: RunFolder) -> str:
    records, space = load_records(run.teachers), LabelSpace.load(run.labels)
    assert records is not None  # there is supervision
    assert space is not None
    if config.method.student == "merged":
        return merge_fingerprint([record.fingerprint for record in records], space)
    return student_fingerprint(_supervision_key(config, run), config.student, config.training, space)
