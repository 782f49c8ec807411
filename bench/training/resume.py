"""State of a long evaluation: saved now and then and when asked to stop, so that the same job goes on where it stopped.

An evaluation with RESUMES = True asks `load` for the state of an earlier attempt, calls `keep` after every step and
`log_line` now and then. Without a run folder (tests, a call by hand) nothing is kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from bench.contracts import Context
from bench.errors import InputCorrupt, Stopped, one_line
from bench.files import atomic_path, write_atomic
from bench.runs.folder import RunFolder

SECONDS = 20.0  # between two saves, at least; saving never takes more than 2 % of the time


class Keeper:
    """Saves the state of one evaluation. State is a mapping of tensors, numbers, strings and containers of them."""

    def __init__(self, context: Context) -> None:
        self.run = RunFolder(context.folder) if context.folder is not None else None
        self.should_stop = context.should_stop
        self.saved_at, self.cost = time.monotonic(), 0.0

    def load(self) -> Mapping[str, Any] | None:
        """What an earlier attempt saved, on the CPU; None when there is nothing. Raises InputCorrupt, after setting the file aside."""
        if self.run is None or not self.run.checkpoint.exists():
            return None
        try:
            state: Mapping[str, Any] = torch.load(self.run.checkpoint, map_location="cpu", weights_only=True)
            print(f"going on after step {state['step']}", flush=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            aside = self.run.set_aside(self.run.checkpoint)
            print(f"checkpoint.pt is damaged ({one_line(error)[:200]}); set aside as {aside and aside.name}, starting anew", flush=True)
            raise InputCorrupt(f"{self.run.checkpoint} was damaged and is set aside") from error
        truncate_metrics(self.run.metrics, int(state["step"]))
        return state

    def keep(self, step: int, state: Callable[[], Mapping[str, Any]]) -> None:
        """Save when it is time or when asked to stop; `step` steps are done. Raises Stopped."""
        stop = self.should_stop()
        due = time.monotonic() - self.saved_at > max(SECONDS, 50 * self.cost)
        if self.run is not None and (stop or due):
            begun = time.monotonic()
            with atomic_path(self.run.checkpoint) as temporary:
                torch.save({**state(), "step": step}, temporary)
            self.saved_at, self.cost = time.monotonic(), time.monotonic() - begun
        if stop:
            raise Stopped(f"stopped after step {step}; the state is saved")

    def log_line(self, line: Mapping[str, float]) -> None:
        """One line of metrics.jsonl; `step` and `steps` among the keys, so that progress is shown."""
        if self.run is not None:
            with self.run.metrics.open("a") as file:
                file.write(json.dumps(dict(line)) + "\n")


def truncate_metrics(metrics: Path, step: int) -> None:
    """Drop lines from after a checkpoint, so that each step stands once."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text(errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    write_atomic(metrics, "".join(kept))
