"""Batch norm over the images of all ranks, without a wait of the host.

torch's SyncBatchNorm looks for ranks without images by a mask, whose length the host must know: it waits for the GPU at
every forward, a hundred times a step of a ResNet-50. Here nothing on the host depends on what is on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bench.training import norm_kernels

Peers: TypeAlias = "dist.ProcessGroup | None"  # the ranks that share statistics; None: all of them

_NOTHING = 1e-30  # images of a rank that has none: they weigh nothing, and can be divided by


class _Normalise(torch.autograd.Function):
    """The kernels of torch's SyncBatchNorm with one all-reduce forward and one backward.

    Keeps the input alone for the way back, as a batch norm of one process does. On CUDA the kernels are torch's; its
    gradients of weight and bias are this rank's part, which DDP sums as all others.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        eps: float,
        momentum: float,
        peers: Peers,
    ) -> Tensor:
        kernels = _kernels(x)
        x = _dense(x)
        wide = torch.promote_types(x.dtype, torch.float32)
        if x.numel():
            # Counted, not assumed: with random resolutions the ranks' images differ in size.
            found = (*kernels.batch_norm_stats(x, eps), x.new_full((1,), x.numel() // x.shape[1], dtype=wide))
        else:
            empty = x.new_zeros(x.shape[1], dtype=wide)
            found = (empty, empty + 1, x.new_full((1,), _NOTHING, dtype=wide))
        mean_WC, inverse_WC, count_W1 = torch.split(
            _rows_of_all_ranks(torch.cat(found), peers), [len(weight), len(weight), 1], dim=1
        )
        count_W = count_W1.flatten()
        mean_C, inverse_C = kernels.batch_norm_gather_stats_with_counts(
            x, mean_WC, inverse_WC, running_mean, running_var, momentum, eps, count_W
        )
        ctx.save_for_backward(x, weight, mean_C, inverse_C, count_W.to(torch.int32))
        ctx.peers = peers
        if not x.numel():
            return torch.empty_like(x)
        y: Tensor = kernels.batch_norm_elemt(x, weight, bias, mean_C, inverse_C, eps)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean_C, inverse_C, count_W = ctx.saved_tensors
        kernels = _kernels(x)
        dy = _dense(dy)
        asked = ctx.needs_input_grad[:3]
        if x.numel():
            sum_C, product_C, weight_C, bias_C = kernels.batch_norm_backward_reduce(
                dy, x, mean_C, inverse_C, weight, *asked
            )
        else:
            sum_C, product_C, weight_C, bias_C = mean_C.new_zeros(4, len(mean_C)).unbind()
        dx = None
        if asked[0]:
            sum_C, product_C = _sum_over_ranks(torch.stack([sum_C, product_C]), ctx.peers).unbind()
            dx = torch.empty_like(x)
            if x.numel():
                dx = kernels.batch_norm_backward_elemt(dy, x, mean_C, inverse_C, weight, sum_C, product_C, count_W)
        return dx, weight_C if asked[1] else None, bias_C if asked[2] else None, None, None, None, None, None


def _kernels(x: Tensor) -> Any:
    """Those of torch on CUDA; plain operations elsewhere, and for a compiler, which cannot look into the others."""
    return torch if x.is_cuda and not torch.compiler.is_compiling() else norm_kernels


def _dense(x: Tensor) -> Tensor:
    """In one of the two layouts that the kernels read: channels_last stays."""
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def _rows_of_all_ranks(row_F: Tensor, peers: Peers) -> Tensor:
    """(W, F): each rank writes its row between zeros and all are added, which changes no digit.

    An all_gather into one tensor has two names in the supported versions of torch; one into a list is a copy a rank.
    """
    world, rank = _world_and_rank(peers)
    rows_WF = row_F.new_zeros(world, len(row_F))
    rows_WF[rank] = row_F
    return _sum_over_ranks(rows_WF, peers)


def _sum_over_ranks(tensor: Tensor, peers: Peers) -> Tensor:
    if _world_and_rank(peers)[0] > 1:
        dist.all_reduce(tensor, group=peers)
    return tensor


def _world_and_rank(peers: Peers) -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size(peers), dist.get_rank(peers)
    return 1, 0


class GlobalBatchNorm(nn.Module):
    """Batch norm with the statistics of all its peers; equals the norm it replaces on their concatenated batch.

    Shares parameters and buffers with that norm, under the same names. Ranks may have unequal numbers of images.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor | None  # None for a moment: see recompute.py

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, peers: Peers = None) -> None:
        super().__init__()
        if norm.running_mean is None or norm.momentum is None:
            raise ValueError("expected a batch norm that tracks its statistics with a fixed momentum")
        self.weight, self.bias = norm.weight, norm.bias
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)
        self.register_buffer("num_batches_tracked", norm.num_batches_tracked)
        self.eps, self.momentum, self.peers = norm.eps, norm.momentum, peers

    def forward(self, x: Tensor) -> Tensor:
        """(b, C, ...) -> the same shape."""
        if not self.training:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
        return self.normalised(x)

    def normalised(self, x: Tensor) -> Tensor:
        """By the statistics of the batch, which move the running ones."""
        y: Tensor = _Normalise.apply(
            x, self.weight, self.bias, self.running_mean, self.running_var, self.eps, self.momentum, self.peers
        )
        return y


def synchronise_norms(network: nn.Module) -> None:
    """Make every batch norm inside use the global batch."""
    replace_norms(network, GlobalBatchNorm)


def replace_norms(network: nn.Module, by: Callable[[nn.BatchNorm1d | nn.BatchNorm2d], nn.Module]) -> None:
    """Put another module in the place of every batch norm inside."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            setattr(network, name, by(child))
        else:
            replace_norms(child, by)
