"""What every checkpoint folder must hold, whoever loads it: teacher, student, or a model that predicts."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muki.errors import StudentError
from muki.files import file_fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "*.model", "*.spm", "*.bpe")


def is_missing_folder(model: str) -> bool:
    """Whether `model` can only mean a folder, and is none: then the Hub need not be asked."""
    path = Path(model)
    if path.is_dir():
        return False
    folder_like = path.is_file() or path.is_absolute() or model.startswith((".", "~"))
    return folder_like or len(path.parts) > 2 or (len(path.parts) == 2 and path.parent.is_dir())


def lacks_tokenizer(model: str) -> bool:
    """Whether a folder holds no tokenizer; transformers would make one up, of special tokens only."""
    path = Path(model)
    return path.is_dir() and not any(any(path.glob(name)) for name in _TOKENIZER)


def brings_code(model: str | Path) -> bool:
    """Whether a folder's checkpoint wants to run code of its own."""
    config = Path(model) / "config.json"
    if not config.exists():
        return False
    content: Any = json.loads(config.read_text(encoding="utf-8"))
    return "auto_map" in content


def folder_fingerprint(model: str) -> object:
    """What a checkpoint is: the bytes of its files (sizes and times would mislead); a Hub id is taken by name."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    names = [p for p in sorted(folder.iterdir()) if p.suffix in (".json", ".safetensors", ".bin", ".txt", ".model")]
    return [(p.name, file_fingerprint(p)) for p in names if p.is_file()]


# Families whose position ids start after the padding id: it is part of their embeddings.
OFFSET_POSITIONS = (
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
    if config is not None and (config.pad_token_id is None or config.model_type not in OFFSET_POSITIONS):
        config.pad_token_id = tokenizer.pad_token_id
    return tokenizer.pad_token is not None


def load_student_model(kind: Any, model: str, *, seed: int = 0, **settings: Any) -> Any:
    """Load a model whose encoder must be whole; what its head or pooler lacks is drawn anew from `seed`.

    torch's global random state is the same afterwards.

    Args:
        kind: the auto class, `AutoModel` or `AutoModelForSequenceClassification`.
        model: folder or Hub id.
        seed: of the weights that the checkpoint lacks.
        settings: more arguments of `from_pretrained`.

    Raises:
        StudentError: weights of the encoder are missing or have another shape.
        OSError, ValueError, …: it cannot be loaded, see `loading_errors`.
    """
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        loaded, info = kind.from_pretrained(model, ignore_mismatched_sizes=True, output_loading_info=True, **settings)
    _require_encoder_weights(loaded, info, model)
    return loaded


def _require_encoder_weights(model: Any, info: dict[str, Any], name: str) -> None:
    """Refuse an encoder with weights that the checkpoint does not give; transformers would draw them at random.

    Only parameters count, not buffers such as position ids. The pooler may be absent: encoders are often saved
    without, and only a fresh head reads it.
    """
    below = f"{model.base_model_prefix}." if model.base_model is not model else ""
    own = {key for key, _ in model.named_parameters(remove_duplicate=False) if key.startswith(below)}
    missing = {key for key in info["missing_keys"] if "pooler" not in key}
    misfit = {key for key, *_ in info["mismatched_keys"]}
    bad = sorted(own & (missing | misfit))
    if bad:
        what = "has another shape in the checkpoint" if bad[0] in misfit else "is not in the checkpoint"
        raise StudentError(
            f"student '{name}': {len(bad)} of the {len(own)} weight tensors of its encoder cannot be loaded, and would "
            f"be random ('{bad[0]}' {what}); check that config.json and the weights belong together, or save the model "
            "anew (model.save_pretrained)"
        )


def loading_errors() -> tuple[type[Exception], ...]:
    """What loading a broken checkpoint raises."""
    from safetensors import SafetensorError

    return (OSError, ValueError, ImportError, RuntimeError, KeyError, SafetensorError)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from printing bars for weights and reports of missing ones, then give it its voice back.

    What such a report could say, our own checks say as errors. Downloads from the Hub keep their bars. The settings
    are the whole process's: what another thread does with transformers meanwhile is quiet too.
    """
    from transformers.utils import logging as theirs

    verbosity, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity(logging.ERROR)
    theirs._tqdm_active = False  # `disable_progress_bar` would silence the Hub's downloads too
    try:
        yield
    finally:
        theirs.set_verbosity(verbosity)
        theirs._tqdm_active = bars
