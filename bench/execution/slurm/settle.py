"""Bringing Slurm's word and the run folders together: what became of a job that left the queue without a result."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from bench.execution.slurm import squeue as state
from bench.execution.slurm.journal import QueueView
from bench.execution.slurm.squeue import QueueRow
from bench.runs.folder import RunFolder, Runs, State

MOUNT_SECONDS = 5.0  # how late a file written on a node may show here, at least; looking at the folder hurries it

# What the user can do about each end that Slurm reports.
_ENDS: Mapping[str, str] = {
    "TIMEOUT": "its time limit ended it before it had saved its state; raise `signal` or `time` under [slurm] if "
    "that happens again",
    "OUT_OF_MEMORY": "it took more memory than it asked for; raise `memory` under [slurm]",
    "NODE_FAIL": "its node failed and Slurm did not requeue it",
    "PREEMPTED": "it was preempted and Slurm did not requeue it",
    "CANCELLED": "it was cancelled from outside (scancel)",
    "BOOT_FAIL": "its node did not start",
    "DEADLINE": "its deadline passed",
    "COMPLETED": "its worker ended without a result",
    "FAILED": "its worker died",
    "GONE": "Slurm does not know it any more",
}


class Job(Protocol):
    """What Slurm's side needs of a job: bench.runs.plans.StoredJob and bench.planning.graph.Job are such."""

    @property
    def id(self) -> str:
        """The job id."""

    @property
    def label(self) -> str:
        """What a human calls it."""

    @property
    def resources_as(self) -> str:
        """Kind of job whose resources it is given: `pretrain` or `evaluate`."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Jobs that must be done before it."""


def settle(jobs: Iterable[Job], runs: Runs, view: QueueView) -> None:
    """Record why each job that has left Slurm's queue without a result did so, unless its worker said so itself.

    `jobs` in topological order. A job that Slurm dropped because its parent failed is blocked; one that would wait for
    ever (where kill-on-invalid-dep is not heeded) is taken out of the queue. What waited for a job that `bench cancel`
    cancelled has not failed, and nothing is recorded of it, as on this machine.
    """
    hopeless = []
    for job in jobs:
        run, row = runs[job.id], view.row(job.id)
        if row is None or row.alive or row.state == "UNKNOWN" or _has_ended(run):
            continue
        if row.hopeless:
            hopeless.append(row.id)
        lost = next((need for need in job.needs if not runs[need].result_file.exists()), None)
        if lost is not None and (row.hopeless or row.state in ("CANCELLED", "GONE")):
            if not waits_for_cancelled(job.needs, runs):
                run.fail_if_nobody_works("blocked", f"needs {lost}, which {_fate(runs[lost])}")
        elif run.state() is not State.CANCELLED:
            run.fail_if_nobody_works("crashed", sentence(row, run))
    if hopeless:
        state.call(["scancel", *hopeless])


def waits_for_cancelled(needs: Iterable[str], runs: Runs) -> bool:
    """Whether one of these jobs was cancelled, or waits for one that was."""
    for run in (runs[need] for need in needs):
        found = run.state()
        if found is State.CANCELLED:
            return True
        waiting = found in (State.PENDING, State.STOPPED) and run.job_file.exists()
        if waiting and waits_for_cancelled(run.needs, runs):
            return True
    return False


def sentence(row: QueueRow, run: RunFolder) -> str:
    """How Slurm says that a job ended, and what to do."""
    where = f" on {row.node}" if row.node else ""
    resume = "; it goes on from its checkpoint" if run.has_checkpoint() else ""
    return (
        f"Slurm job {row.id} ended{where} as {row.state}: {_ENDS.get(row.state, 'no result')}{resume}; log: {run.log}"
    )


def ended_for_sure(row: QueueRow | None, run: RunFolder, gone_since: dict[str, float]) -> bool:
    """Whether a watched job is over: it has its own end, or left the queue a while ago (shared file systems lag).

    One that was cancelled alone ends while its element of an array goes on with others.
    """
    if _has_ended(run) or run.state() is State.CANCELLED:
        return True
    if row is not None and (row.alive or row.state == "UNKNOWN"):
        gone_since.pop(run.job_id, None)
        return False
    return time.monotonic() - gone_since.setdefault(run.job_id, time.monotonic()) >= MOUNT_SECONDS


def states_of(jobs: Collection[Job], runs: Runs, view: QueueView) -> dict[str, str]:
    """One word a job: the run folder's or, if it says too little, Slurm's: queued, starting, ending, blocked, lost.

    What Slurm dropped because the job that it waited for was cancelled keeps its own: it is pending.
    """
    dropped: set[str] = set()
    words: dict[str, str] = {}
    for job in jobs:
        found, row = runs[job.id].state(), view.row(job.id)
        words[job.id] = found.value
        if found is State.FAILED and runs[job.id].failure().kind == "blocked":
            words[job.id] = "blocked"  # as `bench run` and the report have it: it has not failed itself
        if row is None or found in (State.DONE, State.FAILED, State.RUNNING, State.CANCELLED) or row.state == "UNKNOWN":
            continue
        if not row.alive and any(words.get(need) == "cancelled" or need in dropped for need in job.needs):
            dropped.add(job.id)
        elif row.hopeless:
            words[job.id] = "blocked"
        elif row.alive:
            words[job.id] = {"RUNNING": "starting", "CONFIGURING": "starting", "COMPLETING": "ending"}.get(
                row.state, "queued"
            )
        else:
            words[job.id] = (
                "blocked" if any(words.get(need) in ("failed", "blocked", "lost") for need in job.needs) else "lost"
            )
    return words


def note(job: Job, runs: Runs, row: QueueRow | None, word: str) -> str:
    """What `bench status` says beside a job that is or was in Slurm's queue."""
    if row is None:
        return ""
    match word:
        case "queued":
            waits = [need for need in job.needs if not runs[need].result_file.exists()]
            reason = f"waits for {', '.join(waits)}" if row.reason == "Dependency" and waits else row.reason
            again = "; goes on from its checkpoint" if runs[job.id].has_checkpoint() else ""
            return f"Slurm {row.id}: {reason or row.state}{again}"
        case "running" | "starting" | "ending":
            return f"Slurm {row.id} on {row.node} for {row.elapsed}" if row.alive else ""
        case "blocked":
            lost = [need for need in job.needs if not runs[need].result_file.exists()]
            return (
                f"Slurm {row.id}: can never start, needs {', '.join(lost)}; `bench retry` when that can run"
                if lost
                else ""
            )
        case "lost":
            return sentence(row, runs[job.id]) + "; `bench retry` or the same `bench run` submits it again"
    return ""


def is_over(run: RunFolder) -> bool:
    """Whether a job of several in one element needs it no longer: done, cancelled, or failed by its own word.

    The process sees by itself that one of its jobs was cancelled. A crash is no such word: a requeue goes on with it.
    """
    if run.result_file.exists() or run.was_cancelled():
        return True
    return run.error_file.exists() and run.failure().kind != "crashed"


def _has_ended(run: RunFolder) -> bool:
    if run.path.is_dir():
        os.listdir(run.path)  # noqa: PTH208 - makes a network file system look again
    return run.result_file.exists() or run.error_file.exists()


def _fate(run: RunFolder) -> str:
    return {State.FAILED: "failed", State.CANCELLED: "was cancelled", State.STOPPED: "was stopped"}.get(
        run.state(), "did not finish"
    )
