"""Whose memory is counted: a training step or a pass through a network, and what the count depends on."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace

from bench.identity import digest
from bench.spec import Backbone, Precision, Pretrain


@dataclass(frozen=True)
class Count:
    """Bytes at the peak: `fixed` and so many an image of the rank; and those of the weights that are trained."""

    fixed: float
    image: float
    trained: float


@dataclass(frozen=True)
class Network:
    """Passes through a network alone; `trains`: there and back, in training mode; `recompute` as in `Training`."""

    backbone: Backbone
    size: int
    precision: Precision
    trains: bool
    recompute: bool = False


@dataclass(frozen=True)
class Training:
    """Steps of a pretraining. `recompute`: its blocks' activations are computed twice."""

    spec: Pretrain
    recompute: bool


def key(what: Network | Training) -> str:
    """Of an entry: jobs that differ in rates, temperatures, seeds, lengths or the look of their views share it.

    tf32 is float32 in memory, and bf16 is fp16.
    """
    if isinstance(what, Network):
        halves, flags = (
            what.precision in ("fp16", "bf16"),
            (what.size, what.trains, *([True] if what.recompute else [])),
        )
        return digest(("network", _shape(_plain(what.backbone)), halves, *flags))
    spec = what.spec
    halves = spec.precision in ("fp16", "bf16")
    sizes = tuple(view.size for view in spec.views)
    rule = (spec.optim.name, spec.optim.lars_norm, spec.optim.lars_momentum, spec.optim.clip_norm is None)
    method = (type(spec.method).__module__, _shape(spec.method))
    return digest(
        (
            "training",
            method,
            _shape(_plain(spec.backbone)),
            sizes,
            spec.batch_size,
            spec.data.name,
            halves,
            rule,
            what.recompute,
        )
    )


def _plain(backbone: Backbone) -> Backbone:
    """Without what changes no tensor's size, or a few that do not live at the peak."""
    return replace(backbone, zero_init_residual=True, positions="size", padding="torch")


def _shape(value: object) -> object:
    """A config without the values of its real numbers: whether they are 0 may switch something off."""
    if is_dataclass(value) and not isinstance(value, type):
        return tuple((f.name, _shape(getattr(value, f.name))) for f in fields(value) if f.name != "VERSION")
    if isinstance(value, float):
        return bool(value)
    return tuple(map(_shape, value)) if isinstance(value, tuple) else value
