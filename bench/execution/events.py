"""What happened to jobs, for whoever shows progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Event:
    """Something that happened to a job, for whoever shows progress."""

    job: str
    what: str  # "started", "done", "failed", "blocked", "stopped", "cancelled", "elsewhere", "set aside"
    message: str = ""


class Watcher(Protocol):
    """Whoever shows progress."""

    def tell(self, event: Event) -> None:
        """Something happened."""

    def tick(self) -> None:
        """Time passed."""


@dataclass(frozen=True)
class Summary:
    """How a run ended."""

    done: int
    already: int  # of `done`, finished before this run
    failed: tuple[str, ...]
    blocked: tuple[str, ...]
    stopped: tuple[str, ...]
    queued: tuple[str, ...] = ()  # left to Slurm
    cancelled: tuple[str, ...] = ()  # by `bench cancel`
    missing: tuple[str, ...] = ()  # whose data set or package is not here

    @property
    def complete(self) -> bool:
        """Whether every job is done."""
        ends = (self.failed, self.blocked, self.stopped, self.queued, self.cancelled, self.missing)
        return not any(ends)
