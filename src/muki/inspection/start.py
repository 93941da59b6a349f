"""A commented run file to start from: made of what the teachers' folders and the texts say, nothing is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muki.checkpoints import (
    has_tokenizer,
    is_adapter,
    loading,
    refuse_remote_code,
    require_checkpoint,
)
from muki.errors import ConfigError, TeacherError, TextsError
from muki.inspection.findings import alike_labels, yaml_name
from muki.inspection.look import tokens_of
from muki.inspection.texts import look
from muki.labels import is_generic, label_names, require_label_names
from muki.teachers.adapters import read_adapter
from muki.teachers.dropout import dropout_rates
from muki.teachers.provenance import provenance
from muki.texts import Columns, read
from muki.tokenization import longest

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

_STEPS = (32, 48, 64, 96, 128, 192, 256, 384, 512)


def run_file(models: Sequence[str], texts: str, text_column: str = "text", student: str | None = None) -> str:
    """The content of a run file for these teachers and texts.

    Args:
        models: two or more folders or Hub ids.
        texts: any source of texts.
        text_column: column of the text.
        student: what it starts from; by default the base that a teacher names, else the first teacher.

    Raises:
        ConfigError: fewer than two teachers.
        TeacherError: one cannot be read.
        TextsError: the texts cannot be read.
    """
    if len(models) < 2:
        raise ConfigError(f"muki inspect --init: two or more teachers are needed, found {len(models)}")
    seen = look(read(texts, Columns(text_column)), most=20_000)
    if not (sample := seen.sample):
        raise TextsError(f"texts '{texts}': no text with words in it; at least one is needed")
    labels: dict[str, list[str]] = {}
    lines, wanted, limits = ["teachers:"], 0, {}
    for model in models:
        name = Path(model).name
        config, tokenizer, own = _read(model, name)
        tokens = tokens_of(tokenizer, sample, 10**6)
        wanted, limits[model] = max(wanted, tokens.p95), longest(config, tokenizer)
        labels[name if name not in labels else f"{name}-{len(labels) + 1}"] = own
        lines += _teacher_lines(model, own, config, min(_rounded(tokens.p95), limits[model]), tokens.p95)
    lines += [f"  # {line}" for line in _merging(labels)]
    start = student or next((base for model in models for base in provenance(model).base_models), models[0])
    beginning = f"{{model: {_quoted(start)}, max_length: {min(_rounded(wanted), limits.get(start, _rounded(wanted)))}}}"
    pool = f"{{path: {_quoted(texts)}, text: {_quoted(text_column)}}}"
    return "\n".join([
        "# A run of muki; `muki inspect` looks at it, `muki run` does it.",
        *lines,
        "",
        f"student: {beginning}   # any encoder",
        *([] if student else [f"#   muki-plus compares texts with it; {_advice(seen.languages)} is a better start"]),
        f"texts: {pool}   # unlabelled; jsonl, csv, tsv, txt, parquet",
        "# test: {path: test.jsonl, label: label}   # optional: the only place where labels are read",
        "",
        "method: muki-plus   # needs no dropout; or as published, with dropout passes: muki, muki-fast; or vanilla-kd",
        "training: {learning_rate: 5.0e-5, batch_size: 32, seed: 1}   # epochs: 3, more if the pool is small",
        "output: run",
        "",
    ])  # fmt: skip


def _advice(languages: Mapping[str, float]) -> str:
    """A well-known sentence encoder for texts of these languages."""
    if next(iter(languages), "") == "English":
        return "sentence-transformers/all-MiniLM-L6-v2"
    return 'intfloat/multilingual-e5-small with prefix: "query: "'


def _read(model: str, name: str) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase, list[str]]:
    """A teacher's configuration, tokenizer and label names; of an adapter, the base's configuration."""
    from transformers import AutoConfig, AutoTokenizer

    require_checkpoint(model, f"teacher '{name}'", TeacherError, adapters=True)
    with loading(model, f"teacher '{name}'", TeacherError):
        if not is_adapter(model):
            refuse_remote_code(model, f"teacher '{name}'", TeacherError)
            config = AutoConfig.from_pretrained(model, trust_remote_code=False)
            require_label_names(config, f"teacher '{name}'", TeacherError)
            return config, AutoTokenizer.from_pretrained(model), label_names(config)
        adapter = read_adapter(Path(model), name)
        config = AutoConfig.from_pretrained(adapter.base, revision=adapter.revision)
        tokenizer = AutoTokenizer.from_pretrained(model if has_tokenizer(model) else adapter.base)
        return config, tokenizer, list(adapter.labels)


def _teacher_lines(model: str, labels: list[str], config: Any, max_length: int, wanted: int) -> list[str]:
    lines = [f"  - model: {_quoted(model)}   # {type(config).__name__.removesuffix('Config')}, {len(labels)} labels"]
    generic = [label for label in labels if is_generic(label)]
    if generic:
        lines.append("    labels:   # these names say nothing: give them their meaning")
        lines += [f"      {label}: <name>" for label in generic]
    else:
        lines.append(f"    # labels: {{{yaml_name(labels[0])}: another name}}   # rename; equal names are one class: "
                     + ", ".join(labels))  # fmt: skip
    enough = max_length >= wanted
    lines.append(f"    max_length: {max_length}   # " + (
        "holds 95 % of the texts" if enough else f"it can take no more; 95 % of the texts need {wanted}"
    ))  # fmt: skip
    if not any(dropout_rates(config).values()):
        lines.append("    # dropout_override: 0.1   # it was trained without dropout, which muki and muki-fast need")
    return lines


def _merging(labels: dict[str, list[str]]) -> list[str]:
    """Comments that point out labels that look like one class."""
    return [f"{one.text}; {one.remedy}" for one in alike_labels(labels)]


def _rounded(tokens: int) -> int:
    """The next usual maximum length."""
    return next((step for step in _STEPS if step >= tokens), _STEPS[-1])


def _quoted(text: str) -> str:
    plain = text and all(c.isalnum() or c in "/._-~" for c in text) and text[0] not in "-~"
    return text if plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
