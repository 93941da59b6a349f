"""Predictions of a saved classifier: a stream in, a stream out, in order."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import torch

from muki import compute
from muki.batches import BATCH_TOKENS, length_batches, require_known_tokens, tokenize
from muki.checkpoints import (
    load_classifier,
    loading,
    quiet_transformers,
    refuse_remote_code,
    require_checkpoint,
)
from muki.errors import MukiError, StudentError
from muki.files import replacing, require_local
from muki.formulas import Array, softmax
from muki.labels import label_names, require_label_names
from muki.progress import Advance
from muki.texts import Text
from muki.tokenization import longest, require_padding, saved_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CHUNK = 1024


@dataclass
class Classifier:
    """A saved sequence classifier, ready to predict."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    prefix: str = ""

    @property
    def labels(self) -> list[str]:
        """Label names by column."""
        return label_names(self.model.config)

    @classmethod
    @quiet_transformers()
    def load(
        cls, folder: str | Path, *, prefix: str = "", max_length: int | None = None, trust_remote_code: bool = False
    ) -> Classifier:
        """Load any saved classifier, ours or not.

        Args:
            folder: `save_pretrained` folder or Hub id.
            prefix: put before each text; what the student was trained with.
            max_length: tokens per text; by default what the saved tokenizer says, 512 where it says nothing;
                never more than the model can take.
            trust_remote_code: run code that comes with the checkpoint.

        Raises:
            StudentError: it cannot be loaded.
        """
        from transformers import AutoTokenizer

        require_checkpoint(str(folder), "model", StudentError)
        if not trust_remote_code:
            refuse_remote_code(str(folder), "model", StudentError)
        with loading(str(folder), f"model '{folder}'", StudentError):
            model, missing = load_classifier(str(folder), "model", StudentError, trust_remote_code=trust_remote_code)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        require_label_names(model.config, f"model '{folder}'", StudentError)
        if missing:
            raise StudentError(
                f"model '{folder}': not a fine-tuned classifier: the checkpoint lacks {', '.join(missing[:3])}"
            )
        require_padding(tokenizer, "model", StudentError, model.config)
        model = model.to(compute.device()).eval()
        most = longest(model.config, tokenizer)
        return cls(model, tokenizer, min(max_length or saved_length(tokenizer), most), prefix)

    def probabilities(self, texts: list[Text], batch_tokens: int = BATCH_TOKENS) -> Array:
        """Softmax over the labels, shape (n, C), in the order of the texts.

        Raises:
            StudentError: a logit is no number, or the tokenizer has tokens that the model does not know.
        """
        encodings = tokenize(self.tokenizer, texts, self.max_length, self.prefix)
        require_known_tokens(self.tokenizer, encodings, self.model, f"model '{self.model.name_or_path}'", StudentError)
        logits = np.zeros((len(texts), len(self.labels)))
        for index, batch in length_batches(self.tokenizer, encodings, batch_tokens):
            with torch.inference_mode():
                values = self.model(**{k: v.to(self.model.device) for k, v in batch.items()}).logits
            logits[index] = values.float().cpu().numpy()
        bad = np.flatnonzero(~np.isfinite(logits).all(axis=-1))
        if len(bad):
            raise StudentError(
                f"model '{self.model.name_or_path}': its logits are no numbers for the text in row "
                f"{texts[bad[0]].row}; check the checkpoint, its training may have diverged"
            )
        return softmax(logits)


def stream(
    classifier: Classifier, texts: Iterable[Text], advance: Advance | None = None
) -> Iterator[tuple[Text, Array]]:
    """Yield each text with its probabilities, shape (C,), in order and in constant memory."""
    iterator = iter(texts)
    while chunk := list(itertools.islice(iterator, _CHUNK)):
        yield from zip(chunk, classifier.probabilities(chunk), strict=True)
        if advance:
            advance(len(chunk))


def predict_file(classifier: Classifier, texts: Iterable[Text], output: Path, advance: Advance | None = None) -> int:
    """Write one JSON object a line: id, label, score, all probabilities. Returns the number of texts.

    An empty text is predicted too, so that lines match the input's. The file is written whole or not at all.
    """
    require_local(output)
    if output.is_dir():
        raise MukiError(f"output '{output}': is a folder; give a file")
    with replacing(output) as temporary, temporary.open("w", encoding="utf-8") as file:
        return write_predictions(classifier, texts, file, advance)


def write_predictions(
    classifier: Classifier, texts: Iterable[Text], file: TextIO, advance: Advance | None = None
) -> int:
    """Write the lines of `predict_file` to an open file, a pipe for one. Returns the number of texts."""
    labels = classifier.labels
    count = 0
    for text, probabilities in stream(classifier, texts, advance):
        file.write(json.dumps(prediction(text, probabilities, labels), ensure_ascii=False) + "\n")
        count += 1
    return count


def prediction(text: Text, probabilities: Array, labels: list[str]) -> dict[str, Any]:
    """One prediction as JSON-able content."""
    top = int(probabilities.argmax())
    return {
        "id": str(text.row) if text.id is None else text.id,
        "label": labels[top],
        "score": round(float(probabilities[top]), 6),
        "probabilities": {label: round(float(p), 6) for label, p in zip(labels, probabilities, strict=True)},
    }
