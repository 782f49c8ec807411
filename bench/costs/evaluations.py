"""What evaluations take: passes of the encoder, heads, and what runs on cores alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.contracts import Amount, Cost, Evaluation, Given, Work
from bench.costs.amounts import NetworkWork
from bench.costs.counted import Counts
from bench.costs.devices import DEVICES, Device
from bench.costs.seconds import Part, loader_seconds, seconds
from bench.spec import Backbone, Precision
from bench.wording import counted

FIXED_SECONDS = 0.04  # to read features and to write a result
BATCH = 250  # images of a pass that extracts features
CROP_VALUES = 40.0  # of a crop and a flip, for each number, as VIEW_VALUES of bench/costs/seconds.py
UPDATE_KERNELS = 2.0  # of a step of fine-tuning, for each of its network's: SGD without torch's operations on lists


@dataclass(frozen=True)
class Priced:
    """On what an evaluation is priced."""

    device: Device
    network: NetworkWork | None  # None: the pixels themselves
    data: str
    size: int  # of its images, in pixels
    workers: int


def seconds_of(
    protocol: object, evaluation: Evaluation, given: Given, priced: Priced, *, cached: bool
) -> tuple[float, str]:
    """Of one device, and a few words where something other than the device is the limit."""
    device, network = priced.device, priced.network
    work = _work(protocol, evaluation, given)
    reads = evaluation.features is None or bool(evaluation.features)
    total = FIXED_SECONDS + work.core_seconds / device.core_speed
    slow = ""
    passes: list[tuple[float, list[Part]]] = []  # images, and what they cost
    if network is not None:
        if reads and not cached and not evaluation.trains_network(protocol):
            whole = evaluation.features is not None or evaluation.passes(protocol) is None
            images = given.train + given.val + given.test if whole else given.test
            passes.append(
                (images, _pass(network.frozen, network.frozen_rest, images, images / BATCH, "fp32", "frozen"))
            )
        steps = max(1.0, work.steps)
        crop = Amount(0.0, CROP_VALUES * 3 * priced.size**2, 0.0)
        if work.frozen:
            frozen = _pass(network.frozen, network.frozen_rest, work.frozen, steps, work.precision, "frozen")
            passes.append((work.frozen, [*frozen, Part(crop * work.frozen)]))
        if work.trained:
            trained = _pass(network.trained, network.trained_rest, work.trained, steps, work.precision, "training")
            update = Part(Amount(kernels=UPDATE_KERNELS * steps * network.trained_rest.kernels))
            passes.append((work.trained, [*trained, update, Part(crop * work.trained)]))
    for images, parts in passes:
        computed, loaded = seconds(device, parts), loader_seconds(priced.data, images, priced.workers)
        if device.counted_as == "GPU" and loaded > computed:
            slow = f", held up by the decoding of images in {counted(priced.workers, 'worker')}"
        total += computed + loaded if device.counted_as == "core" else max(computed, loaded)
    return total + seconds(device, [Part(work.heads, how="products")]), slow


def _pass(
    image: Amount, rest: Amount, images: float, batches: float, precision: Precision, how: Literal["training", "frozen"]
) -> list[Part]:
    return [Part(image * images + rest * batches, precision, how)]


def _work(protocol: object, evaluation: Evaluation, given: Given) -> Work:
    """What the protocol says of itself, or what its passes say."""
    said = evaluation.work(protocol, given)
    if said is not None:
        return said
    forward, epochs = evaluation.passes(protocol) or (0.0, 0.0)
    images = given.train + given.val
    return Work(frozen=forward * images, trained=epochs * images, steps=(forward + epochs) * images / BATCH)


def on_device(cost: Cost, backbone: Backbone, device: Device, counts: Counts) -> Cost:
    """A cost that is known of a V100 or of a core, on another device: as this network's training in float32 is."""
    known = DEVICES["v100" if cost.device == "GPU" else "cpu"]
    if known.counted_as == "core" and device.counted_as == "GPU":
        return Cost(cost.seconds, "GPU", f"{cost.source}; a GPU was not measured and taken as no faster")
    if known.counted_as == device.counted_as == "core":
        return Cost(cost.seconds / device.core_speed, "core", cost.source)
    if known.name == device.name:
        return cost
    work = counts.network(backbone, 224)
    ours, theirs = (seconds(each, [Part(work.trained)]) for each in (device, known))
    return Cost(
        cost.seconds * ours / theirs,
        device.counted_as,
        f"{cost.source}; {device.name} as float32 training of the network",
    )
