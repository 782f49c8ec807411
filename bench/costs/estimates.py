"""What jobs will cost: seconds, GPU-hours, disk. docs/costs.md explains the numbers.

Earlier results first (bench/costs/history.py), else hours that authors published, else the work that torch counts
(bench/costs/counted.py) on a device of bench/costs/devices.py.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from bench import plugins
from bench.authors import hours
from bench.contracts import Evaluation, Given
from bench.costs import evaluations
from bench.costs.counted import Counts
from bench.costs.devices import DEVICES, Device, device_of
from bench.costs.fit import Memory, resources_for
from bench.costs.history import Earlier, Taken, pairs
from bench.costs.seconds import Step, loader_seconds, step_seconds
from bench.data.catalogue import entry
from bench.errors import BenchError
from bench.planning.graph import Job, JobGraph
from bench.runs.features import cached_entries, entries_of
from bench.runs.folder import Runs
from bench.settings.site import Site
from bench.spec import Backbone, Encoder, Evaluate, Pixels, Pretrain, Resources, Spec
from bench.wording import counted

Kind = Literal["measured", "published", "counted", "guessed"]
STARTUP_SECONDS = 3.0  # of a worker that is started from nothing: Python, torch
FORK_SECONDS = 0.02  # of one that is forked from a process that has imported them
WORKERS = 8  # that decode images for a GPU, where no place says otherwise


@dataclass(frozen=True)
class Estimate:
    """Seconds of one job on one device, what hours are counted as ("GPU" or "core"), and where the number comes from.

    A job on several devices takes the sum over them: divided by their number it is the time that passes.
    """

    seconds: float
    device: str
    source: str
    kind: Kind


@dataclass(frozen=True)
class Where:
    """On what jobs are priced: the device, None for the one that `here` of `Costs` names, and what a site gives."""

    device: Device | None = None
    site: Site | None = None  # None: one device a job
    executor: str = "local"
    memory: Memory = field(default_factory=dict)  # of the GPUs, by which activations may be computed twice
    cores: int | None = None  # of one process of a job, where jobs run here; None: all

    def given(self, spec: Spec) -> Resources:
        """Of a job; one device for a job that cannot start, which is said elsewhere."""
        try:
            return resources_for(spec, self.site, self.executor, self.memory) if self.site else Resources()
        except BenchError:
            return Resources()

    def ranks(self, spec: Spec) -> int:
        """Devices of a job."""
        return self.given(spec).ranks

    def workers(self, device: Device) -> int:
        """Processes that decode images for one device; 0: it does so itself. An imagined GPU's cores nobody knows."""
        kind = "cpu" if device.counted_as == "core" else "cuda"
        if kind == "cuda" and (self.site is None or self.site.workers is None):
            if self.site is not None and self.executor == "slurm":
                return self.site.loader_workers(kind, self.site.slurm.pretrain.cpus)
            if self.site is None or self.device is not None:
                return WORKERS
        return self.site.loader_workers(kind, self.cores) if self.site else 0


class Costs:
    """Estimates for jobs. `runs` supplies what earlier jobs took, those of `graph` first.

    `here` is the device that the jobs will have, as provenance names it, or only "cuda"; None: this machine's.
    `forked`: the kinds of job, as in `Job.resources_as`, whose workers are forked. `fingerprint` has that of a data set
    by name, as names of cached features carry it; it is asked only where there is a cache. Without `runs_code` no
    method's code is run to count its work.
    """

    def __init__(
        self,
        runs: Runs,
        graph: JobGraph,
        here: str | None = None,
        forked: Container[str] = (),
        fingerprint: Callable[[str], str] = lambda name: "",
        where: Where = Where(),
        *,
        runs_code: bool = True,
    ) -> None:
        self._runs, self._graph, self._forked, self._fingerprint = runs, graph, forked, fingerprint
        self._where = where
        self._earlier = Earlier(runs, graph.jobs.keys(), here, where.device)
        self._counts = Counts(runs.root, runs_code=runs_code)
        self._looked = self._cache = False
        self._entries: set[str] = set()  # of the feature cache, once this plan is done
        self._find: dict[str, bool] = {}  # whether a job of the plan finds its features there
        self._paths: dict[str, float] = {}
        self._estimates: dict[str, Estimate] = {}

    @cached_property
    def device(self) -> Device:
        """That the jobs are priced for."""
        return self._where.device or device_of(self._earlier.here)

    def ranks(self, job: Job) -> int:
        """Devices among which its time is divided."""
        return self._where.ranks(job.spec)

    def estimate(self, job: Job) -> Estimate:
        """What one job will take, start-up included."""
        if job.id not in self._estimates:
            spec = job.spec
            work = self._pretraining(spec) if isinstance(spec, Pretrain) else self._evaluation(job, spec)
            startup = FORK_SECONDS if job.resources_as in self._forked else STARTUP_SECONDS
            self._estimates[job.id] = replace(work, seconds=startup + work.seconds)
        return self._estimates[job.id]

    def _pretraining(self, spec: Pretrain) -> Estimate:
        images = spec.epochs * entry(spec.data.name).train_images
        in_pairs = images * pairs([view.size for view in spec.views], spec.data.size)
        taken = self._earlier.rate(spec, self.device)
        if taken:
            source = (
                f"{_name(spec.backbone)} at {spec.data.size} px, {taken.value:,.0f} "
                f"images/s{_median_of(taken, self._earlier.here)}"
            )
            return Estimate(in_pairs / taken.value, _counted_as(taken), source, "measured")
        told = self._published(spec)
        if told is not None:
            return Estimate(in_pairs / told[0], "GPU", told[1], "published")
        return self._counted(spec, images)

    def _published(self, spec: Pretrain) -> tuple[float, str] | None:
        """Images a second and their source, where authors told the hours of such a run on such a device (V100, AMP)."""
        usual = (spec.backbone.name, spec.backbone.width, spec.backbone.base_channels, spec.data.size)
        told = hours().get(plugins.name_of(spec.method))
        alike = usual == ("resnet50", 1, 64, 224) and spec.precision == "fp16" and self.device.name.startswith("v100")
        if told is None or not alike:
            return None
        return told.epochs * entry("imagenet").trainval_images / (told.hours * 3600 * told.devices), told.source

    def _counted(self, spec: Pretrain, images: float) -> Estimate:
        """By the work of a step, and what the loader takes beside it."""
        device, site, name = self.device, self._where.site, plugins.name_of(spec.method)
        kind: Kind = "counted"
        try:
            work, how = self._counts.step(spec), f"{name}'s step, {_name(spec.backbone)}"
        except BenchError as error:
            kind, how = "guessed", f"{_name(spec.backbone)} alone, as {error}"
            work = self._counts.step_of_network(spec)
        given = self._where.given(spec)
        ranks = given.ranks
        step = Step(
            work=work,
            batch_size=spec.batch_size,
            ranks=ranks,
            precision=spec.precision,
            view_numbers=3.0 * sum(view.size**2 for view in spec.views),
            shared_loss="product_over_batch" in vars(plugins.load("method", name)),
            compiled=spec.compile,
            autotuned=site is not None and not site.deterministic,
            more_forwards=(spec.chunks > 1) + given.checkpoint_activations,
        )
        seconds = step_seconds(device, step)
        loader = loader_seconds(spec.data.name, spec.batch_size / ranks, self._where.workers(device))
        each, slow = max(seconds, loader), ""
        if device.counted_as == "core":
            each = seconds + loader
        elif loader > seconds:
            slow = f", held up by the decoding of images in {counted(self._where.workers(device), 'worker')}"
        computed = device.computes(spec.precision)
        source = f"{how}, {_sides(spec)}, in {computed}{slow}"
        return Estimate(images / spec.batch_size * each * ranks, device.counted_as, source, kind)

    def _evaluation(self, job: Job, spec: Evaluate) -> Estimate:
        cached = self._cached(job, spec)
        evaluation = plugins.evaluation_of(spec.protocol)
        device = DEVICES["cpu"] if evaluation.on_cpu and self.device.counted_as == "GPU" else self.device
        taken = self._earlier.seconds(spec, device, cached=cached)
        if taken is None:
            return self._computed(spec, evaluation, device, cached=bool(cached))
        name = plugins.name_of(spec.protocol)
        if taken.cached is not None:
            name += " on cached features" if taken.cached else " with its features to extract"
        network = "pixels" if isinstance(spec.encoder, Pixels) else _name(spec.encoder.backbone)
        source = f"{name} of {network} on {spec.data.name}, {taken.value:,.1f} s{_median_of(taken, self._earlier.here)}"
        return Estimate(taken.value, _counted_as(taken), source, "measured")

    def _computed(self, spec: Evaluate, evaluation: Evaluation, device: Device, *, cached: bool) -> Estimate:
        """By what the protocol computes, or by a cost of its own."""
        backbone = None if isinstance(spec.encoder, Pixels) else spec.encoder.backbone
        own = evaluation.cost(spec.protocol, backbone) if backbone is not None else None
        if own is not None and backbone is not None:
            found = evaluations.on_device(own, backbone, device, self._counts)
            return Estimate(found.seconds, found.device, found.source, "guessed")
        try:
            network = self._counts.network(backbone, spec.data.size) if backbone is not None else None
        except BenchError as error:
            return Estimate(evaluations.FIXED_SECONDS, device.counted_as, f"a fixed time, as {error}", "guessed")
        given = Given(
            **{split: _images(spec.data.name, split) for split in ("train", "val", "test")},
            width=_width(spec.encoder, spec.data.size),
            classes=entry(spec.data.name).classes,
        )
        priced = evaluations.Priced(device, network, spec.data.name, spec.data.size, self._where.workers(device))
        seconds, slow = evaluations.seconds_of(spec.protocol, evaluation, given, priced, cached=cached)
        what = "pixels" if backbone is None else f"{_name(backbone)} at {spec.data.size} px"
        name = plugins.name_of(spec.protocol)
        how = " on cached features" if cached and evaluation.features else ""
        return Estimate(seconds, device.counted_as, f"{name}{how} of {what}{slow}", "counted")

    def _cached(self, job: Job, spec: Evaluate) -> bool | None:
        """Whether an evaluation will find its features; None when it says of none that it reads them.

        They are cached now, or by then: of the plan's jobs that read the same, the first extracts them for the others.
        """
        splits = plugins.evaluation_of(spec.protocol).features
        if not splits:
            return None
        if not self._looked:
            self._look()
        return self._find.get(job.id, self._entries.issuperset(self._names(spec, splits)))

    def _look(self) -> None:
        """Which jobs of the plan find the features that they read."""
        self._looked, self._entries = True, cached_entries(self._runs.features)
        self._cache = bool(self._entries)
        for job in self._graph:
            if not isinstance(job.spec, Evaluate) or self._runs[job.id].result_file.exists():
                continue
            if splits := plugins.evaluation_of(job.spec.protocol).features:
                names = self._names(job.spec, splits)
                self._find[job.id] = self._entries.issuperset(names)
                self._entries.update(names)

    def _names(self, spec: Evaluate, splits: Iterable[str]) -> list[str]:
        """Of the cache's entries that an evaluation reads."""
        return entries_of(spec, splits, self._fingerprint(spec.data.name) if self._cache else "")

    def longest_path(self, graph: JobGraph, job: str) -> float:
        """Seconds from the start of a job to the end of the longest chain behind it."""
        if not self._paths:
            for other in reversed(list(graph)):
                self._paths[other.id] = self._paths.get(other.id, 0.0) + self.estimate(other).seconds
                for need in other.needs:
                    self._paths[need] = max(self._paths.get(need, 0.0), self._paths[other.id])
        return self._paths[job]


def _name(backbone: Backbone) -> str:
    return f"{backbone.name} {backbone.width}x"


def _sides(spec: Pretrain) -> str:
    """`2 views of 224 px`, with local crops `2 views of 224 and 6 of 96 px`."""
    sides = [view.size for view in spec.views]
    parts = [f"{sides.count(side)} views of {side}" for side in sorted(set(sides), reverse=True)]
    return f"{' and '.join(parts).replace('1 views', '1 view')} px"


def _counted_as(taken: Taken) -> str:
    return "GPU" if taken.device.startswith("cuda:") else "core"


def _median_of(taken: Taken, here: str) -> str:
    """How many results, of which device, and whether jobs will have another."""
    many = f"median of {taken.count} results" if taken.count > 1 else "1 result"
    other = "" if taken.device == here or ":" not in here else f"; this machine has {here}"
    return f", {many} on {taken.device}{other}"


def disk_total(jobs: Iterable[Job]) -> float:
    """Peak bytes of jobs: weights and checkpoints in run folders, and a feature cache that evaluations share."""
    from bench.networks.size import parameters  # brings torch, which other costs do without

    folders = 0.0
    cache_entries: dict[str, float] = {}
    for job in jobs:
        spec = job.spec
        if isinstance(spec, Pretrain):
            folders += parameters(spec.backbone) * 4.0 * (1 + 6)  # weights, and checkpoints with optimizer state
            continue
        evaluation = plugins.evaluation_of(spec.protocol)
        if evaluation.trains_network(spec.protocol) and not isinstance(spec.encoder, Pixels):
            # a checkpoint with momentum, three times while the third one is written
            folders += parameters(spec.encoder.backbone) * 4.0 * 6
        splits = _splits_cached(evaluation, spec.protocol)
        for name, split in zip(entries_of(spec, splits), splits, strict=True):
            cache_entries[name] = _images(spec.data.name, split) * 4.0 * _width(spec.encoder, spec.data.size)
    return folders + sum(cache_entries.values())


def _splits_cached(evaluation: Evaluation, protocol: object) -> tuple[str, ...]:
    """Splits whose features an evaluation writes. Of one that says nothing of them: all, the most that it can be."""
    if evaluation.features is not None:
        return evaluation.features
    if evaluation.trains_network(protocol):
        return ()
    return ("train", "val", "test") if evaluation.passes(protocol) is None else ("test",)


def _images(data: str, split: str) -> float:
    """Images of a split. Where the catalogue does not say: of every 15, 10 are train, 1 is val, 4 are test."""
    known = entry(data)
    of_val = known.trainval_images - known.train_images if known.trainval_images else known.train_images / 10
    return {"train": known.train_images, "val": of_val, "test": known.test_images or known.train_images * 0.4}[split]


def _width(encoder: Encoder, size: int) -> int:
    from bench.networks.size import feature_dim

    return 3 * size**2 if isinstance(encoder, Pixels) else feature_dim(encoder.backbone)
