"""Before the first worker starts: what is damaged is found, what may run again is said, the disk is looked at."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from bench.costs.fit import Memory, resources_for
from bench.data.fingerprint import DataHere
from bench.errors import BenchError, InputCorrupt, one_line
from bench.execution.events import Event
from bench.execution.gpu_memory import memory_of
from bench.files import file_sha256
from bench.planning.graph import Job, JobGraph
from bench.runs.folder import FailureKind, RunFolder, Runs, State
from bench.runs.freshness import goes_on, put_aside
from bench.runs.result import Result
from bench.settings.site import Site


@dataclass(frozen=True)
class RetryRules:
    """Which failures of an earlier run a new `bench run` tries again.

    A run that diverged or collapsed would do so again, digit for digit: only --force repeats it.
    """

    restart: bool = False  # whether a job may give up checkpoints that are damaged or do not fit
    again: Mapping[FailureKind, bool] = field(
        default_factory=lambda: {"error": True, "crashed": True, "blocked": True, "diverged": False, "collapsed": False}
    )


def verify(graph: JobGraph, runs: Runs, forced: frozenset[str] = frozenset()) -> list[Event]:
    """Read every finished job's result, and the weights that an unfinished evaluation will need.

    Set damaged files aside.

    Jobs in `forced` run anew whatever their results say.
    """
    events = []
    for job in graph:
        run = runs[job.id]
        if not run.result_file.exists() or job.id in forced:
            continue
        try:
            run.result()
        except InputCorrupt as error:
            aside = run.set_aside(run.result_file)
            events.append(
                Event(
                    job.id,
                    "set aside",
                    f"{one_line(error)} Kept as {aside.name if aside else 'set aside'}; the job runs again.",
                )
            )
    todo = [job for job in graph if job.id in forced or not runs[job.id].result_file.exists()]
    for parent in (runs[need] for need in dict.fromkeys(need for job in todo for need in job.needs)):
        if parent.job_id in forced or not parent.result_file.exists():
            continue
        problem = _weights_problem(parent)
        if problem:
            for file in (parent.weights, parent.result_file):
                parent.set_aside(file)
            events.append(Event(parent.job_id, "set aside", f"{problem}; the job runs again."))
    return events


def _weights_problem(run: RunFolder) -> str:
    """Compare weights.pt with the digest in the result; "" when all is well."""
    try:
        found = file_sha256(run.weights)
    except FileNotFoundError:
        return f"{run.weights} is missing"
    wanted = run.result().details.get("weights_sha256")
    return "" if found == wanted else f"{run.weights} is damaged (its sha256 is not the one in result.json)"


def prepare(
    graph: JobGraph,
    runs: Runs,
    site: Site,
    rules: RetryRules,
    forced: frozenset[str],
    executor: str = "local",
    active: Collection[str] = (),
    outdated: Mapping[str, Result] | None = None,
) -> None:
    """Write the run folders, forget what is to be tried again, put aside results that are `outdated`.

    Jobs in `active` are in a queue already and stay as they are.
    """
    memory: Memory | None = None
    for job in graph:
        if job.id in active:
            continue
        run = runs[job.id]
        state = run.state()
        if job.id in forced and state is not State.RUNNING:
            run.forget_result()
        elif outdated and job.id in outdated and state is State.DONE:
            put_aside(run, outdated[job.id])
        elif state in (State.CANCELLED, State.STOPPED) or (
            state is State.FAILED and rules.again.get(run.failure().kind, True)
        ):
            run.forget_failure()
        if not run.result_file.exists():
            if memory is None:  # a finished table needs no driver
                memory = memory_of(site, executor)
            run.create(job, resources_for(job.spec, site, executor, memory))
            run.let_restart(rules.restart)


def holder(run: RunFolder) -> str:
    """Who works on a job, in words; "" when nobody does."""
    claim = run.claim_holder()
    return f"process {claim.pid} on {claim.where} works on it" if claim else ""


def describe(job: Job, state: State, runs: Runs, here: DataHere) -> str:
    """Why a job will or will not run, for `bench plan`."""
    match state:
        case State.DONE:
            return "done"
        case State.RUNNING:
            return holder(runs[job.id]) or "running"
        case State.FAILED:
            failure = runs[job.id].failure()
            return f"{failure.kind}: {failure.message}"
        case State.STOPPED:
            if not runs[job.id].has_checkpoint():
                return "stopped before the first checkpoint"
            if not goes_on(runs[job.id], job.spec.data.name, here):
                return f"stopped; its checkpoint is of other data ({job.spec.data.name} changed), so it starts anew"
            return "stopped; goes on from its checkpoint"
        case State.CANCELLED:
            return "cancelled"
    waiting = [need for need in job.needs if runs[need].state() is not State.DONE]
    return f"waits for {', '.join(waiting)}" if waiting else "no result yet"


def free_space(runs: Runs, needed_bytes: float) -> None:
    """Raises BenchError when the disk has less room than the planned checkpoints, weights and features take."""
    import shutil

    folder = runs.root
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise BenchError(
            f"the disk is too full for this plan: it needs about {needed_bytes / 1e9:.2f} GB under {runs.root}, "
            f"{free / 1e9:.2f} GB are free. "
            "Free some space, or set [paths] runs in bench.toml."
        )
