"""Peak memory counted: a method's whole training step, and a network's pass, on tensors with shapes and no numbers.

bench/costs/memory.json keeps what is counted of the jobs of tables; `python docs/make_memory.py` writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from bench import plugins
from bench.contracts import Batch, Method
from bench.costs.living import peak_bytes
from bench.costs.steps import Count, Network
from bench.networks import encoders
from bench.networks.size import WithoutValues
from bench.spec import Pretrain
from bench.training import optim
from bench.training.methods import build_method
from bench.training.precision import autocast, products
from bench.training.recompute import recompute_blocks

STEPS = 1000  # of the imagined run: schedules of methods want a number
CPU = torch.device("cpu")


def of_training(spec: Pretrain, *, recompute: bool) -> Count:
    """Of a step of a pretraining: the line through counts at two numbers of images on a rank.

    The loss is over the whole batch in both, as if gathered from as many ranks as it takes.
    """
    few, more = _two_shares(spec.batch_size)
    with torch.device("meta"), WithoutValues():
        trained = sum(p.numel() * 4 for p in build_method(spec, STEPS).parameters() if p.requires_grad)
    low, high = (peak_of(spec, images, recompute=recompute) for images in (few, more))
    image = (high - low) / (more - few)
    return Count(fixed=low - image * few, image=image, trained=trained)


def peak_of(spec: Pretrain, images: int, *, recompute: bool) -> int:
    """Bytes of the peak of a step on a rank with so many images of the batch, the network's among them."""
    with torch.device("meta"), WithoutValues():
        network = build_method(spec, STEPS)
    if recompute:
        recompute_blocks(network)
    with FakeTensorMode(), _Largest():
        return peak_bytes(lambda: _step(spec, network, images))


def of_network(what: Network) -> Count:
    """Of passes through a network alone."""
    with torch.device("meta"), WithoutValues():
        network = encoders.build(what.backbone, 0)
    trained = sum(p.numel() * 4 for p in network.parameters())
    if what.recompute:
        recompute_blocks(network)

    def work(images: int) -> None:
        _give_shapes(network)
        network.train(what.trains)
        with torch.set_grad_enabled(what.trains), autocast(what.precision, CPU):
            found = network(torch.empty(images, 3, what.size, what.size))
        if what.trains:
            found.float().sum().backward()

    few, more = 32, 64
    with FakeTensorMode():
        low, high = (peak_bytes(partial(work, images)) for images in (few, more))
    image = (high - low) / (more - few)
    return Count(fixed=low - image * few, image=image, trained=trained)


def _two_shares(batch_size: int) -> tuple[int, int]:
    """Images of a rank: large enough that activations, not weights, make the peak; both divide the batch."""
    shares = [images for images in range(1, batch_size + 1) if batch_size % images == 0]
    few = next((images for images in shares if images >= 64), shares[-1])
    more = next((images for images in shares if images >= 2 * few), shares[-1])
    return (few, more) if more > few else (shares[-2], shares[-1])


def _step(spec: Pretrain, network: nn.Module, images: int) -> None:
    """One that is not the first, as bench/training/loop.py does it: the optimizer has its buffers."""
    _give_shapes(network)
    method, file, ranks = cast(Method, network), plugins.method_of(spec.method), spec.batch_size // images
    optimizer = optim.build(spec.optim, network)
    for parameter in network.parameters():
        parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    network.train()
    batch = Batch(
        views=[torch.empty(images, 3, view.size, view.size) for view in spec.views],
        labels=torch.zeros(images, dtype=torch.long),
        indices=torch.zeros(images, dtype=torch.long),
    )
    with products(spec.precision):
        with autocast(spec.precision, CPU):
            found = method.embed(batch)
        embeddings = {name: _gathered(tensor.float(), ranks) for name, tensor in found.items()}
        losses = method.loss(embeddings, _gathered(batch.labels, ranks))
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        file.before_step(method, 0.5)
        optimizer.step()
        method.after_step(0.5)


class _Largest(TorchFunctionMode):
    """Draws of one of several (sides of images, in ascending order) are not drawn: the last is taken."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.randint and args[1:] == ((),):
            return args[0] - 1
        return func(*args, **(kwargs or {}))


def _give_shapes(network: nn.Module) -> None:
    """Put tensors of this mode in the place of those of the device "meta", which know no half precision's rules."""
    made: dict[int, Tensor] = {}
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in made:
                fresh = torch.empty(parameter.shape, dtype=parameter.dtype, device=CPU)
                made[id(parameter)] = nn.Parameter(fresh, requires_grad=parameter.requires_grad)
            module._parameters[name] = cast(nn.Parameter | None, made.get(id(parameter)))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=CPU)


def _gathered(local: Tensor, ranks: int) -> Tensor:
    """As many rows as the ranks have together."""
    return torch.cat([local] * ranks) if ranks > 1 else local
