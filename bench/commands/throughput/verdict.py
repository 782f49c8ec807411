"""Which of loader and training step holds the other up, and how many workers to use: judged from rates alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

HEADROOM = 1.1  # of the step's rate: with less the queue runs empty whenever some large images come together
SAME = 1.03  # rates that are closer than this are one and the same
FLAT = 0.05  # of what one worker gives: who adds less adds nothing


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Rates are images a second.

    `needed` and `gain` are given where the loader is the bottleneck and more workers would help.
    """

    bottleneck: Literal["loader", "step"]
    workers: int  # to use; 0: the process of the step loads, before each step
    loader_rate: float  # with so many workers
    step_rate: float
    cores: int  # that workers may have
    needed: int | None = None  # workers that would keep up with the step
    gain: float = 0.0  # of another worker

    @property
    def allowed(self) -> float:
        """The rate of both together if they do not get into each other's way."""
        if self.workers:
            return min(self.loader_rate, self.step_rate)
        return 1 / (1 / self.loader_rate + 1 / self.step_rate)

    def sentence(self, *, in_memory: bool = False) -> str:
        """The conclusion for a reader; `in_memory` data need no workers."""
        opening = f"The {self.bottleneck} is the bottleneck"
        if not self.workers:
            slower = self.loader_rate if self.bottleneck == "loader" else self.step_rate
            reason = "data in memory need no workers" if in_memory else "no core is left for workers, so use 0"
            made = "making the views" if in_memory else "loading"
            parts = (made, "the step") if self.bottleneck == "loader" else ("the step", made)
            return (
                f"{opening}: {parts[0]} takes {self.allowed / slower:.0%} of an image's time and {parts[1]} the "
                f"rest; {reason}."
            )
        workers = counted(self.workers)
        if self.bottleneck == "step":
            spare = "" if self.loader_rate >= HEADROOM * self.step_rate else ", with little to spare"
            verb = "is" if self.workers == 1 else "are"
            return (
                f"{opening}: {workers} {verb} enough ({readable(self.loader_rate)} images/s for the step's "
                f"{readable(self.step_rate)}{spare})."
            )
        share = (
            f"{opening}: {readable(self.loader_rate)} of the step's {readable(self.step_rate)} images/s with {workers}"
        )
        if self.needed is None:
            return f"{share}; more workers give no more, so look at the disk, or at smaller images (`bench data pack`)."
        return (
            f"{share}; each further one gives {readable(self.gain)}, so {self.needed} would be needed, and there "
            f"are cores for {self.cores}."
        )


def judge(loader_rates: Mapping[int, float], step_rate: float, cores: int) -> Verdict:
    """Verdict on the loader's rates by number of workers (0: no worker process) and the step's rate without loading.

    `cores` is how many workers can run at once; with none, or without a rate for any worker, load and step take turns.
    Between measured numbers of workers the rate is taken to be linear, and beyond them to grow as it did last: loaders
    scale worse the more workers there are, so neither promises too much. A tie goes to the step: nothing waits. Raises
    ValueError for rates that are not positive.
    """
    rates = [step_rate, *loader_rates.values()]
    if len(rates) == 1 or not all(math.isfinite(rate) and rate > 0 for rate in rates):
        raise ValueError(f"expected positive rates of step and loader, got {step_rate} and {dict(loader_rates)}")
    curve = _rising(loader_rates)
    if cores < 1 or not curve:
        rate = loader_rates.get(0, next(iter(loader_rates.values())))
        return Verdict(
            bottleneck="loader" if rate < step_rate else "step",
            workers=0,
            loader_rate=rate,
            step_rate=step_rate,
            cores=cores,
        )
    enough = _workers_for(HEADROOM * step_rate, curve)
    if enough is not None and enough <= cores:
        return Verdict(
            bottleneck="step", workers=enough, loader_rate=_rate_with(enough, curve), step_rate=step_rate, cores=cores
        )
    most = _rate_with(cores, curve)
    keeps_up = most >= step_rate
    usable = [*(point for point in curve if point[0] < cores), (cores, most)]
    workers, rate = next(point for point in usable if point[1] >= (step_rate if keeps_up else most / SAME))
    if keeps_up:
        return Verdict(bottleneck="step", workers=workers, loader_rate=rate, step_rate=step_rate, cores=cores)
    gain = 0.0 if enough is None else (_rate_with(enough, curve) - rate) / (enough - workers)
    return Verdict(
        bottleneck="loader",
        workers=workers,
        loader_rate=rate,
        step_rate=step_rate,
        cores=cores,
        needed=enough,
        gain=gain,
    )


def readable(number: float) -> str:
    """Whole numbers with thousands marked, two digits below 20."""
    return f"{number:,.0f}" if number >= 20 else f"{number:.2g}"


def counted(workers: int) -> str:
    """With its noun."""
    return "1 worker" if workers == 1 else f"{workers} workers"


def _rising(loader_rates: Mapping[int, float]) -> list[tuple[int, float]]:
    """By number of workers the best rate so far: more workers than help can stay idle."""
    curve: list[tuple[int, float]] = []
    for workers in sorted(count for count in loader_rates if count > 0):
        curve.append((workers, max(loader_rates[workers], curve[-1][1] if curve else 0.0)))
    return curve


def _slope(curve: Sequence[tuple[int, float]]) -> float:
    """What another worker beyond the measured ones adds; 0 when it is next to nothing."""
    (count, rate), (before, reached) = curve[-1], curve[-2] if len(curve) > 1 else (0, 0.0)
    slope = (rate - reached) / (count - before)
    return slope if slope >= FLAT * curve[0][1] / curve[0][0] else 0.0


def _rate_with(workers: int, curve: Sequence[tuple[int, float]]) -> float:
    before, reached = 0, 0.0
    for count, rate in curve:
        if count >= workers:
            return reached + (rate - reached) * (workers - before) / (count - before)
        before, reached = count, rate
    return reached + _slope(curve) * (workers - before)


def _workers_for(wanted: float, curve: Sequence[tuple[int, float]]) -> int | None:
    """The fewest workers that reach a rate; None where no number does."""
    before, reached = 0, 0.0
    for count, rate in curve:
        if rate >= wanted * (1 - 1e-9):
            slope = (rate - reached) / (count - before)
            break
        before, reached = count, rate
    else:
        slope = _slope(curve)
    if not slope:
        return None
    return before + max(1, math.ceil((wanted - reached) / slope - 1e-9))
