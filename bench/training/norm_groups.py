"""Batch norm within groups of images: what the authors' GPUs had, whatever the number of ranks here.

A group is so many consecutive images of the global batch, as `norm_group` of a Pretrain says, with all views that share
a pass; of a chunk, the images of that pass on consecutive ranks. A rank may hold several groups, or several ranks one.
Running statistics are those of the batch's first group: the authors' GPUs keep their own, and DDP hands on and saves
those of rank 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bench.seeding import seed_of
from bench.training.norms import GlobalBatchNorm, Peers, replace_norms
from bench.training.ranks import Ranks, gather


class _NormaliseGroups(torch.autograd.Function):
    """torch's batch norm of one group after another, written where the batch has them: keeps the input alone."""

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
        group: int,
    ) -> Tensor:
        y = torch.empty_like(x)
        statistics: list[Tensor] = []
        for x_g, y_g in zip(torch.split(x, group), torch.split(y, group), strict=True):
            own = weight.new_empty(2, len(weight)).unbind()
            mean, variance = (None, None) if statistics else (running_mean, running_var)
            torch.native_batch_norm(x_g, weight, bias, mean, variance, True, momentum, eps, out=(y_g, *own))
            statistics += own
        ctx.save_for_backward(x, weight, *statistics)
        ctx.eps, ctx.group = eps, group
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *statistics = ctx.saved_tensors
        dx, weight_C, bias_C = torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(weight)
        parts = zip(*(torch.split(whole, ctx.group) for whole in (dy, x, dx)), strict=True)
        for number, (dy_g, x_g, dx_g) in enumerate(parts):
            mean, inverse = statistics[2 * number : 2 * number + 2]
            found = torch.ops.aten.native_batch_norm_backward(
                dy_g, x_g, weight, None, None, mean, inverse, True, ctx.eps, [True, True, True]
            )
            dx_g.copy_(found[0])
            weight_C += found[1]
            bias_C += found[2]
        asked = ctx.needs_input_grad[:3]
        gradients = (own if wanted else None for own, wanted in zip((dx, weight_C, bias_C), asked, strict=True))
        return *gradients, None, None, None, None, None


def _traceable(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    eps: float,
    momentum: float,
    group: int,
) -> Tensor:
    """The same for a compiler, which writes no part of a tensor that it was not shown whole."""
    first, *others = torch.split(x, group)
    found = [F.batch_norm(first, running_mean, running_var, weight, bias, True, momentum, eps)]
    found += [F.batch_norm(part, None, None, weight, bias, True, momentum, eps) for part in others]
    return torch.cat(found)


class GroupBatchNorm(GlobalBatchNorm):
    """Batch norm of a rank that holds several groups; `images` are those of a view in one pass of this rank."""

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, group: int, images: int) -> None:
        super().__init__(norm)
        self.group, self.images = group, images

    def normalised(self, x: Tensor) -> Tensor:
        """Rows are view after view of the same images. Raises ValueError for rows that are not."""
        views, rest = divmod(len(x), self.images)
        if rest or not views:
            raise ValueError(f"batch norm in groups: {len(x)} rows are not whole views of {self.images} images")
        groups = self.images // self.group
        if views > 1:  # the views of a group below each other, and back: two copies, where a rank has several groups
            pieces = torch.split(x, self.group)
            x = torch.cat([pieces[view * groups + own] for own in range(groups) for view in range(views)])
        normalise = _traceable if torch.compiler.is_compiling() else _NormaliseGroups.apply
        rule = (self.weight, self.bias, self.running_mean, self.running_var, self.eps, self.momentum)
        y: Tensor = normalise(x, *rule, self.group * views)
        if views > 1:
            pieces = torch.split(y, self.group)
            y = torch.cat([pieces[own * views + view] for view in range(views) for own in range(groups)])
        return y


def group_norms(network: nn.Module, group: int, images: int, ranks: Ranks) -> None:
    """Make every batch norm inside use groups of so many images, of which each rank has `images` in a pass.

    All ranks must call it. Raises ValueError for numbers that bench/planning/resources.py refuses.
    """
    if images % group == 0:
        if images > group:
            replace_norms(network, partial(GroupBatchNorm, group=group, images=images))
        return  # else the rank is the group: torch's own
    sharing, rest = divmod(group, images)
    if rest or ranks.world % sharing:
        raise ValueError(f"batch norm in groups of {group}: {ranks.world} ranks with {images} images each do not fit")
    replace_norms(network, partial(GlobalBatchNorm, peers=_peers(ranks, sharing)))


def _peers(ranks: Ranks, sharing: int) -> Peers:
    """The group of this rank among consecutive ones; every rank makes all of them, in one order."""
    if sharing == ranks.world:
        return None
    groups = [dist.new_group(list(range(first, first + sharing))) for first in range(0, ranks.world, sharing)]
    return cast(Peers, groups[ranks.rank // sharing])


def shuffled(network: Callable[[Tensor], Tensor], x_bCHW: Tensor, seed: int, step: int) -> Tensor:
    """What the network makes of the images, each in the group of other images than it stands among; without gradient.

    The images of all ranks are dealt anew at each step, all permutations as likely, pass the network, and their
    outputs go back to their places (MoCo, arXiv:1911.05722, section 3.3).
    """
    whole_BCHW = gather(x_bCHW)
    draw = torch.Generator().manual_seed(seed_of(seed, "shuffle", step))
    order_B = torch.randperm(len(whole_BCHW), generator=draw)
    first = dist.get_rank() * len(x_bCHW) if dist.is_available() and dist.is_initialized() else 0
    mine = slice(first, first + len(x_bCHW))
    dealt = whole_BCHW[order_B[mine].to(x_bCHW.device)]
    last = x_bCHW.is_contiguous(memory_format=torch.channels_last)
    found_BD = gather(network(dealt.contiguous(memory_format=torch.channels_last) if last else dealt))
    return found_BD[order_B.argsort()[mine].to(x_bCHW.device)]
