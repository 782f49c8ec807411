"""From amounts of work to seconds of a device: docs/costs.md has the formula, and how far off it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from bench.contracts import Amount
from bench.costs.amounts import StepWork
from bench.costs.devices import Device
from bench.spec import Precision

# Of a view that is made on the device, for each number of it: reads and writes of jitter, blur and the rest. On an H100
# 25 to 50 us a view of 224 px (docs/gpus.md), on a core about 80 us a digit of 32 px.
VIEW_VALUES = 130.0
# Of one image with two views, 500 x 375 px, on one core: 1,963 a second with 8 workers on 16 (docs/gpus.md).
DECODE_SECONDS = 1 / 245
IN_MEMORY = frozenset(
    (
        "mnist5k",
        "tflat",
        "digits1797",
        "digit_scenes",
        "digit_pairs",
        "cifar10",
        "cifar100",
        "stl10",
        "stl10-unlabelled",
    )
)
# Gradients, norms and losses go over the links: not measured, the measurements were of one GPU.
SEVERAL_RANKS = 1.05
COMPILED = 1.3  # times as fast on a GPU in half precision (2,974 images a second for 2,290 without the optimizer)
COMPILED_ELSE = 1.1
AUTOTUNED = 1.23  # times as fast in float32 on a GPU with `deterministic = false` (482 images a second for 391)
FORWARD = 1 / 3  # of a network's step: a gradient-cached step has one forward more, and so have checkpointed blocks


@dataclass(frozen=True)
class Part:
    """Some work, in a precision, of a network in training, of a frozen one, or products of large matrices alone."""

    amount: Amount
    precision: Precision = "fp32"
    how: Literal["training", "frozen", "products"] = "training"


def seconds(device: Device, parts: Iterable[Part]) -> float:
    """Of one device. A GPU computes while the host starts its kernels: the longer of both counts; a core does both."""
    busy = host = 0.0
    for part in parts:
        precision = device.computes(part.precision)
        shares = {"training": device.share, "frozen": device.forward_share, "products": device.product_share}
        share = shares[part.how][precision]
        width = 2 if precision in ("fp16", "bf16") else 4
        busy += part.amount.flops / (device.peak[precision] * share)
        busy += part.amount.values * width / (device.bandwidth * device.bandwidth_share)
        host += part.amount.kernels * device.launch_seconds
    return busy + host if device.counted_as == "core" else max(busy, host)


def loader_seconds(data: str, images: float, workers: int) -> float:
    """To decode images that lie on disk; 0 for images in memory. Without workers the process itself does so."""
    return 0.0 if data in IN_MEMORY else images * DECODE_SECONDS / max(1, workers)


@dataclass(frozen=True)
class Step:
    """How a step of a pretraining is computed."""

    work: StepWork
    batch_size: int
    ranks: int
    precision: Precision
    view_numbers: float  # of all views of an image
    shared_loss: bool = False  # the ranks share its products
    compiled: bool = False
    autotuned: bool = False  # kernels of GPUs need not be deterministic
    more_forwards: int = 0  # for chunks, and for checkpointed activations


def step_seconds(device: Device, step: Step) -> float:
    """Of each rank; what the loader takes is not in it."""
    each = step.batch_size / step.ranks
    work, precision = step.work, step.precision
    network = work.image * (each * (1 + FORWARD * step.more_forwards)) + work.rest
    if step.compiled:
        half = precision in ("fp16", "bf16") and device.counted_as == "GPU"
        network = network * (1 / (COMPILED if half else COMPILED_ELSE))
    elif step.autotuned and device.counted_as == "GPU" and precision == "fp32":  # as bench/execution/device.py has it
        network = network * (1 / AUTOTUNED)
    loss = work.loss
    if step.shared_loss:
        loss = Amount(loss.flops / step.ranks, loss.values, loss.kernels)
    # losses are outside of autocast: half precisions compute them in float32
    outside: Precision = "tf32" if precision == "tf32" else "fp32"
    views = Amount(0.0, each * step.view_numbers * VIEW_VALUES, 60.0)
    parts = (Part(network, precision), Part(loss, outside, "products"), Part(work.update), Part(views))
    return seconds(device, parts) * (SEVERAL_RANKS if step.ranks > 1 else 1.0)
