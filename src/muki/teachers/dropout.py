"""Monte-Carlo dropout, switched on for real: every dropout of the model, proven, and put back afterwards."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from muki.errors import DropoutError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_DROPOUT_MODULES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_BATCH_NORM = (nn.modules.batchnorm._BatchNorm,)


@contextmanager
def dropout_on(model: nn.Module) -> Iterator[None]:
    """Switch all dropout on, and restore every module's mode at the end, whatever happens.

    The whole model goes to train mode, not only its `nn.Dropout` modules: the attention dropout of BERT-type models is
    a function call gated by the attention module's own flag. Batch normalisation stays in eval mode, because its
    statistics must not change.
    """
    before = [(module, module.training) for module in model.modules()]
    try:
        model.train()
        for module in model.modules():
            if isinstance(module, _BATCH_NORM):
                module.eval()
        yield
    finally:
        for module, training in before:
            module.training = training


def dropout_rates(config: PreTrainedConfig) -> dict[str, float]:
    """The dropout rates that a model's configuration names, e.g. `{"attention_probs_dropout_prob": 0.1}`."""
    return {name: float(value or 0.0) for name, value in _dropout_fields(config).items()}


def with_dropout(model: PreTrainedModel, rate: float) -> PreTrainedModel:
    """Rebuild the model with every dropout rate set to `rate` in (0, 1); the weights are the same.

    The rates are set in the configuration and the modules are built anew, because many families leave a dropout of
    rate zero out of the model altogether. A PEFT model cannot be built anew; the modules that it has are set.
    """
    if hasattr(model, "peft_config"):
        return _with_module_rates(model, rate)
    config = copy.deepcopy(model.config)
    for part in _configs(config):
        for name in _dropout_fields(part):
            setattr(part, name, rate)
    rebuilt: Any = type(model)._from_config(config, dtype=model.dtype)  # type: ignore[no-untyped-call]
    rebuilt.load_state_dict(model.state_dict())
    rebuilt.to(model.device).eval()
    return cast("PreTrainedModel", rebuilt)


def require_spread(first: NDArray[np.float32], second: NDArray[np.float32], model: PreTrainedModel, name: str) -> None:
    """Stop where two dropout passes over the same batch give the same logits.

    Not probabilities: those of a very sure teacher are the same up to rounding whatever dropout does.

    Args:
        first: logits of one pass, shape (batch, classes).
        second: logits of another pass over the same batch, same shape.
        model: the teacher's model, for the rates in the message.
        name: the teacher's name, for the message.

    Raises:
        DropoutError: the passes agree up to rounding: a Monte-Carlo score would only repeat the deterministic one.
    """
    if not np.allclose(first, second, rtol=1e-4, atol=1e-6):
        return
    found = {**dropout_rates(model.config), **_module_rates(model)}
    rates = ", ".join(f"{key}={value:g}" for key, value in sorted(found.items())) or "no dropout at all"
    raise DropoutError(
        f"teacher '{name}': Monte-Carlo dropout has no effect, two passes are identical (found: {rates}). Choose one: "
        "a score without dropout (method: {score: entropy, passes: 0}, or --set method.score=entropy), or an explicit "
        "rate for this teacher (dropout_override: 0.1), which is written into the run's record"
    )


def _with_module_rates(model: PreTrainedModel, rate: float) -> PreTrainedModel:
    changed = copy.deepcopy(model)
    for module in changed.modules():
        if isinstance(module, _DROPOUT_MODULES):
            module.p = rate
        for name, value in vars(module).items():
            if _is_rate(name) and type(value) is float:
                setattr(module, name, rate)
    return changed


def _module_rates(model: nn.Module) -> dict[str, float]:
    rates = {module.p for module in model.modules() if isinstance(module, _DROPOUT_MODULES)}
    return {"nn.Dropout": max(rates)} if rates else {}


def _dropout_fields(config: PreTrainedConfig) -> dict[str, Any]:
    fields = {name: value for name, value in vars(config).items() if _is_rate(name)}
    return {
        name: v for name, v in fields.items() if v is None or (isinstance(v, (int, float)) and not isinstance(v, bool))
    }


def _is_rate(name: str) -> bool:
    """Whether this is the name of a dropout rate; what skips whole layers is none."""
    return "drop" in name and "layerdrop" not in name


def _configs(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    parts = [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
    return [config, *(part for part in parts if part is not None)]
