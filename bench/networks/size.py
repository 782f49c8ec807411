"""Sizes of a network without its weights: what a plan and a recipe's check want to know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from bench.networks import encoders
from bench.spec import Backbone


class WithoutValues(TorchFunctionMode):
    """Leaves out what gives weights their first values.

    On the meta device there are none to give, and drawing normal ones there imports torch's compiler: a second of CPU.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" or func.__name__ in {"normal_", "uniform_"}:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def parameters(backbone: Backbone) -> int:
    """Parameter count. Raises BenchError for an unknown architecture or a width below 1."""
    return _sizes(backbone)[0]


def feature_dim(backbone: Backbone) -> int:
    """Width of the representation. Raises BenchError as `parameters`."""
    return _sizes(backbone)[1]


@cache
def _sizes(backbone: Backbone) -> tuple[int, int]:
    with torch.device("meta"), WithoutValues():
        network = encoders.build(backbone, seed=0)
    return encoders.parameters(network), network.feature_dim
