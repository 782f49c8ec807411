"""A second encoder for methods whose two branches do not share weights, or have different architectures."""

from __future__ import annotations

from bench.contracts import Facts
from bench.errors import BenchError
from bench.networks import encoders
from bench.networks.network import Network
from bench.seeding import seed_of
from bench.spec import Backbone, Pretrain


def build_second(spec: Backbone, facts: Facts) -> Network:
    """The second branch's encoder, with initial weights of its own also where the architecture is that of the first."""
    return encoders.build(spec, seed_of(facts.seed, "second branch"))


def check_second(spec: Backbone | None, pretrain: Pretrain) -> None:
    """Raises BenchError for a second branch that cannot work; None shares the weights of the first."""
    if spec is None:
        return
    encoders.check(spec, [view.size for view in pretrain.views])
    if spec.normalize != pretrain.backbone.normalize:
        raise BenchError(f"the second branch normalises its input by {spec.normalize!r}, the first by {pretrain.backbone.normalize!r}.")
