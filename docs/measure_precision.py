"""What half precision does to the gradients of a deep narrow twin: `python docs/measure_precision.py gradients moco`.

The twin is a ResNet-50 of 8 channels with a small stem on real digits of 32 px, batch 128, with the embedded recipes:
as deep as the papers' network, in whose blocks gradients grow when the last norms start at one, and narrow enough for a
CPU. The embedded scale's own network has 4 blocks and does not show it.

    gradients METHOD    trains in float32; at some steps the cosine of the gradient of the whole network in every
                        precision with that in float32, for the same weights and images
    accuracies METHOD   trains to the end in every precision; nearest neighbours and linear accuracy of the features

Both print a line of JSON as soon as it is known. On a CPU tf32 and fp16 are not what a GPU computes, so that their
products are made there of rounded factors with sums in float32, as tensor cores have them: `tensor_cores`. With
`--device cuda` the GPU's own products are used.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook

from bench import plugins
from bench.bench_toml import find_site
from bench.contracts import Batch, Context
from bench.execution.device import prepare_device
from bench.execution.subject import load_subject
from bench.identity import job_id
from bench.networks.encoders import Block
from bench.planning import scales, translate
from bench.runs.folder import RunFolder, Runs
from bench.seeding import seed_of
from bench.spec import Precision, Pretrain, Resources
from bench.training.loop import Loop, Place, pretrain
from bench.training.precision import LossScale
from bench.training.ranks import Ranks

STEPS = (0, 5, 20, 60, 159)


def twin(method: str, *, zero_init: bool, seed: int, precision: Precision, epochs: float | None) -> Pretrain:
    """The method's embedded recipe with the deep narrow network."""
    spec = translate.encoder(
        scales.scale_of("embedded"), method, network="resnet50", width=1, epochs=None, dataset="imagenet", seed=seed
    )
    assert isinstance(spec, Pretrain)
    network = replace(spec.backbone, name="resnet50", base_channels=8, stem="small", zero_init_residual=zero_init)
    spec = replace(spec, backbone=network, batch_size=128, precision=precision)
    return spec if epochs is None else replace(spec, epochs=epochs)


def rounded(x: Tensor, precision: Precision) -> Tensor:
    """A float32 tensor of the values that a tensor core reads: 11 bits of mantissa, the hidden one included; fp16."""
    if precision == "fp16":
        return x.half().float()
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32).view_as(x)


class _Factors(torch.autograd.Function):
    """Rounds a factor of a product; its gradient is rounded in fp16, where that is stored in it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, precision: Precision) -> Tensor:
        ctx.precision = precision
        return rounded(x, precision)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gradient = gradients[0]
        return rounded(gradient, "fp16") if ctx.precision == "fp16" else gradient, None


class _Product(torch.autograd.Function):
    """The result as it is stored; the gradient that comes back is a factor of the backward products, so rounded.

    Results of fp16 are kept in float32: a CPU takes many times as long for each sum and maximum of fp16 numbers.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, precision: Precision) -> Tensor:
        ctx.precision = precision
        return rounded(y, precision) if precision == "fp16" else y.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return rounded(gradients[0].float(), ctx.precision), None


@contextmanager
def tensor_cores(precision: Precision, device: torch.device) -> Iterator[None]:
    """Convolutions and linear layers as a GPU has them in tf32 and fp16; fp32 and bf16 are the device's own."""
    if device.type != "cpu" or precision not in ("tf32", "fp16"):
        yield
        return
    convolution, linear = F.conv2d, F.linear

    def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **named: Any) -> Tensor:
        factors = _Factors.apply(x, precision), _Factors.apply(weight, precision)
        with torch.autocast("cpu", enabled=False):
            y = convolution(*factors, bias, *rest, **named)
        return _Product.apply(y, precision)  # type: ignore[no-any-return]

    def block_sum(block: torch.nn.Module, inputs: Any, y: Tensor) -> Tensor | None:
        stored = precision == "fp16" and isinstance(block, Block)
        return _Product.apply(y, precision) if stored else None  # type: ignore[no-any-return]

    def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        factors = _Factors.apply(x, precision), _Factors.apply(weight, precision)
        with torch.autocast("cpu", enabled=False):
            y = linear(*factors, bias)
        return _Product.apply(y, precision)  # type: ignore[no-any-return]

    hook = register_module_forward_hook(block_sum)  # type: ignore[arg-type]
    try:
        with patch.object(F, "conv2d", conv2d), patch.object(F, "linear", product):
            yield
    finally:
        hook.remove()


def gradient(loop: Loop, step: int, batch: Batch, precision: Precision) -> Tensor:
    """Of every trained tensor, in float64, one after another; weights and statistics stay as they are."""
    before = {name: value.clone() for name, value in loop.network.state_dict().items()}
    loop.spec = replace(loop.spec, precision=precision)
    for power in range(16, -1, -1):  # the scale that a run would have found
        loop.loss_scale = LossScale(precision, loop.place.device)
        scaler = torch.amp.GradScaler(loop.place.device.type, init_scale=2.0**power, enabled=precision == "fp16")
        loop.loss_scale.scaler = scaler
        loop.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(seed_of(loop.spec.seed, "step", step, 0))
        with tensor_cores(precision, loop.place.device):
            loop.backward(step, batch)
        loop.loss_scale.unscale(loop.optimizer)
        loop.network.load_state_dict(before)
        found = torch.cat([p.grad.double().flatten() for p in loop.network.parameters() if p.grad is not None])
        if found.isfinite().all():
            break
    return found


def gradients(method: str, device: torch.device, *, zero_init: bool, seed: int) -> None:
    """A line for each of STEPS."""
    spec = twin(method, zero_init=zero_init, seed=seed, precision="fp32", epochs=None)
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(spec, Place(RunFolder(Path(folder)), find_site(), Ranks(), device))
        for step, batch in loop.batches():
            if step in STEPS:
                found = {precision: gradient(loop, step, batch, precision) for precision in get_args(Precision)}
                loop.spec, loop.loss_scale = spec, LossScale("fp32", device)
                exact = found.pop("fp32")
                cosines = {p: round(float(F.cosine_similarity(exact, g, dim=0)), 4) for p, g in found.items()}
                show(method, zero_init, seed, {"step": step, "norm": round(float(exact.norm()), 3), "cosine": cosines})
            loop.update(step, batch)
            if step == max(STEPS):
                return


def accuracies(method: str, device: torch.device, *, zero_init: bool, seed: int, epochs: float | None) -> None:
    """A line for each precision."""
    for precision in get_args(Precision):
        spec = twin(method, zero_init=zero_init, seed=seed, precision=precision, epochs=epochs)
        with tempfile.TemporaryDirectory() as folder:
            runs, site = Runs(Path(folder)), find_site()
            run = runs[job_id(spec)]
            run.path.mkdir(parents=True)
            with tensor_cores(precision, device):
                trained = pretrain(spec, Place(run, site, Ranks(), device))
            subject = load_subject(spec, spec.data.size, runs, device, projector=False)
            context = Context(site=site, data=spec.data, seed=seed, device=device, features=runs.features)
            found = {}
            for name in ("knn", "linear"):
                protocol = plugins.evaluation(name)
                found[name] = protocol.evaluate(protocol.recipes["embedded"], subject, context).metrics["top1"]
            loss = trained.metrics["loss"]
            show(method, zero_init, seed, {"precision": precision, "epochs": spec.epochs, "loss": loss} | found)


def show(method: str, zero_init: bool, seed: int, found: dict[str, Any]) -> None:
    """One line of JSON."""
    print(json.dumps({"method": method, "zero_init_residual": zero_init, "seed": seed} | found), flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("gradients", "accuracies"))
    parser.add_argument("methods", nargs="+", help="methods with an embedded recipe, e.g. moco twist swav simclr")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--zero-init", action="store_true", help="the last norm of every block starts at 0, not 1")
    parser.add_argument("--epochs", type=float, help="of `accuracies`; the recipe's without it")
    chosen = parser.parse_args()
    device = prepare_device(Resources(gpu=chosen.device == "cuda"), Ranks())
    for seed in chosen.seeds:
        for method in chosen.methods:
            if chosen.what == "gradients":
                gradients(method, device, zero_init=chosen.zero_init, seed=seed)
            else:
                accuracies(method, device, zero_init=chosen.zero_init, seed=seed, epochs=chosen.epochs)


if __name__ == "__main__":
    main()
