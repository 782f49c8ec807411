"""What an executor is: it starts workers and says which have ended; the run folders say how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.runs.folder import RunFolder


@dataclass(frozen=True)
class Ended:
    """A worker that is gone: its job and its exit code, negative for the signal that killed it.

    Of one that had several jobs there is one for each, with the same code; the run folders say more.
    """

    job: str
    code: int


class NoSlotError(Exception):
    """Another driver on this machine took the last slot; try again later."""


class Executor(Protocol):
    """Starts workers. Never looks at edges: it is given jobs whose parents are done."""

    def get_ready(self) -> None:
        """Begin with what the first job would wait for, while its caller plans."""

    def room(self, run: RunFolder) -> bool:
        """Whether this job could be started now."""

    def most(self, run: RunFolder) -> int:
        """How many jobs like this one can run side by side, when nothing else does."""

    def has_gpu(self, run: RunFolder) -> bool:
        """Whether this job would be given a GPU."""

    def submit(self, run: RunFolder, beside: Sequence[RunFolder] = ()) -> None:
        """Start a worker on a run folder, and on those `beside` it in the same process. Only when there is room."""

    def ended(self) -> list[Ended]:
        """Workers that ended since the last call."""

    def running(self) -> list[str]:
        """Jobs whose workers this executor started and that have not ended."""

    def stop(self, jobs: list[str]) -> None:
        """Ask workers to save their state and end."""
