"""How far the training is, for methods whose step depends on it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Progress:
    """The buffer `progress` of a method, so that checkpoints hold it, and its value on the host.

    Reading the buffer in every step would make the host wait for a GPU.
    """

    def __init__(self, method: nn.Module) -> None:
        method.register_buffer("progress", torch.zeros((), dtype=torch.float64))
        method.register_load_state_dict_post_hook(self._forget)  # type: ignore[no-untyped-call]
        self.known: float | None = 0.0

    def _forget(self, module: nn.Module, keys: object) -> None:
        self.known = None

    def value(self, buffer: Tensor) -> float:
        """Share of the steps that are done."""
        if self.known is None:
            self.known = float(buffer)
        return self.known

    def move(self, buffer: Tensor, progress: float) -> None:
        """After a step."""
        buffer.fill_(progress)
        self.known = progress
