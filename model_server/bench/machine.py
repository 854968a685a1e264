"""Describes the machine: names, versions, memory bandwidth."""

from __future__ import annotations

import platform
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

_CPU_COPY_BYTES = 128 * 2**20  # far more than the CPU's caches hold
_GPU_COPY_BYTES = 2 * 2**30
_NUM_COPIES = 8


@dataclass(frozen=True, slots=True)
class Machine:
    """What the figures were measured on."""

    processor: str
    gpu: str | None
    num_threads: int
    torch_version: str
    transformers_version: str
    python_version: str


def this_machine() -> Machine:
    """Describe the machine that this runs on."""
    return Machine(
        processor=_processor_name(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        num_threads=torch.get_num_threads(),
        torch_version=torch.__version__,
        transformers_version=transformers.__version__,
        python_version=platform.python_version(),
    )


def memory_bandwidth(device: torch.device) -> float:
    """Measure the memory bandwidth in bytes per second, reads and writes together: the best of a few large copies."""
    num_bytes = _GPU_COPY_BYTES if device.type == "cuda" else _CPU_COPY_BYTES
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    best = float("inf")
    for _ in range(_NUM_COPIES):
        _finish(device)
        start = time.perf_counter()
        target.copy_(source)
        _finish(device)
        best = min(best, time.perf_counter() - start)
    return 2 * num_bytes / best


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory in bytes: of tensors on a GPU; without one, of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
