"""`--set key.sub=value`: changes to the content of a run file before it is checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from muki.errors import ConfigError
from muki.methods import DEFAULT_METHOD

_SHORT = {"teachers": "model", "student": "model", "texts": "path", "test": "path"}  # a section written as this alone


def apply_overrides(content: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Apply `training.epochs=2`-style overrides; values are read as YAML, list items by number (`teachers.0.prefix=…`).

    Raises:
        ConfigError: an override without `=`, or a path through something that is not a mapping or list.
    """
    result: dict[str, Any] = yaml.safe_load(yaml.safe_dump(dict(content)))
    for override in overrides:
        path, separator, raw = override.partition("=")
        if not separator or not path:
            raise ConfigError(f"--set {override}: expected key=value, e.g. training.epochs=2")
        *parents, last = path.split(".")
        place: Any = result
        if parents == ["method"] and isinstance(result.get("method", DEFAULT_METHOD), str):
            result["method"] = {"preset": result.get("method", DEFAULT_METHOD)}
        try:
            for key in parents:
                index: Any = int(key) if isinstance(place, list) else key
                here = place[index] if isinstance(place, list) else place.setdefault(index, {})
                if here is None:  # a section that is there but empty
                    place[index] = here = {}
                if isinstance(here, str) and parents[0] in _SHORT:  # a section that is written as its path alone
                    place[index] = here = {_SHORT[parents[0]]: here}
                place = here
            place[int(last) if isinstance(place, list) else last] = yaml.safe_load(raw)
        except (ValueError, IndexError, AttributeError, TypeError, yaml.YAMLError):
            raise ConfigError(f"--set {override}: there is no '{path}' to set") from None
    return result
