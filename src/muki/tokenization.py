"""What a tokenizer and its model must agree on: which token pads, and how many tokens a text may have."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from muki.errors import MukiError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_USUAL_LENGTH = 512  # where a tokenizer does not say
_NO_LENGTH = 1_000_000  # transformers writes a very large number then

# Families whose position ids start after the padding id: it is part of their embeddings.
_OFFSET_POSITIONS = (
    "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer", "data2vec-text",
)  # fmt: skip


def ensure_padding(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig | None = None) -> bool:
    """Pad on the right, with the end token where there is no padding token (decoders); model and tokenizer agree on it.

    Padding on the left, which decoders want for writing, would shift a text's tokens by the length of its batch. The
    heads of causal models read the last token that is not padding, on whichever side that is.

    Returns:
        whether there is a padding token now.
    """
    if tokenizer.pad_token is None:
        known = None if config is None else config.pad_token_id
        named = None if known is None or not 0 <= known < len(tokenizer) else tokenizer.convert_ids_to_tokens(known)
        tokenizer.pad_token = named or tokenizer.eos_token
    if not type(tokenizer).__name__.startswith("XLNet"):  # whose class token is the very last
        tokenizer.padding_side = "right"
    if config is not None and (config.pad_token_id is None or config.model_type not in _OFFSET_POSITIONS):
        config.pad_token_id = tokenizer.pad_token_id
    return tokenizer.pad_token is not None


def require_padding(
    tokenizer: PreTrainedTokenizerBase, who: str, error: type[MukiError], config: PreTrainedConfig | None = None
) -> None:
    """As `ensure_padding`, and refuse a tokenizer without padding and end token, or without an attention mask.

    Args:
        tokenizer: is changed.
        who: for the message, such as "teacher 'a'".
        error: what is raised.
        config: of the model, which is changed too.
    """
    lacking = tokenizer.pad_token is None
    if not ensure_padding(tokenizer, config):
        raise error(
            f"{who}: its tokenizer has neither a padding token nor an end token; set one "
            "(tokenizer.pad_token = ...) and save the tokenizer in that folder"
        )
    if "attention_mask" not in tokenizer.model_input_names:
        raise error(
            f"{who}: its tokenizer gives no attention mask (model_input_names: "
            f"{', '.join(tokenizer.model_input_names)}), so that its answer for a text would depend on the padding of "
            "the batch; choose a model that takes one"
        )
    if lacking:
        logger.warning("%s: no padding token; using %r", who, tokenizer.pad_token)


def usable_length(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, wanted: int, name: str) -> int:
    """Cut `wanted` tokens down to what model and tokenizer can take."""
    usable = min(wanted, longest(config, tokenizer))
    if usable < wanted:
        logger.warning("'%s': max_length %d cut down to the %d tokens that it can take", name, wanted, usable)
    return usable


def longest(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """The most tokens a text that model and tokenizer can take."""
    positions = getattr(config, "max_position_embeddings", None) or -1
    if positions < 1:  # relative positions; XLNet says -1
        return int(tokenizer.model_max_length)
    if config.model_type in _OFFSET_POSITIONS:  # position ids start after the padding id there
        positions -= (config.pad_token_id or 0) + 1
    return int(min(positions, tokenizer.model_max_length))


def saved_length(tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens per text that a saved tokenizer stands for: ours says what the student was trained on."""
    length = int(tokenizer.model_max_length)
    return length if length < _NO_LENGTH else _USUAL_LENGTH
