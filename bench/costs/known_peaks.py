"""What was counted of memory, by what it depends on: looked up in a file, counted now where it is not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from bench.costs.steps import Count, Network, Training, key

FILE = Path(__file__).with_name("memory.json")  # written by docs/make_memory.py


def count(what: Network | Training) -> Count:
    """Bytes at the peak. Brings torch only where nobody counted it before."""
    known = _file().get(key(what))
    return _counted(key(what), what) if known is None else known


def is_known(what: Network | Training) -> bool:
    """Whether `count` answers at once."""
    return key(what) in _file()


@cache
def _file() -> Mapping[str, Count]:
    return {name: Count(*entry) for name, entry in json.loads(FILE.read_text(encoding="utf-8"))["counts"].items()}


@cache
def _counted(name: str, what: Network | Training) -> Count:
    from bench.costs import peaks

    if isinstance(what, Training):
        return peaks.of_training(what.spec, recompute=what.recompute)
    return peaks.of_network(what)
