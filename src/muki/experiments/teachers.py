"""The teachers of a comparison: fine-tuned once, and shared by all groups that want the same one."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from muki.errors import ConfigError, StudentError
from muki.experiments.cells import content
from muki.experiments.grid import Grid, Group
from muki.experiments.tasks import Task
from muki.experiments.turns import lock
from muki.files import fingerprint
from muki.finetuning import finetune
from muki.student.model import load_tokenizer
from muki.student.training import TRAINING_VERSION

logger = logging.getLogger(__name__)


def encoders_of(grid: Grid, group: Group) -> list[str]:
    """What a group's teachers and students start from."""
    setting = grid.settings[group.setting]
    return [*grid.encoders_in(setting), grid.student_in(setting)]


def require_encoders(encoders: Iterable[str]) -> None:
    """Refuse an encoder that cannot be loaded, once and before hours of work.

    Raises:
        ConfigError: no such folder and nothing on the Hub, or a checkpoint that is not whole.
    """
    for encoder in dict.fromkeys(encoders):
        try:
            load_tokenizer(encoder)
        except StudentError as error:
            beside = "" if Path(encoder).is_dir() else "no such folder beside the grid file; as a Hub model: "
            problem = str(error).partition(": ")[2]  # without the student, which may be a teacher here
            raise ConfigError(f"encoder '{encoder}': {beside}{problem}") from error


def fine_tuned_teachers(grid: Grid, group: Group, task: Task) -> list[Path]:
    """Folders of a group's teachers; those that are there already are not made again.

    Groups of other data sets may want the same teacher (`en` and `en+zh`): one process makes it, the others wait.
    """
    setting = grid.settings[group.setting]
    encoders = grid.encoders_in(setting)
    folders = []
    for i, (labels, rows) in enumerate(zip(task.groups, task.taught, strict=True)):
        encoder = encoders[i % len(encoders)]
        training = grid.teacher_training.model_copy(update={"seed": 100 * group.seed + i})
        key = fingerprint(
            content(encoder), labels, rows, training.model_dump(), grid.max_length, setting.prefix, TRAINING_VERSION
        )
        folder = Path(grid.output) / "teachers" / key
        with lock(grid, f"teachers/.{key}.lock"):
            if not (folder / "config.json").exists():
                logger.info("%s: fine-tuning teacher %d on %d texts, %d labels", group, i, len(rows), len(labels))
                finetune(
                    encoder, rows, folder, labels=labels, training=training,
                    max_length=grid.max_length, prefix=setting.prefix,
                )  # fmt: skip
        folders.append(folder)
    return folders
