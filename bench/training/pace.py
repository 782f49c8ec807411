"""How fast a job goes and what it waits for, in the lines of pretrainings and of long evaluations alike."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

from bench.runs.metrics import SECONDS, SLOW_SHARE, waiting, waiting_share
from bench.training.stopwatch import Stopwatch

WARM_STEPS = 20  # of an attempt, before a slow loader is named: its processes start meanwhile


class Pace:
    """Of one attempt at `steps` steps, of which `begun` were done before; `watch` times the parts of each."""

    def __init__(self, device: torch.device, *, steps: int, batch_size: int, begun: int) -> None:
        self.steps, self.batch_size, self.begun = steps, batch_size, begun
        self.looked_at, self.looked_step, self.warned = time.monotonic(), begun, False
        self.watch = Stopwatch(device)

    def overdue(self) -> bool:
        """Whether the last line is so long ago that one is due by the clock; nothing of it is to be kept."""
        return time.monotonic() - self.looked_at > SECONDS

    def line(self, done: int, about: Mapping[str, float], *, from_files: bool = False) -> dict[str, float]:
        """Where the job stands and how fast it went since the last line; a slow loader is named in the log, once.

        `from_files`: its images are, and one that cannot be read ends it, so that there is none.
        """
        now, steps = time.monotonic(), done - self.looked_step
        rate = steps * self.batch_size / max(1e-9, now - self.looked_at)
        self.looked_at, self.looked_step = now, done
        line = {"step": done, "steps": self.steps, **about, "img_s": round(rate, 1)}
        line |= {"unreadable_images": 0} if from_files else {}
        line |= self.watch.read(steps)
        share = waiting_share(line)
        if share is not None and share > SLOW_SHARE and not self.warned and done - self.begun > WARM_STEPS:
            self.warned = True
            print(f"slow at step {done}: the run {waiting(line)}", flush=True)
        return line
