"""Counts of work by network and by method: those of the tables lie here, others are made once and kept below the runs.

`python docs/count_work.py` writes those of the tables anew. With all known, a plan counts nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from bench import plugins
from bench.contracts import Amount
from bench.costs.amounts import NetworkWork, StepWork, network, numbers, step
from bench.data.catalogue import entry
from bench.errors import BenchError, one_line
from bench.identity import to_json
from bench.spec import Backbone, Pretrain

OF_TABLES = Path(__file__).with_name("counted.jsonl")
NAME = "counted.jsonl"  # below the runs folder


class Counts:
    """Looks counts up, and counts what is not known. `folder` keeps what was counted here; None: nowhere.

    Without `runs_code` no step is counted anew: that runs the code of a method, which may end the process it is in.
    """

    def __init__(self, folder: Path | None, *, runs_code: bool = True) -> None:
        self._runs_code = runs_code
        self._file = folder and folder / NAME
        self._here = dict(_read(self._file)) if self._file else {}
        self._networks: dict[tuple[Backbone, int], NetworkWork] = {}
        self._steps: dict[str, StepWork] = {}

    def network(self, backbone: Backbone, size: int) -> NetworkWork:
        """Raises BenchError for a network that cannot be built."""
        found = self._networks.get((backbone, size))
        if found is None:
            key = network_key(backbone, size)
            written = _of_tables().get(key) or self._here.get(key)
            if written is None:
                what = f"{backbone.name} {backbone.width}x at {size} px"
                written = self._keep(key, what, lambda: _counting().network_work(shape(backbone), size))
            found = self._networks[backbone, size] = network(written)
        return found

    def step(self, spec: Pretrain) -> StepWork:
        """Raises BenchError for a network that cannot be built, and for what is not to be counted."""
        key = step_key(spec)
        found = self._steps.get(key)
        if found is None:
            written = _of_tables().get(key) or self._here.get(key)
            if written is None and not self._runs_code and key not in _NEW:
                raise BenchError(f"the work of {label(spec)} was not counted before")
            if written is None:
                written = self._keep(
                    key, label(spec), lambda: _counting().step_work(replace(spec, backbone=shape(spec.backbone)))
                )
            found = self._steps[key] = step(written)
        return found

    def step_of_network(self, spec: Pretrain) -> StepWork:
        """Of a method that cannot be counted: its views through the network and back."""
        work = self.network(spec.backbone, spec.data.size)
        views = sum((view.size / spec.data.size) ** 2 for view in spec.views)
        return StepWork(work.trained * views, work.trained_rest, Amount(), Amount())

    def _keep(self, key: str, what: str, work: Callable[[], NetworkWork | StepWork]) -> list[float]:
        """Count it, once in a process and once in a folder. Raises BenchError for what torch cannot count."""
        if key not in _NEW:
            try:
                _NEW[key] = numbers(work())
            except BenchError:
                raise
            except Exception as error:  # whatever a method of one's own does with tensors that have no memory
                raise BenchError(f"the work of {what} cannot be counted ({one_line(error)})") from error
            if self._file and self._file.parent.is_dir():
                with suppress(OSError), self._file.open("a", encoding="utf-8") as file:  # one write: lines stay whole
                    file.write(line(key, what, _NEW[key]))
        return _NEW[key]


_NEW: dict[str, list[float]] = {}  # counted by this process


def _counting() -> ModuleType:
    from bench.costs import counting  # brings torch

    return counting


def label(spec: Pretrain) -> str:
    """Of a step, for a reader of the file."""
    sides = ", ".join(str(view.size) for view in spec.views)
    return (
        f"{plugins.name_of(spec.method)}, {spec.backbone.name} {spec.backbone.width}x, views of {sides} px, "
        f"batch {spec.batch_size}"
    )


def line(key: str, what: str, written: list[float]) -> str:
    """As the files have it."""
    return json.dumps({"key": key, "what": what, "work": written}) + "\n"


def network_key(backbone: Backbone, size: int) -> str:
    """By all that changes a network's work."""
    return _hash("network", to_json(shape(backbone)), size)


def step_key(spec: Pretrain) -> str:
    """By all that changes a step's work."""
    views = [view.size for view in spec.views]
    rule = (spec.optim.name, spec.optim.vector_lr is None, spec.optim.vector_weight_decay)
    method, classes = to_json(spec.method), entry(spec.data.name).classes
    return _hash("step", method, to_json(shape(spec.backbone)), views, spec.batch_size, classes, rule)


def shape(backbone: Backbone) -> Backbone:
    """Without what changes numbers and no work."""
    plain = replace(backbone, normalize="none", padding="torch", positions="size")
    return plain if plain.name.startswith("vit") else replace(plain, zero_init_residual=True)


def _hash(*parts: object) -> str:
    return sha256(json.dumps(parts).encode()).hexdigest()[:16]


@cache
def _of_tables() -> Mapping[str, list[float]]:
    return dict(_read(OF_TABLES))


def _read(path: Path) -> Iterator[tuple[str, list[float]]]:
    """Lines that are whole; a damaged one is counted anew."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for text in lines:
        with suppress(ValueError, LookupError, TypeError, AttributeError):
            found = json.loads(text)
            network(found["work"])  # as many numbers as a step has
            yield str(found["key"]), found["work"]
