"""Bytes of the tensors that live at once, counted operation by operation: the memory that a GPU would need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SLACK = 0.001  # by which a peak may be counted too low: to look at every tensor after every operation takes long


class _Meter(TorchDispatchMode):
    """Notes every storage that an operation makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.living: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most: int = 0  # that may live: dead ones count until the next look
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
        for tensor in _tensors(made):
            storage = tensor.untyped_storage()
            if storage._cdata not in inputs:
                before = self.living.get(storage._cdata, (None, 0))[1]
                self.living[storage._cdata] = StorageWeakRef(storage), storage.nbytes()  # type: ignore[no-untyped-call]
                self.most += storage.nbytes() - before
        if self.most > self.peak * (1 + SLACK):
            self.look()
        return made

    def look(self) -> None:
        """Forget the dead."""
        self.living = {key: kept for key, kept in self.living.items() if not kept[0].expired()}  # type: ignore[no-untyped-call]
        self.most = sum(size for _, size in self.living.values())
        self.peak = max(self.peak, self.most)


def _tensors(values: object) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes that tensors made during `work` had at once; what was there before does not count."""
    meter = _Meter()
    with meter:
        work()
    return meter.peak
