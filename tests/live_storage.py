"""Bytes of the tensors that live at once, counted operation by operation: the memory that a GPU would need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Meter(TorchDispatchMode):
    """Notes every storage that an operation makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.living: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak: int = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        inputs = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        self.living = {key: kept for key, kept in self.living.items() if not kept[0].expired()}  # type: ignore[no-untyped-call]
        for tensor in _tensors(made):
            storage = tensor.untyped_storage()
            if storage._cdata not in inputs:
                self.living[storage._cdata] = StorageWeakRef(storage), storage.nbytes()  # type: ignore[no-untyped-call]
        self.peak = max(self.peak, sum(size for _, size in self.living.values()))
        return made


def _tensors(values: object) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes that tensors made during `work` had at once; what was there before does not count."""
    meter = _Meter()
    with meter:
        work()
    return meter.peak
