"""Teachers: loaded with their own tokenizer, checked, and fingerprinted by content."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from muki.compute import fast_dtype
from muki.errors import TeacherError
from muki.files import fingerprint
from muki.labels import label_names, rename
from muki.teachers.dropout import with_dropout

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

DEFAULT_MAX_LENGTH = 128
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer", "data2vec-text")


@dataclass
class Teacher:
    """A fine-tuned classifier that reads raw text through its own tokenizer.

    Attributes:
        name: unique in a run; names its folder of scores.
        model: a sequence classifier in eval mode; does the deterministic pass.
        tokenizer: the model's own.
        labels: label names by column, after renaming.
        prefix: put before each text, e.g. "query: " for E5 models.
        max_length: tokens per text; longer texts are cut.
        passes_dtype: number format of the dropout passes, whose rounding drowns in the dropout's own noise.
        dropout_override: the explicit dropout rate this teacher was rebuilt with; None for its own.
        fingerprint: of weights, label names and tokenizer; equal content, equal fingerprint, wherever it lies.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    labels: tuple[str, ...]
    prefix: str = ""
    max_length: int = DEFAULT_MAX_LENGTH
    passes_dtype: torch.dtype = torch.float32
    dropout_override: float | None = None
    fingerprint: str = ""

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.model.device

    @cached_property
    def passes_model(self) -> PreTrainedModel:
        """The model that does the dropout passes: `model`, or a copy of it in `passes_dtype`."""
        if self.passes_dtype == self.model.dtype:
            return self.model
        return cast("PreTrainedModel", cast(Any, copy.deepcopy(self.model)).to(self.passes_dtype))

    @property
    def parameters(self) -> int:
        """How many parameters the model has."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def settings(self) -> dict[str, Any]:
        """What else its outputs depend on, besides its content and the texts."""
        return {
            "prefix": self.prefix,
            "max_length": self.max_length,
            "dropout_override": self.dropout_override,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "passes_dtype": str(self.passes_dtype).removeprefix("torch."),
        }


def load_teacher(
    model: str,
    *,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    prefix: str = "",
    max_length: int = DEFAULT_MAX_LENGTH,
    dtype: str = "auto",
    revision: str | None = None,
    dropout_override: float | None = None,
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
) -> Teacher:
    """Load a teacher from a folder, a PEFT adapter folder, or a Hub id.

    Args:
        model: folder or Hub id of an `AutoModelForSequenceClassification` checkpoint, or of a PEFT adapter.
        name: of the teacher in the run; the folder's name by default.
        labels: own label name to wanted name, for those to be renamed.
        prefix: put before each text.
        max_length: tokens per text, at least 2; cut down to what the model can take.
        dtype: "auto" for float32, with dropout passes in bfloat16 where this machine computes it clearly faster; or
            one of "float32", "bfloat16", "float16" for all passes.
        revision: of a Hub repository.
        dropout_override: set every dropout rate to this, in (0, 1): an explicit choice for models trained without.
        trust_remote_code: run code that comes with the checkpoint.
        device: where to put it; the accelerator if there is one, else the CPU.

    Raises:
        TeacherError: missing, not a classifier, regression, multi-label, one class, remote code, no padding token.
        LabelError: generic or doubled label names, or an alias for a label that is not there.
    """
    name = name or Path(model).name or model
    _require_folder_if_path(model, name)
    try:
        loaded, tokenizer = _load(
            model,
            name,
            labels or {},
            torch.float32 if dtype == "auto" else getattr(torch, dtype),
            revision,
            trust_remote_code,
        )
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        raise TeacherError(f"teacher '{name}': cannot be loaded from '{model}' ({_first_line(error)})") from error
    return wrap_teacher(
        loaded, tokenizer, name=name, labels=labels, prefix=prefix, max_length=max_length,
        passes_dtype=None if dtype == "auto" else loaded.dtype, dropout_override=dropout_override, device=device,
    )  # fmt: skip


def wrap_teacher(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    labels: Mapping[str, str] | None = None,
    prefix: str = "",
    max_length: int = DEFAULT_MAX_LENGTH,
    passes_dtype: torch.dtype | None = None,
    dropout_override: float | None = None,
    device: str | torch.device | None = None,
) -> Teacher:
    """Make a teacher of a model and tokenizer that are loaded already; same checks as `load_teacher`.

    `passes_dtype` None takes bfloat16 for the dropout passes of a float32 model where the machine computes it faster.
    """
    _require_single_label_classifier(model.config, name)
    own_labels = label_names(model)
    renamed = rename(name, own_labels, labels or {})
    _require_padding(model, tokenizer, name)
    content = content_fingerprint(model, tokenizer)
    if dropout_override is not None:
        model = with_dropout(model, dropout_override)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if passes_dtype is None:
        passes_dtype = fast_dtype(str(device)) if model.dtype == torch.float32 else model.dtype
    return Teacher(
        name=name,
        model=model.to(device).eval(),  # type: ignore[arg-type]
        tokenizer=tokenizer,
        labels=renamed,
        prefix=prefix,
        max_length=usable_length(model.config, tokenizer, max_length, name),
        passes_dtype=passes_dtype,
        dropout_override=dropout_override,
        fingerprint=content,
    )


def content_fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Fingerprint what decides a teacher's outputs: weights, label names and tokenizer."""
    parts: list[object] = [type(model).__name__, label_names(model)]
    for key, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        parts += [key, list(tensor.shape), str(tensor.dtype), flat.view(torch.uint8).numpy().tobytes()]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts.append(backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items()))
    return fingerprint(*parts)


def usable_length(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, wanted: int, name: str) -> int:
    """Cut `wanted` tokens down to what model and tokenizer can take."""
    positions = getattr(config, "max_position_embeddings", None) or wanted
    if config.model_type in _OFFSET_POSITIONS:  # position ids start after the padding id there
        positions -= (config.pad_token_id or 0) + 1
    usable = min(wanted, positions, tokenizer.model_max_length)
    if usable < wanted:
        logger.warning("'%s': max_length %d cut down to the %d tokens that it can take", name, wanted, usable)
    return int(usable)


# --- checks ------------------------------------------------------------------------------------------------------


def _require_folder_if_path(model: str, name: str) -> None:
    """A missing folder should not be looked up on the Hub first, where `teachers/a` is a valid id."""
    path = Path(model)
    if path.exists():
        if not path.is_dir():
            raise TeacherError(f"teacher '{name}': '{model}' is a file; give the folder that save_pretrained wrote")
        if not ((path / "config.json").exists() or (path / "adapter_config.json").exists()):
            raise TeacherError(
                f"teacher '{name}': no config.json in '{model}'; give the folder that save_pretrained wrote "
                "(or a PEFT adapter's, with adapter_config.json)"
            )
    elif path.is_absolute() or model.startswith((".", "~")) or len(path.parts) != 2 or path.parent.is_dir():
        if len(path.parts) == 1 and not path.is_absolute() and not model.startswith((".", "~")):
            return  # a Hub id without owner, e.g. "distilbert-base-uncased-finetuned-sst-2-english"
        raise TeacherError(f"teacher '{name}': no such folder: '{model}'; give a save_pretrained folder or a Hub id")


def _load(
    model: str, name: str, aliases: Mapping[str, str], dtype: torch.dtype, revision: str | None, trust: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    if (Path(model) / "adapter_config.json").exists():
        return _load_adapter(Path(model), name, aliases, dtype)
    _refuse_remote_code(Path(model) / "config.json", name, trust)
    config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust)
    _require_single_label_classifier(config, name)
    loaded, info = AutoModelForSequenceClassification.from_pretrained(
        model, dtype=dtype, revision=revision, trust_remote_code=trust, output_loading_info=True
    )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise TeacherError(
            f"teacher '{name}': not a fine-tuned classifier: the checkpoint '{model}' lacks {', '.join(missing[:3])}"
            f"{' …' if len(missing) > 3 else ''}; fine-tune it first (muki finetune), or give the fine-tuned folder"
        )
    tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=trust)
    return loaded, tokenizer


def _load_adapter(
    folder: Path, name: str, aliases: Mapping[str, str], dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a PEFT adapter on its base model, unmerged: merging would remove its dropout."""
    try:
        from peft import PeftModel
    except ImportError:
        raise TeacherError(f"teacher '{name}': '{folder}' is a PEFT adapter; pip install 'muki[peft]'") from None
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    weights = folder / "adapter_model.safetensors"
    heads = [
        tensor.shape[0]
        for key, tensor in (load_file(weights).items() if weights.exists() else ())
        if key.endswith("weight") and "lora_" not in key and any(part in key for part in ("classifier", "score"))
    ]
    if not heads:
        raise TeacherError(
            f"teacher '{name}': the adapter '{folder}' holds no classification head; train it with task_type=SEQ_CLS "
            "(or modules_to_save=['classifier']) so that the head is saved"
        )
    labels = _adapter_labels(folder, heads[-1])
    base = AutoModelForSequenceClassification.from_pretrained(
        adapter["base_model_name_or_path"],
        dtype=dtype,
        id2label=dict(enumerate(labels)),
        label2id={label: column for column, label in enumerate(labels)},
        ignore_mismatched_sizes=True,
    )
    has_tokenizer = (folder / "tokenizer_config.json").exists()
    tokenizer = AutoTokenizer.from_pretrained(str(folder) if has_tokenizer else adapter["base_model_name_or_path"])
    model: Any = PeftModel.from_pretrained(base, str(folder))
    return model, tokenizer


def _adapter_labels(folder: Path, n_labels: int) -> list[str]:
    """An adapter folder has no label names of its own, unless its trainer put a config.json beside it."""
    config = folder / "config.json"
    stored = json.loads(config.read_text(encoding="utf-8")).get("id2label", {}) if config.exists() else {}
    return [str(stored.get(str(column), f"LABEL_{column}")) for column in range(n_labels)]


def _refuse_remote_code(config: Path, name: str, trust: bool) -> None:
    if trust or not config.exists():
        return
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TeacherError(f"teacher '{name}': '{config}' is not readable JSON ({error})") from None
    if "auto_map" in content:
        raise TeacherError(
            f"teacher '{name}': its checkpoint wants to run code of its own ({config.name} has auto_map); "
            "read that code, then allow it with --trust-remote-code"
        )


def _require_single_label_classifier(config: PreTrainedConfig, name: str) -> None:
    if config.problem_type == "regression":
        raise TeacherError(f"teacher '{name}': a regression model (problem_type=regression); a classifier is expected")
    if config.problem_type == "multi_label_classification":
        raise TeacherError(
            f"teacher '{name}': a multi-label classifier (problem_type=multi_label_classification); one with exactly "
            "one label per text is expected"
        )
    if (config.num_labels or 0) < 2:
        raise TeacherError(
            f"teacher '{name}': one class only (num_labels={config.num_labels}); its certainty is undefined, "
            "two or more classes are expected"
        )


def _require_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Give a decoder's tokenizer its end token as padding, as is usual; refuse where there is none."""
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise TeacherError(
                f"teacher '{name}': its tokenizer has neither a padding token nor an end token; set one "
                "(tokenizer.pad_token = ...) and save the tokenizer in the teacher's folder"
            )
        logger.warning("teacher '%s': no padding token; using its end token %r", name, tokenizer.eos_token)
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
