"""The student as an ONNX file, and the proof that it gives the same answers."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from muki.errors import MukiError, RunFolderError
from muki.files import replacing
from muki.predict import Classifier
from muki.texts import Text

logger = logging.getLogger(__name__)

TOLERANCE = 1e-3
_OPSET = 18
_COMPANIONS = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


class ExportError(MukiError):
    """The export is not possible here, or its answers differ."""


def export_onnx(student: Path, output: Path, texts: Sequence[str], *, trust_remote_code: bool = False) -> float:
    """Write `model.onnx` with the tokenizer's files beside it, and compare its logits with the student's.

    Args:
        student: a `save_pretrained` folder.
        output: folder; written whole or not at all.
        texts: to compare on; some of the pool are best.
        trust_remote_code: run code that comes with the student.

    Returns:
        the largest difference of a logit, at most 1e-3.

    Raises:
        RunFolderError: there is no student.
        ExportError: the extra `onnx` is missing, or the answers differ by more than 1e-3.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError:
        raise ExportError("export to ONNX: onnxruntime or onnxscript is missing; pip install 'muki[onnx]'") from None
    if not (student / "config.json").exists():
        raise RunFolderError(f"{student}: no student yet; run `muki train {student.parent}` first")
    classifier = Classifier.load(student, trust_remote_code=trust_remote_code)
    loaded: Any = classifier.model
    model = loaded.cpu().float().eval()
    batches = [_encode(classifier, list(texts[:2])), *(_encode(classifier, [text]) for text in texts)]
    with replacing(output) as temporary:
        temporary.mkdir()
        _write(model, batches[0], classifier.max_length, temporary / "model.onnx")
        for name in _COMPANIONS:
            if (student / name).exists():
                shutil.copy2(student / name, temporary / name)
        session = onnxruntime.InferenceSession(temporary / "model.onnx", providers=["CPUExecutionProvider"])
        difference = max(_difference(session, model, batch) for batch in batches)
        if not difference <= TOLERANCE:  # also where it is not a number
            raise ExportError(
                f"export to ONNX: the file's logits differ from the student's by {difference:.2g}, more than "
                f"{TOLERANCE:g}; it was not kept: use the student as it is"
            )
    return difference


class _LogitsOnly(torch.nn.Module):
    """The model with its tensors in a fixed order and logits as its only output."""

    def __init__(self, model: Any, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(**dict(zip(self.names, tensors, strict=True))).logits
        return logits


def _write(model: Any, batch: dict[str, torch.Tensor], max_length: int, path: Path) -> None:
    names = list(batch)
    axes = {
        0: torch.export.Dim("batch"),
        1: torch.export.Dim("tokens", max=max_length),
    }
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _LogitsOnly(model, names), tuple(batch.values()), str(path), input_names=names, output_names=["logits"],
            dynamic_shapes=((axes,) * len(names),), opset_version=_OPSET, external_data=False, verbose=False,
        )  # fmt: skip


def _encode(classifier: Classifier, texts: list[str]) -> dict[str, torch.Tensor]:
    encoded = classifier.tokenizer(
        texts, padding=True, truncation=True, max_length=classifier.max_length, return_tensors="pt"
    )
    return dict(encoded)


def _difference(session: Any, model: Any, batch: dict[str, torch.Tensor]) -> float:
    with torch.inference_mode():
        expected = model(**batch).logits.numpy()
    (found,) = session.run(["logits"], {name: tensor.numpy() for name, tensor in batch.items()})
    return float(np.abs(found - expected).max())


def sample_texts(texts: Sequence[Text], most: int = 16) -> list[str]:
    """Some texts of different lengths."""
    ordered = sorted((text.text for text in texts), key=len)
    return [ordered[i] for i in np.linspace(0, len(ordered) - 1, min(most, len(ordered))).astype(int)]
