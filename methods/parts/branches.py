"""A second encoder for methods whose two branches do not share weights, or have different architectures."""

from __future__ import annotations

from torch import nn

from bench.contracts import Facts
from bench.errors import BenchError
from bench.networks import encoders
from bench.seeding import seed_of
from bench.spec import Backbone, Pretrain
from methods.parts.heads import mlp


def second_branch(
    spec: Backbone,
    facts: Facts,
    tail: tuple[int, ...],
    *,
    last_norm: bool,
    last_shift: bool = True,
) -> nn.Sequential:
    """Encoder and projector of the second branch; `tail`, of the projector: hidden ..., output. Norms are as in `mlp`.

    The encoder has initial weights of its own also where the architecture is that of the first.
    """
    encoder = encoders.build(spec, seed_of(facts.seed, "second branch"))
    return nn.Sequential(encoder, mlp((encoder.feature_dim, *tail), last_norm=last_norm, last_shift=last_shift))


def check_second(spec: Backbone | None, pretrain: Pretrain) -> None:
    """Raises BenchError for a second branch that cannot work; None shares the weights of the first."""
    if spec is None:
        return
    encoders.check_backbone(spec, [view.size for view in pretrain.views])
    if spec.normalize != pretrain.backbone.normalize:
        raise BenchError(
            f"the second branch normalises its input by {spec.normalize!r}, the first by "
            f"{pretrain.backbone.normalize!r}."
        )
