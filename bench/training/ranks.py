"""Ranks: who am I, gather with gradient, products over the batch that the ranks share.

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

from bench.errors import BenchError
from bench.machine import DEVICE

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
    """The rank's GPU if there is one, else the CPU.

    Raises BenchError where the executor gave the job a GPU and torch finds none: on a CPU it would take months unseen.
    """
    given = os.environ.get(DEVICE, "")
    if torch.cuda.is_available():
        return torch.device("cuda", ranks.local)
    if given != "cuda":
        return torch.device("cpu")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
    built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
    raise BenchError(
        f"this job was given a GPU (CUDA_VISIBLE_DEVICES is {visible}), but torch {torch.__version__}, which {built}, "
        "finds none: install a torch that fits the driver (`nvidia-smi` shows its CUDA), or set "
        'CUDA_VISIBLE_DEVICES="" (on Slurm gpus = 0) to run on CPUs.'
    )


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
        ctx.rows = len(local)
        return _below_each_other(local.contiguous())

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


class _ProductOverBatch(torch.autograd.Function):
    """a.T @ b of tensors that every rank has whole, each rank multiplying its own rows, forward and backward."""

    @staticmethod
    def forward(ctx: Any, a_BD: Tensor, b_BE: Tensor) -> Tensor:
        each = len(a_BD) // dist.get_world_size()
        rows = slice(dist.get_rank() * each, (dist.get_rank() + 1) * each)
        ctx.save_for_backward(a_BD[rows], b_BE[rows])
        product_DE = a_BD[rows].T @ b_BE[rows]
        dist.all_reduce(product_DE)
        return product_DE

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        a_bD, b_bE = ctx.saved_tensors
        asked_a, asked_b = ctx.needs_input_grad
        a = _below_each_other(b_bE @ gradients[0].T) if asked_a else None
        b = _below_each_other(a_bD @ gradients[0]) if asked_b else None
        return a, b


def _below_each_other(local: Tensor) -> Tensor:
    """The ranks' equal numbers of rows, without gradient."""
    whole = local.new_empty(len(local) * dist.get_world_size(), *local.shape[1:])
    dist.all_gather(list(whole.chunk(dist.get_world_size())), local)
    return whole


def product_over_batch(a_BD: Tensor, b_BE: Tensor) -> Tensor:
    """a.T @ b, (D, E), for a loss whose rows are the global batch: each rank computes its share of it.

    Every rank must have the same whole tensors and come here at the same place of the same loss. Raises ValueError
    when the rows do not divide by the ranks.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return a_BD.T @ b_BE
    if len(a_BD) != len(b_BE) or len(a_BD) % dist.get_world_size():
        raise ValueError(f"{len(a_BD)} and {len(b_BE)} rows, expected equal multiples of {dist.get_world_size()} ranks")
    product: Tensor = _ProductOverBatch.apply(a_BD, b_BE)
    return product
