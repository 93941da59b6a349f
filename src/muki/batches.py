"""Raw text to padded batches of similar length, for whoever runs a model over texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from muki.errors import MukiError
from muki.texts import Text

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_TOKENS = 2048
BATCH_ROWS = 256

Encoding = dict[str, list[int]]


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], max_length: int, prefix: str = ""
) -> list[Encoding]:
    """Token ids of each text (or text pair), cut to `max_length` tokens, without padding."""
    if not texts:
        return []
    pairs = [text.text_pair or "" for text in texts] if any(text.text_pair is not None for text in texts) else None
    encoded = tokenizer([prefix + text.text for text in texts], pairs, truncation=True, max_length=max_length)
    return [{key: encoded[key][i] for key in encoded} for i in range(len(texts))]


def require_known_tokens(
    tokenizer: PreTrainedTokenizerBase,
    encodings: Sequence[Encoding],
    model: PreTrainedModel,
    who: str,
    error: type[MukiError],
) -> None:
    """Refuse tokens that the model has no embedding for; it would fail in the middle, on a GPU beyond recognition.

    Args:
        tokenizer: whose padding token will fill the batches.
        encodings: of the texts; none to look at the padding token alone.
        model: that is to read them.
        who: for the message, such as "teacher 'a'".
        error: what is raised.
    """
    known = getattr(model.get_input_embeddings(), "num_embeddings", None)
    largest = max((max(encoding["input_ids"], default=0) for encoding in encodings), default=0)
    if known is None:
        return
    if (tokenizer.pad_token_id or 0) >= known:
        raise error(
            f"{who}: its tokenizer pads with token {tokenizer.pad_token_id} ({tokenizer.pad_token}), and its model has "
            f"embeddings for {known} tokens only; give the tokenizer that the model was trained with, or one that pads "
            "with a token the model knows (tokenizer.pad_token = tokenizer.eos_token, then save_pretrained)"
        )
    if largest >= known:
        raise error(
            f"{who}: its tokenizer makes token {largest} of a text, and its model has embeddings for {known} tokens "
            "only; give the tokenizer that the model was trained with (tokenizer.save_pretrained into its folder)"
        )


def length_batches(
    tokenizer: PreTrainedTokenizerBase, encodings: Sequence[Encoding], batch_tokens: int = BATCH_TOKENS
) -> Iterator[tuple[NDArray[np.int64], dict[str, torch.Tensor]]]:
    """Batches of similar length within a budget of tokens, longest first.

    Yields:
        positions in `encodings`, shape (b,), and the model's inputs, padded on the right side for this tokenizer.
    """
    from transformers import DataCollatorWithPadding

    pad = DataCollatorWithPadding(tokenizer)
    lengths = np.array([len(encoding["input_ids"]) for encoding in encodings], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, min(BATCH_ROWS, batch_tokens // max(1, int(lengths[order[start]]))))
        index = order[start : start + size]
        start += size
        yield index, dict(pad([encodings[i] for i in index]))
