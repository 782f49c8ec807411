"""`bench run --watch`: follow submitted jobs to their end.

Nothing depends on it; Ctrl-C leaves the jobs in Slurm's hands.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from bench.errors import BenchError, one_line
from bench.execution.events import Event, Summary, Watcher
from bench.execution.slurm.journal import Journal, QueueView, look
from bench.execution.slurm.settle import ended_for_sure, settle
from bench.planning.graph import JobGraph
from bench.runs.folder import Runs, State

POLL_SECONDS = 5.0  # between squeue calls: what a slurmctld with thousands of jobs can bear
FOLDER_SECONDS = 1.0  # between looks at the run folders


def watch(graph: JobGraph, runs: Runs, progress: Watcher, poll: float = POLL_SECONDS) -> Summary:
    """Tell of every job that starts or ends until all are over. Interrupted, it leaves them in Slurm."""
    journal = Journal(runs)
    jobs = list(graph)
    ends: dict[str, list[str]] = {what: [] for what in ("done", "failed", "blocked", "stopped", "cancelled")}
    already = [job.id for job in jobs if runs[job.id].result_file.exists()]
    left = {job.id: job for job in jobs if job.id not in set(already)}
    started: set[str] = set()
    gone: dict[str, float] = {}
    view = _ask(journal, QueueView((), (), "not asked yet"), progress)
    asked = time.monotonic()
    while left:
        over = [job for job in left.values() if ended_for_sure(view.row(job.id), runs[job.id], gone)]
        settle(over, runs, view)
        for job in over:
            del left[job.id]
            what, message = _end(runs, job.id)
            ends[what].append(job.id)
            progress.tell(Event(job.id, what, message))
        for job in left.values():
            row = view.row(job.id)
            if job.id not in started and row is not None and row.state == "RUNNING":
                started.add(job.id)
                progress.tell(Event(job.id, "started"))
        progress.tick()
        if left:
            time.sleep(min(poll, FOLDER_SECONDS))
        if time.monotonic() - asked >= poll:
            view, asked = _ask(journal, view, progress), time.monotonic()
    return Summary(
        done=len(already) + len(ends["done"]),
        already=len(already),
        failed=tuple(ends["failed"]),
        blocked=tuple(ends["blocked"]),
        stopped=tuple(ends["stopped"]),
        cancelled=tuple(ends["cancelled"]),
    )


def standing(jobs: Sequence[str], runs: Runs) -> Summary:
    """How things stand without waiting: what is done, has failed or was cancelled."""
    states = {job: runs[job].state() for job in jobs}
    failed = [job for job, state in states.items() if state is State.FAILED]
    blocked = [job for job in failed if runs[job].failure().kind == "blocked"]
    done = sum(state is State.DONE for state in states.values())
    return Summary(
        done=done,
        already=done,
        failed=tuple(job for job in failed if job not in blocked),
        blocked=tuple(blocked),
        stopped=(),
        cancelled=tuple(job for job, state in states.items() if state is State.CANCELLED),
    )


def _ask(journal: Journal, before: QueueView, progress: Watcher) -> QueueView:
    """What Slurm says now; while it does not answer, nothing counts as ended but what its run folder says."""
    try:
        return look(journal)
    except BenchError as error:
        if not before.unknown:
            print(f"Slurm does not answer ({one_line(error)}): the jobs go on, and so does the watching", flush=True)
        return replace(before, submissions=tuple(journal.read()), rows=(), unknown=one_line(error))


def _end(runs: Runs, job: str) -> tuple[str, str]:
    run = runs[job]
    state = run.state()
    if state is State.FAILED:
        failure = run.failure()
        return ("blocked" if failure.kind == "blocked" else "failed"), failure.message
    return (state.value if state in (State.DONE, State.CANCELLED) else "stopped"), ""
