"""Where the time of a training step goes: waiting for the batch, forward, backward, optimizer."""

from __future__ import annotations

import time
from collections import deque
from typing import Literal, TypeAlias

import torch

Part: TypeAlias = Literal["wait", "forward", "backward", "optimizer"]
PARTS: tuple[Part, ...] = ("wait", "forward", "backward", "optimizer")
KEPT = 64  # marks on a GPU that are not read yet; older ones are long over, so that reading them waits for nothing


class Stopwatch:
    """Sums the time between marks by the part that ends with each.

    On a CPU the host's clock. On a GPU events in its stream, because the host runs ahead of it: they cost no
    synchronisation, and "wait" is what the GPU waited for the loader and spent on finishing the views.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.milliseconds = dict.fromkeys(PARTS, 0.0)
        self.last = time.perf_counter()
        self.events: deque[tuple[Part | None, torch.cuda.Event]] = deque()

    def start(self) -> None:
        """The next part begins now; what lies between the last mark and this belongs to no part."""
        self._mark(None)

    def end(self, part: Part) -> None:
        """What began at the last mark is over."""
        self._mark(part)

    def read(self, steps: int) -> dict[str, float]:
        """Milliseconds of an average step by part, as `wait_ms`, since the last reading."""
        if self.events:
            self.events[-1][1].synchronize()
            self._fold(1)
        found = {f"{part}_ms": round(self.milliseconds[part] / max(1, steps), 3) for part in PARTS}
        self.milliseconds = dict.fromkeys(PARTS, 0.0)
        return found

    def _mark(self, part: Part | None) -> None:
        if self.on_gpu:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self.events.append((part, event))
            if len(self.events) > 2 * KEPT:
                self._fold(KEPT)
            return
        now = time.perf_counter()
        if part is not None:
            self.milliseconds[part] += 1e3 * (now - self.last)
        self.last = now

    def _fold(self, kept: int) -> None:
        while len(self.events) > kept:
            begun = self.events.popleft()[1]
            part, ended = self.events[0]
            if part is not None:
                ended.synchronize()
                self.milliseconds[part] += begun.elapsed_time(ended)
