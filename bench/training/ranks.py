"""Ranks: who am I, gather with gradient, batch norm over the global batch.

A process group exists only when the launcher (torchrun or Slurm) set RANK and WORLD_SIZE; everything here is also right
for one process without a group.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Ranks:
    """This process among `world`; `local` is its number on the node."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0


def from_environment() -> Ranks:
    """What torchrun set; one process without it."""
    return Ranks(
        *(
            int(os.environ.get(key, default))
            for key, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
    )


def device_of(ranks: Ranks) -> torch.device:
    """The rank's GPU if there is one, else the CPU."""
    return torch.device("cuda", ranks.local) if torch.cuda.is_available() else torch.device("cpu")


@contextmanager
def process_group(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Nccl on GPUs, gloo on CPUs; nothing for one process."""
    if ranks.world == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=ranks.rank, world_size=ranks.world)
    try:
        yield
    finally:
        dist.destroy_process_group()


def any_rank(flag: bool, ranks: Ranks, device: torch.device) -> bool:
    """Whether the flag is set on any rank; all ranks must ask at the same step and get the same answer."""
    if ranks.world == 1:
        return flag
    votes = torch.tensor(int(flag), device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return bool(votes.item())


def of_first(work: Callable[[], Answer], ranks: Ranks) -> Answer:
    """What the first rank finds, on all of them. An error there ends the others with their connection."""
    if ranks.world == 1:
        return work()
    found: list[Any] = [work() if ranks.first else None]
    dist.broadcast_object_list(found, src=0)
    answer: Answer = found[0]
    return answer


class _Gather(torch.autograd.Function):
    """Concatenate the ranks' tensors along dimension 0; backward hands each rank the gradient of its own rows.

    Every rank computes the same loss from the gathered tensor, so its own rows' gradient is already complete. DDP
    then averages over ranks what should be summed; `world` makes up for that.
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        ctx.rows = len(local)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        start = dist.get_rank() * ctx.rows
        return gradients[0][start : start + ctx.rows] * dist.get_world_size()


def gather(local: Tensor) -> Tensor:
    """(b, ...) of each rank -> (b * world, ...) in the order of ranks, with gradient; all ranks must have equal b."""
    if not (dist.is_available() and dist.is_initialized()):
        return local
    gathered: Tensor = _Gather.apply(local)
    return gathered


class _SumOverRanks(torch.autograd.Function):
    """All-reduce whose gradient is all-reduced too: each rank's loss depends on every rank's term."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class GlobalBatchNorm(nn.Module):
    """Batch norm with the statistics of all ranks, for devices on which torch's SyncBatchNorm does not run (CPU).

    Shares parameters and buffers with the norm it replaces, under the same names; equals that norm on the
    concatenated batch.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        if norm.running_mean is None or norm.momentum is None:
            raise ValueError("expected a batch norm that tracks its statistics with a fixed momentum")
        self.weight, self.bias = norm.weight, norm.bias
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)
        self.register_buffer("num_batches_tracked", norm.num_batches_tracked)
        self.eps, self.momentum = norm.eps, norm.momentum

    def forward(self, x: Tensor) -> Tensor:
        """(b, C, ...) -> the same shape."""
        if not self.training:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        others = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # statistics are never in half precision
        # Counted, not assumed: with random resolutions the ranks' images differ in size.
        sums = _sum(torch.cat([wide.sum(others), wide.new_tensor([x.numel() / x.shape[1]])]))
        mean, count = sums[:-1] / sums[-1], sums[-1].detach()
        centred = wide - mean.view(shape)
        variance = _sum(centred.square().sum(others)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        y = centred * (variance.view(shape) + self.eps).rsqrt()
        return (y * self.weight.view(shape) + self.bias.view(shape)).to(x.dtype)


def _sum(local: Tensor) -> Tensor:
    total: Tensor = _SumOverRanks.apply(local)
    return total


def synchronise_norms(network: nn.Module, device: torch.device) -> None:
    """Make every batch norm inside use the global batch: torch's SyncBatchNorm on GPUs, GlobalBatchNorm elsewhere."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            on_gpu = device.type == "cuda"
            convert = nn.SyncBatchNorm.convert_sync_batchnorm if on_gpu else GlobalBatchNorm
            setattr(network, name, convert(child))
        else:
            synchronise_norms(child, device)
