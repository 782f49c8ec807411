"""Work of networks and methods counted by torch itself, on tensors without memory: operations, traffic, kernels.

Slow (it imports torch and builds networks), so its answers are kept: bench/costs/counted.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from bench import plugins
from bench.contracts import Amount, Batch, Method
from bench.costs.amounts import NetworkWork, StepWork
from bench.networks import encoders
from bench.networks.size import WithoutValues
from bench.spec import Backbone, Pretrain
from bench.training import optim
from bench.training.methods import build_method

_FEW, _MORE = 4, 8  # images: two counts say what grows with the batch and what does not
# Tensors of torch's operations on lists that take as long to start as a kernel: LARS of a ResNet-50, 161 tensors in 26
# such operations, takes 4.4 ms on an H100 (docs/gpus.md).
LISTED = 8
_FREE = ("_unsafe_view", "empty", "_reshape_alias", "lift_fresh")  # move nothing, beside views


class _Traffic(TorchDispatchMode):
    """Values that kernels read and write, and how many kernels there are."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values = self.kernels = 0.0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        operator = cast(Any, func)
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in operator._schema.returns)
        name = operator._schema.name.partition("::")[2]
        if not view and not name.startswith(_FREE):
            # a norm in training reads for its statistics first
            self.values += _values((args, kwargs)) * (2 if "batch_norm" in name else 1) + _values(made)
            self.kernels += 1 + (len(tree_leaves(args)) / LISTED if name.startswith("_foreach") else 0)
        return made


def _values(found: object) -> int:
    return sum(leaf.numel() for leaf in tree_leaves(found) if isinstance(leaf, Tensor))


def amount(work: Callable[[], object]) -> Amount:
    """What `work` does."""
    traffic = _Traffic()
    with FlopCounterMode(display=False) as products, traffic:
        work()
    return Amount(float(products.get_total_flops()), float(traffic.values), float(traffic.kernels))


@contextmanager
def _weightless() -> Iterator[None]:
    """Tensors have shapes and no memory; torch has no autocast for those, and what is counted is the same without."""
    with (
        torch.device("meta"),
        WithoutValues(),
        mock.patch.object(torch, "autocast", return_value=nullcontext()),
        mock.patch.object(torch, "randint", _middle),
    ):
        yield


_randint = torch.randint


def _middle(*args: Any, **kwargs: Any) -> Tensor:
    """A single number is drawn to be used as one (random resolution): the middle of what may be drawn."""
    if len(args) == 2 and args[1] == ():
        return torch.tensor(args[0] // 2, device="cpu")
    return _randint(*args, **kwargs)


def _growing(work: Callable[[int], object]) -> tuple[Amount, Amount]:
    """Of an image, and of the rest, from work on two numbers of images."""
    few, more = (amount(lambda images=images: work(images)) for images in (_FEW, _MORE))  # type: ignore[misc]
    flops, values = ((b - a) / (_MORE - _FEW) for a, b in ((few.flops, more.flops), (few.values, more.values)))
    image = Amount(flops, values, 0.0)
    return image, Amount(few.flops - _FEW * flops, few.values - _FEW * values, more.kernels)


def network_work(backbone: Backbone, size: int) -> NetworkWork:
    """A frozen forward pass, and training, on images of `size` px."""
    with _weightless():
        network = encoders.build(backbone, seed=0)

        def forward(images: int) -> Tensor:
            return cast(Tensor, network(torch.empty(images, 3, size, size)))

        network.eval()
        with torch.no_grad():
            frozen, frozen_rest = _growing(forward)
        network.train()
        trained, rest = _growing(lambda images: forward(images).sum().backward())  # type: ignore[no-untyped-call]
    return NetworkWork(frozen, frozen_rest, trained, rest)


def step_work(spec: Pretrain) -> StepWork:
    """A step of a pretraining: views through all networks and back, the loss of the whole batch, the optimizer."""
    with _weightless():
        network = build_method(spec, steps=1000)
        network.train()
        method = cast(Method, network)

        def batch(images: int) -> Batch:
            views = [torch.empty(images, 3, view.size, view.size) for view in spec.views]
            return Batch(views, torch.zeros(images, dtype=torch.long), torch.zeros(images, dtype=torch.long))

        shapes: dict[str, tuple[int, ...]] = {}

        def embed(images: int) -> None:
            made = method.embed(batch(images))
            shapes.update({name: tuple(tensor.shape[1:]) for name, tensor in made.items()})
            with_gradient = [tensor for tensor in made.values() if tensor.requires_grad]
            torch.autograd.backward(with_gradient, [torch.empty_like(tensor) for tensor in with_gradient])

        image, rest = _growing(embed)
        loss = _loss(method, spec.batch_size, shapes)
        return StepWork(image, rest, loss, _update(network, method, spec))


def _loss(method: Method, images: int, shapes: Mapping[str, tuple[int, ...]]) -> Amount:
    given = {name: torch.empty(images, *shape, requires_grad=True) for name, shape in shapes.items()}
    labels = torch.zeros(images, dtype=torch.long)
    return amount(lambda: cast(Any, method.loss(given, labels)["loss"]).backward())


def _update(network: nn.Module, method: Method, spec: Pretrain) -> Amount:
    optimizer = optim.build(spec.optim, network)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)

    def update() -> None:
        plugins.method_of(spec.method).before_step(method, 0.5)
        optimizer.step()
        method.after_step(0.5)

    update()  # makes buffers
    return amount(update)
