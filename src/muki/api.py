"""The one call: names or loaded objects in, a finished run out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muki.config import IN_MEMORY, make_config
from muki.errors import ConfigError
from muki.methods import DEFAULT_METHOD
from muki.pipeline import Result, run_all
from muki.preparation import Sources

if TYPE_CHECKING:
    from muki.methods import Method
    from muki.teachers.loading import Teacher


def integrate(
    teachers: Sequence[Any],
    student: str | Path | Mapping[str, Any],
    texts: str | Path | Mapping[str, Any] | Iterable[Any],
    *,
    output: str | Path,
    test: str | Path | Mapping[str, Any] | Iterable[Any] | None = None,
    method: str | Method | Mapping[str, Any] = DEFAULT_METHOD,
    max_length: int = 128,
    scoring: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    **training: Any,
) -> Result:
    """Integrate teachers into one student over the union of their labels, with unlabelled texts.

    Args:
        teachers: two or more; each a folder or Hub id, a mapping as in the run file (`{"model": …, "labels": …}`),
            a loaded `(model, tokenizer)` pair, a text-classification pipeline, or a `muki.Teacher`. Loaded models are
            put on the accelerator and in eval mode, and their tokenizers pad on the right from then on.
        student: folder or Hub id of an encoder or classifier to start from, or a mapping as in the run file
            (`{"model": …, "prefix": "query: "}`).
        texts: the unlabelled pool: a file, folder, URL or Hub data set; a mapping as in the run file
            (`{"path": …, "text": "sentence"}`), whose `path` may hold texts too; or strings or `{"text": …}` mappings
            (a `datasets.Dataset`, and data frames of pandas and polars too).
        output: the run folder; a second call with the same arguments continues or reuses what is there.
        test: labelled texts, for evaluation only, as `texts`; mappings have a `label` beside the text.
        method: a preset's name, a `muki.Method`, or its fields.
        max_length: tokens per text, for teachers (unless a mapping says otherwise) and student.
        scoring: how teachers are run, as in the run file (`{"batch_tokens": 1024}` where memory is short).
        trust_remote_code: run code that comes with checkpoints.
        **training: `epochs`, `learning_rate`, `batch_size`, `seed`, and every field of `TrainingArguments`.

    Returns:
        where the student lies and how it was evaluated.

    Raises:
        MukiError: something in the input cannot be used; see the subclasses in `muki.errors`.
    """
    if isinstance(teachers, (str, Path)) or not isinstance(teachers, Iterable):
        raise ConfigError(
            f'muki.integrate: teachers is {teachers!r}; expected two or more in a list: ["teachers/a", "teachers/b"]'
        )
    entries: list[dict[str, Any]] = []
    loaded: dict[str, Callable[..., Teacher]] = {}
    for number, teacher in enumerate(teachers, 1):
        if isinstance(teacher, (str, Path)):
            entries.append({"model": str(teacher), "max_length": max_length})
        elif isinstance(teacher, Mapping):
            entries.append({"max_length": max_length, **teacher})
        else:
            entry, factory = _loaded(teacher, f"teacher-{number}", max_length)
            loaded[entry["name"]] = factory
            entries.append(entry)
    pool, pool_section = _texts(texts, "texts")
    tested, test_section = (None, None) if test is None else _texts(test, "test")
    sources = Sources(teachers=loaded, pool=pool, test=tested)
    content = {
        "teachers": entries,
        "student": {"max_length": max_length, **(student if isinstance(student, Mapping) else {"model": str(student)})},
        "texts": pool_section,
        "method": method if isinstance(method, (str, Mapping)) else method.model_dump(),
        "scoring": dict(scoring or {}),
        "training": training,
        "output": str(output),
        "trust_remote_code": trust_remote_code,
    }
    if test_section is not None:
        content["test"] = test_section
    return run_all(make_config(content, "muki.integrate").absolute(), sources)


def _texts(given: Any, what: str) -> tuple[Sequence[Any] | None, dict[str, Any]]:
    """Texts in memory, or None, and their section of the run file."""
    section = {"path": given} if not isinstance(given, Mapping) else dict(given)
    if "path" not in section:
        raise ConfigError(
            f"muki.integrate: {what} is {type(given).__name__} with {', '.join(map(str, section)) or 'nothing'}; give "
            f"one split of a data set ({what}=data['train']), or a mapping with a path as in the run file"
        )
    path = _records(section["path"])
    if isinstance(path, (str, Path)):
        return None, {**section, "path": str(path)}
    if isinstance(path, Mapping) or not isinstance(path, Iterable):
        raise ConfigError(
            f"muki.integrate: {what} is {type(path).__name__}; expected a file, or a sequence of strings or mappings"
        )
    rows: Any = path if hasattr(path, "__len__") else list(path)  # gone through twice: fingerprint, then texts
    return rows, {**section, "path": IN_MEMORY}


def _records(given: Any) -> Any:
    """The rows of a data frame (pandas, polars) as mappings, a series as a list; others as they are.

    Iterating a data frame would give the names of its columns.
    """
    if hasattr(given, "features"):  # of `datasets`, which knows the names of its classes
        return given
    if hasattr(given, "to_dicts"):  # a frame of polars
        return given.to_dicts()
    if hasattr(given, "iloc") and hasattr(given, "columns"):  # a frame of pandas
        return given.astype(object).where(given.notna(), None).to_dict("records")
    if hasattr(given, "to_list"):  # a series of either
        return given.to_list()
    return given


def _loaded(teacher: Any, name: str, max_length: int) -> tuple[dict[str, Any], Callable[..., Teacher]]:
    """A loaded teacher's entry, and a function that hands it out; a first call's findings do not bind a `Teacher`."""
    from muki.teachers.loading import Teacher

    entry = {"model": IN_MEMORY, "name": name, "max_length": max_length}
    if isinstance(teacher, Teacher):
        known = {"name": teacher.name, "max_length": teacher.max_length, "prefix": teacher.prefix}
        return entry | known, lambda **_: teacher
    if hasattr(teacher, "model") and hasattr(teacher, "tokenizer"):  # a transformers pipeline
        teacher = (teacher.model, teacher.tokenizer)
    if not (isinstance(teacher, tuple) and len(teacher) == 2):
        raise ConfigError(
            f"muki.integrate: {name} is {type(teacher).__name__}; expected a folder or Hub id, a mapping, a "
            "(model, tokenizer) pair, a pipeline or a muki.Teacher"
        )
    return entry, partial(_wrapped, *teacher, name=name, max_length=max_length)


def _wrapped(model: Any, tokenizer: Any, *, name: str, max_length: int, passes_dtype: str | None = None) -> Teacher:
    """A loaded model as a teacher, with the dropout passes in the number format that a first call found fastest."""
    import torch

    from muki.teachers.loading import wrap_teacher

    known = getattr(torch, passes_dtype) if passes_dtype and model.dtype == torch.float32 else None
    return wrap_teacher(model, tokenizer, name=name, max_length=max_length, passes_dtype=known)
