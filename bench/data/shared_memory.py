"""Room in shared memory, through which workers that decode images hand over their batches. Imports no torch.

A container has 64 MB of it unless it is told otherwise, and PyTorch, like the C library, makes its files in /dev/shm.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.settings.site import AtMost
from bench.wording import counted, size

SHARED = Path("/dev/shm")  # shm_open of the C library knows no other place
PAGE = 4096
ADVICE = "give a container more (docker run --shm-size=8g), or set [local] workers in bench.toml lower, 0 for none"


@dataclass(frozen=True)
class Room:
    """Bytes of shared memory on this machine or in this container."""

    whole: int
    free: int

    def __str__(self) -> str:
        return f"{size(self.free)} of its {size(self.whole)} free"


@dataclass(frozen=True)
class Batches:
    """What lies in shared memory at once: `each` bytes a batch, `held` batches and `per_worker` of every worker.

    Never more than `most` batches: all that there are.
    """

    each: int
    per_worker: int
    held: int
    most: int

    def count(self, workers: int) -> int:
        """Batches of so many workers."""
        return min(self.most, self.per_worker * workers + self.held) if workers else 0

    def take(self, workers: int) -> int:
        """Bytes of so many workers."""
        return self.count(workers) * self.each


def room() -> Room | None:
    """What there is; None where it is another way (macOS), or without a limit of its own."""
    try:
        found = os.statvfs(SHARED)
    except OSError:
        return None
    return Room(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize) if found.f_blocks else None


def whole_pages(sizes: Sequence[int]) -> int:
    """Bytes that tensors of these sizes take: each has a file of its own."""
    return sum(-(-bytes_ // PAGE) * PAGE for bytes_ in sizes)


NOTHING = Batches(0, per_worker=0, held=0, most=0)  # images in memory are handed over by nobody


def fitting(workers: int, *loaders: Batches) -> int:
    """So many workers for each loader, or, where AtMost so many are wanted, as many as there is room for.

    Raises BenchError when the batches of workers that were asked for do not fit into what is free. Several loaders
    stand for those that are there at once. Ranks on one machine share it: together they must fit into the whole.
    """
    there, ranks = room(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def take(count: int) -> int:
        return sum(batches.take(count) for batches in loaders)

    if there is None or (take(workers) <= there.free and ranks * take(workers) <= there.whole):
        return workers
    fewer = next(n for n in range(workers - 1, -1, -1) if take(n) <= there.free and ranks * take(n) <= there.whole)
    processes = f"{ranks} ranks of {workers} workers" if ranks > 1 else f"{workers} workers"
    needed = ranks * take(workers)
    wanted = math.ceil(1.1 * (needed + there.whole - there.free) / 2**30)
    parts = " and ".join(
        f"{ranks * batches.count(workers)} batches of {size(batches.each)}"
        for batches in loaders
        if batches.take(workers)
    )
    if isinstance(workers, AtMost):
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(
                f"{SHARED} (shared memory) has {there}, {processes} take {size(needed)} ({parts}): images are decoded "
                f"by {counted(fewer, 'worker') if fewer else 'the job itself'}. Give a container more (docker run "
                f"--shm-size={wanted}g).",
                flush=True,
            )
        return AtMost(fewer)
    raise BenchError(
        f"{SHARED} (shared memory) is too small for the workers that decode images: it has {there}, {processes} take "
        f"{size(needed)} ({parts}). Give a container more (docker run --shm-size={wanted}g), or set workers = {fewer} "
        "under [local] in bench.toml."
    )


def cannot_send(reason: str) -> BenchError:
    """The one line for a batch that a worker could make but not hand over, or for the want of shared memory.

    `reason` is what the system said.
    """
    there = room()
    if is_shortage(reason) or "Bus error" in reason:
        state = f" ({there})" if there else ""
        if "nccl" in reason.lower():
            what, then = "what NCCL shares between the ranks", "give a container more (docker run --shm-size=8g)"
        else:
            what, then = "a batch of a worker that decodes images", ADVICE
        other = "" if is_shortage(reason) else " Or a file of the data was cut while it was read."
        return BenchError(f"{SHARED} (shared memory) has no room for {what}{state}: {then}.{other}")
    more = " (`ulimit -n` raises that limit)" if "Too many open files" in reason else ""
    return BenchError(
        f"a worker that decodes images could not hand over its batch: {reason}{more}. With workers = 0 under [local] "
        "in bench.toml the job itself decodes them."
    )


def is_shortage(reason: str) -> bool:
    """Whether what the system or PyTorch said means that shared memory is full."""
    asked = "shared memory" in reason or "(shm)" in reason or "/torch_" in reason
    return asked and "No space left" in reason
