"""The projectors of DirectCLR's table 2 (arXiv:2110.09348) that have a fixed spectrum or a fixed form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FirstChannels(nn.Module):
    """The first channels of the representation: the fixed low-rank diagonal projector, without its zeros."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, r_BD: Tensor) -> Tensor:
        """(B, D) -> (B, count)."""
        return r_BD[:, : self.count]


class Orthogonal(nn.Module):
    """A trainable rotation exp(A - A^T): every singular value stays 1.

    Cosine similarities do not change under a rotation of both views, so in exact arithmetic this row of table 2 is the
    row without a projector and the gradient of A is 0.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.free = nn.Parameter(torch.randn(width, width) / width**0.5)

    def rotation(self) -> Tensor:
        """(D, D), in float32 also under autocast: rounded to bf16 within the exponential it would be no rotation."""
        with torch.autocast(self.free.device.type, enabled=False):
            made: Tensor = torch.linalg.matrix_exp(self.free - self.free.T)
        return made

    def forward(self, r_BD: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return F.linear(r_BD, self.rotation())


class _Fixed(nn.Module):
    """A matrix that is saved and never trained."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight: Tensor
        self.register_buffer("weight", weight)

    def forward(self, r_BD: Tensor) -> Tensor:
        return F.linear(r_BD, self.weight)


class _Diagonal(nn.Module):
    """One trainable factor a channel. A vector: the optimizer treats it as it treats biases and norms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, r_BD: Tensor) -> Tensor:
        return r_BD * self.weight


def trainable_diagonal(width: int) -> nn.Module:
    """Starts at the identity."""
    return _Diagonal(width)


def fixed_low_rank(width: int, rank: int) -> nn.Module:
    """U S V^T with `rank` singular values 1 and the others 0, U and V random orthogonal."""
    u, v = (torch.linalg.qr(torch.randn(width, width))[0] for _ in range(2))
    return _Fixed(u[:, :rank] @ v[:, :rank].T)
