"""Training: a small subclass of transformers' Trainer, and what is saved."""

from __future__ import annotations

import logging
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate import PartialState
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from muki import compute
from muki.batches import tokenize
from muki.checkpoints import folder_fingerprint
from muki.config import StudentConfig, TrainingConfig
from muki.errors import StudentError, first_line
from muki.files import digests, fingerprint, read_json, remove, replacing, unchanged, write_json
from muki.integration.store import Supervision
from muki.labels import LabelSpace
from muki.progress import clock, progress
from muki.student.data import LengthGrouped, SupervisedTexts, SupervisionCollator, split_holdout
from muki.student.head import fit_head
from muki.student.model import load_student
from muki.student.objectives import Divergence, make_objective
from muki.teachers.checks import usable_length
from muki.texts import TextShards

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TRAINING_VERSION = 3  # raise when the same supervision and settings make another student
MAX_STEPS_BETWEEN_CHECKPOINTS = 500
MOST_CHECKPOINTS = 20  # of a short training: a small pool is read many times


class GroupingTrainer(Trainer):
    """Trainer whose `group_by_length`, our default, keeps its batches in random order."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        texts: Any = train_dataset or self.train_dataset
        lengths = [len(texts[i]["input_ids"]) for i in range(len(texts))]
        return LengthGrouped(lengths, self.args.train_batch_size, self.args.seed)


class IntegrationTrainer(GroupingTrainer):
    """Trainer whose loss is a method's objective; batches carry `supervision` beside the model's inputs."""

    # The loss is a mean over each batch, so accumulated batches have to be averaged by the Trainer.
    loss_is_scaled_for_ga = False
    objective: Any = Divergence()

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The objective on one batch; never passes the soft targets as `labels`."""
        extra = {"output_hidden_states": True} if self.objective.needs_states else {}
        outputs = model(**{key: value for key, value in inputs.items() if key != "supervision"}, **extra)
        loss = self.objective(outputs, inputs["attention_mask"], inputs["supervision"])
        return (loss, outputs) if return_outputs else loss


class _Progress(TrainerCallback):
    """The Trainer's steps on our progress line."""

    def __init__(self, title: str) -> None:
        self.title = title

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._context = progress(self.title, state.max_steps, "steps", done=state.global_step)
            self._advance = self._context.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._advance(1)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        loss = kwargs["metrics"].get("eval_loss")
        if loss is not None and state.is_world_process_zero:
            logger.info("step %d: integration loss on held-out texts %.4f", state.global_step, loss)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._context.__exit__(None, None, None)


def train_student(
    texts: TextShards,
    supervision: Supervision,
    supervision_key: str,
    space: LabelSpace,
    student: StudentConfig,
    training: TrainingConfig,
    *,
    folder: Path,
    checkpoints: Path,
    record: Path,
    objective: str = "kl",
    trust_remote_code: bool = False,
) -> str:
    """Train the student and save it; continues from a checkpoint of the same training, if there is one.

    Args:
        texts: the pool.
        supervision: for each of its texts, in the same order.
        supervision_key: fingerprint of the supervision.
        space: the label space.
        student: what it starts from.
        training: how.
        folder: where the `save_pretrained` folder goes; written whole or not at all.
        checkpoints: where checkpoints lie while training lasts; removed at the end.
        record: JSON about the training: fingerprint, steps, losses, seconds.
        objective: what it minimises, by the method's name for it.
        trust_remote_code: run code that comes with the checkpoint.

    Returns:
        the fingerprint of this student.
    """
    key = student_fingerprint(supervision_key, student, training, space)
    if _is_done(record, key, folder):
        return key
    model, tokenizer = load_student(
        student.model, space.labels, seed=training.seed, trust_remote_code=trust_remote_code
    )
    max_length = usable_length(model.config, tokenizer, student.max_length, "student")
    encodings = tokenize(tokenizer, list(texts), max_length, student.prefix)
    train_index, holdout_index = split_holdout(supervision.rows, training.holdout, training.seed)
    resume = _matching_checkpoint(checkpoints, key)
    minimised = make_objective(objective, model, supervision, space, training.seed)
    if any(True for _ in minimised.parameters()):
        cast(Any, model).blocks = minimised  # a part of the model while it trains: optimised, saved and resumed with it
    taught = SupervisedTexts(encodings, supervision, train_index)
    trainer = _trainer(
        model,
        minimised,
        tokenizer,
        taught,
        SupervisedTexts(encodings, supervision, holdout_index) if len(holdout_index) else None,
        training,
        checkpoints,
    )
    logger.info("training on %d texts, %d held out to choose the checkpoint", len(train_index), len(holdout_index))
    start = time.monotonic()
    try:
        if resume is None and training.head == "probe":
            fit_head(model, tokenizer, taught, minimised, training.seed)
        trainer.train(resume_from_checkpoint=resume)
    except torch.OutOfMemoryError as error:
        raise StudentError(f"student: out of memory ({first_line(error)}); set training.batch_size lower") from error
    seconds = time.monotonic() - start
    if trainer.is_world_process_zero():
        remove(record)  # so that an interruption here cannot leave a student with another's record
        if hasattr(model, "blocks"):
            del model.blocks
        save_classifier(trainer.model, tokenizer, folder, max_length)
        files = digests(folder, (path.name for path in sorted(folder.iterdir()) if path.is_file()))
        about = _record(trainer, key, seconds, len(train_index), len(holdout_index))
        write_json(record, {**about, "settings": training_settings(student, training), "files": files})
        remove(checkpoints)
        logger.info("student: trained in %s, saved in %s", clock(seconds), folder)
    return key


def _is_done(record: Path, key: str, folder: Path) -> bool:
    """Whether the student in the folder is this very one; says so, or that it will be replaced."""
    done = read_json(record)
    files = done.get("files") if done is not None and done.get("fingerprint") == key else None
    if files is not None and unchanged(folder, files):
        logger.info("student: reusing %s (same supervision, start and training settings)", folder)
        return True
    if folder.exists():
        logger.info("student: training anew, for other supervision or settings; the one in %s is replaced", folder)
    return False


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
        student.model_dump(),
        training.model_dump(),
        folder_fingerprint(student.model),
        list(space.labels),
    )


def save_classifier(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, max_length: int) -> None:
    """Write a plain `save_pretrained` folder; the tokenizer's `truncation=True` then cuts where training did."""
    tokenizer.model_max_length = max_length
    with replacing(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def steps_per_epoch(texts: int, training: TrainingConfig) -> int:
    """Optimiser steps in which so many texts are read once, by all processes together."""
    accumulate = int(training.passed_through.get("gradient_accumulation_steps", 1))
    world = int(os.environ.get("WORLD_SIZE", 1))
    return math.ceil(texts / (training.batch_size * accumulate * world))


def training_arguments(training: TrainingConfig, folder: Path, steps: int, evaluate: bool) -> TrainingArguments:
    """Our settings as transformers' `TrainingArguments`, for epochs of so many steps; what the user gives wins."""
    epochs = training.epochs_of(steps)
    an_epoch_or_more = max(steps, math.ceil(epochs * steps / MOST_CHECKPOINTS))
    between = max(1, min(an_epoch_or_more, MAX_STEPS_BETWEEN_CHECKPOINTS))
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": epochs,
        "learning_rate": training.learning_rate,
        "per_device_train_batch_size": training.batch_size,
        "per_device_eval_batch_size": 2 * training.batch_size,
        "seed": training.seed,
        "warmup_steps": 0.1,
        "train_sampling_strategy": "group_by_length",
        "save_strategy": "steps",
        "save_steps": between,
        "save_total_limit": 2,
        "logging_steps": max(1, between // 10),
        "disable_tqdm": True,
        "report_to": "none",
        "remove_unused_columns": False,
        "label_names": ["supervision"],
        "prediction_loss_only": True,
        "use_cpu": compute.device() == "cpu",
        "bf16": compute.fast_dtype(compute.device()) == torch.bfloat16,
        "dataloader_pin_memory": compute.device() == "cuda",
    }
    if evaluate:
        settings |= {
            "eval_strategy": "steps",
            "eval_steps": between,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": False,
        }
    try:
        return TrainingArguments(**{**settings, **training.passed_through})
    except (ValueError, TypeError, ImportError) as error:
        raise StudentError(f"training: transformers refuses these settings ({' '.join(str(error).split())})") from error


def _trainer(
    model: PreTrainedModel,
    objective: Any,
    tokenizer: PreTrainedTokenizerBase,
    train: SupervisedTexts,
    holdout: SupervisedTexts | None,
    training: TrainingConfig,
    checkpoints: Path,
) -> IntegrationTrainer:
    args = training_arguments(
        training, checkpoints, steps_per_epoch(len(train), training), evaluate=holdout is not None
    )
    trainer = IntegrationTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=holdout,
        data_collator=SupervisionCollator(tokenizer),
        processing_class=tokenizer,
    )
    trainer.objective = objective
    quiet(trainer, "training")
    if training.patience and holdout is not None:
        trainer.add_callback(EarlyStoppingCallback(training.patience))
    return trainer


def quiet(trainer: Trainer, title: str) -> None:
    """Put our progress line in the place of the Trainer's own printing."""
    for callback in list(trainer.callback_handler.callbacks):
        if isinstance(callback, (PrinterCallback, ProgressCallback)):
            trainer.remove_callback(callback)
    trainer.add_callback(_Progress(title))


def _matching_checkpoint(checkpoints: Path, key: str) -> str | None:
    """The last checkpoint of this very training; checkpoints of another are removed."""
    mark = checkpoints / "fingerprint.json"
    with PartialState().main_process_first():
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


def _record(trainer: Trainer, key: str, seconds: float, n_train: int, n_holdout: int) -> dict[str, Any]:
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
