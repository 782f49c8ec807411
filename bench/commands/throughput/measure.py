"""`bench doctor --throughput`: how fast this machine loads and trains, which of the two waits, how many workers to use.

Measured is what a pretraining itself runs, with SimCLR and the scale's ResNet-50: its loader alone, with growing
numbers of workers; its step alone, on one batch as the loader leaves it; and then a pretraining, for as long as was
asked. Nothing is kept. All rates count images, not their views.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import repeat
from pathlib import Path
from statistics import harmonic_mean, median
from time import perf_counter

import torch
from torch import Tensor

from bench import machine
from bench.commands.throughput.verdict import counted, judge, readable
from bench.contracts import Batch
from bench.data import loader
from bench.data.catalogue import entry
from bench.data.datasets import open_split
from bench.data.splits import Arrays, Files, SplitData
from bench.data.workers import load
from bench.errors import BenchError, Stopped
from bench.execution.device import autotunes, prepare_device
from bench.execution.executors import default_slots
from bench.planning.scales import scale_of
from bench.planning.translate import encoder
from bench.runs.folder import RunFolder
from bench.runs.metrics import LINES
from bench.settings.site import Site
from bench.spec import Data, Pretrain
from bench.training import loop as training
from bench.training.ranks import Ranks
from bench.training.stopwatch import PARTS

SLICES, FEWEST = 5, 3  # of a measurement: fewer when a single step is long
FOREVER = 10**9  # steps; more than any measurement takes
LOADER_SHARE = 1 / 3  # of the seconds, for each number of workers
# Pixels of a batch's first views: 8 images of 224 px on a CPU, 256 on a GPU. Larger batches load and train at the same
# rate.
PIXELS = {"cpu": 8 * 224**2, "cuda": 256 * 224**2}


@dataclass(frozen=True)
class Throughput:
    """Images a second: median, lowest and highest of the slices."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, rates: Sequence[float]) -> Throughput:
        """Raises ValueError without a slice."""
        return cls(median(rates), min(rates), max(rates))

    def __str__(self) -> str:
        return f"{readable(self.median):>8} images/s ({readable(self.low)} to {readable(self.high)})"


def show(site: Site, *, scale: str | None = None, data: str | None = None, seconds: float = 10.0) -> int:
    """Print the measurements and the conclusion; returns the exit code 0.

    `scale` is that of the recipe, by default `paper` for images on disk and `embedded` for others; `data` another data
    set than the scale's, in its own name; `seconds` the length of a measurement. Raises BenchError for a data set that
    is not here or that the recipe does not fit, and when the GPU's memory does not suffice.
    """
    if not (math.isfinite(seconds) and seconds > 0):
        raise BenchError(f"--seconds is {seconds}, expected more than 0.")
    resources = site.resources("pretrain")
    spec, split = recipe(site, scale, data, prepare_device(resources, Ranks()))
    device = prepare_device(resources, Ranks(), deterministic=site.deterministic, autotune=autotunes(spec))
    try:
        with tempfile.TemporaryDirectory(prefix="bench-throughput-") as folder:
            for line in _measured(spec, split, site, device, Path(folder), seconds):
                print(line, flush=True)
    except torch.OutOfMemoryError as error:
        raise BenchError(
            f"a batch of {spec.batch_size} images does not fit into the GPU's memory: try [recipe] chunks in "
            "bench.toml."
        ) from error
    return 0


def recipe(site: Site, scale: str | None, data: str | None, device: torch.device) -> tuple[Pretrain, SplitData]:
    """SimCLR's pretraining with its batch cut to what one process gets and can hold, and its images."""
    split = open_split(Data(name=data, size=entry(data).pixels), "train", site) if data else None
    name = scale or ("paper" if isinstance(split, Files) else "embedded")
    spec = encoder(
        scale_of(name, site.overrides), "simclr", network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0
    )
    assert isinstance(spec, Pretrain)  # for the type checker
    if split is None or data is None:
        split = open_split(spec.data, "train", site)
    else:
        spec = replace(
            spec, data=Data(name=data, size=entry(data).pixels if isinstance(split, Arrays) else spec.data.size)
        )
    if isinstance(split, Files) and any(view.rotation for view in spec.views):
        raise BenchError(
            f"scale {name!r} rotates images in memory, and those of {spec.data.name} are on disk: give --scale paper "
            "or cifar."
        )
    if isinstance(split, Files):  # whatever the scale
        spec = replace(spec, views=tuple(replace(view, exact=site.overrides.exact_views) for view in spec.views))
    batch = min(
        spec.batch_size // site.ranks, PIXELS[device.type] // max(view.size for view in spec.views) ** 2, len(split)
    )
    batch -= batch % spec.chunks
    if batch < 2:
        raise BenchError(
            f"{len(split)} training images of {spec.data.name} in {site.ranks} ranks and {spec.chunks} "
            "chunks leave no batch to measure."
        )
    # A learning rate of 0 takes as long as any other, and the weights stay those of a network that is well.
    optim = replace(spec.optim, lr=0.0, vector_lr=None, warmup_epochs=0.0)
    return replace(spec, batch_size=batch, optim=optim), split


def _measured(
    spec: Pretrain, split: SplitData, site: Site, device: torch.device, folder: Path, seconds: float
) -> Iterator[str]:
    """The lines of the report, each as soon as it is known."""
    cores, in_memory = machine.cores(), isinstance(split, Arrays)
    room = room_for_workers(site, cores, on_gpu=device.type == "cuda")
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {site.resources('pretrain').threads} thread(s)"
    )
    where = "in memory" if in_memory else "on disk"
    yield (
        f"SimCLR on {spec.data.name} ({len(split):,} training images {where}): {_network(spec)}, batch "
        f"{spec.batch_size}, {spec.precision}"
    )
    yield f"{name}; cores: {cores}, slots: {default_slots(site)}, cores for the workers of each process: {room}"
    if not in_memory:
        now = site.loader_workers(device.type, max(1, cores // default_slots(site)))
        yield f"workers of each process of a pretraining now ([local] workers): {now}"
    loop = training.Loop(
        replace(spec, epochs=FOREVER / (len(split) // spec.batch_size)), _place(folder / "step", site, device)
    )
    rates: dict[int, float] = {}
    for workers in [0] if in_memory else worker_counts(cores, room):
        rate = measure(_loading(loop, workers), spec.batch_size, seconds * LOADER_SHARE, device, rounds=max(1, workers))
        rates[workers] = rate.median
        each = f", {readable(rate.median / workers)} a worker" if workers > 1 else ""
        yield _line("views, in batches" if in_memory else f"loader, {counted(workers)}", f"{rate}{each}")
    step = measure(_stepping(loop), spec.batch_size, seconds, device)
    yield _line("step, nothing to load", str(step))
    verdict = judge(rates, step.median, room)
    del loop  # its network and gradients make room for the next
    place = replace(_place(folder / "together", site, device), workers=verdict.workers)
    together, shares = _together(replace(spec, seed=1), place, verdict.allowed, seconds)
    suffix = "" if in_memory else f", {counted(verdict.workers)}"
    yield _line(f"together{suffix}", f"{together}, {together.median / verdict.allowed:.0%} of what the two allow")
    whole = 1e3 * spec.batch_size / together.median
    parts = ", ".join(f"{part} {readable(share * whole)} ms ({share:.0%})" for part, share in shares.items())
    yield _line("a step", f"{readable(whole)} ms: {parts}, the rest for the log")
    yield f"\n{verdict.sentence(in_memory=in_memory)}"


def measure(
    advance: Callable[[], object], images: int, seconds: float, device: torch.device, *, rounds: int = 1
) -> Throughput:
    """The rate of `advance`, which takes a batch of `images`, in slices of about `seconds` together.

    `rounds` batches are made at once, one a worker, so only whole rounds are timed, and not the first, in which workers
    start.
    """
    for _ in range(max(2, rounds)):
        advance()
    _settle(device)
    rates: list[float] = []
    begun = perf_counter()
    while len(rates) < SLICES and (len(rates) < FEWEST or perf_counter() - begun < seconds):
        started, done = perf_counter(), 0
        while not done or perf_counter() - started < seconds / SLICES:
            for _ in range(rounds):
                advance()
            done += rounds
        _settle(device)
        rates.append(done * images / (perf_counter() - started))
    return Throughput.of(rates)


def _loading(loop: training.Loop, workers: int) -> Callable[[], object]:
    """What comes before the device: the workers' part for images on disk, all of it for those in memory."""
    device, views = loop.place.device, loop.spec.views
    plan = replace(loop.plan, seed=workers)  # other images each time: those before may be in the system's memory by now
    if isinstance(loop.split, Arrays):
        return partial(next, loader.train_batches(loop.split, views, plan, range(FOREVER), device, workers=0))
    made = loader.FileViews(loop.split, views, plan, replace_unreadable=True, finish=device.type == "cpu")
    steps = range(FOREVER)
    shared = made.shared(len(steps))
    return partial(next, load(made.batch, steps, device, seed=plan.seed, workers=workers, shared=shared))


class _Kept(loader.FileViews):
    """The images of one batch, decoded and cut once; what is left to the device runs anew for every step."""

    @cached_property
    def first(self) -> tuple[list[Tensor], Tensor, tuple[int, ...]]:
        """Pinned where the views go to a GPU: the loader does that beside the step, not in it."""
        views, indices, unreadable = super().batch(0)
        return views if self.finish else [view.pin_memory() for view in views], indices, unreadable

    def batch(self, number: int) -> tuple[list[Tensor], Tensor, tuple[int, ...]]:
        """The same for every number."""
        return self.first


def _stepping(loop: training.Loop) -> Callable[[], object]:
    """The step, and for images on disk what the device does to their 8-bit views."""
    device, plan, views = loop.place.device, loop.plan, loop.spec.views
    if isinstance(loop.split, Arrays):
        batches: Iterator[Batch] = repeat(
            next(loader.train_batches(loop.split, views, plan, range(1), device, workers=0))
        )
    else:
        kept = _Kept(loop.split, views, plan, replace_unreadable=True, finish=device.type == "cpu")
        batches = loader._file_batches(kept, range(FOREVER), device, workers=0)
    steps = enumerate(batches)

    def advance() -> None:
        loop.update(*next(steps))

    return advance


def _together(
    spec: Pretrain, place: training.Place, expected: float, seconds: float
) -> tuple[Throughput, dict[str, float]]:
    """A pretraining that is stopped when the time is over: its rate, and the share of the time of a step by part.

    Both are read from its own metrics, without the first line, in which workers start. It writes a line as often as it
    would in full length, or more often where that would be too few for `expected` images a second.
    """
    steps_per_epoch = len(open_split(spec.data, "train", place.site)) // spec.batch_size
    usual = round(spec.epochs * steps_per_epoch) // LINES
    every = max(1, min(usual, int(expected * seconds / spec.batch_size / (SLICES + 1))))
    calls, started = 0, 0.0

    def over() -> bool:
        nonlocal calls, started
        calls += 1
        started = started or perf_counter()
        return calls >= every * (1 + FEWEST) and perf_counter() - started > seconds

    with suppress(Stopped):
        training.pretrain(replace(spec, epochs=every * LINES / steps_per_epoch), replace(place, should_stop=over))
    lines = [json.loads(line) for line in place.run.metrics.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line["step"] % every == 0][1:]  # the even ones
    each = math.ceil(len(lines) / SLICES)
    rates = [
        harmonic_mean([line["img_s"] for line in lines[start : start + each]]) for start in range(0, len(lines), each)
    ]
    whole = sum(1e3 * spec.batch_size / line["img_s"] for line in lines)
    return Throughput.of(rates), {part: sum(line[f"{part}_ms"] for line in lines) / whole for part in PARTS}


def room_for_workers(site: Site, cores: int, *, on_gpu: bool) -> int:
    """Cores for the workers of one process while all slots of the machine are in use.

    A slot is a process with a GPU, which leaves its core to the workers, or else a job of `ranks` processes that
    compute on `threads` cores each.
    """
    processes = default_slots(site) * (1 if on_gpu else site.ranks)
    return max(0, cores // processes - (0 if on_gpu else site.threads))


def worker_counts(cores: int, room: int) -> list[int]:
    """0, 1, 2, 4, ... up to the number of cores, that number itself, and how many there is room for."""
    return sorted({0, cores, min(room, cores), *(2**power for power in range(cores.bit_length()))})


def _place(path: Path, site: Site, device: torch.device) -> training.Place:
    path.mkdir()
    return training.Place(RunFolder(path), site, Ranks(), device)


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _network(spec: Pretrain) -> str:
    sizes = " and ".join(f"{size}" for size in sorted({view.size for view in spec.views}))
    return f"{spec.backbone.name} with {spec.backbone.base_channels} channels, {len(spec.views)} views of {sizes} px"


def _line(what: str, text: str) -> str:
    return f"{what:<22} {text}"
