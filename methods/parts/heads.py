"""Projection heads, the small networks between representation and loss; how crops of several sizes pass through."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

import torch
from torch import Tensor, nn


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
