"""The neutral view: embeddings of every text by the student's encoder, before any training.

It belongs to no teacher, so that texts of all teachers can be compared in it. Mean over the tokens of the last hidden
states: what sentence encoders are trained for. One deterministic pass for each text; one file for each shard. The
labels' names are texts too.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from muki import compute
from muki.arrow import matrix, vectors
from muki.batches import BATCH_TOKENS, length_batches, require_known_tokens, tokenize
from muki.checkpoints import folder_fingerprint, load_student_model, loading, quiet_transformers
from muki.config import RunConfig, StudentConfig
from muki.errors import NoHiddenStatesError, RunFolderError, StudentError, first_line
from muki.files import fingerprint, replacing
from muki.hidden_states import mean_state
from muki.labels import LabelSpace
from muki.progress import progress
from muki.routing.names import readable
from muki.run_folder import RunFolder, Split
from muki.scored import scored_labels, scored_texts
from muki.texts import Shard, Text, TextShards
from muki.tokenization import ensure_padding, usable_length

logger = logging.getLogger(__name__)

VIEW_VERSION = 2  # raise when the vectors for the same texts and encoder change


class Encoder:
    """A pretrained encoder that gives each text one vector.

    Raises:
        NoHiddenStatesError: the model is no encoder.
        StudentError: it cannot be loaded, or weights are missing.
    """

    @quiet_transformers()
    def __init__(self, student: StudentConfig, trust_remote_code: bool = False) -> None:
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        with loading(student.model, f"student '{student.model}': its encoder", StudentError):
            config = AutoConfig.from_pretrained(student.model, trust_remote_code=trust_remote_code)
            _require_encoder_class(config, student.model)
            self.model = load_student_model(
                AutoModel, student.model, dtype=torch.float32, trust_remote_code=trust_remote_code
            ).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(student.model, trust_remote_code=trust_remote_code)
        ensure_padding(self.tokenizer, self.model.config)
        self.model.to(compute.device())
        self._require_states(student.model)
        self.prefix = student.prefix
        self.max_length = usable_length(self.model.config, self.tokenizer, student.max_length, "student")

    def _require_states(self, name: str) -> None:
        """Read one text now rather than fail after all scoring: not every model shows hidden states by itself.

        Raises:
            NoHiddenStatesError: this one does not.
            StudentError: it fails in another way.
        """
        inputs = self.tokenizer("a text", return_tensors="pt").to(self.model.device)
        try:
            with torch.inference_mode():
                shown = hasattr(self.model(**inputs), "last_hidden_state")
        except (ValueError, TypeError) as error:  # an encoder-decoder wants a decoder's input too
            raise NoHiddenStatesError(f"student '{name}': is no encoder ({first_line(error)})") from error
        except RuntimeError as error:
            raise StudentError(f"student '{name}': its encoder cannot read a text ({first_line(error)})") from error
        if not shown:
            raise NoHiddenStatesError(f"student '{name}': {type(self.model).__name__} shows no hidden states")

    def encode(self, texts: list[Text], batch_tokens: int = BATCH_TOKENS) -> NDArray[np.float16]:
        """One vector for each text, shape (n, H).

        Raises:
            StudentError: a token is unknown to the model, or a number is not finite.
        """
        encodings = tokenize(self.tokenizer, texts, self.max_length, self.prefix)
        require_known_tokens(self.tokenizer, encodings, self.model, "student", StudentError)
        result: NDArray[np.float16] | None = None
        for index, batch in length_batches(self.tokenizer, encodings, batch_tokens):
            vectors_ = self._encode_batch(batch)
            if result is None:
                result = np.zeros((len(texts), vectors_.shape[-1]), dtype=np.float16)
            result[index] = vectors_
        return np.zeros((0, 1), dtype=np.float16) if result is None else result

    def _encode_batch(self, batch: dict[str, torch.Tensor]) -> NDArray[np.float32]:
        try:
            with torch.inference_mode():
                inputs = {key: value.to(self.model.device) for key, value in batch.items()}
                states = self.model(**inputs).last_hidden_state
                vectors_: NDArray[np.float32] = (
                    finite_unit_length(mean_state(states, inputs["attention_mask"])).cpu().numpy()
                )
        except torch.OutOfMemoryError as error:
            raise StudentError(
                f"student: its encoder is out of memory ({first_line(error)}); set student.max_length lower"
            ) from error
        except (RuntimeError, ValueError, IndexError) as error:
            raise StudentError(
                f"student: its encoder fails on a batch of texts ({type(error).__name__}: {first_line(error)}); a text "
                "may hold what this model does not take"
            ) from error
        return vectors_


def _require_encoder_class(config: Any, name: str) -> None:
    """Code that comes with a checkpoint may know a classifier and no encoder."""
    from transformers import MODEL_MAPPING

    if type(config) not in MODEL_MAPPING and "AutoModel" not in (getattr(config, "auto_map", None) or {}):
        raise NoHiddenStatesError(f"student '{name}': its kind of model ({config.model_type}) has no encoder")


def finite_unit_length(vectors: torch.Tensor) -> torch.Tensor:
    """Scale each row to length 1, so that half precision suffices; (b, H) to (b, H).

    Raises:
        StudentError: a number is not finite.
    """
    if not torch.isfinite(vectors).all():
        raise StudentError("student: its encoder gives numbers that are not finite (NaN or infinity); choose another")
    return torch.nn.functional.normalize(vectors, dim=-1)


def make_view(
    texts: TextShards, student: StudentConfig, folder: Path, load: Callable[[], Encoder], *, write: bool = True
) -> str:
    """Encode the shards that are not encoded yet, if they are to be written.

    Returns:
        the fingerprint of encoder and settings.
    """
    settings = fingerprint(VIEW_VERSION, student.model_dump(exclude={"model"}), folder_fingerprint(student.model))
    pending = [shard for shard in texts.shards if _source(folder / shard.name) != _wanted(shard, settings)]
    if len(pending) < len(texts.shards):
        logger.info("view: reusing %d of %d shards", len(texts.shards) - len(pending), len(texts.shards))
    encoder = load() if pending else None  # also to see whether it is one
    if encoder is not None and write:
        with progress("student's encoder", sum(shard.rows for shard in pending), "texts") as advance:
            for shard in pending:
                _write(folder / shard.name, encoder.encode(texts.read(shard)), _wanted(shard, settings))
                advance(shard.rows)
    return settings


def make_names(space: LabelSpace, student: StudentConfig, path: Path, load: Callable[[], Encoder]) -> None:
    """Encode the label names, unless the same lie there already."""
    words = [readable(label) for label in space.labels]
    start = student.model_dump(exclude={"model"}), folder_fingerprint(student.model)
    wanted = [fingerprint(VIEW_VERSION, words, *start)]
    if _source(path) != wanted:
        texts = [Text(number, word) for number, word in enumerate(words)]
        _write(path, load().encode(texts), wanted)


def read_view(path: Path) -> NDArray[np.float16]:
    """One shard's vectors, shape (n, H).

    Raises:
        RunFolderError: absent or damaged.
    """
    found = _read(path)
    if found is None:
        raise RunFolderError(f"{path}: the student's view of these texts is missing or damaged; run `muki supervise`")
    return found[0]


@dataclass(frozen=True)
class NeutralView:
    """What the encoder sees of the pool or the test; vectors lie on disk.

    Attributes:
        shards: their files.
        fingerprint: of encoder and settings.
        names: of the labels, shape (C, H); None where the method does not read them.
    """

    shards: list[Path]
    fingerprint: str
    names: NDArray[np.float16] | None = None

    def __call__(self, number: int) -> NDArray[np.float16]:
        """The vectors of the shard with this number, shape (rows of the shard, H)."""
        return read_view(self.shards[number])


def neutral_view(config: RunConfig, run: RunFolder, split: Split, *, write: bool = True) -> NeutralView | None:
    """The view of the pool or the test, made where it is missing; with the label names' beside the pool's.

    Args:
        config: the run.
        run: its folder.
        split: which texts.
        write: make what is missing; else the view is only good for its fingerprint.

    Returns:
        None for methods that do not refine, and where the student is no encoder, with a warning.

    Raises:
        StudentError: the encoder is broken: it cannot be loaded, lacks weights, or gives numbers that are not finite.
        RunFolderError: texts or label space are missing.
    """
    if not config.method.refines:
        return None
    texts, space = scored_texts(run, split), scored_labels(run)
    folder, path = run.view(split), run.view("pool") / "names"
    load = cache(partial(Encoder, config.student, config.trust_remote_code))  # once, and only if something is missing
    try:
        key = make_view(texts, config.student, folder, load, write=write)
        if config.method.reads_names and write:
            make_names(space, config.student, path, load)
    except NoHiddenStatesError as error:
        logger.warning("%s: no neutral view, so the teachers' scores alone decide", error)
        return None
    names = read_view(path) if config.method.reads_names and write else None
    return NeutralView([folder / shard.name for shard in texts.shards], key, names)


def _write(path: Path, view: NDArray[np.float16], source: object) -> None:
    metadata = {"muki.source": json.dumps(source), "muki.digest": _digest(view)}
    table = pa.table({"view": vectors(view)}).replace_schema_metadata(metadata)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _wanted(shard: Shard, settings: str) -> list[str]:
    return [shard.fingerprint, settings]


def _source(path: Path) -> list[str] | None:
    """What a file was made from; None where it is absent, cut short or altered."""
    found = _read(path)
    return None if found is None else found[1]


def _read(path: Path) -> tuple[NDArray[np.float16], list[str]] | None:
    try:
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        view: NDArray[np.float16] = matrix(table["view"])
        source: list[str] = json.loads(metadata[b"muki.source"])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
    return (view, source) if metadata.get(b"muki.digest") == _digest(view).encode() else None


def _digest(view: NDArray[np.float16]) -> str:
    return hashlib.blake2b(np.ascontiguousarray(view).tobytes(), digest_size=16).hexdigest()
