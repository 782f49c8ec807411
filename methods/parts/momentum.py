"""Momentum encoders: a slow copy of a network, moved towards it after each step."""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from torch import Tensor, nn


def slow_copy(network: nn.Module) -> nn.Module:
    """A copy with the same weights that no gradient reaches.

    Stays in the mode (train or eval) that its parent is put in.
    """
    return deepcopy(network).requires_grad_(False)


@torch.no_grad()
def move_towards(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """Set slow = momentum * slow + (1 - momentum) * fast, parameters only: buffers come from the copy's own passes."""
    copies: list[Tensor] = list(slow.parameters())
    originals: list[Tensor] = list(fast.parameters())
    if len(copies) != len(originals):
        raise ValueError(f"expected two networks of one shape, found {len(copies)} and {len(originals)} parameters")
    if copies:
        torch._foreach_lerp_(copies, originals, 1 - momentum)  # all at once: on a GPU one kernel, not hundreds


def cosine_momentum(base: float, progress: float) -> float:
    """From `base` to 1 along half a cosine: 1 - (1 - base) (cos(pi progress) + 1) / 2.

    BYOL, arXiv:2006.07733, section 3.2.
    """
    return 1 - (1 - base) * (math.cos(math.pi * progress) + 1) / 2
