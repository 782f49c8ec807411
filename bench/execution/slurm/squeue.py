"""What Slurm says: one squeue call for all jobs, and one sacct call for those that squeue has forgotten.

submitit's own state reading is not used: it asks sacct alone (nothing without slurmdbd), takes NODE_FAIL of a requeued
job for its end, and waits for pickles that a killed job never writes. Here Slurm's word is only one half; the run
folders are the other, and a result there counts whatever Slurm says.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass

from bench.errors import BenchError, one_line

TIMEOUT_SECONDS = 120.0  # squeue and scancel themselves try for about 10 s; a busy slurmctld takes longer
# Everything else is the end of a job. A job that Slurm requeues is PENDING or COMPLETING in squeue, whatever sacct says
# of the attempt before (NODE_FAIL, PREEMPTED), and squeue is asked first.
ALIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"}
ALIVE |= {"SPECIAL_EXIT", "RESIZING", "RESV_DEL_HOLD", "SIGNALING", "STAGE_OUT", "STOPPED"}
NEVER = {"DependencyNeverSatisfied"}  # where kill-on-invalid-dep is not heeded, such a job stays in the queue for ever


@dataclass(frozen=True)
class QueueRow:
    """One job, or one element of an array, as Slurm sees it."""

    id: str  # "123", or "123_4" for an array's element
    state: str
    elapsed: str = ""  # "1-02:03:04"
    limit: str = ""
    reason: str = ""  # why it is pending
    node: str = ""
    name: str = ""

    @property
    def alive(self) -> bool:
        """Whether the job is still to run or running."""
        return self.state in ALIVE and not self.hopeless

    @property
    def hopeless(self) -> bool:
        """Whether it waits for what can never come."""
        return self.state == "PENDING" and self.reason in NEVER


def call(command: list[str], text: str = "") -> str:
    """Run one of Slurm's programs. Raises BenchError with its own words when it fails."""
    if shutil.which(command[0]) is None:
        raise BenchError(f"there is no {command[0]} here: run this on a login node of the cluster.")
    try:
        found = subprocess.run(
            command,
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{command[0]} gave no answer in {TIMEOUT_SECONDS:.0f} s: is slurmctld up?") from error
    if found.returncode:
        raise BenchError(
            f"{command[0]} failed: "
            f"{' '.join((found.stderr or found.stdout).split())[-400:] or f'exit code {found.returncode}'}"
        )
    return found.stdout


def queue(users: Iterable[str]) -> list[QueueRow]:
    """All jobs of some users that slurmctld knows, finished ones too while it remembers them (MinJobAge).

    Raises BenchError.
    """
    out = call(
        [
            "squeue",
            "--noheader",
            "--array",
            "--states=all",
            f"--user={','.join(sorted(users))}",
            "--format=%i|%T|%M|%l|%r|%N|%j",
        ]
    )
    return [row for row in map(_queue_row, out.splitlines()) if row is not None]


def history(users: Iterable[str], since: float) -> list[QueueRow]:
    """The same from accounting, for jobs that were there since a time; nothing on a cluster without slurmdbd."""
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since - 60))
    command = [
        "sacct",
        "--noheader",
        "--parsable2",
        "--allocations",
        "--array",
        f"--starttime={start}",
        f"--user={','.join(sorted(users))}",
    ]
    try:
        out = call([*command, "--format=JobID,State,Elapsed,Timelimit,Reason,NodeList,JobName"])
    except BenchError as error:
        print(f"accounting is left out: {one_line(error)}") if "disabled" not in str(error) and "no sacct" not in str(
            error
        ) else None
        return []
    rows = [row for row in map(_queue_row, out.splitlines()) if row is not None]
    # "CANCELLED by 0"
    return [QueueRow(**{**vars(row), "state": row.state.partition(" ")[0], "reason": ""}) for row in rows]


def user() -> str:
    """Who submits, as squeue takes it."""
    return str(os.getuid())


def seconds_of(text: str) -> float:
    """Seconds of Slurm's "1-02:03:04", "02:03:04" or "03:04"; infinity for UNLIMITED, 0 for what is no time."""
    if text == "UNLIMITED":
        return float("inf")
    days, _, rest = text.rpartition("-")
    try:
        parts = [int(part) for part in rest.split(":")]
        return int(days or 0) * 86400.0 + sum(part * 60.0**power for power, part in enumerate(reversed(parts)))
    except ValueError:
        return 0.0


def _queue_row(line: str) -> QueueRow | None:
    parts = line.split("|", 6)  # the name last: it is the only one that could hold a "|"
    if len(parts) < 7 or "[" in parts[0]:
        return None
    number, state, elapsed, limit, reason, node, name = parts
    return QueueRow(number, state, elapsed, limit, reason, "" if node.startswith("None") else node, name)
