"""Head, loss and schedules of DINO (arXiv:2104.14294). V: student's views, T: teacher's views, B: images, K: classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.networks.vit import Block


def projector(feature_dim: int, hidden: int, bottleneck: int, *, norm: bool) -> nn.Sequential:
    """The head up to the bottleneck: three linear layers with GELU between, with batch norm where asked for."""
    layers: list[nn.Module] = []
    for inputs in (feature_dim, hidden):
        layers += [nn.Linear(inputs, hidden), *([nn.BatchNorm1d(hidden)] if norm else []), nn.GELU()]
    layers.append(nn.Linear(hidden, bottleneck))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


class LastLayer(nn.Module):
    """Linear layer without bias whose rows are unit vectors and, where asked for, a gain for each that learns from 1 on.

    As weight normalisation, of which it is a special case, it keeps the unnormalised rows as parameters, so the teacher's
    are averages of those.
    """

    def __init__(self, inputs: int, classes: int, *, learn_gain: bool) -> None:
        super().__init__()
        self.direction = nn.Parameter(nn.Linear(inputs, classes, bias=False).weight.detach())
        # A column, as in the released code: the optimizer decays it as any matrix.
        self.gain = nn.Parameter(torch.ones(classes, 1)) if learn_gain else None

    def forward(self, unit_BD: Tensor) -> Tensor:
        """(B, D) unit vectors -> (B, K), in full precision: cosines are divided by temperatures of 0.04."""
        with torch.autocast(unit_BD.device.type, enabled=False):
            weight_KD = self.direction / self.direction.norm(dim=1, keepdim=True)
            return F.linear(unit_BD, weight_KD if self.gain is None else self.gain * weight_KD)

    def unit(self, z_BD: Tensor) -> Tensor:
        """The bottleneck, normalised in full precision."""
        with torch.autocast(z_BD.device.type, enabled=False):
            return F.normalize(z_BD.to(self.direction.dtype), dim=1)


def dino_loss(
    teacher: Sequence[Tensor], student: Sequence[Tensor], center_K: Tensor, *, teacher_temperature: float, student_temperature: float
) -> tuple[Tensor, Tensor]:
    """Cross entropy and the teacher's entropy of each image, (B,) both; the mean of the first is the loss (equations 1 to 3).

    teacher, student: (B, K) logits a view. The teacher's are centred and sharpened, and no gradient reaches them; the
    cross entropy is the mean over the pairs of different views. Raises ValueError for shapes that do not fit.
    """
    shapes = {tuple(rows.shape) for rows in (*teacher, *student)}
    if len(shapes) != 1 or len(student) < 2 or not 1 <= len(teacher) <= len(student) or teacher[0].shape[1:] != center_K.shape:
        raise ValueError(f"expected equal (B, K) logits of 2 or more views and a (K,) center, got {sorted(shapes)} and {tuple(center_K.shape)}")
    log_p = [(view / student_temperature).log_softmax(dim=1) for view in student]
    log_q = [((view.detach() - center_K) / teacher_temperature).log_softmax(dim=1) for view in teacher]
    pairs = [(q.exp(), view) for own, q in enumerate(log_q) for other, view in enumerate(log_p) if other != own]
    cross_entropy_B = torch.stack([-(q * view).sum(dim=1) for q, view in pairs]).mean(dim=0)
    return cross_entropy_B, torch.stack([-(q.exp() * q).sum(dim=1) for q in log_q]).mean(dim=0)


def temperature_of(epoch: int, first: float, last: float, epochs: int) -> float:
    """The teacher's temperature: `epochs` equal steps from the first to the last value, one an epoch."""
    return last if epoch >= epochs else first + (last - first) * epoch / max(1, epochs - 1)


@torch.no_grad()
def clip_each(parameters: Sequence[nn.Parameter], largest: float) -> None:
    """Scale the gradient of each tensor by itself down to a largest norm, as the released utils.py; not that of all together."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_((largest / (parameter.grad.norm() + 1e-6)).clamp(max=1))


def set_drop_path(encoder: nn.Module, rate: float) -> None:
    """Stochastic depth of a transformer's blocks, rising from 0 to the rate; a ResNet has none."""
    blocks = [module for module in encoder.modules() if isinstance(module, Block)]
    for number, block in enumerate(blocks):
        block.drop_path = rate * number / max(1, len(blocks) - 1)
