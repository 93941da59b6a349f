"""Writes docs/reference.md from the models that check a run file: `python docs/reference.py` (`make docs`)."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from muki.config import RunConfig, ScoringConfig, StudentConfig, TeacherConfig, TestConfig, TextsConfig, TrainingConfig
from muki.experiments.grid import Foreign, Grid, Setting
from muki.methods import PRESETS, Method
from muki.routing.scores import SCORES, RoutingScore

PAGE = Path(__file__).with_name("reference.md")

_HEAD = """# Reference

Every setting of a run file and of a grid file, every method and every routing score. Written by `make docs` from the
models that check these files; unknown keys are refused with the nearest known one.
"""

_SECTIONS: list[tuple[str, str, type[BaseModel]]] = [
    ("The run file", "What `muki run` reads; `muki inspect --init` writes one.", RunConfig),
    ("`teachers`: a list", "A teacher may be written as its model alone.", TeacherConfig),
    ("`student`", "May be written as its model alone.", StudentConfig),
    ("`texts`", "May be written as the path alone.", TextsConfig),
    ("`test`", "May be written as the path alone.", TestConfig),
    (
        "`method`",
        "A preset, `{preset: NAME, …}` with changes, or all parts. **Name the preset**: changes alone begin with the "
        "parts of `muki` (16 dropout passes), whose values the column `default` has, not with those of the default "
        "`muki-plus`. "
        "`--set method.PART=…` changes the file's method, `muki-plus` where it names none.",
        Method,
    ),
    (
        "`training`",
        "Every other field of transformers' `TrainingArguments` is taken by name, but for those that have a name here "
        "and those that muki sets itself (`output_dir`, `metric_for_best_model`, `label_names`, "
        "`remove_unused_columns`).",
        TrainingConfig,
    ),
    ("`scoring`", "", ScoringConfig),
]
_GRID: list[tuple[str, str, type[BaseModel]]] = [
    ("The grid file", "What `muki compare` reads; see [benchmarks/README.md](../benchmarks/README.md).", Grid),
    ("`settings`: by name", "", Setting),
    ("`settings`, `foreign`", "", Foreign),
]
_KINDS = {str: "text", int: "whole number", float: "number", bool: "yes or no", dict: "mapping", list: "list"}
_BOUNDS = {Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), Lt: ("lt", "<")}


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    parts += [_section(*one) for one in _SECTIONS]
    parts += [_presets(), _scores()]
    parts += [_section(*one) for one in _GRID]
    return "\n".join(parts)


def _section(title: str, note: str, model: type[BaseModel]) -> str:
    rows = [
        f"| `{name}` | {_cell(_kind(field.annotation, field))} | {_default(field)} | {_cell(field.description or '')} |"
        for name, field in model.model_fields.items()
    ]
    table = "\n".join(["| setting | what it is | default | |", "| --- | --- | --- | --- |", *rows])
    return f"## {title}\n\n" + (f"{note}\n\n" if note else "") + table + "\n"


def _presets() -> str:
    rows = [f"| `{name}` | {_cell(method.spelled_out())} |" for name, method in PRESETS.items()]
    return "\n".join(
        [
            "## Presets",
            "",
            "Names for `method` and `--method`.",
            "",
            "| preset | the chain |",
            "| --- | --- |",
            *rows,
            "",
        ]
    )


def _scores() -> str:
    rows = [
        f"| `{name}` | {_cell(one.description)} | {_cell(one.reference)} | {_needs(one)} |"
        for name, one in SCORES.items()
    ]
    head = ["## Routing scores", "", "For `score`; joined by `+` they are added up after calibration.", ""]
    return "\n".join([*head, "| score | | source | needs |", "| --- | --- | --- | --- |", *rows, ""])


def _needs(score: RoutingScore) -> str:
    passes = score.needs_passes
    needs = [f"{passes} dropout pass{'es' if passes > 1 else ''}"] if passes else []
    return ", ".join([*needs, *(["features"] if score.needs_features else [])])


def _kind(annotation: Any, field: FieldInfo) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{one}`" if one else "nothing" for one in args)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(one, field) for one in args if one is not type(None))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    found = _KINDS[origin or annotation]
    bounds = [
        f"{sign} {getattr(one, name)}"
        for one in field.metadata
        for kind, (name, sign) in _BOUNDS.items()
        if isinstance(one, kind)
    ]
    return f"{found} {' and '.join(bounds)}" if bounds and found.endswith("number") else found


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**needed**"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "`muki-plus`" if isinstance(value, Method) else "its defaults"
    if value in (None, "", [], {}):
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"`{name}`" for name in value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
