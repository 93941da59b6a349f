"""One Parquet file for each (teacher, shard): written whole, checked when read, keyed by content."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from muki.arrow import matrix, vectors
from muki.files import replacing
from muki.teachers.outputs import TeacherOutputs

_OPTIONAL = ("features", "states")


@dataclass(frozen=True)
class MadeFrom:
    """What a shard's outputs were made from.

    Attributes:
        teacher: content fingerprint.
        texts: content fingerprint of the shard.
        settings: fingerprint of prefix, length, number format, seed …
        passes: the dropout passes, "0" for none.
        keep: what else of the deterministic pass is kept: "", "features", "states" or "features+states".
    """

    teacher: str
    texts: str
    settings: str
    passes: str
    keep: str = ""

    def serves(self, wanted: MadeFrom) -> str | None:
        """None where outputs of this source can be used for `wanted`, else what has changed.

        Outputs with dropout passes or features also serve where none are wanted: the deterministic pass is always
        there.
        """
        changed = [name for name in ("teacher", "texts", "settings") if getattr(self, name) != getattr(wanted, name)]
        if not changed and wanted.passes not in ("0", self.passes):
            changed = [f"passes ({self.passes} to {wanted.passes})"]
        if more := set(filter(None, wanted.keep.split("+"))) - set(self.keep.split("+")):
            changed.append(f"{' and '.join(sorted(more))} wanted now")
        return f"changed: {', '.join(changed)}" if changed else None


def write_outputs(path: Path, outputs: TeacherOutputs, source: MadeFrom) -> None:
    """Write one shard's outputs, with what they were made from and a digest of the content."""
    columns = {
        "row": pa.array(outputs.rows),
        "logits": vectors(outputs.logits),
        "mc_mean": vectors(outputs.mc_mean),
        "passes": pa.array(outputs.passes),
        "pass_entropy": pa.array(outputs.pass_entropy),
        "pass_spread": pa.array(outputs.pass_spread),
    }
    columns |= {name: vectors(getattr(outputs, name)) for name in _OPTIONAL if getattr(outputs, name) is not None}
    metadata = {"muki.source": json.dumps(asdict(source)), "muki.digest": _digest(outputs)}
    table = pa.table(columns).replace_schema_metadata(metadata)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_outputs(path: Path) -> tuple[TeacherOutputs, MadeFrom] | None:
    """Read one shard's outputs and their source; None where the file is absent, cut short or altered."""
    try:
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        source = MadeFrom(**json.loads(metadata[b"muki.source"]))
        outputs = TeacherOutputs(
            rows=table["row"].to_numpy(),
            passes=table["passes"].to_numpy(),
            pass_entropy=table["pass_entropy"].to_numpy(),
            pass_spread=table["pass_spread"].to_numpy(),
            logits=matrix(table["logits"]),
            mc_mean=matrix(table["mc_mean"]),
            **{name: matrix(table[name]) for name in _OPTIONAL if name in table.column_names},
        )
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    return (outputs, source) if metadata.get(b"muki.digest") == _digest(outputs).encode() else None


def why_pending(path: Path, wanted: MadeFrom) -> str | None:
    """Why a shard must be scored: `absent`, `damaged`, or what has changed; None where its file can be used."""
    if not path.exists():
        return "absent"
    found = read_outputs(path)
    return "damaged" if found is None else found[1].serves(wanted)


def _digest(outputs: TeacherOutputs) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in ("rows", "logits", "mc_mean", "passes", "pass_entropy", "pass_spread", *_OPTIONAL):
        value = getattr(outputs, name)
        if value is not None:
            digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
