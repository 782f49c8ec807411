"""Memory and cores, for `bench doctor`: what is free, how many workers decode images, what they take of shared memory.

What they take is worked out as the loader does before it starts, for the size of image that most papers have.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.data.shared_memory import ADVICE, SHARED, Batches, room, whole_pages
from bench.data.staging import place_of
from bench.errors import BenchError, one_line
from bench.execution.executors import default_slots
from bench.machine import cores
from bench.settings.site import Site
from bench.settings.slurm import SlurmSettings
from bench.settings.workers import Decoding, decoding
from bench.wording import size

SIDE = 224  # pixels of an image
STEP = 256  # images of a pretraining's step, in two views


@dataclass(frozen=True)
class SharedMemory:
    """How much of it there is, whether that is enough, and what to do."""

    text: str
    enough: bool
    wanted: bool  # bench.toml asks for so many workers
    advice: str = ""


def available_bytes() -> float | None:
    """Memory that new processes can have; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def decodings(site: Site) -> Iterator[Decoding]:
    """How images are decoded for a process here while all slots are in use, and for one on Slurm."""
    import torch

    on_gpu = torch.cuda.is_available()
    processes = default_slots(site) * (1 if on_gpu else site.ranks)
    yield decoding(site, "cuda" if on_gpu else "cpu", max(1, cores() // processes), f"each of {processes} at once has")
    if site.slurm != SlurmSettings():
        for kind in ("pretrain", "evaluate"):
            asked = site.slurm.request(kind)
            yield decoding(site, "cuda" if asked.gpus else "cpu", asked.cpus, f"on Slurm ({kind}) each has")


def staging(site: Site) -> tuple[Literal["ok", "off"], str]:
    """Where packs would be copied to on this machine; a node of Slurm may have what a login node has not."""
    try:
        place = place_of(site)
    except (BenchError, RuntimeError) as error:  # RuntimeError: no home folder
        return "off", one_line(error)
    near = next((folder for folder in (place, *place.parents) if folder.is_dir()), Path("/"))
    if not os.access(near, os.W_OK):
        return "off", f"[local] staging: {near} cannot be written to here, so packs are read where they are"
    return "ok", f"{size(shutil.disk_usage(near).free)} free for copies of packs in {place}"


def shared_memory(site: Site) -> Iterator[SharedMemory]:
    """One, or none where the system has no /dev/shm with a limit."""
    import torch

    from bench.data.workers import PREFETCHED
    from evals.parts.features import BATCH

    there = room()
    if there is None:
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    slots = default_slots(site)
    workers = site.loader_workers(device, max(1, cores() // slots))
    if not workers:
        yield SharedMemory(f"{there} in {SHARED}; no workers decode images here, so it is not needed", True, False)
        return
    image, many = 3 * SIDE**2, 1 << 30
    evaluation = Batches(whole_pages([BATCH * image]), PREFETCHED, held=2, most=many).take(workers)
    pretraining = Batches(whole_pages([STEP * image] * 2), PREFETCHED + 1, held=0, most=many).take(workers)
    at_once = f"{slots} evaluations at once take" if slots > 1 else "an evaluation takes"
    text = (
        f"{there} in {SHARED}; with {workers} workers that decode images {at_once} {size(slots * evaluation)}, "
        f"a pretraining {size(pretraining)} for each {STEP} images of a step ({SIDE} px)"
    )
    enough = max(slots * evaluation, pretraining) <= there.free
    wanted = site.workers is not None
    if not enough and not wanted:
        text += "; where they find no room, fewer workers are taken"
    yield SharedMemory(text, enough, wanted, "" if enough else ADVICE)
