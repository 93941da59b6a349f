"""muki: one classifier from many, without labels.

Several fine-tuned text classifiers, each with its own labels, and unlabelled texts in; one classifier over all labels
out. Method: Li et al., Findings of EMNLP 2022, arXiv 2210.05230.

Importing this package is cheap: torch and transformers are loaded when they are first needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "integrate": "muki.api",
    "finetune": "muki.finetuning",
    "run_all": "muki.pipeline",
    "score": "muki.pipeline",
    "supervise": "muki.pipeline",
    "train": "muki.pipeline",
    "evaluate": "muki.pipeline",
    "Result": "muki.pipeline",
    "Teacher": "muki.teachers.loading",
    "load_teacher": "muki.teachers.loading",
    "wrap_teacher": "muki.teachers.loading",
    "score_texts": "muki.teachers.scoring",
    "TeacherOutputs": "muki.teachers.outputs",
    "LabelSpace": "muki.labels",
    "Method": "muki.methods",
    "PRESETS": "muki.methods",
    "RunConfig": "muki.config",
    "load_config": "muki.config",
    "Classifier": "muki.predict",
    "MukiError": "muki.errors",
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from muki.api import integrate as integrate
    from muki.config import RunConfig as RunConfig, load_config as load_config
    from muki.errors import MukiError as MukiError
    from muki.finetuning import finetune as finetune
    from muki.labels import LabelSpace as LabelSpace
    from muki.methods import PRESETS as PRESETS, Method as Method
    from muki.pipeline import (
        Result as Result,
        evaluate as evaluate,
        run_all as run_all,
        score as score,
        supervise as supervise,
        train as train,
    )
    from muki.predict import Classifier as Classifier
    from muki.teachers.loading import Teacher as Teacher, load_teacher as load_teacher, wrap_teacher as wrap_teacher
    from muki.teachers.outputs import TeacherOutputs as TeacherOutputs
    from muki.teachers.scoring import score_texts as score_texts


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'muki' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
