"""What jobs will cost: seconds, GPU-hours, disk.

Rates of earlier results first (bench/costs/history.py), else listed ones (bench/costs/rates.py).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace

from bench import plugins
from bench.contracts import Evaluation
from bench.costs.history import ANY_WORK, Earlier, Taken, pairs, work
from bench.costs.rates import Kind, Rate, listed
from bench.data.catalogue import entry
from bench.planning.graph import Job, JobGraph
from bench.runs.features import cached_entries, entries_of
from bench.runs.folder import Runs
from bench.spec import Backbone, Encoder, Evaluate, Pixels, Pretrain

STARTUP_SECONDS = 3.0  # of a worker that is started from nothing: Python, torch
FORK_SECONDS = 0.02  # of one that is forked from a process that has imported them
EVALUATION_SECONDS = 4.0  # heads and neighbours on cached features, small data
FORWARD_SHARE = 1 / 6  # of the cost of training on an image with two views: one forward of six
_GUESSED = f"a forward pass as a sixth of training, {EVALUATION_SECONDS:g} s for heads or neighbours; training by "

_CACHED = f"{EVALUATION_SECONDS:g} s for heads or neighbours on cached features"


@dataclass(frozen=True)
class Estimate:
    """Seconds of one job on one device, what hours are counted as ("GPU" or "core"), and where the rate comes from."""

    seconds: float
    device: str
    source: str
    kind: Kind


class Costs:
    """Estimates for jobs. `runs` supplies what earlier jobs took, those of `graph` first.

    `here` is the device that the jobs will have, as provenance names it, or only "cuda"; None: this machine's.
    `forked`: the kinds of job, as in `Job.resources_as`, whose workers are forked. `fingerprint` has that of a data set
    by name, as names of cached features carry it; it is asked only where there is a cache.
    """

    def __init__(
        self,
        runs: Runs,
        graph: JobGraph,
        here: str | None = None,
        forked: Container[str] = (),
        fingerprint: Callable[[str], str] = lambda name: "",
    ) -> None:
        self._runs, self._graph, self._forked, self._fingerprint = runs, graph, forked, fingerprint
        self._earlier = Earlier(runs, graph.jobs.keys(), here)
        self._looked = self._cache = False
        self._entries: set[str] = set()  # of the feature cache, once this plan is done
        self._find: dict[str, bool] = {}  # whether a job of the plan finds its features there
        self._paths: dict[str, float] = {}
        self._estimates: dict[str, Estimate] = {}

    def estimate(self, job: Job) -> Estimate:
        """What one job will take, start-up included."""
        if job.id not in self._estimates:
            spec = job.spec
            work = self._pretraining(spec) if isinstance(spec, Pretrain) else self._evaluation(job, spec)
            startup = FORK_SECONDS if job.resources_as in self._forked else STARTUP_SECONDS
            self._estimates[job.id] = replace(work, seconds=startup + work.seconds)
        return self._estimates[job.id]

    def _pretraining(self, spec: Pretrain) -> Estimate:
        rate = self._rate(spec.backbone, spec.data.size, spec, plugins.name_of(spec.method))
        images = (
            spec.epochs * entry(spec.data.name).train_images * pairs([view.size for view in spec.views], spec.data.size)
        )
        source = f"{_name(spec.backbone)} at {spec.data.size} px by {rate.why}" if rate.scaled else rate.why
        return Estimate(images / rate.images_per_second, rate.device, source, rate.kind)

    def _evaluation(self, job: Job, spec: Evaluate) -> Estimate:
        cached = self._cached(job, spec)
        guess = self._unmeasured(spec, cached=bool(cached))
        taken = self._earlier.seconds(spec, guess.device, cached=cached)
        if taken is None:
            return guess
        name = plugins.name_of(spec.protocol)
        if taken.cached is not None:
            name += " on cached features" if taken.cached else " with its features to extract"
        network = "pixels" if isinstance(spec.encoder, Pixels) else _name(spec.encoder.backbone)
        source = f"{name} of {network} on {spec.data.name}, {taken.value:,.1f} s{_median_of(taken, self._earlier.here)}"
        return Estimate(taken.value, _counted_as(taken), source, "measured")

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

    def _unmeasured(self, spec: Evaluate, *, cached: bool) -> Estimate:
        """What an evaluation takes by its images and the rate of its network."""
        if isinstance(spec.encoder, Pixels):
            return Estimate(EVALUATION_SECONDS * 3, "core", "a fixed time for pixels", "guessed")
        backbone = spec.encoder.backbone
        evaluation = plugins.evaluation_of(spec.protocol)
        own = evaluation.cost(spec.protocol, backbone)
        if own is not None:
            return Estimate(own.seconds, own.device, own.source, "guessed")
        trained = spec.encoder if isinstance(spec.encoder, Pretrain) else None
        size = trained.data.size if trained else spec.data.size
        rate = self._rate(backbone, size, trained, "")
        if cached and evaluation.passes(spec.protocol) is None:
            return Estimate(EVALUATION_SECONDS, rate.device, _CACHED, "guessed")
        forward, epochs = evaluation.passes(spec.protocol) or (1.0, 0.0)
        # a rate's image has two views
        images = entry(spec.data.name).train_images * (FORWARD_SHARE * forward + epochs / 2)
        images *= (spec.data.size / size) ** 2
        return Estimate(
            EVALUATION_SECONDS + images / rate.images_per_second,
            rate.device,
            _GUESSED + rate.why,
            "guessed",
        )

    def _rate(self, backbone: Backbone, size: int, trained: Pretrain | None, method: str) -> Rate:
        """Of training a network on images of `size` px, as in `trained` where there is one.

        `method` "": of no method in particular.
        """
        rate = listed(backbone, size, method)
        for how in (work(trained),) if trained else ANY_WORK:
            taken = self._earlier.rate(backbone, size, how, rate.device)
            if taken:
                source = (
                    f"{_name(backbone)} at {size} px, {taken.value:,.0f} "
                    f"images/s{_median_of(taken, self._earlier.here)}"
                )
                return Rate(taken.value, _counted_as(taken), "measured", source)
        return rate

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
