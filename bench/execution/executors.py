"""Where jobs run. An executor starts workers and says which have ended; the run folders say how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bench.errors import unknown_name
from bench.runs.folder import RunFolder
from bench.settings.site import Site

NAMES = ("inline", "local", "slurm")


@dataclass(frozen=True)
class Ended:
    """A worker that is gone: its job and its exit code, negative for the signal that killed it."""

    job: str
    code: int


class NoSlotError(Exception):
    """Another driver on this machine took the last slot; try again later."""


class Executor(Protocol):
    """Starts one worker a job. Never looks at edges: it is given jobs whose parents are done."""

    def get_ready(self) -> None:
        """Begin with what the first job would wait for, while its caller plans."""

    def room(self, run: RunFolder) -> bool:
        """Whether this job could be started now."""

    def submit(self, run: RunFolder) -> None:
        """Start a worker on a run folder. Only when there is room."""

    def ended(self) -> list[Ended]:
        """Workers that ended since the last call."""

    def running(self) -> list[str]:
        """Jobs whose workers this executor started and that have not ended."""

    def stop(self, jobs: list[str]) -> None:
        """Ask workers to save their state and end."""


def default_slots(site: Site) -> int:
    """Jobs side by side on this machine when bench.toml does not say: one a GPU, else one a core."""
    from bench.execution.local.slots import slot_names

    return len(slot_names(site))


def make(name: str, site: Site) -> Executor:
    """Raises BenchError with the valid names."""
    if name == "inline":
        from bench.execution.inline import InlineExecutor

        return InlineExecutor()
    if name == "local":
        from bench.execution.local.slots import LocalExecutor

        return LocalExecutor(site)
    raise unknown_name("executor that runs jobs one by one", name, ("inline", "local"))  # slurm takes whole graphs: bench/commands/driver.py
