"""Settings checked against typed models: every problem at once, unknown keys with the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ValidationError

from muki.errors import ConfigError

_M = TypeVar("_M", bound=BaseModel)


def validated(model: type[_M], content: Mapping[str, Any], source: str) -> _M:
    """Check settings against a typed model; all problems in one `ConfigError`."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = [_explain(problem, model) for problem in error.errors()]
        count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
        raise ConfigError(f"{source}: {count}\n" + "\n".join(f"  {line}" for line in problems)) from None


def nearest(key: str, known: Iterable[str]) -> str:
    """`; did you mean '…'?`, or nothing where nothing is near."""
    match = difflib.get_close_matches(key, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{match[0]}'?" if match else ""


def _explain(problem: Any, model: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        *parents, key = problem["loc"]
        known = sorted(_model_at(model, parents).model_fields)
        return f"{where}: unknown key{nearest(str(key), known) or '; known: ' + ', '.join(known)}"
    if problem["type"] == "missing":
        return f"{where}: is missing"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    found = problem.get("input")
    shown = f" (found {found!r})" if isinstance(found, (str, int, float)) and problem["type"] != "value_error" else ""
    if problem["type"] == "string_type" and isinstance(found, dict):
        quoted = f"put it in quotes, and with --set in two sorts: '{where}=\"...\"'"
        shown = f" (found {found!r}, as YAML reads text with a colon; {quoted})"
    return f"{where}: {message}{shown}" if where else f"{message}{shown}"


def _model_at(model: type[BaseModel], path: list[Any]) -> type[BaseModel]:
    """The typed model of a nested section."""
    steps = iter(path)
    for key in steps:
        if isinstance(key, int):
            continue
        annotation: Any = model.model_fields[key].annotation
        if get_origin(annotation) is dict:
            next(steps, None)  # a name that the user gave
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return model
