"""Weight merging: a student without training, the average of teachers that share one base.

Heads are padded with zeros to the union and averaged with the rest, so it needs no texts at all. Only fine-tuned copies
of the same base can be averaged. Source: HM3, arXiv 2409.19173 (merging with padded heads).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from muki.errors import StudentError
from muki.files import fingerprint
from muki.labels import LabelSpace
from muki.student.saving import save_student
from muki.teachers.bases import Base, base_of, plain_model, require_one_base

if TYPE_CHECKING:
    from muki.teachers.loading import Teacher
    from muki.teachers.survey import TeacherFactory

logger = logging.getLogger(__name__)

State = dict[str, torch.Tensor]


def merge_teachers(factories: Mapping[str, TeacherFactory], space: LabelSpace, *, folder: Path, record: Path) -> str:
    """Average the teachers' weights, two of them in memory at a time, and save the result.

    Args:
        factories: each teacher's name and a function that loads it.
        space: the label space.
        folder: where the `save_pretrained` folder goes.
        record: JSON about it: fingerprint and files.

    Returns:
        the fingerprint of the merged model.

    Raises:
        TeacherError: two teachers do not have the same base.
    """
    total: State = {}
    fingerprints: list[str] = []
    first: Teacher | None = None
    base: Base | None = None
    for name, factory in factories.items():
        teacher = factory()
        first = first or teacher
        own = base_of(teacher)
        base = base or own
        require_one_base(base, own)
        state = padded_state(teacher, space)
        total = {key: value.clone() if key not in total else total[key] + value for key, value in state.items()}
        fingerprints.append(teacher.fingerprint)
        logger.info("merging: %s added", name)
    assert first is not None
    key = merge_fingerprint(fingerprints, space, first.max_length)
    student = _empty(first, space)
    student.load_state_dict({name: value / len(fingerprints) for name, value in total.items()})
    about = {"fingerprint": key, "seconds": 0.0, "steps": 0, "merged": list(factories)}
    save_student(student, first.tokenizer, first.max_length, folder, record, about)
    return key


def merge_fingerprint(teachers: Sequence[str], space: LabelSpace, max_length: int) -> str:
    """Of the merged model of teachers with these fingerprints, in the order of the label space.

    Its tokenizer takes `max_length` tokens, as the first teacher's does.
    """
    return fingerprint("merge", list(teachers), asdict(space), max_length)


def padded_state(teacher: Teacher, space: LabelSpace) -> State:
    """The teacher's weights in float32, its head's rows put into the union, zeros elsewhere."""
    model = plain_model(teacher)
    head = _head(model, teacher)
    columns = list(space.columns[teacher.name])
    state: State = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    for key in (f"{head}.weight", f"{head}.bias"):
        if key in state:
            padded = torch.zeros(len(space.labels), *state[key].shape[1:])
            padded[columns] = state[key].float()
            state[key] = padded
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def _head(model: nn.Module, teacher: Teacher) -> str:
    """The name of the last linear layer with one output for each class."""
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == len(teacher.labels)
    ]
    if not names:
        raise StudentError(
            f"weight-merge: teacher '{teacher.name}' ({type(teacher.model).__name__}) has no linear layer with "
            f"{len(teacher.labels)} outputs; choose a method that trains a student"
        )
    return str(names[-1])


def _empty(teacher: Teacher, space: LabelSpace) -> Any:
    """A model of the teacher's architecture over the union."""
    model = plain_model(teacher)
    config = copy.deepcopy(model.config)
    config.id2label, config.label2id = space.id2label, space.label2id
    config.problem_type = "single_label_classification"
    made: Any = type(model)._from_config(config, dtype=torch.float32)
    return made.eval()
