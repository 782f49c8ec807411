"""How tests/perf measures: the measured way and the usual one in turn, round by round, in CPU time of one core.

Each round runs the usual way first and the measured one right after it, so that both meet the same machine; values are
medians over the rounds, and so is the ratio, which is taken within each round. What is found goes into
`benchmark.extra_info` as one `Row`; docs/make_performance.py makes the page from it. Nothing here fails for its time.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Spent = Callable[[], float]  # does the work and returns the seconds that count
Unit = Literal["ms an image", "images/s", "s"]
Side = Literal["value at most", "wall at most", "ratio at most", "ratio at least"]
Comparison = Literal["times as fast as", "times the time of"]


@dataclass(frozen=True)
class Published:
    """A rate that was measured elsewhere, and that of the usual way beside it there.

    Together with the ratio here they make a third. The rate of a peer comes from another machine, so what is made of it
    is derived, and said to be.
    """

    peer: str
    peer_rate: float  # images a second
    usual_rate: float  # of the usual way, on the peer's machine
    at_least: float  # the goal for the derived ratio


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of docs/performance.md."""

    what: str
    unit: Unit
    value: float
    wall: float | None = None  # seconds by the clock, where the value is CPU seconds of processes that are waited for
    beside: str = ""  # the usual way
    beside_value: float | None = None
    ratio: float | None = None
    comparison: Comparison = "times as fast as"
    goals: Mapping[Side, float] = field(default_factory=dict)
    published: Published | None = None
    note: str = ""
    rounds: int


@dataclass(frozen=True, kw_only=True)
class Usual:
    """What the measured way is held against."""

    name: str
    spent: Spent
    comparison: Comparison = "times as fast as"


def cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def timed(work: Callable[[], object]) -> Spent:
    """All of the work counts."""

    def spent() -> float:
        begun = cpu_seconds()
        work()
        return cpu_seconds() - begun

    return spent


def pairs(
    benchmark: Any,
    what: str,
    measured: Spent,
    usual: Usual,
    *,
    unit: Unit,
    rounds: int,
    images: int = 1,
    goals: Mapping[Side, float] | None = None,
    published: Published | None = None,
    note: str = "",
    warm: bool = True,
) -> None:
    """Both ways in turn.

    `images` are what one call works on; `warm` adds a first round that does not count, where there are several.
    """
    usual_times: list[float] = []
    times: list[float] = []

    def before() -> None:
        usual_times.append(usual.spent())

    def now() -> None:
        times.append(measured())

    if warm and rounds > 1:
        before()
        now()
        usual_times.clear()
        times.clear()
    benchmark.pedantic(now, setup=before, rounds=rounds, iterations=1)
    faster = statistics.median(a / b for a, b in zip(usual_times, times, strict=True))
    row = Row(
        what=what,
        unit=unit,
        value=_in_unit(statistics.median(times), unit, images),
        beside=usual.name,
        beside_value=_in_unit(statistics.median(usual_times), unit, images),
        ratio=faster if usual.comparison == "times as fast as" else 1 / faster,
        comparison=usual.comparison,
        goals=goals or {},
        published=published,
        note=note,
        rounds=rounds,
    )
    benchmark.extra_info |= asdict(row)


def alone(
    benchmark: Any,
    what: str,
    measured: Callable[[], object],
    *,
    rounds: int,
    goals: Mapping[Side, float] | None = None,
    note: str = "",
    warm: bool = True,
) -> None:
    """Seconds of something without a usual way beside it: CPU time with all processes it waits for, and the clock's."""
    times: list[float] = []
    walls: list[float] = []

    def now() -> None:
        begun = time.monotonic()
        times.append(timed(measured)())
        walls.append(time.monotonic() - begun)

    if warm and rounds > 1:
        now()
        times.clear()
        walls.clear()
    benchmark.pedantic(now, rounds=rounds, iterations=1)
    row = Row(
        what=what,
        unit="s",
        value=statistics.median(times),
        wall=statistics.median(walls),
        goals=goals or {},
        note=note,
        rounds=rounds,
    )
    benchmark.extra_info |= asdict(row)


def _in_unit(seconds: float, unit: Unit, images: int) -> float:
    return {"ms an image": 1e3 * seconds / images, "images/s": images / seconds, "s": seconds}[unit]
