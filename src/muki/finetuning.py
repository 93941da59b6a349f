"""A teacher from labelled texts: ordinary fine-tuning on some of the labels."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from muki.batches import tokenize
from muki.checkpoints import quiet_transformers
from muki.config import TrainingConfig
from muki.errors import LabelError, MukiError, StudentError, first_line
from muki.files import require_local
from muki.progress import clock
from muki.texts import Columns, Text, read

logger = logging.getLogger(__name__)

_MODEL_FILES = {".json", ".safetensors", ".bin", ".txt", ".model", ".md", ".jinja"}


@quiet_transformers()
def finetune(
    base: str,
    texts: str | Sequence[Any],
    output: str | Path,
    *,
    labels: Sequence[str] | None = None,
    columns: Columns | None = None,
    training: TrainingConfig | None = None,
    max_length: int = 128,
    prefix: str = "",
    trust_remote_code: bool = False,
) -> Path:
    """Fine-tune a classifier on labelled texts; texts with other labels are left out.

    Args:
        base: folder or Hub id of an encoder.
        texts: a source with a label column, as for `muki.texts.read`.
        output: where the `save_pretrained` folder goes.
        labels: the labels to learn, in the order of the columns; all in sorted order by default.
        columns: which columns hold text, text pair and label.
        training: epochs, learning rate, batch size, seed; every field of `TrainingArguments`. `holdout`, `patience`
            and `head` are not used: the last state is kept, and the head starts at random.
        max_length: tokens per text.
        prefix: put before each text.
        trust_remote_code: run code that comes with the checkpoint.

    Returns:
        the folder.

    Raises:
        LabelError: a wanted label does not occur, or there are fewer than two.
    """
    import time

    from muki.student.model import load_student
    from muki.student.saving import save_classifier
    from muki.tokenization import usable_length

    output = Path(output)
    require_local(output)
    _require_replaceable(output, str(base))
    columns = columns or Columns(label="label")
    training = training or TrainingConfig()
    given = [text for text in read(texts, columns) if text.text.strip()]
    labelled = [text for text in given if text.label is not None]
    chosen = _choose(labelled, labels)
    kept = [text for text in labelled if text.label in chosen]
    logger.info("fine-tuning on %d of %d texts, labels %s", len(kept), len(given), ", ".join(chosen))
    if len(labelled) < len(given):
        logger.warning("%d texts without a label are left out", len(given) - len(labelled))
    model, tokenizer = load_student(base, chosen, seed=training.seed, trust_remote_code=trust_remote_code)
    max_length = usable_length(model.config, tokenizer, max_length, output.name)
    index = {label: i for i, label in enumerate(chosen)}
    encodings = tokenize(tokenizer, kept, max_length, prefix)
    items = [{**encoding, "labels": index[text.label or ""]} for encoding, text in zip(encodings, kept, strict=True)]
    start = time.monotonic()
    _train(model, tokenizer, items, training, output)
    save_classifier(model, tokenizer, output, max_length)
    logger.info("fine-tuned in %s, saved in %s", clock(time.monotonic() - start), output)
    return output


def _require_replaceable(output: Path, base: str) -> None:
    """The folder is written anew, so there must be nothing, or an earlier output and nothing else.

    Raises:
        MukiError: it is a file, the base itself, or holds something that no model folder does.
    """
    if output.exists() and not output.is_dir():
        raise MukiError(f"output '{output}': is a file; give a folder")
    if output.exists() and Path(base).exists() and output.samefile(base):
        raise MukiError(f"output '{output}': is the base, which would be replaced; choose another output folder")
    found = sorted(output.iterdir()) if output.exists() else []
    if found and not (output / "config.json").exists():
        raise MukiError(
            f"output '{output}': not empty, and not a model folder (no config.json); choose another output folder"
        )
    others = [path.name for path in found if path.is_dir() or path.suffix not in _MODEL_FILES]
    if others:
        raise MukiError(
            f"output '{output}': would be replaced, but holds more than a model ({', '.join(others[:3])}); choose "
            "another output folder"
        )


def _choose(labelled: Sequence[Text], labels: Sequence[str] | None) -> list[str]:
    counts = Counter(text.label for text in labelled if text.label is not None)
    chosen = list(dict.fromkeys(labels)) if labels is not None else sorted(counts)
    unknown = [label for label in chosen if label not in counts]
    if unknown:
        raise LabelError(
            f"labels: {', '.join(map(repr, unknown))} not in the texts ({', '.join(sorted(counts)) or 'none'})"
        )
    if len(chosen) < 2:
        raise LabelError(f"labels: two or more are needed, found {len(chosen)} ({', '.join(chosen) or 'none'})")
    return chosen


def _train(model: Any, tokenizer: Any, items: list[dict[str, Any]], training: TrainingConfig, output: Path) -> None:
    import tempfile

    import torch
    from transformers import DataCollatorWithPadding

    from muki.student.trainer import (
        GroupingTrainer,
        quiet,
        refusing,
        require_built,
        require_finite,
        steps_per_epoch,
        training_arguments,
    )

    with tempfile.TemporaryDirectory() as scratch:
        args = training_arguments(training, Path(scratch), steps_per_epoch(len(items), training), evaluate=False)
        args.label_names, args.save_strategy = ["labels"], "no"
        with refusing():
            trainer = GroupingTrainer(
                model=model,
                args=args,
                train_dataset=items,
                data_collator=DataCollatorWithPadding(tokenizer),
                processing_class=tokenizer,
            )
        require_built(trainer)
        quiet(trainer, f"fine-tuning {output.name}")
        try:
            trainer.train()
        except torch.OutOfMemoryError as error:
            raise StudentError(f"fine-tuning: out of memory ({first_line(error)}); set batch_size lower") from error
        require_finite(trainer.model, training)
