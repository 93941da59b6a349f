"""Find out before hours of scoring what would stop the training: settings, or a student that cannot be trained so."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers.trainer_utils import IntervalStrategy

from muki.checkpoints import quiet_transformers
from muki.config import RunConfig
from muki.errors import StudentError, first_line
from muki.labels import LabelSpace
from muki.processes import launched
from muki.student.model import load_student
from muki.student.objectives import Divergence
from muki.student.trainer import IntegrationTrainer, refusing, require_built, steps_per_epoch, training_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@quiet_transformers()
def rehearse(config: RunConfig, space: LabelSpace) -> None:
    """Load the student, let it read a text, and build what its training needs; all is thrown away.

    Processes that a launcher started only load it: the rest would make them wait for each other.

    Raises:
        StudentError: the student cannot be loaded or read a text, shows no hidden states where the method's objective
            imitates them, or transformers refuses the training settings.
    """
    if config.method.student == "trained" or config.method.refines:
        model, tokenizer = load_student(
            config.student.model, space.labels, seed=0, trust_remote_code=config.trust_remote_code
        )
        if config.method.student == "trained" and not launched():
            _require_readable(model, tokenizer, config)
            _require_settings(model, tokenizer, config)
        model.cpu()  # where the trainer has put it on an accelerator, the teachers need the room


def _require_readable(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> None:
    who, states = f"student '{config.student.model}'", config.method.objective in ("dfa", "cfl")
    inputs = tokenizer("A short text.", return_tensors="pt")
    try:
        with torch.inference_mode():
            shown: Any = cast(Any, model).eval()(**inputs, **({"output_hidden_states": True} if states else {}))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise StudentError(f"{who}: cannot read a text ({type(error).__name__}: {first_line(error)})") from error
    layers = getattr(shown, "hidden_states", None) or ()
    if states and len(layers) != getattr(model.config, "num_hidden_layers", 0) + 1:
        raise StudentError(
            f"{who}: {type(model).__name__} shows {len(layers)} hidden states, and method.objective "
            f"'{config.method.objective}' imitates the teachers' at every layer; choose an encoder, or another method"
        )


def _require_settings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> None:
    training, evaluate = config.training, config.training.holdout > 0
    with tempfile.TemporaryDirectory() as scratch:
        args = training_arguments(training, Path(scratch), steps_per_epoch(1, training), evaluate=evaluate)
        if training.patience and args.eval_strategy == IntervalStrategy.NO:
            raise StudentError(
                "training: patience counts evaluations on held-out texts, and there are none; set training.holdout "
                "above 0 and leave eval_strategy out, or leave patience out"
            )
        with refusing():
            nothing: Any = [{}]
            trainer = IntegrationTrainer(
                model=model,
                args=args,
                train_dataset=nothing,
                eval_dataset=nothing if evaluate else None,
                processing_class=tokenizer,
                objective=Divergence(),
            )
        require_built(trainer)
