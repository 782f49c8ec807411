"""Projection heads, the small networks between representation and loss; how crops of several sizes pass through."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

import torch
from torch import Tensor, nn

from bench.errors import BenchError


def mlp(dims: tuple[int, ...], *, last_norm: bool, last_shift: bool = True, relu: bool = True) -> nn.Sequential:
    """Linear layers without bias, each hidden one followed by batch norm and ReLU.

    `dims`: input, hidden ..., output. `last_norm` puts a batch norm after the output too, `last_shift` says whether
    that one has a shift (beta).
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(dims[:-1]):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs)]
        layers += [nn.ReLU(inplace=True)] if relu else []
    layers.append(nn.Linear(dims[-2], dims[-1], bias=False))
    if last_norm:
        norm = nn.BatchNorm1d(dims[-1])
        if not last_shift:
            norm.bias.requires_grad_(False)
        layers.append(norm)
    return nn.Sequential(*layers)


def logits_of(encoder: nn.Module, head: nn.Module, views: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """One encoder pass per run of equally large views, one head pass over all: the batch norms of the released code."""
    features = [encoder(torch.cat(list(run))) for _, run in groupby(views, key=lambda view: view.shape[-1])]
    logits: Tensor = head(torch.cat(features))
    return logits.chunk(len(views))


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
        """(V, B, C) -> the same shape; in evaluation mode any (..., C).

        Raises BenchError for a batch that does not divide.
        """
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
