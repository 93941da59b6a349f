"""What every checkpoint folder must hold, and how it is loaded, for teachers, students and models that predict."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from muki.errors import MukiError, StudentError, first_line
from muki.files import file_fingerprint

# What transformers says below its first line: a sign in the first line, and the remedy in our words.
_LOG_IN = "; if it is private or gated, run `hf auth login` with an account that may read it, or set HF_TOKEN"
_ADAPTER = "; a PEFT adapter on the Hub is read from a folder: `hf download` it, and give that"
_REMEDIES = {
    "not a valid model identifier": _LOG_IN,
    "gated repo": _LOG_IN,
    "contains custom code": "; read that code, then allow it with trust_remote_code: true in the run file",
    "did not match any variant": "; a newer version may have written it: pip install --upgrade tokenizers transformers",
}
_HUB_REMEDIES = {"does not appear to have a file named": _ADAPTER, "`model_type` key": _ADAPTER}
_POINTER = b"version https://git-lfs.github.com/spec/"  # what a clone without git-lfs holds instead of a large file
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "*.model", "*.spm", "*.bpe")


def require_checkpoint(model: str, who: str, error: type[MukiError], *, adapters: bool = False) -> None:
    """Refuse a folder that transformers would look up on the Hub, or complete with something made up.

    Args:
        model: folder or Hub id; a Hub id is taken as it is.
        who: for messages, such as "teacher 'a'".
        error: what is raised.
        adapters: whether a PEFT adapter will do, whose base says the rest.
    """
    if _is_missing_folder(model):
        if Path(model).is_file():
            raise error(f"{who}: '{model}' is a file; give the folder that save_pretrained wrote")
        raise error(f"{who}: no such folder: '{model}'; give a save_pretrained folder or a Hub id")
    folder = Path(model)
    if not folder.is_dir() or (adapters and is_adapter(model)):
        return
    if not (folder / "config.json").exists():
        instead = " (or a PEFT adapter's, with adapter_config.json)" if adapters else ""
        raise error(f"{who}: no config.json in '{model}'; give the folder that save_pretrained wrote{instead}")
    if not has_tokenizer(model):
        raise error(
            f"{who}: no tokenizer in '{model}'; save the model's own tokenizer there (tokenizer.save_pretrained)"
        )
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.stat().st_size < 1024 and file.read_bytes().startswith(_POINTER):
            raise error(
                f"{who}: '{file}' is a pointer of git-lfs, not the file itself; run `git lfs pull` in '{model}'"
            )


def refuse_remote_code(model: str, who: str, error: type[MukiError]) -> None:
    """Refuse a folder whose checkpoint wants to run code of its own; arguments as of `require_checkpoint`."""
    config = Path(model) / "config.json"
    if not config.exists():
        return
    try:
        content: Any = json.loads(config.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as broken:
        raise error(f"{who}: '{config}' is not readable JSON ({broken})") from None
    if "auto_map" in content:
        raise error(
            f"{who}: its checkpoint wants to run code of its own (config.json has auto_map); read that code, then "
            "allow it with --trust-remote-code, or trust_remote_code: true in the run file"
        )


def has_tokenizer(model: str) -> bool:
    """Whether a folder holds a tokenizer; without one, transformers makes one up of special tokens only."""
    return any(any(Path(model).glob(name)) for name in _TOKENIZER)


def is_adapter(model: str) -> bool:
    """Whether this is the folder of a PEFT adapter."""
    return (Path(model) / "adapter_config.json").exists()


def _is_missing_folder(model: str) -> bool:
    """Whether `model` can only mean a folder, and is none: then the Hub need not be asked."""
    path = Path(model)
    if path.is_dir():
        return False
    folder_like = path.is_file() or path.is_absolute() or model.startswith((".", "~"))
    return folder_like or len(path.parts) > 2 or (len(path.parts) == 2 and path.parent.is_dir())


def folder_fingerprint(model: str) -> object:
    """What a checkpoint is: the bytes of its files (sizes and times would mislead); a Hub id is taken by name."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    names = [
        p
        for p in sorted(folder.iterdir())
        if p.suffix in (".json", ".safetensors", ".bin", ".txt", ".model", ".spm", ".bpe", ".py")
    ]
    return [(p.name, file_fingerprint(p)) for p in names if p.is_file()]


def load_classifier(model: str, who: str, error: type[MukiError], **settings: Any) -> tuple[Any, list[str]]:
    """Load a sequence classifier whose weights have the shapes that its configuration says.

    Args:
        model: folder or Hub id.
        who: for messages, such as "teacher 'a'".
        error: what is raised where a shape is another; transformers would draw new weights.
        settings: more arguments of `from_pretrained`.

    Returns:
        the model, and the names of the weights that the checkpoint lacks: of an encoder, those of the head.

    Raises:
        OSError, ValueError, …: it cannot be loaded; `loading` says it in one line.
    """
    from transformers import AutoModelForSequenceClassification

    loaded, info = AutoModelForSequenceClassification.from_pretrained(
        model, ignore_mismatched_sizes=True, output_loading_info=True, **settings
    )
    for key, found, expected in sorted(info["mismatched_keys"])[:1]:
        raise error(
            f"{who}: {key} has the shape {tuple(found)} in the checkpoint '{model}', and config.json asks for "
            f"{tuple(expected)}; a head has one row for each label name: correct id2label there, or save the model "
            "anew (model.save_pretrained)"
        )
    return loaded, sorted(info["missing_keys"])


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
        OSError, ValueError, …: it cannot be loaded; `loading` says it in one line.
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


def why_not_loaded(model: str, error: Exception) -> str:
    """One line of what loading `model` raised; a name that is no folder here was looked up on the Hub."""
    said = f"KeyError: {error}" if isinstance(error, KeyError) else first_line(error)  # of itself it says but the key
    here = Path(model).exists()
    remedies = _REMEDIES if here else _REMEDIES | _HUB_REMEDIES
    remedy = next((remedy for sign, remedy in remedies.items() if sign in said), "")
    where = "" if here else f"no folder of that name in '{Path.cwd()}', and on the Hub: "
    return f"{where}{said}{remedy}"


@contextmanager
def loading(model: str, who: str, error: type[MukiError]) -> Iterator[None]:
    """Turn whatever loading a checkpoint raises into one clear error; arguments as of `require_checkpoint`.

    Broken files make transformers, tokenizers, torch and safetensors raise errors of many kinds; tokenizers' own is
    `Exception` itself, so that is what is caught.
    """
    try:
        yield
    except MukiError:
        raise
    except Exception as problem:
        where = "" if model in who else f" from '{model}'"
        raise error(f"{who}: cannot be loaded{where} ({why_not_loaded(model, problem)})") from problem


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
