"""Where this machine computes, and which number format it computes fastest."""

from __future__ import annotations

import functools
import logging
import os
import time

import torch

from muki.processes import launched, local_rank

logger = logging.getLogger(__name__)

_WORTH_IT = 1.3  # bfloat16 must be this much faster
_ROUNDS = 7


def device() -> str:
    """Where models run: the accelerator if there is one, else the CPU; under a launcher, the process's own one."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return "cpu"
    return f"{accelerator.type}:{local_rank() % torch.accelerator.device_count()}" if launched() else accelerator.type


def one_gpu_each(processes: int) -> list[dict[str, str]]:
    """Environments of so many processes that share this machine's GPUs out; empty ones where there is no choice."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    gpus = [gpu for gpu in visible if gpu] or [str(gpu) for gpu in range(torch.cuda.device_count())]
    return [{"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if len(gpus) > 1 else {} for i in range(processes)]


def finish(device: str) -> None:
    """Wait for what was asked of the device, so that a clock read next has measured it."""
    if device != "cpu":
        torch.accelerator.synchronize(device)


def replicas() -> int:
    """On how many devices one training process computes: transformers uses all GPUs that it sees, unless launched."""
    return 1 if launched() or device() != "cuda" else max(1, torch.cuda.device_count())


@functools.cache
def fast_dtype(device: str) -> torch.dtype:
    """bfloat16 where `device` computes it clearly faster than float32, else float32; found by a probe of some 50 ms.

    The probe times a matrix product as large as a small encoder's feed-forward layer, both formats in turn.
    """
    times: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    with torch.inference_mode():
        inputs = {d: (torch.randn(512, 384).to(device, d), torch.randn(1536, 384).to(device, d)) for d in times}
        for _ in range(_ROUNDS + 1):
            for dtype, (x, weight) in inputs.items():
                start = time.perf_counter()
                for _ in range(3):
                    torch.nn.functional.linear(x, weight)
                finish(device)
                times[dtype].append(time.perf_counter() - start)
    ratio = min(times[torch.float32][1:]) / min(times[torch.bfloat16][1:])  # the first round warms up
    chosen = torch.bfloat16 if ratio >= _WORTH_IT else torch.float32
    logger.debug("bfloat16 is %.2f times as fast as float32 on %s: using %s", ratio, device, chosen)
    return chosen
