"""What the authors of a method published beside its paper: methods/<name>.toml, data beside the method's file.

    [hours]                       # of one run of a ResNet-50 on ImageNet at 224 px, for the rates of a plan
    source = "paper, table: what it says"
    epochs = 100
    hours = 9
    devices = 32

    [weights.simclr_1x]           # a file that `bench run --released` takes; the name is what rows and bench.toml call
    it
    paper = "SimCLR (arXiv:2002.05709)"
    network = "resnet50"          # and width = 1, padding = "torch" (or "tensorflow"), normalize = "imagenet" (or
    "none")
    url = "https://..."           # of the file itself; else by_hand = "where a browser or a tool of the host finds it"
    sha256 = "0676ba61"           # its beginning, as far as it is published
    top1 = 69.1                   # linear evaluation on ImageNet, percent, as the authors' page says beside the link
    note = "..."

Imports no torch: a plan and bench.toml ask for names long before anything is trained.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from bench import plugins
from bench.errors import BenchError, unknown_name
from bench.spec import Backbone

T = TypeVar("T")
NETWORK = ("network", "width", "padding", "normalize")  # keys that make the backbone


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One published file."""

    paper: str
    backbone: Backbone
    url: str = ""  # of the file itself; "" where only a browser or a tool of the host gets it
    by_hand: str = ""  # then: where it is
    sha256: str = ""  # its beginning, as far as it is published
    top1: float | None = None  # percent
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Hours:
    """How long one run took."""

    source: str
    epochs: float
    hours: float
    devices: int


@cache
def catalogue() -> dict[str, Weights]:
    """All released weights by name."""
    found: dict[str, Weights] = {}
    for path, body in _all():
        for name, entry in body.get("weights", {}).items():
            if name in found:
                raise BenchError(f"{path}: weights.{name} stands in another file as well.")
            found[name] = _weights(f"{path}: weights.{name}", entry)
    return found


@cache
def hours() -> dict[str, Hours]:
    """Published hours by method."""
    return {path.stem: _made(Hours, f"{path}: hours", body["hours"]) for path, body in _all() if "hours" in body}


def weights(name: str) -> Weights:
    """Raises BenchError with the valid names."""
    if name not in catalogue():
        raise unknown_name("released weights", name, catalogue())
    return catalogue()[name]


@cache
def _all() -> tuple[tuple[Path, dict[str, Any]], ...]:
    return tuple((path, _read(path)) for _, path in plugins.files("method", ".toml"))


def _read(path: Path) -> dict[str, Any]:
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BenchError(f"{path} is not valid TOML: {error}.") from error
    for section in body:
        if section not in {"hours", "weights"}:
            raise unknown_name(f"section in {path}", section, ("hours", "weights"))
    return body


def _weights(where: str, entry: Mapping[str, Any]) -> Weights:
    network = {"name" if key == "network" else key: entry[key] for key in NETWORK if key in entry}
    backbone = _made(Backbone, where, {"normalize": "imagenet", **network})
    return _made(Weights, where, {"backbone": backbone, **{key: entry[key] for key in entry if key not in NETWORK}})


def _made(kind: type[T], where: str, body: Mapping[str, Any]) -> T:
    """Raises BenchError for a key that does not exist, or one that is needed and not there."""
    allowed = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    for key in body:
        if key not in allowed:
            raise unknown_name(f"key of {where}", key, allowed - {"backbone", "name"} | set(NETWORK))
    try:
        return kind(**body)
    except TypeError as error:
        raise BenchError(f"{where}: {error}.") from error
