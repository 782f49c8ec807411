"""What each of two ranks computes for test_distributed.py: `python two_ranks.py FOLDER RANK`.

Rank 0 first computes everything alone, before there is a process group, and leaves it as alone.pt.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.contracts import Batch, Method
from bench.runs.folder import RunFolder
from bench.settings.site import Site
from bench.spec import Augment, Backbone, Data, Optim, Precision, Pretrain
from bench.training import loop, methods
from bench.training.norms import synchronise_norms
from bench.training.ranks import Ranks, gather
from methods.barlow_twins import Config as BarlowTwins
from methods.byol import Config as Byol
from methods.dino import Config as Dino
from methods.directclr import Config as DirectCLR
from methods.fnc import Config as Fnc
from methods.moco import Config as Moco
from methods.simclr import Config as SimCLR
from methods.simsiam import Config as SimSiam
from methods.swav import Config as Swav
from methods.truncated_triplet import Config as TruncatedTriplet
from methods.twist import Config as Twist
from methods.vicreg import Config as VICReg

CPU = torch.device("cpu")
IMAGES = 8
STEPS = 2  # of the training loop: later, last digits that decide the side of a ReLU's kink add up
METHODS: dict[str, object] = {
    "simclr": SimCLR(temperature=0.5, hidden=16, output=8),
    "barlow_twins": BarlowTwins(hidden=16, output=8),
    "moco in groups": Moco(queue=128, hidden=16, output=8, shuffle=True),
}
GROUP = 16  # images that share batch norm in a training with shuffled keys

# Every other loss: one step in float64 on one rank and on two. With their queues, teachers, pools and bunches.
STEP_METHODS: dict[str, object] = {
    "byol": Byol(projector=(16, 8), predictor=(16, 8)),
    "dino": Dino(classes=6, hidden=16, bottleneck=8, norm=True),
    "directclr": DirectCLR(d0=8),
    "fnc": Fnc(memory=0, multi_crop=False, top_k=3, threshold=None, hidden=16, output=8, mode="elimination"),
    "fnc memory": Fnc(memory=4, top_k=3, threshold=None, hidden=16, output=8),
    "moco": Moco(queue=16, hidden=16, output=8),
    "simsiam": SimSiam(hidden=16, bottleneck=8),
    "swav": Swav(prototypes=6, hidden=16, output=8),
    "truncated_triplet": TruncatedTriplet(deputy="rank", k=2, negatives_pool=4, projector=(16, 8), predictor=(16, 8)),
    "twist": Twist(hidden=16, classes=6, bunch=4),
    "twist teacher": Twist(hidden=16, classes=6, bunch=4, teacher=0.9),
    "vicreg": VICReg(hidden=16, output=8),
}


def spec_of(method: object) -> Pretrain:
    view = Augment(size=32, crop_scale=(0.4, 1.0), rotation=15.0, flip=0.0, brightness=0.4)
    return Pretrain(
        method=method,
        backbone=Backbone(name="resnet10", base_channels=4, stem="small", zero_init_residual=False),
        data=Data(name="mnist5k", size=32),
        views=(view, view),
        optim=Optim(name="sgd", lr=0.005, weight_decay=1e-4, warmup_epochs=0),
        batch_size=64,
        epochs=STEPS / (3500 // 64),
        norm_group=GROUP if isinstance(method, Moco) and method.shuffle else None,
        seed=1,  # at 0, 2 and 3 float32's last digits decide the side of a kink in these steps, whatever sums them
    )


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gathered(ranks: Ranks, rows: slice) -> dict[str, Tensor]:
    """A function of the global tensor, and the gradient of this rank's rows before DDP divides by the ranks."""
    local = random(IMAGES, 3, seed=1)[rows].requires_grad_()
    whole = gather(local)
    loss = (whole.T @ whole * random(3, 3, seed=2)).exp().sum().log()
    (gradient,) = torch.autograd.grad(loss, local)
    return {
        "whole": whole.detach(),
        "loss": loss.detach(),
        "gradient": gradient / ranks.world,
        "labels": gather(torch.arange(IMAGES)[rows]),
    }


def normed(ranks: Ranks, rows: slice, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    """Two training batches and one evaluation batch through a batch norm."""
    norm: nn.Module = nn.BatchNorm1d(3) if len(shape) == 2 else nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.get_parameter("weight").copy_(torch.tensor([0.5, 1.0, 2.0]))
        norm.get_parameter("bias").copy_(torch.tensor([0.1, 0.0, -1.0]))
    model = nn.Sequential(norm).to(dtype)
    if ranks.world > 1:
        synchronise_norms(model)
    found: dict[str, Tensor] = {}
    for step in range(2):
        x = (random(*shape, seed=step) * 3 + 1).to(dtype)[rows].requires_grad_()
        y = model(x)
        loss = (y * random(*shape, seed=9)[rows].to(dtype)).pow(3).sum()
        gradients = torch.autograd.grad(loss, (x, *model.parameters()))
        for name, gradient in zip(("input", "weight", "bias"), gradients, strict=True):
            if name != "input" and ranks.world > 1:
                dist.all_reduce(gradient)  # as DDP, which then divides
            found[f"{step}.{name}.gradient"] = gradient
        found[f"{step}.output"] = y.detach()
    found |= {f"state.{key}": value.clone() for key, value in model.state_dict().items()}
    found["evaluation"] = model.eval()(random(*shape, seed=3)[rows].to(dtype)).detach()
    return found


def step_of(method: object, ranks: Ranks, rows: slice) -> dict[str, Tensor]:
    """Loss and gradients of one batch in float64, as the training loop computes them."""
    network = methods.build_method(spec_of(method), STEPS).double()
    model: nn.Module = loop._Embed(cast(Method, network))
    if ranks.world > 1:
        synchronise_norms(network)
        model = DistributedDataParallel(model, broadcast_buffers=False)
    views = [random(IMAGES, 3, 32, 32, seed=seed)[rows] for seed in (1, 2)]
    batch = Batch(views=views, labels=torch.arange(IMAGES)[rows], indices=torch.arange(IMAGES)[rows])
    embeddings = {name: gather(z) for name, z in model(batch).items()}
    losses = cast(Method, network).loss(embeddings, gather(batch.labels))
    torch.autograd.backward(losses["loss"])
    gradients = {f"gradient.{name}": p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {
        "loss": losses["loss"].detach(),
        **gradients,
        **{f"buffer.{name}": value for name, value in network.named_buffers()},
    }


def trained(method: object, ranks: Ranks, folder: Path, precision: Precision = "fp32") -> dict[str, Any]:
    """A short run of the training loop."""
    site = Site(root=folder, runs=folder, output=folder, report=folder)
    run = RunFolder(folder / f"{ranks.world}-ranks-{type(method).__module__}-{precision}")
    run.path.mkdir(exist_ok=True)
    metrics = loop.pretrain(replace(spec_of(method), precision=precision), loop.Place(run, site, ranks, CPU)).metrics
    if not ranks.first:
        return {"metrics": metrics}
    weights = torch.load(run.weights, weights_only=True)["method"]
    start = methods.build_method(spec_of(method), STEPS).state_dict()
    lines = run.curves()
    curve = [line["loss"] for line in lines]
    return {"metrics": metrics, "curve": curve, "lines": lines, "weights": weights, "start": start}


def trained_in_fp16(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """With a scale at which no step overflows: the gradients of a rank are `world` times those of one process."""
    with patch.object(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=256.0)):
        return trained(METHODS["simclr"], ranks, folder, "fp16")


def everything(ranks: Ranks, folder: Path) -> dict[str, Any]:
    each = IMAGES // ranks.world
    rows = slice(ranks.rank * each, (ranks.rank + 1) * each)
    parts: dict[str, Callable[[], dict[str, Any]]] = {"gather": lambda: gathered(ranks, rows)}
    for dtype in (torch.float64, torch.float32):
        for dims, shape in (("1d", (IMAGES, 3)), ("2d", (IMAGES, 3, 5, 4))):
            parts[f"norm {dims} {dtype}"] = lambda shape=shape, dtype=dtype: normed(ranks, rows, shape, dtype)  # type: ignore[misc]
    for name, method in METHODS.items():
        parts[f"step {name}"] = lambda method=method: step_of(method, ranks, rows)  # type: ignore[misc]
        parts[f"train {name}"] = lambda method=method: trained(method, ranks, folder)  # type: ignore[misc]
    parts["train in fp16"] = lambda: trained_in_fp16(ranks, folder)
    for name, method in STEP_METHODS.items():
        parts[f"step {name}"] = lambda method=method: step_of(method, ranks, rows)  # type: ignore[misc]
    return {name: part() for name, part in parts.items()}


def main(folder: Path, rank: int) -> None:
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]  # its float32 convolutions differ in the fifth digit between batch sizes
    if rank == 0:
        torch.save(everything(Ranks(), folder), folder / "alone.pt")
    ranks = Ranks(rank=rank, world=2)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    torch.save(everything(ranks, folder), folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
