"""Optimizers and the learning-rate schedule of the seven papers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.errors import BenchError
from bench.spec import Optim


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling (arXiv:1708.03888) as the SimCLR and Barlow Twins codes have it.

    With gradient g, weight w, decay d: u = g + d w, scaled by trust * |w| / |u| where both norms are positive.
    `classic` (google-research/simclr, lars_optimizer.py): v = m v + lr u;  w -= v.
    `popular` (facebookresearch/barlowtwins, main.py):     v = m v + u;     w -= lr v.
    The two differ when the learning rate changes. Groups with `adapt=False` skip the scaling (and have no decay).
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, momentum: float, trust: float, form: str) -> None:
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "trust": trust, "classic": form == "classic", "weight_decay": 0.0, "adapt": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                update = p.grad + group["weight_decay"] * p
                if group["adapt"]:
                    weight_norm, update_norm = p.norm(), update.norm()
                    ratio = group["trust"] * weight_norm / update_norm
                    update = update * torch.where((weight_norm > 0) & (update_norm > 0), ratio, torch.ones_like(ratio))
                if group["classic"]:
                    update = update * group["lr"]
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                velocity: Tensor = state["momentum"].mul_(group["momentum"]).add_(update)
                p.sub_(velocity if group["classic"] else velocity * group["lr"])


def build(spec: Optim, network: nn.Module) -> Optimizer:
    """The optimizer with two groups: matrices, and vectors (biases and norms), each with its `peak_lr`."""
    trainable = [p for p in network.parameters() if p.requires_grad]
    decay_vectors = spec.weight_decay if spec.vector_weight_decay else 0.0
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": spec.weight_decay, "peak_lr": spec.lr},
        {
            "params": [p for p in trainable if p.ndim <= 1],
            "weight_decay": decay_vectors,
            "peak_lr": spec.lr if spec.vector_lr is None else spec.vector_lr,
        },
    ]
    groups = [group for group in groups if group["params"]]
    match spec.name:
        case "lars":
            for group in groups:
                group["adapt"] = spec.vector_weight_decay or group["params"][0].ndim > 1
            return LARS(groups, momentum=spec.momentum, trust=spec.trust, form=spec.lars_momentum)
        case "sgd":
            return torch.optim.SGD(groups, lr=0.0, momentum=spec.momentum)
        case "adamw":
            return torch.optim.AdamW(groups, lr=0.0, betas=spec.betas)
    raise BenchError(f"unknown optimizer {spec.name!r}. Allowed: adamw, lars, sgd.")


def schedule(step: int, total: int, warmup: int, final_ratio: float) -> float:
    """Factor on the peak rate at a step: linear from 0 over `warmup` steps, then half a cosine to `final_ratio`."""
    if step < warmup:
        return step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return final_ratio + (1 - final_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Set every group's rate to its peak times the factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
