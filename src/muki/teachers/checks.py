"""What a teacher's configuration must say: exactly one label a text, and a name for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muki.errors import TeacherError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def require_single_label_classifier(config: PreTrainedConfig, name: str) -> None:
    """Refuse regression, multi-label and one-class models."""
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
