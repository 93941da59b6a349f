"""Where a checkpoint comes from: licence and base model, as its own model card says."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_OWN_TERMS = r"(^|[-, ])(sa|gpl|agpl|lgpl)(-|,|$|\d)"  # works made from it go under the same licence
_NARROW = r"(^|[-, ])(nc|nd|sa|gpl|agpl|lgpl|other|llama\w*|gemma|\w*openrail\w*)(-|,|$|\d)"


@dataclass(frozen=True)
class Provenance:
    """What a card says; None or empty where it says nothing."""

    licence: str | None = None
    base_models: tuple[str, ...] = ()


def provenance(source: str, revision: str | None = None) -> Provenance:
    """Read the card of a folder or Hub repository; a missing or broken card says nothing."""
    from huggingface_hub import ModelCard, hf_hub_download

    path = Path(source)
    if not path.exists() and (path.is_absolute() or source.count("/") != 1):
        return Provenance()
    readme = path / "README.md"
    if path.is_dir() and not readme.is_file():
        return Provenance()
    try:
        if path.is_dir():
            data: Any = ModelCard(readme.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
        else:
            data = ModelCard.load(hf_hub_download(source, "README.md", revision=revision)).data
    except Exception as error:  # no network, no card, broken YAML: a card is never worth stopping for
        logger.debug("no card of %s: %s", source, error)
        return Provenance()
    licence = data.get("license")
    licences = licence if isinstance(licence, list) else [licence]
    bases = data.get("base_model") or []
    return Provenance(
        licence=", ".join(str(one) for one in licences if one) or None,
        base_models=tuple(str(base) for base in ([bases] if isinstance(bases, str) else bases)),
    )


def licence_warnings(licences: Mapping[str, str | None]) -> list[str]:
    """What to read before a student is passed on, by model; None is a licence that is not known.

    A rule of thumb on the licences' names, no legal advice.
    """
    known = {name: licence.casefold() for name, licence in licences.items() if licence}
    same_terms = {name: licence for name, licence in known.items() if re.search(_OWN_TERMS, licence)}
    narrow = {name: licence for name, licence in known.items() if re.search(_NARROW, licence)}
    warnings = []
    if len(set(same_terms.values())) > 1:
        warnings.append(
            f"they do not fit together: {_named(same_terms)} each want what is made from them under their own terms"
        )
    elif narrow:
        warnings.append(f"some restrict what may be done with a student: {_named(narrow)}")
    return warnings


def _named(licences: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({licence})" for name, licence in licences.items())
