"""What each of 1, 2 or 4 ranks computes for test_some_ranks.py: `python some_ranks.py FOLDER RANK WORLD`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from bench.networks import encoders
from bench.spec import Backbone
from bench.training import norm_kernels
from bench.training.norms import synchronise_norms
from bench.training.ranks import Ranks, gather
from bench.training.recompute import recompute_blocks
from methods.barlow_twins import barlow_twins_loss
from methods.vicreg import vicreg_loss
from tests.bench.grouped_ranks import everything_in_groups

IMAGES, CHANNELS, WIDTH = 12, 3, 24
SHAPES = {"1d": (IMAGES, CHANNELS), "2d": (IMAGES, CHANNELS, 5, 4)}
DTYPES = (torch.float64, torch.float32)
Compute = Callable[[nn.Module, Tensor], Tensor]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(rank: int, world: int, *, empty: bool = False) -> slice:
    """Unequal parts of the images: the first rank has one more than the last, or all but none of them has the first."""
    parts = {1: [12], 2: [7, 5], 4: [4, 3, 3, 2]}[world]
    if empty and world > 1:
        parts = [0, parts[0] + parts[1], *parts[2:]]
    start = sum(parts[:rank])
    return slice(start, start + parts[rank])


def norm_of(shape: tuple[int, ...], dtype: torch.dtype) -> nn.Module:
    norm: nn.Module = nn.BatchNorm1d(CHANNELS) if len(shape) == 2 else nn.BatchNorm2d(CHANNELS)
    with torch.no_grad():
        norm.get_parameter("weight").copy_(torch.tensor([0.5, 1.0, 2.0]))
        norm.get_parameter("bias").copy_(torch.tensor([0.1, 0.0, -1.0]))
    return nn.Sequential(norm).to(dtype)


def normed(
    model: nn.Module,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    part: slice,
    *,
    run: Compute = lambda model, x: model(x),
    mean: float = 1.0,
    layout: torch.memory_format = torch.contiguous_format,
) -> dict[str, Tensor]:
    """Two training batches and one evaluation batch through a batch norm; parameters' gradients are the ranks' sum."""
    found: dict[str, Tensor] = {}
    for step in range(2):
        x = (random(*shape, seed=step) * 3 + mean).to(dtype)[part]
        x = (x.contiguous(memory_format=layout) if x.ndim == 4 else x).requires_grad_()
        y = run(model, x)
        loss = (y.to(dtype) * random(*shape, seed=9)[part].to(dtype)).sin().sum()
        gradients = torch.autograd.grad(loss, (x, *model.parameters()))
        for name, gradient in zip(("input", "weight", "bias"), gradients, strict=True):
            if name != "input" and dist.is_initialized():
                dist.all_reduce(gradient)  # as DDP, which then divides
            found[f"{step}.{name}.gradient"] = gradient
        found[f"{step}.output"] = y.detach()
    found |= {f"state.{key}": value.clone() for key, value in model.state_dict().items()}
    found["evaluation"] = model.eval()(random(*shape, seed=3)[part].to(dtype)).detach()
    return found


def global_norm(shape: tuple[int, ...], dtype: torch.dtype) -> nn.Module:
    model = norm_of(shape, dtype)
    synchronise_norms(model)
    return model


def as_torchs_function(model: nn.Module, x: Tensor) -> Tensor:
    """torch's SyncBatchNorm, whose module refuses a CPU, with the plain kernels in the place of CUDA's."""
    norm = model[0]  # type: ignore[index]
    norm.num_batches_tracked += 1
    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.momentum)
    y: Tensor = SyncBatchNorm.apply(x, norm.weight, norm.bias, *statistics, dist.group.WORLD, dist.get_world_size())
    return y


LOSSES: dict[str, Callable[[Tensor, Tensor], dict[str, Tensor]]] = {
    "barlow_twins": lambda a, b: barlow_twins_loss(a, b, lambda_=0.0051),
    "vicreg": lambda a, b: vicreg_loss(a, b, invariance=25, variance=25, covariance=1, halve_variance=False),
}


def loss_of(name: str, dtype: torch.dtype, rank: int, world: int) -> dict[str, Tensor]:
    """A loss with its terms, the gradient of this rank's rows as DDP averages it, and the operations that it took."""
    each = IMAGES // world
    part = slice(rank * each, (rank + 1) * each)
    locals_ = [random(IMAGES, WIDTH, seed=seed).to(dtype)[part].requires_grad_() for seed in (1, 2)]
    with FlopCounterMode(display=False) as counter:
        losses = LOSSES[name](*(gather(local) for local in locals_))
        torch.autograd.backward(losses["loss"])
    gradients = {f"{number}.input.gradient": z.grad / world for number, z in enumerate(locals_) if z.grad is not None}
    operations = torch.tensor(counter.get_total_flops())
    return {key: value.detach() for key, value in losses.items()} | gradients | {"operations": operations}


def stepped(rank: int, world: int, *, twice: bool) -> dict[str, Tensor]:
    """Gradients, buffers and output of a ResNet under DDP, its blocks' activations kept or computed twice."""
    network = encoders.build(Backbone(name="resnet10", base_channels=4, stem="small", zero_init_residual=False), 0)
    synchronise_norms(network)
    if twice:
        recompute_blocks(network)
    images = random(IMAGES, 3, 32, 32, seed=4).float()[rows(rank, world)]
    found = DistributedDataParallel(network, broadcast_buffers=False)(images)
    torch.autograd.backward(found.sin().sum())
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {"output": found.detach()} | gradients | dict(network.named_buffers())


def everything(rank: int, world: int) -> dict[str, Any]:
    for name in [name for name in vars(norm_kernels) if name.startswith("batch_norm_")]:
        setattr(torch, name, getattr(norm_kernels, name))  # for torch's SyncBatchNorm alone
    part, found = rows(rank, world), {}
    for dtype in DTYPES:
        for dims, shape in SHAPES.items():
            found[f"{dims} {dtype}"] = normed(global_norm(shape, dtype), shape, dtype, part)
            found[f"torch's {dims} {dtype}"] = normed(norm_of(shape, dtype), shape, dtype, part, run=as_torchs_function)
        found |= {f"{name} {dtype}": loss_of(name, dtype, rank, world) for name in LOSSES}
    shape = SHAPES["2d"]
    last = {"layout": torch.channels_last}
    found["channels_last"] = normed(global_norm(shape, torch.float64), shape, torch.float64, part, **last)  # type: ignore[arg-type]
    found["far"] = normed(global_norm(shape, torch.float32), shape, torch.float32, part, mean=1000.0)
    empty = rows(rank, world, empty=True)
    found["empty"] = normed(global_norm(shape, torch.float64), shape, torch.float64, empty)
    compiled = global_norm(shape, torch.float64)
    if world == 2:  # it takes long to start
        compiled.compile(backend="aot_eager")
    found["compiled"] = normed(compiled, shape, torch.float64, part)
    found |= {name: stepped(rank, world, twice=name == "recomputed") for name in ("kept", "recomputed")}
    found |= everything_in_groups(Ranks(rank=rank, world=world))
    half = global_norm(shape, torch.float32)
    found["half"] = normed(half, shape, torch.float32, part, run=lambda model, x: model(x.bfloat16()))
    return found


def main(folder: Path, rank: int, world: int) -> None:
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world, timeout=timedelta(seconds=120)
    )
    torch.save(everything(rank, world), folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
