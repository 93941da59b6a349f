"""One teacher reads some texts: a deterministic pass, then dropout passes until each text is known well enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from muki.batches import BATCH_TOKENS, Encoding, length_batches, require_known_tokens, tokenize
from muki.certainty import certainty_error
from muki.errors import TeacherError, first_line
from muki.files import fingerprint
from muki.formulas import entropy, softmax
from muki.progress import Advance
from muki.teachers.dropout import dropout_on, require_spread
from muki.teachers.features import keeping
from muki.teachers.loading import Teacher
from muki.teachers.masks import pass_keys
from muki.teachers.outputs import TeacherOutputs
from muki.texts import Text

SCORING_VERSION = 2  # raise when the numbers for the same teacher, texts and settings change


_PROBES = 8  # rows that prove dropout; each has masks of its own, and one alone may come out the same by chance
_NAMED_ROWS = 8  # of a batch that a message names


@dataclass(frozen=True)
class Passes:
    """Which dropout passes to draw.

    Attributes:
        most: K, the most for a text; 0 for none.
        tolerance: stop drawing for a text once the jackknife standard error of its certainty is at most this; None for
            always K.
        fewest: passes before the first check. Two are too few for an error estimate that can be trusted.
        seed: of the masks.
    """

    most: int = 16
    tolerance: float | None = None
    fewest: int = 3
    seed: int = 0

    def label(self) -> str:
        """What a store of outputs calls them: `16`, or `16 to 0.02`."""
        return f"{self.most}" if self.tolerance is None else f"{self.most} to {self.tolerance:g}"

    def rounds(self) -> Iterator[range]:
        """Passes that are drawn between two checks."""
        if self.tolerance is None or self.most <= self.fewest:
            yield range(self.most)
            return
        yield range(self.fewest)
        yield from (range(number, number + 1) for number in range(self.fewest, self.most))


def score_texts(
    teacher: Teacher,
    texts: Sequence[Text],
    *,
    passes: int | Passes = 16,
    batch_tokens: int = BATCH_TOKENS,
    keep: str = "",
    advance: Advance | None = None,
) -> TeacherOutputs:
    """Score texts with one teacher.

    Args:
        teacher: the teacher; its mode (train or eval) is the same afterwards.
        texts: the texts; their row ids name their dropout masks.
        passes: Monte-Carlo dropout passes K (0 for none), or `Passes` for adaptive ones or another seed of the masks.
            The same seed gives the same scores for every batch size, order and number of processes, up to float
            rounding of the matrix products.
        batch_tokens: tokens per batch, padding included. Decides speed and memory, not results.
        keep: what else of the deterministic pass to keep: "", "features", "states" or "features+states".
        advance: called with the number of texts that finished a pass; one that stops early counts its rest at once.

    Returns:
        outputs in the order of `texts`.

    Raises:
        DropoutError: two dropout passes over the first texts agree; of fewer than eight texts nothing is said.
        TeacherError: a token is unknown to the model, memory does not suffice, a logit is not a number, or the model
            cannot give what is to be kept.
    """
    plan = passes if isinstance(passes, Passes) else Passes(passes)
    encodings = tokenize(teacher.tokenizer, texts, teacher.max_length, teacher.prefix)
    require_known_tokens(teacher.tokenizer, encodings, teacher.model, f"teacher '{teacher.name}'", TeacherError)
    rows = np.array([text.row for text in texts], dtype=np.int64)
    logits = np.zeros((len(texts), len(teacher.labels)), dtype=np.float32)
    kept: dict[str, NDArray[np.float16]] = {}
    for index, batch in length_batches(teacher.tokenizer, encodings, batch_tokens):
        with keeping(teacher, keep) as inner:
            logits[index] = _forward(teacher, teacher.model, batch, rows[index])
        for what, values in inner(batch).items():
            kept.setdefault(what, np.zeros((len(texts), *values.shape[1:]), dtype=np.float16))[index] = values
        if advance:
            advance(len(index))
    draws, counts = _draw(teacher, encodings, rows, plan, batch_tokens, advance)
    return replace(_outputs(rows, logits, draws, counts), features=kept.get("features"), states=kept.get("states"))


def _draw(
    teacher: Teacher,
    encodings: Sequence[Encoding],
    rows: NDArray[np.int64],
    plan: Passes,
    batch_tokens: int,
    advance: Advance | None,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Softmax of each dropout pass, shape (n, K, C), and how many were drawn for each text, shape (n,)."""
    n = len(rows)
    draws = np.zeros((n, plan.most, len(teacher.labels)), dtype=np.float32)
    counts = np.zeros(n, dtype=np.int32)
    if not plan.most:
        return draws, counts
    masks = teacher.masks
    mask_seed = int(fingerprint(plan.seed, teacher.fingerprint)[:16], 16)
    undecided = np.arange(n)
    firsts: list[NDArray[np.float32]] = []  # logits of the first two passes, until there are enough to compare
    seconds: list[NDArray[np.float32]] = []
    unproven = _PROBES if plan.most > 1 else 0  # rows still to be compared
    with dropout_on(teacher.passes_model), torch.random.fork_rng():
        for numbers in plan.rounds():
            chosen = [encodings[i] for i in undecided.tolist()]
            for place, batch in length_batches(teacher.tokenizer, chosen, batch_tokens):
                index = undecided[place]
                for number in numbers:
                    keys = pass_keys(mask_seed, rows[index], number)
                    torch.manual_seed(int(keys[0] >> np.uint64(1)))  # for the rare dropout that no mask can reach
                    with masks.batch(keys):
                        drawn = _forward(teacher, teacher.passes_model, batch, rows[index])
                    draws[index, number] = softmax(drawn)
                    if unproven and number < 2:
                        (firsts, seconds)[number].append(drawn)
                    if advance:
                        advance(len(index))
                if unproven and not numbers.start and (unproven := max(0, unproven - len(index))) == 0:
                    require_spread(np.concatenate(firsts), np.concatenate(seconds), teacher.model, teacher.name)
            counts[undecided] = numbers.stop
            if plan.tolerance is None or numbers.stop >= plan.most:
                continue
            decided = certainty_error(draws[undecided, : numbers.stop]) <= plan.tolerance
            if advance:
                advance(int(decided.sum()) * (plan.most - numbers.stop))
            undecided = undecided[~decided]
            if not len(undecided):
                break
    return draws, counts


def probe_dropout(teacher: Teacher, text: str = "A short text to see whether two dropout passes differ.") -> None:
    """Prove on one batch that dropout passes differ; nothing is kept.

    One text is not enough: a teacher of two labels may give it the same probability in two passes by chance.

    Raises:
        DropoutError: they do not.
    """
    score_texts(teacher, [Text(row, text) for row in range(_PROBES)], passes=2)


def probe_kept(teacher: Teacher, keep: str) -> None:
    """Prove on one text that the model shows what `keep` names: "", "features", "states" or both joined by `+`.

    Raises:
        TeacherError: it does not.
    """
    if keep:
        score_texts(teacher, [Text(0, "A short text.")], passes=0, keep=keep)


def _forward(
    teacher: Teacher, model: Any, batch: dict[str, torch.Tensor], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Logits of one forward pass, shape (batch, C), checked to be numbers."""
    try:
        with torch.inference_mode():
            logits = model(**{key: value.to(model.device) for key, value in batch.items()}).logits
    except torch.OutOfMemoryError as error:
        raise TeacherError(
            f"teacher '{teacher.name}': out of memory ({first_line(error)}); set scoring.batch_tokens lower"
        ) from error
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        named = ", ".join(map(str, sorted(rows)[:_NAMED_ROWS])) + (" …" if len(rows) > _NAMED_ROWS else "")
        raise TeacherError(
            f"teacher '{teacher.name}': fails on a batch of texts ({type(error).__name__}: {first_line(error)}); a "
            f"text may hold what this model does not take, such as its end token: look for it in rows {named}"
        ) from error
    values: NDArray[np.float32] = logits.float().cpu().numpy()
    bad = ~np.isfinite(values).all(axis=-1)
    if bad.any():
        raise TeacherError(
            f"teacher '{teacher.name}': logits are not finite ({_first_not_finite(values):g} for the text in row "
            f"{rows[bad][0]}); finite numbers are expected: check the checkpoint, or load it with dtype: float32"
        )
    return values


def _first_not_finite(values: NDArray[np.float32]) -> float:
    return float(values[~np.isfinite(values)][0])


def _outputs(
    rows: NDArray[np.int64], logits: NDArray[np.float32], draws: NDArray[np.float32], counts: NDArray[np.int32]
) -> TeacherOutputs:
    """Means and spread over the drawn passes; NaN where there were none."""
    drawn = np.arange(draws.shape[1]) < counts[:, None]  # (n, K)
    entropies = entropy(draws)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(drawn[..., None], draws, 0.0).sum(axis=1, dtype=np.float64) / counts[:, None]
        mean_entropy = np.where(drawn, entropies, 0.0).sum(axis=1) / counts
        squares = np.where(drawn, (entropies - mean_entropy[:, None]) ** 2, 0.0).sum(axis=1)
        spread = np.where(counts > 0, np.sqrt(squares / np.maximum(counts - 1, 1)), np.nan)
    return TeacherOutputs(
        rows=rows,
        logits=logits,
        mc_mean=mean.astype(np.float32),
        passes=counts,
        pass_entropy=mean_entropy.astype(np.float32),
        pass_spread=spread.astype(np.float32),
    )
