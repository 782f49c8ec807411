"""Projector, losses and the norm before the softmax of TWIST (arXiv:2110.07402). V: views, B: global batch, C: classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import BenchError


class BunchNorm(nn.Module):
    """Batch norm without affine over bunches: `bunch` consecutive images of the global batch with all their views.

    It runs inside the loss, on the gathered batch, so any number of ranks agrees with one process. The running
    statistics serve only those who want class distributions of single images in evaluation mode; they come from the
    first bunch, as in the released code, where each forward broadcasts the buffers of rank 0.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, classes: int, bunch: int | None, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.bunch, self.eps, self.momentum = bunch, eps, momentum
        self.register_buffer("running_mean", torch.zeros(classes))
        self.register_buffer("running_var", torch.ones(classes))

    def forward(self, z_VBC: Tensor) -> Tensor:
        """(V, B, C) -> the same shape; in evaluation mode any (..., C). Raises BenchError for a batch that does not divide."""
        if not self.training:
            return (z_VBC - self.running_mean) * (self.running_var + self.eps).rsqrt()
        bunch = self.bunch or z_VBC.shape[1]
        if z_VBC.shape[1] % bunch:
            raise BenchError(f"twist: a batch of {z_VBC.shape[1]} does not divide into bunches of {bunch}.")
        z_VGbC = z_VBC.reshape(len(z_VBC), -1, bunch, z_VBC.shape[2])
        mean_GC, var_GC = z_VGbC.mean(dim=(0, 2)), z_VGbC.var(dim=(0, 2), correction=0)
        rows = len(z_VBC) * bunch
        with torch.no_grad():
            self.running_mean.lerp_(mean_GC[0].to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(var_GC[0].to(self.running_var.dtype) * (rows / (rows - 1)), self.momentum)
        normed_VGbC: Tensor = (z_VGbC - mean_GC[:, None]) * (var_GC[:, None] + self.eps).rsqrt()
        return normed_VGbC.flatten(1, 2)


def projector(feature_dim: int, hidden: int, classes: int, *, gelu: bool, small_init: bool) -> nn.Sequential:
    """Three linear layers with bias, batch norm and activation after the first two; the norm after the third is BunchNorm."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((feature_dim, hidden, hidden)):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.GELU() if gelu else nn.ReLU(inplace=True)]
    layers.append(nn.Linear(hidden, classes))
    for layer in layers:
        if small_init and isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def twin_loss(z_VBC: Tensor, *, alpha: float, beta: float, temperature: float, epsilon: float) -> dict[str, Tensor]:
    """Mean over pairs of views of KL both ways / 2 + alpha * mean entropy - beta * entropy of the mean (formula of section 3).

    Pairs: each of the views 0 and 1 with every later one. The consistency has no temperature. Raises ValueError for
    anything but (V, B, C) logits of two or more views.
    """
    _expect_views(z_VBC)
    p, log_p = _distributions(z_VBC, 1.0, epsilon)
    sharp, log_sharp = (p, log_p) if temperature == 1 else _distributions(z_VBC, temperature, epsilon)
    pairs = [(i, j) for i in (0, 1) for j in range(i + 1, len(z_VBC))]
    consistency = _mean([(_divergence(p[i], log_p[i], log_p[j]) + _divergence(p[j], log_p[j], log_p[i])) / 2 for i, j in pairs])
    entropy = [_entropy(*view) for view in zip(sharp, log_sharp, strict=True)]
    entropy_of_mean = [_entropy_of_mean(view, epsilon) for view in sharp]
    members = [view for pair in pairs for view in pair]
    return _total(consistency, _mean([entropy[v] for v in members]), _mean([entropy_of_mean[v] for v in members]), alpha, beta)


def teacher_loss(t_TBC: Tensor, z_VBC: Tensor, *, alpha: float, beta: float, temperature: float, epsilon: float) -> dict[str, Tensor]:
    """Mean of KL(teacher's view t || student's view v) over t != v, and the entropies of the student's views (engine.py).

    T: the two global views. Raises ValueError as `twin_loss`.
    """
    _expect_views(z_VBC)
    _expect_views(t_TBC)
    t, log_t = _distributions(t_TBC, temperature, epsilon)
    p, log_p = _distributions(z_VBC, temperature, epsilon)
    pairs = [(i, j) for i in range(len(t)) for j in range(len(p)) if i != j]
    consistency = _mean([_divergence(t[i], log_t[i], log_p[j]) for i, j in pairs])
    sharpness = _mean([_entropy(*view) for view in zip(p, log_p, strict=True)])
    return _total(consistency, sharpness, _mean([_entropy_of_mean(view, epsilon) for view in p]), alpha, beta)


def self_label_loss(z_VBC: Tensor, *, keep: float, among: int | None) -> dict[str, Tensor]:
    """Cross entropy of every other view with the class of the more confident of the views 0 and 1.

    Of `among` consecutive images (None: all) those count whose confidence is above the one at place int(keep * among);
    the mean over them, over the groups and over the V - 1 views is returned. Raises ValueError as `twin_loss`.
    """
    _expect_views(z_VBC)
    groups = len(z_VBC[0]) // (among or len(z_VBC[0]))
    with torch.no_grad():
        confidence_2B, class_2B = z_VBC[:2].softmax(dim=-1).max(dim=-1)
        first_B = confidence_2B[0] > confidence_2B[1]
        target_B = torch.where(first_B, class_2B[0], class_2B[1])
        confidence_GA = confidence_2B.amax(dim=0).view(groups, -1)
        place = min(int(keep * confidence_GA.shape[1]), confidence_GA.shape[1] - 1)
        threshold_G1 = confidence_GA.sort(dim=1, descending=True).values[:, place : place + 1]
        chosen_GA = (confidence_GA > threshold_G1).to(z_VBC.dtype)
        weight_B = (chosen_GA / chosen_GA.sum(dim=1, keepdim=True).clamp_min(1)).flatten() / groups
    other_BC = torch.where(first_B[:, None], z_VBC[1], z_VBC[0])
    loss = _mean([(F.cross_entropy(view, target_B, reduction="none") * weight_B).sum() for view in (other_BC, *z_VBC[2:])])
    return {"loss": loss, "kept": chosen_GA.mean(), "threshold": threshold_G1.mean()}


def keep_share(first: float, last: float, progress: float) -> float:
    """Share of labelled images: half a cosine from first to last."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))


def _distributions(z_VBC: Tensor, temperature: float, epsilon: float) -> tuple[list[Tensor], list[Tensor]]:
    p = [(z / temperature).softmax(dim=1) for z in z_VBC]
    return p, [(view + epsilon).log() for view in p]


def _divergence(p_BC: Tensor, log_p_BC: Tensor, log_q_BC: Tensor) -> Tensor:
    return (p_BC * (log_p_BC - log_q_BC)).sum(dim=1).mean()


def _entropy(p_BC: Tensor, log_p_BC: Tensor) -> Tensor:
    return -(p_BC * log_p_BC).sum(dim=1).mean()


def _entropy_of_mean(p_BC: Tensor, epsilon: float) -> Tensor:
    mean_C = p_BC.mean(dim=0)
    return -(mean_C * (mean_C + epsilon).log()).sum()


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


def _total(consistency: Tensor, sharpness: Tensor, diversity: Tensor, alpha: float, beta: float) -> dict[str, Tensor]:
    loss = consistency + alpha * sharpness - beta * diversity
    return {"loss": loss, "consistency": consistency, "sharpness": sharpness, "diversity": diversity}


def _expect_views(z_VBC: Tensor) -> None:
    if z_VBC.ndim != 3 or len(z_VBC) < 2:
        raise ValueError(f"expected (V, B, C) logits of 2 or more views, got {tuple(z_VBC.shape)}")
