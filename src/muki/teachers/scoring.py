"""One teacher reads some texts: a deterministic pass, then dropout passes; sums only, never all passes at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from muki.batches import BATCH_TOKENS, length_batches, tokenize
from muki.errors import TeacherError
from muki.files import fingerprint
from muki.formulas import entropy, softmax
from muki.progress import Advance
from muki.teachers.dropout import dropout_on, require_spread
from muki.teachers.loading import Teacher
from muki.teachers.masks import DropoutMasks, pass_keys
from muki.teachers.outputs import TeacherOutputs
from muki.texts import Text

SCORING_VERSION = 1  # raise when the numbers for the same teacher, texts and settings change


@dataclass
class PassSums:
    """Running sums over the dropout passes of n texts: what mean, mean entropy and its spread need."""

    probabilities: NDArray[np.float64]  # (n, C)
    entropies: NDArray[np.float64]  # (n,)
    squared_entropies: NDArray[np.float64]  # (n,)
    passes: NDArray[np.int32]  # (n,)

    @classmethod
    def zeros(cls, n: int, classes: int) -> PassSums:
        """No pass yet."""
        return cls(np.zeros((n, classes)), np.zeros(n), np.zeros(n), np.zeros(n, dtype=np.int32))

    def add(self, index: NDArray[np.int64], probabilities: NDArray[np.float64]) -> None:
        """Add one pass for the texts at `index`."""
        entropies = entropy(probabilities)
        self.probabilities[index] += probabilities
        self.entropies[index] += entropies
        self.squared_entropies[index] += entropies**2
        self.passes[index] += 1


def score_texts(
    teacher: Teacher,
    texts: Sequence[Text],
    *,
    passes: int = 16,
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    advance: Advance | None = None,
) -> TeacherOutputs:
    """Score texts with one teacher.

    Args:
        teacher: the teacher; its mode (train or eval) is the same afterwards.
        texts: the texts; their row ids name their dropout masks.
        passes: Monte-Carlo dropout passes K; 0 for none.
        seed: of the masks. The same seed gives the same scores for every batch size, order and number of processes,
            up to float rounding of the matrix products.
        batch_tokens: tokens per batch, padding included. Decides speed and memory, not results.
        advance: called with the number of texts times passes that were finished.

    Returns:
        outputs in the order of `texts`.

    Raises:
        DropoutError: `passes` > 0 and two dropout passes over the first batch are identical.
        TeacherError: a logit is not a number.
    """
    encodings = tokenize(teacher.tokenizer, texts, teacher.max_length, teacher.prefix)
    n, classes = len(texts), len(teacher.labels)
    rows = np.array([text.row for text in texts], dtype=np.int64)
    logits = np.zeros((n, classes), dtype=np.float32)
    sums = PassSums.zeros(n, classes)
    masks = masks_for(teacher) if passes else None
    mask_seed = int(fingerprint(seed, teacher.fingerprint)[:16], 16)
    first: torch.Tensor | None = None  # until the first batch has shown that its passes differ
    proven = False

    for index, batch in length_batches(teacher.tokenizer, encodings, batch_tokens):
        with torch.inference_mode():
            logits[index] = _finite(_forward(teacher.model, batch), teacher, rows[index])
            if advance:
                advance(len(index))
            if masks is None:
                continue
            with dropout_on(teacher.passes_model), torch.random.fork_rng(devices=[]):
                for number in range(passes):
                    keys = pass_keys(mask_seed, rows[index], number)
                    torch.manual_seed(int(keys[0] >> np.uint64(1)))  # for the rare dropout that no mask can reach
                    with masks.batch(keys):
                        drawn = _forward(teacher.passes_model, batch)
                    if first is None:
                        first = drawn
                    elif not proven:
                        require_spread(first, drawn, teacher.model, teacher.name)
                        proven = True
                    sums.add(index, softmax(_finite(drawn, teacher, rows[index])))
                    if advance:
                        advance(len(index))
    return _outputs(rows, logits, sums)


def probe_dropout(teacher: Teacher, text: str = "A short text to see whether two dropout passes differ.") -> None:
    """Prove on one batch that dropout passes differ; nothing is kept.

    Raises:
        DropoutError: they do not.
    """
    score_texts(teacher, [Text(0, text)], passes=2)


def masks_for(teacher: Teacher) -> DropoutMasks:
    """Masks laid out for this teacher's widest dropout site."""
    config: Any = teacher.model.config
    heads = getattr(config, "num_attention_heads", None) or 1
    sizes = [getattr(config, name, None) or 1 for name in ("hidden_size", "intermediate_size", "embedding_size")]
    length = teacher.max_length
    return DropoutMasks(length, max(heads * length * length, length * max(sizes)))


def _forward(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of one forward pass as float32 on the CPU, shape (batch, C)."""
    logits: torch.Tensor = model(**{key: value.to(model.device) for key, value in batch.items()}).logits
    return logits.float().cpu()


def _finite(logits: torch.Tensor, teacher: Teacher, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    values: NDArray[np.float32] = logits.numpy()
    bad = ~np.isfinite(values).all(axis=-1)
    if bad.any():
        raise TeacherError(
            f"teacher '{teacher.name}': logits are not finite ({values[bad][0][0]:g} for the text in row "
            f"{rows[bad][0]}); finite numbers are expected: check the checkpoint, or load it with dtype: float32"
        )
    return values


def _outputs(rows: NDArray[np.int64], logits: NDArray[np.float32], sums: PassSums) -> TeacherOutputs:
    with np.errstate(invalid="ignore"):
        drawn = np.where(sums.passes > 0, sums.passes, np.nan)
        mean_entropy = sums.entropies / drawn
        variance = np.maximum(sums.squared_entropies / drawn - mean_entropy**2, 0.0)
        spread = np.sqrt(variance * drawn / np.maximum(drawn - 1.0, 1.0))
    return TeacherOutputs(
        rows=rows,
        logits=logits,
        mc_mean=(sums.probabilities / drawn[:, None]).astype(np.float32),
        passes=sums.passes,
        pass_entropy=mean_entropy.astype(np.float32),
        pass_spread=spread.astype(np.float32),
    )
