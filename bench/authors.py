"""What the authors of a method published beside its paper: methods/<name>.toml, data beside the method's file.

Section [hours] tells how long one run of a ResNet-50 on ImageNet at 224 px took, for the rates of a plan:

    [hours]
    source = "paper, table: what it says"
    epochs = 100
    hours = 9
    devices = 32

Each [weights.<name>] is a file that `bench run --released` takes; the name is what rows and bench.toml call it.

    [weights.simclr_1x]
    paper = "SimCLR (arXiv:2002.05709)"
    network = "resnet50"
    url = "https://..."

Beside them may stand width (1), padding ("torch", or "tensorflow"), normalize ("imagenet", or "none"), by_hand (in the
place of url: where a browser or a tool of the host finds it), sha256 (its beginning, as far as it is published), top1
(linear evaluation on ImageNet in percent, as the authors' page says beside the link) and note.

Imports no torch: a plan and bench.toml ask for names long before anything is trained.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench import ROOT, plugins
from bench.errors import BenchError, unknown_name
from bench.spec import Backbone

_NUMBER = (int, float)
HOURS: Mapping[str, Any] = {"source": str, "epochs": _NUMBER, "hours": _NUMBER, "devices": int}
NEEDED = ("paper", "network")  # of weights
WEIGHTS: Mapping[str, Any] = {
    "paper": str,
    "network": str,
    "width": int,
    "padding": ("torch", "tensorflow"),
    "normalize": ("imagenet", "none"),
    "url": str,
    "by_hand": str,
    "sha256": str,
    "top1": _NUMBER,
    "note": str,
}


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
def own_names() -> frozenset[str]:
    """Names of the weights that the project itself lists: bench.toml is read without a look at anyone's plug-ins."""
    own = (path for _, path in plugins.files("method", ".toml") if path.is_relative_to(ROOT))
    return frozenset(name for path in own for name in _read(path).get("weights", {}))


@cache
def catalogue() -> dict[str, Weights]:
    """All released weights by name."""
    found: dict[str, Weights] = {}
    for path, body in _all():
        for name, entry in _table(f"{path}: weights", body.get("weights", {})).items():
            if name in found:
                raise BenchError(f"{path}: weights.{name} stands in another file as well.")
            found[name] = _weights(f"{path}: weights.{name}", entry)
    return found


@cache
def hours() -> dict[str, Hours]:
    """Published hours by method."""
    return {
        path.stem: Hours(**_checked(f"{path}: hours", body["hours"], HOURS, tuple(HOURS)))
        for path, body in _all()
        if "hours" in body
    }


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


def _weights(where: str, entry: object) -> Weights:
    said = dict(_checked(where, entry, WEIGHTS, NEEDED))
    network = {"name": said.pop("network"), "normalize": said.pop("normalize", "imagenet")}
    network |= {key: said.pop(key) for key in ("width", "padding") if key in said}
    return Weights(backbone=Backbone(**network), **said)


def _table(where: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BenchError(f"{where} is {value!r}, expected a section.")
    return value


def _checked(where: str, value: object, kinds: Mapping[str, Any], needed: Collection[str]) -> Mapping[str, Any]:
    """The entries of a section. Raises BenchError for one that is missing, unknown, or not what it must be."""
    body = _table(where, value)
    for key, entry in body.items():
        if key not in kinds:
            raise unknown_name(f"key of {where}", key, kinds)
        kind = kinds[key]
        if isinstance(kind, tuple) and isinstance(kind[0], str):
            if entry not in kind:
                raise unknown_name(f"{key} of {where}", str(entry), kind)
        elif not isinstance(entry, kind) or isinstance(entry, bool) or entry == "" or (kind is not str and entry <= 0):
            wanted = "some text" if kind is str else "a whole number above 0" if kind is int else "a number above 0"
            raise BenchError(f"{where}.{key} is {entry!r}, expected {wanted}.")
    for key in needed:
        if key not in body:
            raise BenchError(f"{where} lacks {key}.")
    return body
