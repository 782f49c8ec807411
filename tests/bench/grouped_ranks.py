"""What some ranks compute with batch norm in groups, for some_ranks.py and test_norm_groups.py."""

from __future__ import annotations

from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.contracts import Batch, Method
from bench.spec import Augment, Backbone, Data, Optim, Pretrain
from bench.training import loop, methods
from bench.training.norm_groups import group_norms
from bench.training.ranks import Ranks, gather
from methods.moco import Config as Moco

IMAGES, CHANNELS, VIEWS = 12, 3, 2
GROUPS = (3, 6, 12)  # on 4 ranks of 3 images: of a rank, of two ranks, of all
DTYPES = (torch.float64, torch.float32)
SHAPES = {"1d": (IMAGES, CHANNELS), "2d": (IMAGES, CHANNELS, 5, 4)}


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm_of(shape: tuple[int, ...], dtype: torch.dtype) -> nn.Sequential:
    norm: nn.Module = nn.BatchNorm1d(CHANNELS) if len(shape) == 2 else nn.BatchNorm2d(CHANNELS)
    with torch.no_grad():
        norm.get_parameter("weight").copy_(torch.tensor([0.5, 1.0, 2.0]))
        norm.get_parameter("bias").copy_(torch.tensor([0.1, 0.0, -1.0]))
    return nn.Sequential(norm).to(dtype)


def views_of(shape: tuple[int, ...], step: int) -> tuple[list[Tensor], list[Tensor]]:
    """The views of all images, and what their outputs are weighted with."""
    views = [random(*shape, seed=10 * step + view) * (view + 1) + view for view in range(VIEWS)]
    return views, [random(*shape, seed=90 + view) for view in range(VIEWS)]


def normed_in_groups(
    shape: tuple[int, ...], dtype: torch.dtype, group: int, ranks: Ranks, *, last: bool = False
) -> dict[str, Tensor]:
    """Two training batches, each with two views in one pass; parameters' gradients are the ranks' sum."""
    model, each = norm_of(shape, dtype), IMAGES // ranks.world
    group_norms(model, group, each, ranks)
    part = slice(ranks.rank * each, (ranks.rank + 1) * each)
    found: dict[str, Tensor] = {}
    for step in range(2):
        views, factors = views_of(shape, step)
        x = torch.cat([view[part] for view in views]).to(dtype)
        x = (x.contiguous(memory_format=torch.channels_last) if last else x).requires_grad_()
        y = model(x)
        loss = (0.3 * y * torch.cat([factor[part] for factor in factors]).to(dtype)).sin().sum()
        gradients = torch.autograd.grad(loss, (x, *model.parameters()))
        for name, gradient in zip(("weight", "bias"), gradients[1:], strict=True):
            if dist.is_initialized():
                dist.all_reduce(gradient)  # as DDP, which then divides
            found[f"{step}.{name}.gradient"] = gradient
        for view in range(VIEWS):
            found[f"{step}.{view}.output"] = y.detach().chunk(VIEWS)[view]
            found[f"{step}.{view}.input.gradient"] = gradients[0].chunk(VIEWS)[view]
    if ranks.first:
        found |= {f"state.{key}": value.clone() for key, value in model.state_dict().items()}
    return found


def moco_spec(group: int | None) -> Pretrain:
    view = Augment(size=32)
    return Pretrain(
        method=Moco(queue=2 * IMAGES, hidden=16, output=8, shuffle=group is not None),
        backbone=Backbone(name="resnet10", base_channels=4, stem="small", zero_init_residual=False),
        data=Data(name="mnist5k", size=32),
        views=(view, view),
        optim=Optim(name="sgd", lr=0.005, weight_decay=1e-4, warmup_epochs=0),
        batch_size=IMAGES,
        epochs=1,
        seed=1,
        norm_group=group,
    )


def moco_stepped(dtype: torch.dtype, group: int, ranks: Ranks) -> dict[str, Tensor]:
    """Losses, gradients and buffers of two steps of MoCo with shuffled keys, as the training loop computes them."""
    each = IMAGES // ranks.world
    part = slice(ranks.rank * each, (ranks.rank + 1) * each)
    network = methods.build_method(moco_spec(group), 10).to(dtype)
    method, model = cast(Method, network), cast(nn.Module, loop._Embed(cast(Method, network)))
    group_norms(network, group, each, ranks)
    if ranks.world > 1:
        model = DistributedDataParallel(model, broadcast_buffers=False)
    found: dict[str, Tensor] = {}
    for step in range(2):
        network.zero_grad()
        views = [random(IMAGES, 3, 32, 32, seed=2 * step + view).to(dtype)[part] for view in range(2)]
        batch = Batch(views=views, labels=torch.arange(IMAGES)[part], indices=torch.arange(IMAGES)[part])
        embeddings = {name: gather(z) for name, z in model(batch).items()}
        loss = method.loss(embeddings, gather(batch.labels))["loss"]
        torch.autograd.backward(loss)
        method.after_step((step + 1) / 10)
        found[f"{step}.loss"] = loss.detach()
        found |= {f"{step}.{name}": z.detach() for name, z in embeddings.items()}
        found |= {f"{step}.{name}": p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    if ranks.first:
        found |= {name: value.clone() for name, value in network.named_buffers()}
    return found


def everything_in_groups(ranks: Ranks) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for dtype in DTYPES:
        for group in GROUPS:
            for dims, shape in SHAPES.items():
                found[f"{dims} {group} {dtype}"] = normed_in_groups(shape, dtype, group, ranks)
        found |= {f"moco {group} {dtype}": moco_stepped(dtype, group, ranks) for group in (3, 6)}
    found["last"] = normed_in_groups(SHAPES["2d"], torch.float64, 3, ranks, last=True)
    return found
