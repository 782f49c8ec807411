"""Momentum encoders: a slow copy of a network, moved towards it after each step."""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from torch import nn


def slow_copy(network: nn.Module) -> nn.Module:
    """A copy with the same weights that no gradient reaches.

    Stays in the mode (train or eval) that its parent is put in.
    """
    return deepcopy(network).requires_grad_(False)


@torch.no_grad()
def move_towards(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """Set slow = momentum * slow + (1 - momentum) * fast, parameters only: buffers come from the copy's own passes."""
    for s, f in zip(slow.parameters(), fast.parameters(), strict=True):
        s.lerp_(f.detach(), 1 - momentum)


def cosine_momentum(base: float, progress: float) -> float:
    """From `base` to 1 along half a cosine: 1 - (1 - base) (cos(pi progress) + 1) / 2.

    BYOL, arXiv:2006.07733, section 3.2.
    """
    return 1 - (1 - base) * (math.cos(math.pi * progress) + 1) / 2
