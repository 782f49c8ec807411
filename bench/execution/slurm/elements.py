"""Which jobs of one sbatch call share an element of its array: probes that see the same batches, in one process."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from bench.errors import BenchError
from bench.planning.together import together_as
from bench.runs.folder import RunFolder


def elements_of(group: Sequence[RunFolder], most: int) -> tuple[int, ...]:
    """The number of each job's element, up to `most` jobs in one; nothing when each has its own.

    What ran when a process died has its own: it may have been why.
    """
    if most == 1:
        return ()
    open_ones: dict[str, tuple[int, int]] = {}  # by what is seen: number of the element, jobs in it
    found: list[int] = []
    for run in group:
        alike = ""
        with suppress(BenchError, FileNotFoundError):  # of another version: its worker says so
            alike = together_as(run.read_spec()) if run.claim_holder() is None else ""
        number, jobs = open_ones.get(alike, (0, most)) if alike else (0, most)
        if jobs == most:
            number, jobs = max(found, default=-1) + 1, 0
        open_ones[alike] = number, jobs + 1
        found.append(number)
    return tuple(found) if max(found) + 1 < len(found) else ()
