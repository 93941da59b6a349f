"""The stage: a student learns the supervision, from wherever an interruption left it."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate import PartialState
from transformers import EarlyStoppingCallback, Trainer
from transformers.trainer_utils import get_last_checkpoint

from muki import compute
from muki.batches import require_known_tokens, tokenize
from muki.checkpoints import folder_fingerprint
from muki.config import RunConfig, StudentConfig, TrainingConfig
from muki.errors import StudentError, first_line
from muki.files import fingerprint, read_json, remove, write_json
from muki.integration.store import Supervision
from muki.labels import LabelSpace
from muki.progress import clock
from muki.run_folder import RunFolder
from muki.student.data import SupervisedTexts, SupervisionCollator, split_holdout
from muki.student.head import fit_head
from muki.student.model import load_student
from muki.student.objectives import make_objective
from muki.student.saving import is_saved, save_student
from muki.student.trainer import (
    IntegrationTrainer,
    quiet,
    refusing,
    require_built,
    require_finite,
    steps_per_epoch,
    training_arguments,
)
from muki.texts import TextShards
from muki.tokenization import usable_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TRAINING_VERSION = 3  # raise when the same supervision and settings make another student


def train_student(
    config: RunConfig, run: RunFolder, texts: TextShards, supervision: Supervision, space: LabelSpace
) -> str:
    """Train the student and save it; continues from a checkpoint of the same training, if there is one.

    Args:
        config: what it starts from, how it is trained, and what it minimises.
        run: where the student, its record and, while training lasts, its checkpoints go.
        texts: the pool.
        supervision: for each of its texts, in the same order.
        space: the label space.

    Returns:
        the fingerprint of this student.

    Raises:
        StudentError: it cannot be loaded, its memory does not suffice, or its training diverged.
    """
    student, training = config.student, config.training
    key = student_fingerprint(supervision.fingerprint, student, training, space)
    if is_saved(key, run.student, run.training):
        return key
    model, tokenizer = load_student(
        student.model, space.labels, seed=training.seed, trust_remote_code=config.trust_remote_code
    )
    max_length = usable_length(model.config, tokenizer, student.max_length, "student")
    encodings = tokenize(tokenizer, list(texts), max_length, student.prefix)
    require_known_tokens(tokenizer, encodings, model, f"student '{student.model}'", StudentError)
    train_index, holdout_index = split_holdout(supervision.rows, training.holdout, training.seed)
    resume = _matching_checkpoint(run.checkpoints, key)
    minimised = make_objective(config.method.objective, model, supervision, space, training.seed)
    if any(True for _ in minimised.parameters()):
        cast(Any, model).blocks = minimised  # a part of the model while it trains: optimised, saved and resumed with it
    taught, held_out = (SupervisedTexts(encodings, supervision, index) for index in (train_index, holdout_index))
    trainer = _trainer(model, minimised, tokenizer, taught, held_out, training, run.checkpoints)
    logger.info("training on %d texts, %d held out to choose the checkpoint", len(taught), len(held_out))
    start = time.monotonic()
    try:
        if resume is None and training.head == "probe":
            fit_head(model, tokenizer, taught, minimised, training.seed)
        trainer.train(resume_from_checkpoint=resume)
    except torch.OutOfMemoryError as error:
        raise StudentError(f"student: out of memory ({first_line(error)}); set training.batch_size lower") from error
    require_finite(trainer.model, training)
    seconds = time.monotonic() - start
    if trainer.is_world_process_zero():
        if hasattr(model, "blocks"):
            del model.blocks
        about = _about(trainer, key, seconds, len(taught), len(held_out))
        about["settings"] = training_settings(student, training)
        save_student(trainer.model, tokenizer, max_length, run.student, run.training, about)
        remove(run.checkpoints)
        logger.info("student: trained in %s, saved in %s", clock(seconds), run.student)
    return key


def training_settings(student: StudentConfig, training: TrainingConfig) -> dict[str, Any]:
    """What a run file says of the student, as its record keeps it."""
    return {"student": student.model_dump(mode="json"), "training": training.model_dump(mode="json")}


def student_fingerprint(
    supervision_key: str, student: StudentConfig, training: TrainingConfig, space: LabelSpace
) -> str:
    """Of all that a trained student depends on: supervision, start and training settings."""
    return fingerprint(
        TRAINING_VERSION,
        supervision_key,
        student.model_dump(exclude={"model"}),  # where it lies says nothing of what it is
        training.model_dump(),
        folder_fingerprint(student.model),
        list(space.labels),
    )


def _matching_checkpoint(checkpoints: Path, key: str) -> str | None:
    """The last checkpoint of this very training; checkpoints of another are removed."""
    mark = checkpoints / "fingerprint.json"
    with PartialState(cpu=compute.device() == "cpu").main_process_first():
        if read_json(mark) == key:
            for folder in checkpoints.glob("checkpoint-*"):
                if read_json(folder / "trainer_state.json") is None:  # cut short while it was written
                    remove(folder)
            last: str | None = get_last_checkpoint(str(checkpoints))  # type: ignore[no-untyped-call]
            if last:
                logger.info("training: continuing from %s", last)
            return last
        if checkpoints.exists():
            logger.info("training: starting anew (settings, texts or supervision changed since the last checkpoint)")
            remove(checkpoints)
        write_json(mark, key)
    return None


def _trainer(
    model: PreTrainedModel,
    objective: Any,
    tokenizer: PreTrainedTokenizerBase,
    train: SupervisedTexts,
    held_out: SupervisedTexts,
    training: TrainingConfig,
    checkpoints: Path,
) -> IntegrationTrainer:
    args = training_arguments(training, checkpoints, steps_per_epoch(len(train), training), evaluate=len(held_out) > 0)
    with refusing():
        trainer = IntegrationTrainer(
            model=model,
            args=args,
            train_dataset=train,
            eval_dataset=held_out if len(held_out) else None,
            data_collator=SupervisionCollator(tokenizer),
            processing_class=tokenizer,
            objective=objective,
        )
    require_built(trainer)
    quiet(trainer, "training")
    if training.patience and len(held_out):
        trainer.add_callback(EarlyStoppingCallback(training.patience))
    return trainer


def _about(trainer: Trainer, key: str, seconds: float, n_train: int, n_holdout: int) -> dict[str, Any]:
    state = trainer.state
    history = state.log_history
    return {
        "fingerprint": key,
        "seconds": round(seconds, 3),
        "steps": state.global_step,
        "texts": n_train,
        "held_out": n_holdout,
        "best_held_out_loss": state.best_metric,
        "best_step": state.best_global_step,
        "losses": [{"step": h["step"], "loss": h["loss"]} for h in history if "loss" in h],
        "held_out_losses": [{"step": h["step"], "loss": h["eval_loss"]} for h in history if "eval_loss" in h],
    }
