"""Runs each job in this process, one after another: for debuggers and tests."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench.execution import environment
from bench.execution.local import gpus
from bench.execution.protocol import Ended
from bench.machine import DEVICE
from bench.runs.folder import RunFolder


class InlineExecutor:
    """`submit` returns when the job is over."""

    def __init__(self) -> None:
        self._ended: list[Ended] = []

    def get_ready(self) -> None:
        """Nothing to begin with."""

    def room(self, run: RunFolder) -> bool:
        """Always."""
        return True

    def most(self, run: RunFolder) -> int:
        """One: they run one after another."""
        return 1

    def has_gpu(self, run: RunFolder) -> bool:
        """Where this machine has one, unless the job wants none."""
        return run.resources.gpu and bool(gpus.visible())

    def submit(self, run: RunFolder, beside: Sequence[RunFolder] = ()) -> None:
        """Work on the job, here and now, with the environment that a worker of its own would have."""
        with environment.worn_here(run.resources.threads), _given():
            from bench.execution import together, worker  # torch is imported only when something runs

            if beside:
                runs = [run, *beside]
                codes = together.work(runs, own_logs=False)
                self._ended += [Ended(one.job_id, code) for one, code in zip(runs, codes, strict=True)]
            else:
                self._ended.append(Ended(run.job_id, worker.main(str(run.path))))

    def ended(self) -> list[Ended]:
        """Jobs that ran since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def running(self) -> list[str]:
        """None: a submitted job is over."""
        return []

    def stop(self, jobs: list[str]) -> None:
        """Nothing runs."""


@contextmanager
def _given() -> Iterator[None]:
    """Where this machine has GPUs, the job is given them: it must not fall back to the CPU unseen."""
    if gpus.visible():
        os.environ[DEVICE] = "cuda"
    try:
        yield
    finally:
        os.environ.pop(DEVICE, None)
