"""What a run would cost on this machine: measured on a sample, scaled to the whole."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from muki import compute
from muki.batches import Encoding, length_batches, tokenize
from muki.config import RunConfig, TrainingConfig
from muki.evaluation.answers import MOST_OF_POOL
from muki.integration.fitting import FIT_ROWS
from muki.labels import LabelSpace
from muki.routing.refinement import FOLDS, RESTARTS, ROUNDS
from muki.student.data import LengthGrouped, holdout_size
from muki.student.head import MOST_TEXTS
from muki.student.losses import integration_loss
from muki.student.model import load_student
from muki.student.trainer import steps_per_epoch
from muki.teachers.loading import Teacher
from muki.teachers.outputs import TeacherOutputs
from muki.teachers.scoring import Passes, score_texts
from muki.texts import Text
from muki.tokenization import usable_length

_FIXED_SECONDS = 12.0  # starting Python, loading libraries, drawing the report
_WARM_UP = 24
_TRAINING_STEPS = 8
_MEASURED_PASSES = 4
_PARTS = 5  # of the score, each of which EM begins from: two without the names, three with them


@dataclass(frozen=True)
class Speed:
    """One teacher on one text, measured here: seconds of the deterministic pass and of all dropout passes.

    `kept` is what is stored of it besides logits and means (features, hidden states), in bytes.
    """

    deterministic: float
    dropout: float
    kept: int = 0


@dataclass(frozen=True)
class StudentSpeed:
    """Seconds of a training step and of a prediction; parameters and hidden size of the student."""

    step: float
    prediction: float
    parameters: int
    width: int = 0


@dataclass(frozen=True)
class Estimate:
    """Seconds by stage, bytes on disk at the end and at most (with checkpoints), bytes of memory at most."""

    seconds: dict[str, float]
    disk: int
    disk_peak: int
    memory: int

    @property
    def total(self) -> float:
        """Seconds of the whole run."""
        return sum(self.seconds.values())


def measure_teacher(
    teacher: Teacher, texts: Sequence[Text], passes: Passes, batch_tokens: int, keep: str = ""
) -> tuple[TeacherOutputs, Speed]:
    """Score a sample, keeping what the method needs, and say how long a text takes.

    Few passes are enough to know the time of one; a method that stops early decides itself how many it draws.
    """
    few = passes if passes.tolerance is not None else Passes(min(passes.most, _MEASURED_PASSES), seed=passes.seed)
    score_texts(teacher, texts[:_WARM_UP], passes=Passes(min(2, few.most)), batch_tokens=batch_tokens)
    start = time.perf_counter()
    outputs = score_texts(teacher, texts, passes=Passes(0), batch_tokens=batch_tokens, keep=keep)
    once = (time.perf_counter() - start) / len(texts)
    kept = sum(one.nbytes for one in (outputs.features, outputs.states) if one is not None) // len(texts)
    if not few.most:
        return outputs, Speed(once, 0.0, kept)
    start = time.perf_counter()
    outputs = score_texts(teacher, texts, passes=few, batch_tokens=batch_tokens, keep=keep)
    rest = max((time.perf_counter() - start) / len(texts) - once, 0.0)
    return outputs, Speed(once, rest if few is passes else rest / few.most * passes.most, kept)


def measure_student(config: RunConfig, space: LabelSpace, texts: Sequence[Text]) -> StudentSpeed:
    """Train a throw-away student for a few steps as the run would, and let it predict."""
    device = compute.device()
    model, tokenizer = load_student(config.student.model, space.labels, trust_remote_code=config.trust_remote_code)
    student = torch.nn.Module.to(model, device)
    length = usable_length(model.config, tokenizer, config.student.max_length, "student")
    encodings = tokenize(tokenizer, texts, length, config.student.prefix)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)  # as the Trainer's; ten times as fast
    half = compute.fast_dtype(device) == torch.bfloat16
    size, times = config.training.batch_size, []
    order = _reading_order(encodings, size, config.training)
    target = torch.full((size, len(space.labels)), 1 / len(space.labels), device=device)
    student.train()
    for first in range(0, len(order), size):
        batch = tokenizer.pad([encodings[i] for i in order[first : first + size]], return_tensors="pt").to(device)
        start = time.perf_counter()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
            logits = student(**batch).logits
        integration_loss(logits, target, torch.ones(size, device=device)).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        compute.finish(device)
        times.append(time.perf_counter() - start)
    student.train(False)
    start = time.perf_counter()
    with torch.inference_mode():
        for _, inputs in length_batches(tokenizer, encodings):
            student(**{key: value.to(device) for key, value in inputs.items()})
    prediction = (time.perf_counter() - start) / len(encodings)
    # The first steps warm up; the mean, not the median, is what a whole run adds up.
    width = int(getattr(model.config, "hidden_size", 0))
    return StudentSpeed(float(np.mean(times[2:])), prediction, sum(p.numel() for p in student.parameters()), width)


def _reading_order(encodings: Sequence[Encoding], size: int, training: TrainingConfig) -> list[int]:
    """Positions of the texts of all measured steps, as a training would read them."""
    count = _TRAINING_STEPS * size
    chosen: list[int] = np.random.default_rng(0).choice(len(encodings), count, len(encodings) < count).tolist()
    if training.passed_through.get("train_sampling_strategy", "group_by_length") != "group_by_length":
        return chosen
    return [chosen[i] for i in LengthGrouped([len(encodings[i]["input_ids"]) for i in chosen], size)]


def fit_seconds(rows: int, width: int) -> float:
    """How long the refinement's EM over the pool takes, from the speed of a matrix product measured here.

    Each fit weighs `Xᵀ X` on three quarters of the rows for each fold, and judges the last quarter by a triangular
    solve, half a product. EM begins once from each part of the score; then shares settle after half of the allowed
    restarts, as a rule. All this is done without the label names and with them.

    Args:
        rows: texts that it is fitted on, at most `FIT_ROWS`.
        width: of the view.
    """
    x = np.random.default_rng(0).normal(size=(1000, width))
    x.T @ x  # the first product starts the library's threads
    start = time.perf_counter()
    x.T @ x
    product = (time.perf_counter() - start) / len(x) * min(rows, FIT_ROWS)
    return (_PARTS + RESTARTS) * ROUNDS * FOLDS * (0.75 + 0.25 / 2) * product


def estimate(
    config: RunConfig,
    space: LabelSpace,
    *,
    pool: int,
    test: int,
    mean_bytes: float,
    mean_tokens: float,
    speeds: Sequence[Speed],
    student: StudentSpeed,
) -> Estimate:
    """Scale what was measured to the whole run.

    Args:
        config: the run.
        space: its labels.
        pool: texts of the pool.
        test: texts of the test file.
        mean_bytes: of a text.
        mean_tokens: of a text, for the student.
        speeds: of each teacher.
        student: its speed.
    """
    held_out = holdout_size(pool, config.training.holdout)
    an_epoch = steps_per_epoch(pool - held_out, config.training)
    epochs = config.training.epochs_of(an_epoch)
    steps = an_epoch * epochs
    looks = max(1.0, epochs) * held_out
    first_head = min(pool - held_out, MOST_TEXTS) if config.training.head == "probe" else 0
    scoring = sum(speed.deterministic + speed.dropout for speed in speeds) * (pool + test)
    view = config.method.refines
    fit = fit_seconds(pool, student.width) if view else 0.0
    seconds = {
        "start": _FIXED_SECONDS,
        "score": scoring / config.scoring.processes,
        **({"supervise": pool * student.prediction + fit} if view else {}),  # the student's encoder reads the pool
        "train": steps * student.step + (looks + first_head) * student.prediction,
        "evaluate": (min(pool, MOST_OF_POOL) + test) * student.prediction
        + (test * student.prediction + fit if view and test else 0.0),
    }
    labels, teachers = len(space.labels), len(space.columns)
    kept = sum(speed.kept for speed in speeds)
    outputs = sum(8 * len(columns) + 28 for columns in space.columns.values())  # logits, means, row, passes, spreads
    seen = 2 * student.width if view else 0
    per_text = 0.6 * mean_bytes + 16 + outputs + kept + seen + 4 * labels + 8 * teachers + 12
    weights = 4 * student.parameters
    disk = int((pool + test) * per_text + min(pool, MOST_OF_POOL) * 4 * labels + weights + 2_000_000)
    in_memory = pool * (60 * mean_tokens + 8 * labels + 400 + kept)  # token ids as Python numbers, targets, features
    fitting = 3 * 8 * student.width * min(pool, FIT_ROWS) if view else 0  # the view in float64, and what EM makes of it
    return Estimate(seconds, disk, disk + 2 * 3 * weights, int(peak_memory() + in_memory + fitting))


def peak_memory() -> int:
    """Bytes of memory that this process has held at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
