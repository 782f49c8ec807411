"""What jobs will cost: seconds, GPU-hours, disk. Measured rates of earlier results first, published or measured anchors else."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

from bench.data.catalogue import entry
from bench.errors import BenchError
from bench.features import entries_of, splits_read
from bench.graph import Job, JobGraph
from bench.identity import digest
from bench.runs import Runs
from bench.spec import Backbone, Encoder, Pixels, Pretrain


@dataclass(frozen=True)
class Anchor:
    """A training rate to start from: images a second (two views each) of one network on one device."""

    images_per_second: float
    device: str  # "GPU" or "core"
    source: str


_HERE = "this project, one core with AVX512-BF16, bf16"
# By architecture and channels of the first stage.
ANCHORS: Mapping[tuple[str, int], Anchor] = {
    ("resnet50", 64): Anchor(90.0, "GPU", "Barlow Twins (arXiv:2103.03230, section 2.2): 1000 epochs in about 124 h on 32 V100"),
    ("resnet10", 8): Anchor(2900.0, "core", _HERE),
    ("resnet10", 16): Anchor(1850.0, "core", _HERE),
    ("resnet10", 32): Anchor(760.0, "core", _HERE),
    ("resnet18", 8): Anchor(2000.0, "core", _HERE),
    ("resnet18", 64): Anchor(640.0, "GPU", "ResNet-50's rate, scaled with multiply-adds (0.56 G with the CIFAR stem)"),
    ("vit_digits", 64): Anchor(2100.0, "core", _HERE),  # transformers have no base channels: 64 stands for width 1
}
# Cost of one image relative to ResNet-50 at 224 px with 64 channels, from multiply-adds: R18/CIFAR stem 0.56, R50 4.1, R101 7.8,
# DeiT-S 4.6, ViT-B 17.6, vit_cifar 0.27 G.
RELATIVE = {"resnet50": 1.0, "resnet101": 1.9, "resnet18": 0.14, "resnet10": 0.01, "vit_small16": 1.1, "vit_base16": 4.3, "vit_cifar": 0.07}
STARTUP_SECONDS = 3.0  # of a worker: Python, torch
EVALUATION_SECONDS = 4.0  # heads and neighbours on cached features, small data
FORWARD_SHARE = 1 / 6  # of the cost of training on an image with two views: one forward of six


@dataclass(frozen=True)
class Estimate:
    """Seconds of one job on one device, the device, and where the rate comes from."""

    seconds: float
    device: str
    source: str


class Costs:
    """Estimates for the jobs of a site. `runs` supplies measured rates."""

    def __init__(self, runs: Runs, graph: JobGraph) -> None:
        self._measured: dict[str, tuple[float, str]] = {}
        self._paths: dict[str, float] = {}
        for job in graph:
            if isinstance(job.spec, Pretrain) and runs[job.id].result_file.exists():
                self._learn(job.spec, runs, job.id)

    def estimate(self, job: Job) -> Estimate:
        """What one job will take, start-up included."""
        spec = job.spec
        if isinstance(spec, Pretrain):
            anchor = self._rate(spec.backbone)
            images = spec.epochs * entry(spec.data.name).train_images * _pairs(spec)
            return Estimate(STARTUP_SECONDS + images / anchor.images_per_second, anchor.device, anchor.source)
        own = getattr(spec.protocol, "cost", None)  # of a protocol that trains a network of its own
        if own is not None and not isinstance(spec.encoder, Pixels):
            seconds, device, source = own(spec.encoder.backbone)
            return Estimate(STARTUP_SECONDS + seconds, device, source)
        if isinstance(spec.encoder, Pixels):
            return Estimate(STARTUP_SECONDS + EVALUATION_SECONDS * 3, "core", "a fixed guess")
        anchor = self._rate(spec.encoder.backbone)
        # What a protocol does to the training images besides reading their features once: shares of a forward and of a training epoch.
        forward, trained = spec.protocol.passes() if hasattr(spec.protocol, "passes") else (1.0, 0.0)
        images = entry(spec.data.name).train_images * (FORWARD_SHARE * forward + trained / 2)  # an anchor's image has two views
        return Estimate(STARTUP_SECONDS + EVALUATION_SECONDS + images / anchor.images_per_second, anchor.device, anchor.source)

    def longest_path(self, graph: JobGraph, job: str) -> float:
        """Seconds from the start of a job to the end of the longest chain behind it."""
        if not self._paths:
            for other in reversed(list(graph)):
                self._paths[other.id] = self._paths.get(other.id, 0.0) + self.estimate(other).seconds
                for need in other.needs:
                    self._paths[need] = max(self._paths.get(need, 0.0), self._paths[other.id])
        return self._paths[job]

    def wall_clock(self, graph: JobGraph, todo: Iterable[Job], slots: int) -> float:
        """Seconds until all of `todo` is done on so many slots, longest chain first."""
        jobs = {job.id: job for job in todo}
        missing = {job: sum(need in jobs for need in jobs[job].needs) for job in jobs}
        children: dict[str, list[str]] = {job: [] for job in jobs}
        for job in jobs.values():
            for need in job.needs:
                if need in jobs:
                    children[need].append(job.id)
        free = [0.0] * slots
        ends: dict[str, float] = {}
        ready = [(-self.longest_path(graph, job), job) for job in jobs if not missing[job]]
        heapq.heapify(ready)
        while ready:
            _, job_id = heapq.heappop(ready)
            start = max(heapq.heappop(free), max((ends.get(need, 0.0) for need in jobs[job_id].needs), default=0.0))
            ends[job_id] = start + self.estimate(jobs[job_id]).seconds
            heapq.heappush(free, ends[job_id])
            for child in children[job_id]:
                missing[child] -= 1
                if not missing[child]:
                    heapq.heappush(ready, (-self.longest_path(graph, child), child))
        return max(ends.values(), default=0.0)

    def _learn(self, spec: Pretrain, runs: Runs, job: str) -> None:
        try:
            result = runs[job].result()
        except BenchError:
            return
        seconds = result.provenance.seconds
        if seconds > 0 and "steps" in result.metrics:
            rate = result.metrics["steps"] * spec.batch_size * _pairs(spec) / seconds / result.provenance.ranks
            device = "GPU" if result.provenance.device.startswith("cuda") else "core"
            self._measured[digest(spec.backbone)] = (rate, device)

    def _rate(self, backbone: Backbone) -> Anchor:
        measured = self._measured.get(digest(backbone))
        if measured:
            return Anchor(*measured, "measured in earlier runs of this encoder here")
        channels = backbone.base_channels * backbone.width
        exact = ANCHORS.get((backbone.name, channels))
        if exact:
            return exact
        near = [(c, anchor) for (name, c), anchor in ANCHORS.items() if name == backbone.name]
        if near:
            other, anchor = min(near, key=lambda pair: abs(pair[0] - channels))
            return replace(
                anchor, images_per_second=anchor.images_per_second * (other / channels) ** 2, source=f"{anchor.source}; scaled with channels squared"
            )
        base = ANCHORS["resnet50", 64]
        factor = RELATIVE.get(backbone.name, 1.0) * (channels / 64) ** 2
        return replace(base, images_per_second=base.images_per_second / factor, source=f"{base.source}; scaled with multiply-adds")


def _pairs(spec: Pretrain) -> float:
    """Views of an image in pairs of full size: a local crop of multi-crop costs by its area."""
    return sum((view.size / spec.data.size) ** 2 for view in spec.views) / 2


def disk_total(jobs: Iterable[Job]) -> float:
    """Peak bytes of jobs: weights and checkpoints in their run folders, and the feature cache, whose entries evaluations share."""
    folders = 0.0
    cache_entries: dict[str, float] = {}
    for job in jobs:
        spec = job.spec
        if isinstance(spec, Pretrain):
            folders += parameters(spec.backbone) * 4.0 * (1 + 4)  # weights, and a checkpoint with optimizer state
            continue
        if _trains_network(spec.protocol) and not isinstance(spec.encoder, Pixels):
            folders += parameters(spec.encoder.backbone) * 4.0 * 4  # a checkpoint with momentum, twice while the next one is written
        splits = _splits_cached(spec.protocol)
        for name, split in zip(entries_of(spec, splits), splits, strict=True):
            cache_entries[name] = _images(spec.data.name, split) * 4.0 * _width(spec.encoder, spec.data.size)
    return folders + sum(cache_entries.values())


def _trains_network(protocol: object) -> bool:
    """Detection and fine-tuning, by what they say of their cost."""
    return hasattr(protocol, "cost") or (hasattr(protocol, "passes") and protocol.passes()[1] > 0)


def _splits_cached(protocol: object) -> tuple[str, ...]:
    """Splits whose features an evaluation writes. Of one that says nothing of them: all, the most that it can be."""
    told = splits_read(protocol)
    if told is not None:
        return told
    if _trains_network(protocol):
        return ()
    return ("test",) if hasattr(protocol, "passes") else ("train", "val", "test")


def _images(data: str, split: str) -> float:
    """Images of a split. Where the catalogue does not say: of every 15, 10 are train, 1 is val, 4 are test."""
    known = entry(data)
    of_val = known.trainval_images - known.train_images if known.trainval_images else known.train_images / 10
    return {"train": known.train_images, "val": of_val, "test": known.test_images or known.train_images * 0.4}[split]


def _width(encoder: Encoder, size: int) -> int:
    return 3 * size**2 if isinstance(encoder, Pixels) else feature_dim(encoder.backbone)


@cache
def parameters(backbone: Backbone) -> int:
    """Parameter count, without allocating the network."""
    return _meta(backbone)[0]


def feature_dim(backbone: Backbone) -> int:
    """Width of the representation."""
    return _meta(backbone)[1]


@cache
def _meta(backbone: Backbone) -> tuple[int, int]:
    import torch

    from bench import encoders

    with torch.device("meta"):
        network = encoders.build(backbone, seed=0)
    return encoders.parameters(network), network.feature_dim
