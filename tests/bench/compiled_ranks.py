"""What each of two ranks trains for test_compiled.py: `python compiled_ranks.py FOLDER RANK`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._dynamo.utils import counters

from bench.errors import Stopped
from bench.runs.folder import RunFolder
from bench.settings.site import Site
from bench.spec import Augment, Backbone, Data, Optim, Pretrain
from bench.training import loop
from bench.training.ranks import Ranks
from methods.byol import Config as Byol
from methods.moco import Config as Moco

STEPS = 12  # several ranks are asked to stop after the tenth alone
WORLD = 2
VIEW = Augment(size=32, crop_scale=(0.4, 1.0), flip=0.0, brightness=0.4)
BYOL = Pretrain(
    method=Byol(projector=(16, 8), predictor=(16, 8)),
    backbone=Backbone(name="resnet10", base_channels=4, stem="small", zero_init_residual=False),
    data=Data(name="mnist5k", size=32),
    views=(VIEW, VIEW),
    optim=Optim(name="sgd", lr=0.005, weight_decay=1e-4, warmup_epochs=0),
    batch_size=32,
    epochs=STEPS / (3500 // 32),
)
MOCO = replace(BYOL, method=Moco(queue=64, hidden=16, output=8, shuffle=True), norm_group=8)
CASES = {"byol": (BYOL, False), "byol, twice": (BYOL, True), "moco in groups": (MOCO, False)}


def trained(spec: Pretrain, ranks: Ranks, run: RunFolder, *, twice: bool, stop: bool) -> dict[str, Any]:
    """A run, stopped after ten steps and gone on with where that is asked."""
    site = Site(root=run.path, runs=run.path, output=run.path, report=run.path, checkpoint_activations=twice)
    place = loop.Place(run, site, ranks, torch.device("cpu"))
    run.path.mkdir(exist_ok=True)
    counters.clear()
    if stop:
        with suppress(Stopped):
            loop.pretrain(spec, replace(place, should_stop=lambda: True))
    metrics = loop.pretrain(spec, place)
    graphs = {"breaks": sum(Counter(counters["graph_break"]).values()), "graphs": counters["stats"]["unique_graphs"]}
    if not ranks.first:
        return graphs
    weights: dict[str, Tensor] = torch.load(run.weights, weights_only=True)["method"]
    losses = [line["loss"] for line in run.curves()]
    return {"losses": losses, "weights": weights, "resumed": metrics.resumed, **graphs}


def everything(ranks: Ranks, folder: Path) -> dict[str, Any]:
    found = {}
    for number, (name, (spec, twice)) in enumerate(CASES.items()):
        plain = trained(spec, ranks, RunFolder(folder / f"plain{number}"), twice=False, stop=False)
        run = RunFolder(folder / f"compiled{number}")
        compiled = trained(replace(spec, compile=True), ranks, run, twice=twice, stop=name == "byol")
        found[name] = {"plain": plain, "compiled": compiled}
    return found


def main(folder: Path, rank: int) -> None:
    compile_ = torch.compile

    def traced(call: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
        made: Callable[..., Tensor] = compile_(call, backend="aot_eager")  # forward and backward, and writes no C++
        return made

    torch.compile = traced  # type: ignore[assignment]
    vars(dist)["_DEFAULT_FIRST_BUCKET_BYTES"] = 4096  # as small beside these networks as 1 MiB is beside real ones
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD, timeout=timedelta(seconds=300)
    )
    torch.save(everything(Ranks(rank=rank, world=WORLD), folder), folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
