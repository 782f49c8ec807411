"""Activation checkpointing: a block keeps its input alone and computes the rest again on the way back.

Exact: the same operations on the same numbers, with the random draws of the first time (stochastic depth); batch norms
normalise by the batch again, and move their running statistics the first time only. One more forward pass of the
blocks buys memory for a larger batch a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench.networks import encoders, vit
from bench.training.norms import GlobalBatchNorm

Forward = Callable[[Tensor], Tensor]
Norm = nn.BatchNorm2d | GlobalBatchNorm


def recompute_blocks(network: nn.Module) -> None:
    """Make every residual block and every transformer's block inside compute its activations twice.

    After the norms are synchronised: those that are in a block now are kept from counting an image twice.
    """
    for block in blocks_of(network):
        draws = isinstance(block, vit.Block) and block.drop_path > 0
        block.forward = _twice(block.forward, _norms(block), draws=draws)


def blocks_of(network: nn.Module) -> Iterator[nn.Module]:
    """The residual blocks and the transformers' blocks inside."""
    return (module for module in network.modules() if isinstance(module, encoders.Block | vit.Block))


def _twice(forward: Forward, norms: list[Norm], *, draws: bool) -> Forward:
    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_stay(norms)

    def recomputed(x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(x)
        y: Tensor = checkpoint(forward, x, use_reentrant=False, preserve_rng_state=draws, context_fn=contexts)
        return y

    return recomputed


def _norms(block: nn.Module) -> list[Norm]:
    return [module for module in block.modules() if isinstance(module, Norm)]


@contextmanager
def _statistics_stay(norms: list[Norm]) -> Iterator[None]:
    """Batch norms use the batch, and move their running statistics by nothing.

    Without these statistics torch's would keep fewer tensors than the first time.
    """
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked
