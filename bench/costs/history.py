"""How long finished jobs under the runs folder took, by what they did and on which device.

Reads few files, newest first, when asked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from bench.costs.devices import Device, device_of
from bench.errors import BenchError
from bench.files import read_json
from bench.identity import to_json
from bench.machine import device_here
from bench.runs.folder import Runs
from bench.runs.result import Result, read_result
from bench.spec import Evaluate, Pixels, Pretrain

LOOKED_AT = 1000  # newest results of a kind whose job is read
ENOUGH = 9  # newest results of the same work; their median counts

Key = tuple[object, ...]


@dataclass(frozen=True)
class Taken:
    """Median over results of the same work on the same kind of device."""

    value: float  # images a second and rank, of two views of full size; of an evaluation seconds of one rank
    count: int
    device: str  # as provenance names it: "cuda: <name>" or "cpu: <model>"
    cached: bool | None = None  # whether those evaluations found their features; None: they do not say


def work(spec: Pretrain) -> Key:
    """How a training step is computed, by all that changes its rate much."""
    return spec.precision, spec.compile, spec.chunks > 1, any(view.exact for view in spec.views)


class Earlier:
    """Finished jobs by what was done in them. Those in `first` count before others, newer ones before older ones.

    `here` is the device that jobs will have, as provenance names it, or only "cuda"; None: this machine's. With
    `priced` they are imagined on that one, and only results of such devices count.
    """

    def __init__(self, runs: Runs, first: Container[str], here: str | None, priced: Device | None = None) -> None:
        self._priced = priced
        self._runs = runs
        self._first = first
        self._named = here
        self._values: dict[Key, list[tuple[str, float, bool | None]]] = {}

    @cached_property
    def here(self) -> str:
        """The device that jobs will have."""
        return self._named or (self._priced.title if self._priced else device_here())

    def rate(self, spec: Pretrain, device: Device) -> Taken | None:
        """Rate of training such a network on images of that size, in pairs of views: here, or on such a device."""
        key = ("pretrain", to_json(spec.backbone), spec.data.size, *work(spec))
        return self._taken(self._pretrainings, key, device)

    def seconds(self, spec: Evaluate, device: Device, *, cached: bool | None) -> Taken | None:
        """Seconds of an evaluation: the same protocol on the same data and an encoder of the same architecture.

        `cached`: whether it finds its features, None: it reads none. Results that found what this one has to extract,
        or extracted what this one finds, say nothing of it; those that do not know count where there are no others.
        """
        if not self._evaluations:
            return None
        network = "pixels" if isinstance(spec.encoder, Pixels) else to_json(spec.encoder.backbone)
        key = ("evaluate", to_json(spec.protocol), to_json(spec.data), network)
        for wanted in dict.fromkeys((cached, None)):
            taken = self._taken(self._evaluations, key, device, wanted)
            if taken is not None:
                return taken
        return None

    def _taken(
        self, folders: Mapping[Key, list[Path]], key: Key, device: Device, cached: bool | None = None
    ) -> Taken | None:
        if key not in folders:
            return None
        if key not in self._values:
            self._values[key] = list(_values(folders[key]))
        alike = [(name, value) for name, value, found in self._values[key] if found is cached]
        taken = _median(alike, self.here, lambda name: self._like(name, device))
        return taken and replace(taken, cached=cached)

    def _like(self, name: str, device: Device) -> bool:
        """Whether results of another device count: imagined ones are of one kind, here any GPU or any core will do."""
        other = device_of(name)
        if self._priced is not None:
            return other.name.partition("-")[0] == device.name.partition("-")[0]
        return other.counted_as == device.counted_as

    @cached_property
    def _pretrainings(self) -> Mapping[Key, list[Path]]:
        return _by_work(_newest(self._runs.root, "pretrain", self._first))

    @cached_property
    def _evaluations(self) -> Mapping[Key, list[Path]]:
        return _by_work(_newest(self._runs.root, "evaluate", self._first))


def _median(values: Iterable[tuple[str, float]], here: str, alike: Callable[[str], bool]) -> Taken | None:
    """Of the device `here` if there are any, else of the newest other that is like the one wanted."""
    by_device: dict[str, list[float]] = {}
    for device, value in values:
        same = by_device.setdefault(device, [])
        if len(same) < ENOUGH:
            same.append(value)
    for device in (here, *filter(alike, by_device)):
        if device in by_device:
            return Taken(median(by_device[device]), len(by_device[device]), device)
    return None


def _by_work(folders: Iterable[Path]) -> Mapping[Key, list[Path]]:
    """Folders by what was done in them, in their order."""
    found: dict[Key, list[Path]] = {}
    for folder in folders:
        try:
            key = _key(read_json(folder / "job.json")["spec"])
        except (OSError, BenchError, LookupError, TypeError, AttributeError):
            continue  # damaged or of another version: nothing to learn
        same = found.setdefault(key, [])
        if len(same) < ENOUGH or key[0] == "evaluate":  # the newest may all have found their features, or none
            same.append(folder)
    return found


def _key(spec: Any) -> Key:
    """As `Earlier` asks, from the canonical form in job.json, where fields that act as before are left out."""
    if "encoder" not in spec:
        exact = any(view.get("exact", False) for view in spec["views"])
        how = (spec["precision"], spec.get("compile", False), spec.get("chunks", 1) > 1, exact)
        return "pretrain", _written(spec["backbone"]), spec["data"]["size"], *how
    network = _written(spec["encoder"]["backbone"]) if "backbone" in spec["encoder"] else "pixels"
    return "evaluate", _written(spec["protocol"]), _written(spec["data"]), network


def _newest(root: Path, kind: str, first: Container[str]) -> list[Path]:
    """Folders with a result, those in `first` before others and newest first, no more than are looked at."""
    found: list[tuple[bool, float, str]] = []
    try:
        with os.scandir(root) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(f"{kind}-")]
    except OSError:
        return []
    for name in names:
        try:
            written = (root / name / "result.json").stat().st_mtime
        except OSError:
            continue  # not finished
        found.append((name in first, written, name))
    return [root / name for _, _, name in sorted(found, reverse=True)[:LOOKED_AT]]


def _values(folders: Iterable[Path]) -> Iterable[tuple[str, float, bool | None]]:
    """Device, rate or seconds, and whether its features were cached, of each readable result."""
    for folder in folders:
        try:
            result = read_result(folder / "result.json")
            spec: Any = read_json(folder / "job.json")["spec"]
            value = _rate(spec, result) if "batch_size" in spec else result.provenance.seconds * result.provenance.ranks
        except (OSError, BenchError, LookupError, TypeError, AttributeError):
            continue
        if value > 0 and result.provenance.together == 1:  # else a share of what several jobs took, and none's own time
            yield result.provenance.device, value, result.provenance.features_cached


def _rate(spec: Mapping[str, Any], result: Result) -> float:
    """Images a second and rank; 0 when the result does not say."""
    seen = (
        result.metrics.get("steps", 0.0)
        * spec["batch_size"]
        * pairs([view["size"] for view in spec["views"]], spec["data"]["size"])
    )
    seconds = result.provenance.seconds * result.provenance.ranks
    return float(seen / seconds) if seconds > 0 else 0.0


def pairs(views: Iterable[int], size: int) -> float:
    """Views of an image in pairs of full size: a local crop of multi-crop costs by its area."""
    return sum((view / size) ** 2 for view in views) / 2


def _written(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
