"""What BYOL and truncated triplet share: an online network with a predictor, and the slow target that it predicts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import Facts
from bench.errors import BenchError
from bench.spec import Pretrain
from methods.parts.heads import mlp
from methods.parts.momentum import cosine_momentum, move_towards, slow_copy


class Bootstrap(nn.Module):
    """Online: encoder, projector, predictor. Target: slow copy of encoder and projector, never given a gradient.

    All passes run in training mode, each view by itself, so every pass has its own batch statistics; the target's
    running statistics come from its own passes. `projector` and `predictor`: widths of their layers after the input,
    batch norm and ReLU after each hidden one. Batch norm makes a hidden layer's bias useless, so there is none;
    `output_bias` is that of the last layers, `output_norm` a batch norm after the projector's output.
    """

    def __init__(
        self,
        encoder: nn.Module,
        facts: Facts,
        *,
        projector: tuple[int, ...],
        predictor: tuple[int, ...],
        output_norm: bool,
        output_bias: bool,
        momentum: float,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = mlp((facts.feature_dim, *projector), last_norm=output_norm)
        self.predictor = mlp((projector[-1], *predictor), last_norm=False)
        if output_bias:
            for head in (self.projector, self.predictor):
                last = [layer for layer in head if isinstance(layer, nn.Linear)][-1]
                last.bias = nn.Parameter(torch.zeros(last.out_features))
        self.target = slow_copy(nn.Sequential(self.encoder, self.projector))
        self.momentum, self.steps = momentum, facts.steps

    def pairs(self, online: list[Tensor], target: list[Tensor]) -> dict[str, Tensor]:
        """Predictions pa, pb of the online network and projections ta, tb of the target, of the two views."""
        pa, pb = (self.predictor(self.projector(self.encoder(view))) for view in online)
        with torch.no_grad():
            ta, tb = (self.target(view) for view in target)
        return {"pa": pa, "pb": pb, "ta": ta, "tb": tb}

    def after_step(self, progress: float) -> None:
        """Move the target with the momentum of step k of K, k counted from 0: it is below 1 to the end."""
        momentum = cosine_momentum(self.momentum, progress - 1 / self.steps)
        move_towards(self.target, nn.Sequential(self.encoder, self.projector), momentum)


def check_body(
    name: str, pretrain: Pretrain, *, projector: tuple[int, ...], predictor: tuple[int, ...], momentum: float
) -> None:
    """Raises BenchError for what the body cannot be built from."""
    if len(pretrain.views) != 2:
        raise BenchError(f"{name} needs 2 views, found {len(pretrain.views)}.")
    if not projector or not predictor or min(*projector, *predictor) < 1 or projector[-1] != predictor[-1]:
        raise BenchError(
            f"{name}: projector {projector} and predictor {predictor} must be positive widths that end in the same "
            "number."
        )
    if not 0 <= momentum <= 1:
        raise BenchError(f"{name}: momentum is {momentum}, expected 0 to 1.")


def sides(full: int, smallest: int) -> range:
    """Sides of random resolution: `smallest` to 224 for views of 224 pixels, in proportion for others."""
    return range(round(full * smallest / 224), full + 1)


def at_random_side(x_BCHW: Tensor, smallest: int) -> Tensor:
    """Bilinear to one of `sides`, each as likely.

    Drawn from the global generator, which the loop seeds at each step.
    """
    choice = sides(x_BCHW.shape[-1], smallest)
    side = choice[int(torch.randint(len(choice), ()))]
    return F.interpolate(x_BCHW, size=(side, side), mode="bilinear", align_corners=False)
