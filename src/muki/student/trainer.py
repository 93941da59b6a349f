"""The Trainer: a small subclass of transformers', its settings, and its steps on our progress line."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from muki import compute
from muki.config import TrainingConfig
from muki.errors import MukiError, StudentError, first_line
from muki.processes import launched, world_size
from muki.progress import progress
from muki.student.data import LengthGrouped

logger = logging.getLogger(__name__)

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

    def __init__(self, *args: Any, objective: nn.Module, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.objective: Any = objective

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The objective on one batch; never passes the soft targets as `labels`."""
        extra = {"output_hidden_states": True} if self.objective.needs_states else {}
        outputs = model(**{key: value for key, value in inputs.items() if key != "supervision"}, **extra)
        loss = self.objective(outputs, inputs["attention_mask"], inputs["supervision"])
        return (loss, outputs) if return_outputs else loss


class ProgressLine(TrainerCallback):
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


def steps_per_epoch(texts: int, training: TrainingConfig) -> int:
    """Optimiser steps in which so many texts are read once, by all processes together."""
    accumulate = training.passed_through.get("gradient_accumulation_steps", 1)
    if type(accumulate) is not int or accumulate < 1:
        raise StudentError(
            f"training: gradient_accumulation_steps is {accumulate}; expected a whole number of 1 or more"
        )
    return math.ceil(texts / (training.batch_size * accumulate * world_size() * compute.replicas()))


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
        "dataloader_pin_memory": compute.device().startswith("cuda"),
    }
    if evaluate:
        settings |= {
            "eval_strategy": "steps",
            "eval_steps": between,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": False,
        }
    given = {key: _number(key, value) for key, value in training.passed_through.items()}
    if given.get("fp16"):
        settings["bf16"] = False
    if not evaluate and str(given.get("eval_strategy", "no")) != "no":
        raise StudentError(
            f"training: eval_strategy {given['eval_strategy']} needs held-out texts; set training.holdout above 0 and "
            "give ten texts or more, or leave eval_strategy out"
        )
    try:
        return TrainingArguments(**{**settings, **given})
    except (ValueError, TypeError, ImportError) as error:
        raise StudentError(f"training: transformers refuses these settings ({' '.join(str(error).split())})") from error


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what transformers raises of settings, while it builds what they ask for, into one clear error."""
    try:
        yield
    except (MukiError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise StudentError(
            f"training: transformers refuses these settings ({type(error).__name__}: {first_line(error)})"
        ) from error


def require_built(trainer: Trainer) -> None:
    """Let transformers build optimiser and schedule now, and drop them: it finds out much of what is wrong only then.

    Raises:
        StudentError: it cannot.
    """
    if launched():  # what some launchers put in their place is built once, with the model's parts
        return
    with refusing():
        trainer.create_optimizer_and_scheduler(num_training_steps=1)
    trainer.optimizer = trainer.lr_scheduler = None


def require_finite(model: Any, training: TrainingConfig) -> None:
    """Refuse weights that are no numbers: such a model answers its first label to everything.

    Raises:
        StudentError: some are not.
    """
    bad = [name for name, weights in model.named_parameters() if not bool(torch.isfinite(weights).all())]
    if bad:
        raise StudentError(
            f"training: diverged, {len(bad)} weight tensors are no numbers any more ('{bad[0]}'); set "
            f"training.learning_rate lower (now {training.learning_rate:g})"
        )


def _number(key: str, value: Any) -> Any:
    """A value for a number as a number: YAML reads `1e-2` as text, and not every field of transformers is converted."""
    known = TrainingArguments.__dataclass_fields__
    if isinstance(value, str) and key in known and "float" in str(known[key].type):
        try:
            return float(value)
        except ValueError:
            return value  # perhaps a word that it takes too
    return value


def quiet(trainer: Trainer, title: str) -> None:
    """Put our progress line in the place of the Trainer's own printing."""
    for callback in list(trainer.callback_handler.callbacks):
        if isinstance(callback, (PrinterCallback, ProgressCallback)):
            trainer.remove_callback(callback)
    trainer.add_callback(ProgressLine(title))
