"""The machine that this process runs on: its device's name, its cores, and how helpers of it start."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

# Packages that make the digits of a job, by the names of their distributions.
DIGITS = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow", "mlxtend", "detectron2")
DEVICE = "BENCH_DEVICE"  # in a worker's environment: "cuda" where its executor gave it a GPU


def device_name(kind: str) -> str:
    """Of this process's device, for the type of a torch.device: "cuda: <name>" or "cpu: <model>"."""
    if kind == "cuda":
        import torch

        return f"cuda: {torch.cuda.get_device_name()}"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"cpu: {model}"


def versions() -> dict[str, str]:
    """Of the packages that make the digits, as far as they are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in DIGITS:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def device_here() -> str:
    """Name of the device on which a worker on this machine would run."""
    import torch

    return device_name("cuda" if torch.cuda.is_available() else "cpu")


def cores() -> int:
    """Cores that this process may use: under Slurm or in a container, fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_of_helpers(workers: int) -> str | None:
    """How the processes that decode images start: what DataLoader wants as its multiprocessing_context.

    Forked on Linux by every Python: since 3.14 the default is a server that imports torch anew for each, and is sent
    the listing of all images. None, without helpers and elsewhere, leaves it to Python.
    """
    return "fork" if workers and sys.platform == "linux" else None
