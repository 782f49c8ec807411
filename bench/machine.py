"""The machine that this process runs on: its device's name, its cores, and how helpers of it start."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

# Packages that make the digits of a job, by the names of their distributions.
DIGITS = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow", "mlxtend", "detectron2")
CGROUPS = Path("/sys/fs/cgroup")
BESIDE = "BENCH_BESIDE"  # in a worker's environment: how many processes of jobs share this machine's cores, itself too
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
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _quota()
    return found if limit is None else max(1, min(found, int(limit)))


def _quota() -> float | None:
    """Cores' worth of time that the control groups of this process allow (`docker --cpus`); None without a limit."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = CGROUPS / "cpu" if controllers else CGROUPS
        own = base / path.strip("/")
        for folder in (own, *own.parents):  # a group above may allow less; in a container the path may be the host's
            limits.append(_allowed(folder, old=bool(controllers)))
            if folder == base:
                break
    return min((limit for limit in limits if limit is not None), default=None)


def _allowed(group: Path, *, old: bool) -> float | None:
    """What one control group allows, of version 1 (`old`) or 2."""
    try:
        if old:
            texts = [(group / f"cpu.cfs_{what}_us").read_text(encoding="ascii") for what in ("quota", "period")]
        else:
            texts = (group / "cpu.max").read_text(encoding="ascii").split()
        allowed, period = (float(text) for text in texts)
    except (OSError, ValueError):  # "max" and no number
        return None
    return allowed / period if allowed > 0 and period > 0 else None


def cores_of_rank() -> int:
    """Cores for this process of a job and the helpers that it starts.

    On Slurm those of its task; else those of the machine or container, shared with the ranks and jobs beside it.
    """
    task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if task.isdecimal() and int(task):
        return min(int(task), cores())
    return max(1, cores() // int(os.environ.get(BESIDE) or os.environ.get("LOCAL_WORLD_SIZE") or 1))


def start_of_helpers(workers: int) -> str | None:
    """How the processes that decode images start: what DataLoader wants as its multiprocessing_context.

    Forked on Linux by every Python: since 3.14 the default is a server that imports torch anew for each, and is sent
    the listing of all images. None, without helpers and elsewhere, leaves it to Python.
    """
    return "fork" if workers and sys.platform == "linux" else None
