"""Ranks: who am I, and gather with gradient.

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
from torch import Tensor

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
