"""What is counted of networks and of methods, and how it is written down."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bench.contracts import Amount


@dataclass(frozen=True)
class NetworkWork:
    """Of one network at one size of images. An image's amounts have no kernels: a batch has as many as an image."""

    frozen: Amount  # forward in evaluation mode, an image
    frozen_rest: Amount  # of a batch, beside its images
    trained: Amount  # forward and backward, an image
    trained_rest: Amount


@dataclass(frozen=True)
class StepWork:
    """Of one step of a pretraining."""

    image: Amount  # all views of it through all networks, forward and backward
    rest: Amount  # of a step on one rank, beside its images
    loss: Amount  # of the whole batch, forward and backward
    update: Amount  # optimizer, momentum encoder


def numbers(work: NetworkWork | StepWork) -> list[float]:
    """Of a line in a file; `network` and `step` read it. Rounded: what is beyond six digits is no one's."""
    return [float(f"{number:.6g}") for amount in vars(work).values() for number in vars(amount).values()]


def network(written: Iterable[float]) -> NetworkWork:
    """Raises ValueError or TypeError for what is none."""
    return NetworkWork(*_amounts(written))


def step(written: Iterable[float]) -> StepWork:
    """Raises ValueError or TypeError for what is none."""
    return StepWork(*_amounts(written))


def _amounts(written: Iterable[float]) -> list[Amount]:
    found = [float(number) for number in written]
    if len(found) != 12:
        raise ValueError(f"{len(found)} numbers, expected 12")
    return [Amount(*found[start : start + 3]) for start in range(0, 12, 3)]
