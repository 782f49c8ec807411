"""Energy of a job, where counters can be read: processor packages (RAPL) and the job's GPUs (NVML).

The worker of the first rank reads the counters of its node when the job starts, every SAMPLE_SECONDS, and at the end.
Of a job that goes on from a checkpoint nothing is reported: what its earlier attempts used is not known.

packages: https://docs.kernel.org/power/powercap/powercap.html; most machines let only root read them.
gpus: nvmlDeviceGetTotalEnergyConsumption, Volta and newer, through the module `pynvml` where it is installed.
"""

from __future__ import annotations

import importlib
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

import torch
import torch.distributed as dist

from bench.errors import one_line
from bench.runs.folder import RunFolder
from bench.training.ranks import Ranks

Part = Literal["packages", "gpus"]
Joules = Mapping[Part, float]  # a part that is absent is not known

POWERCAP = Path("/sys/class/powercap")
SAMPLE_SECONDS = 20.0
MOST_WATTS = 1000.0  # of one package; the counters of servers wrap after 65 kJ, so two samples may lie 65 s apart


class Counter(Protocol):
    """A sum of counters that only grow."""

    def read(self) -> float:
        """Joules since some fixed moment. Raises OSError, ValueError or what the driver raises when it is not known."""


def _uptime() -> float:
    """Seconds, those of a suspended machine included: its counters may wrap or start anew meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Packages:
    """The whole processor packages of this node: every process counts, those of jobs that run beside this one too."""

    def __init__(self, root: Path, clock: Callable[[], float] = _uptime) -> None:
        # Zones below a package (cores, memory) have a second number; `psys`, the whole board, holds the package once
        # more.
        zones = [
            zone
            for zone in sorted(root.glob("intel-rapl:*"))
            if (zone / "name").read_text(encoding="utf-8").startswith("package")
        ]
        if not zones:
            raise OSError(f"no processor package under {root}")
        self._zones = {
            zone / "energy_uj": int((zone / "max_energy_range_uj").read_text(encoding="utf-8")) for zone in zones
        }
        self._clock, self._at = clock, clock()
        self._last = self._values()
        self._total = 0

    def read(self) -> float:
        """Joules since construction, through wrap-arounds.

        Raises ValueError when a counter may have wrapped more than once.
        """
        now, at = self._values(), self._clock()
        if (at - self._at) * MOST_WATTS * 1e6 >= min(self._zones.values()):
            raise ValueError(
                f"{at - self._at:.0f} s between two samples, a package counter may have wrapped more than once"
            )
        self._total += sum(
            value - before if value >= before else value + wraps_at - before
            for value, before, wraps_at in zip(now, self._last, self._zones.values(), strict=True)
        )
        self._last, self._at = now, at
        return self._total / 1e6

    def _values(self) -> list[int]:
        return [int(file.read_text(encoding="utf-8")) for file in self._zones]


class Gpus:
    """These GPUs, by their uuids ("GPU-1c3f..."), and no other of the node."""

    def __init__(self, uuids: Sequence[str]) -> None:
        if not uuids:
            raise ValueError("the job has no GPU")
        self._nvml = importlib.import_module("pynvml")  # no dependency: it comes with many installations of torch
        self._nvml.nvmlInit()
        self._handles = [self._nvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids]

    def read(self) -> float:
        """Joules since the driver was loaded."""
        # it counts mJ
        return float(sum(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in self._handles)) / 1e3


class Meter:
    """Joules since construction, by part. A counter that fails once is not read again: its part is not known."""

    def __init__(self, counters: Mapping[Part, Callable[[], Counter]]) -> None:
        self._counters: dict[Part, Counter] = {}
        self._first: dict[Part, float] = {}
        self._joules: dict[Part, float] = {}
        for part, make in counters.items():
            try:
                counter = make()
                self._first[part] = counter.read()
            # Not there, not readable, no driver, too old a GPU: NVML has an exception of its own for each.
            except Exception:
                continue
            self._counters[part] = counter
            self._joules[part] = 0.0

    def sample(self) -> None:
        """Read the counters that are left."""
        for part in list(self._counters):
            try:
                joules = self._counters[part].read() - self._first[part]
                if joules < self._joules[part]:
                    raise ValueError("the counter went back")
                self._joules[part] = joules
            except Exception as error:  # energy is worth a line in the log, never a job
                print(f"energy of {part} is not known: {one_line(error)}", flush=True)
                del self._counters[part], self._joules[part]

    @property
    def joules(self) -> Joules:
        """At the last sample."""
        return dict(self._joules)


@contextmanager
def metered(run: RunFolder, ranks: Ranks, device: torch.device) -> Iterator[Callable[[], Joules]]:
    """Meter a job while it runs; what it gives tells the joules at the end.

    All ranks must enter. The first one reads for all; of a job on several nodes it sees one, and nothing is reported.
    """
    places = _gathered((platform.node(), _uuid(device)), ranks)
    if not ranks.first:
        yield dict
        return
    uuids = [uuid for _, uuid in places if uuid]
    known = len({host for host, _ in places}) == 1 and not run.has_checkpoint()
    meter = Meter({"packages": lambda: Packages(POWERCAP), "gpus": lambda: Gpus(uuids)} if known else {})
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_SECONDS):
            meter.sample()

    thread = threading.Thread(target=watch, daemon=True)
    if meter.joules:
        thread.start()
    try:
        yield lambda: meter.joules
    finally:
        over.set()
        if thread.ident is not None:
            thread.join()
        meter.sample()


def _uuid(device: torch.device) -> str:
    """The GPU as NVML names it, "" for a CPU.

    NVML counts by slot, CUDA by speed and CUDA_VISIBLE_DEVICES: only uuids mean the same.
    """
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else ""


def _gathered(own: tuple[str, str], ranks: Ranks) -> list[tuple[str, str]]:
    if ranks.world == 1:
        return [own]
    found = [own] * ranks.world
    dist.all_gather_object(found, own)
    return found
