"""The machine that this process runs on: what a result calls its device, and how many cores there are."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def device_name(kind: str) -> str:
    """Of this process's device, for the type of a torch.device: "cuda: <name>" or "cpu: <model>"."""
    if kind == "cuda":
        import torch

        return f"cuda: {torch.cuda.get_device_name()}"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"cpu: {model}"


def device_here() -> str:
    """Name of the device on which a worker on this machine would run."""
    import torch

    return device_name("cuda" if torch.cuda.is_available() else "cpu")


def cores() -> int:
    """Cores that this process may use: under Slurm or in a container, fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
