"""PEFT adapters as teachers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from muki.checkpoints import has_tokenizer, refuse_remote_code
from muki.errors import TeacherError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Adapter(NamedTuple):
    """What an adapter's folder says of itself: its base, the base's revision, and the label names by column."""

    base: str
    revision: str | None
    labels: tuple[str, ...]


def read_adapter(folder: Path, name: str) -> Adapter:
    """Read an adapter's folder, without its base.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        name: the teacher's, for messages.

    Raises:
        TeacherError: a broken `adapter_config.json`, no safetensors, or no classification head.
    """
    return _described(folder, _tensors(folder, name), name)


def load_adapter(
    folder: Path, name: str, dtype: torch.dtype, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a PEFT adapter on its base model, unmerged: merging would remove its dropout.

    Args:
        folder: with `adapter_config.json`, which names the base and, perhaps, the base's revision.
        name: the teacher's, for messages.
        dtype: of the base model.
        trust_remote_code: run code that comes with the base.

    Raises:
        TeacherError: no safetensors, no classification head, weights that neither base nor adapter give, or code of
            the base's own that is not trusted.
    """
    try:
        from peft import PeftModel
    except ImportError:
        raise TeacherError(f"teacher '{name}': '{folder}' is a PEFT adapter; pip install 'muki[peft]'") from None
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tensors = _tensors(folder, name)
    base, revision, labels = _described(folder, tensors, name)
    if not trust_remote_code:
        refuse_remote_code(base, f"teacher '{name}'", TeacherError)
    source: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    with torch.random.fork_rng():  # peft draws what it then reads from the adapter
        loaded, info = AutoModelForSequenceClassification.from_pretrained(
            base,
            dtype=dtype,
            id2label=dict(enumerate(labels)),
            label2id={label: column for column, label in enumerate(labels)},
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **source,
        )
        _require_weights(info, set(tensors), base, folder, name)
        model: Any = PeftModel.from_pretrained(loaded, str(folder))
    if has_tokenizer(str(folder)):
        return model, AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    return model, AutoTokenizer.from_pretrained(base, **source)


def _described(folder: Path, tensors: dict[str, torch.Tensor], name: str) -> Adapter:
    path = folder / "adapter_config.json"
    config = _read_object(path, name)
    if not config.get("base_model_name_or_path"):
        raise TeacherError(
            f"teacher '{name}': '{path}' names no base model; write its folder or Hub id there as "
            "base_model_name_or_path"
        )
    labels = _adapter_labels(folder, _head_size(tensors, folder, name), name)
    return Adapter(config["base_model_name_or_path"], config.get("revision"), tuple(labels))


def _read_object(path: Path, name: str) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
    except ValueError as error:  # undecodable bytes and broken JSON too
        raise TeacherError(
            f"teacher '{name}': '{path}' is not readable JSON ({error}); save the adapter anew"
        ) from None
    return content


def _tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """The adapter's tensors; those that replace the base's end with the base's names for them."""
    from safetensors.torch import load_file

    weights = folder / "adapter_model.safetensors"
    if not weights.exists():
        instead = " (only adapter_model.bin)" if (folder / "adapter_model.bin").exists() else ""
        raise TeacherError(
            f"teacher '{name}': no adapter_model.safetensors in '{folder}'{instead}; save the adapter anew with a "
            "current peft (model.save_pretrained)"
        )
    return {key.replace("modules_to_save.", ""): tensor for key, tensor in load_file(weights).items()}


def _head_size(tensors: dict[str, torch.Tensor], folder: Path, name: str) -> int:
    """How many classes the adapter's head has."""
    heads = [
        tensor.shape[0]
        for key, tensor in tensors.items()
        if key.endswith("weight") and "lora_" not in key and {"classifier", "score"} & set(key.split("."))
    ]
    if not heads:
        raise TeacherError(
            f"teacher '{name}': the adapter '{folder}' holds no classification head; train it with task_type=SEQ_CLS "
            "(or modules_to_save=['classifier']) so that the head is saved"
        )
    return int(heads[-1])


def _require_weights(info: dict[str, Any], given: set[str], base: str, folder: Path, name: str) -> None:
    """Refuse weights that would be random at each load, because neither base nor adapter holds them."""
    lacking = set(info["missing_keys"]) | {key for key, *_ in info["mismatched_keys"]}
    lost = sorted(key for key in lacking if not any(f".{one}".endswith(f".{key}") for one in given))
    if lost:
        raise TeacherError(
            f"teacher '{name}': neither the base model '{base}' nor the adapter '{folder}' holds {', '.join(lost[:3])}"
            f"{' …' if len(lost) > 3 else ''}; train the adapter with these in modules_to_save, so that they are saved"
        )


def _adapter_labels(folder: Path, n_labels: int, name: str) -> list[str]:
    """An adapter folder has no label names of its own, unless its trainer put a config.json beside it."""
    config = folder / "config.json"
    stored = (_read_object(config, name).get("id2label") if config.exists() else None) or {}
    return [str(stored.get(str(column), f"LABEL_{column}")) for column in range(n_labels)]
