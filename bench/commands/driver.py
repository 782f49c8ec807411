"""From a graph of jobs to done, with a live view: what `bench run` and `bench evaluate` share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from bench import plugins
from bench.commands import progress
from bench.costs.estimates import Costs, disk_total
from bench.data.location import check_present
from bench.data.share import check_share
from bench.errors import BenchError, unknown_name
from bench.execution import executors, readiness, scheduler
from bench.execution.events import Summary
from bench.execution.protocol import Executor
from bench.planning.graph import JobGraph
from bench.runs.folder import Runs, State
from bench.settings.site import Site
from bench.spec import Evaluate


def check_executor(name: str) -> None:
    """Raises BenchError with the valid names."""
    if name not in executors.NAMES:
        raise unknown_name("executor", name, executors.NAMES)


def missing_data(jobs: JobGraph, site: Site) -> list[BenchError]:
    """One error per data set, and per package of an evaluation (its MISSING), that is not there."""
    found = []
    evaluations = {plugins.name_of(job.spec.protocol) for job in jobs if isinstance(job.spec, Evaluate)}
    reasons = {plugins.evaluation(name).missing() for name in evaluations}
    found += [BenchError(reason) for reason in sorted(reasons) if reason]
    for name in dict.fromkeys(job.spec.data.name for job in jobs):
        try:
            check_present(name, site)
        except BenchError as error:
            found.append(error)
    protocols = [(job.spec.data.name, job.spec.protocol) for job in jobs if isinstance(job.spec, Evaluate)]
    for name, fraction in dict.fromkeys(
        (name, plugins.evaluation_of(protocol).label_fraction(protocol)) for name, protocol in protocols
    ):
        try:
            check_share(name, fraction, site)
        except BenchError as error:
            found.append(error)
    return found


def prepare(jobs: JobGraph, site: Site, forced: frozenset[str], executor: str = "local") -> None:
    """Everything before the first worker starts. Raises BenchError when the disk has too little room."""
    runs = Runs(site.runs)
    readiness.free_space(runs, disk_total(job for job in jobs if runs[job.id].state() is not State.DONE))
    for event in readiness.verify(jobs, runs, forced):
        print(f"{event.what}: {jobs.jobs[event.job].label}: {event.message}", flush=True)
    if executor != "slurm":  # there it is done when it is known what is in the queue
        readiness.prepare(jobs, runs, site, readiness.RetryRules(), forced)


def drive(jobs: JobGraph, site: Site, place: Executor) -> Summary:
    """Run what is not done yet in this place, and say so when nothing is left."""
    runs = Runs(site.runs)
    todo = [job for job in jobs if runs[job.id].state() is not State.DONE]
    if not todo:
        print(f"all {len(jobs)} jobs are done already: nothing to compute", flush=True)
        return Summary(done=len(jobs), already=len(jobs), failed=(), blocked=(), stopped=())
    saved = f" ({jobs.asked} asked for, each job once)" if jobs.asked > len(jobs) else ""
    print(f"{len(jobs)} jobs{saved}, {len(jobs) - len(todo)} done already, {len(todo)} to run", flush=True)
    with progress.shown(jobs, runs) as shown:
        return scheduler.drive(jobs, runs, place, Costs(runs, jobs, forked=executors.forked(site)), shown)


def drive_slurm(jobs: JobGraph, site: Site, forced: frozenset[str], titles: Sequence[str], *, watch: bool) -> Summary:
    """Submit what is neither done nor in the queue; with `watch` follow everything to its end, else return at once."""
    from bench.execution.slurm import submit
    from bench.execution.slurm.watch import standing
    from bench.execution.slurm.watch import watch as follow

    runs = Runs(site.runs)

    def ready(active: Collection[str]) -> None:
        readiness.prepare(jobs, runs, site, readiness.RetryRules(), forced, "slurm", active)

    made = submit.submit(list(jobs), runs, site, ready, titles)
    before = standing(list(jobs.jobs), runs)
    queue = f"{len(made.active)} in Slurm's queue already, {len(made.new)} submitted now ({made.calls} sbatch calls)"
    print(f"{len(jobs)} jobs: {before.done} done, {queue}", flush=True)
    left = (*made.active, *made.new)
    if not (watch and left):
        return replace(before, queued=left)
    try:
        with progress.shown(jobs, runs) as shown:
            return follow(jobs, runs, shown)
    except KeyboardInterrupt:
        print(
            "\nthe jobs go on in Slurm without this command; with --watch again it goes on watching, `bench cancel` "
            "would end them",
            flush=True,
        )
        raise


def closing(summary: Summary, jobs: JobGraph, site: Site) -> int:
    """Name what failed; the exit code: 0 when every job is done, 1 when one failed, 130 when interrupted."""
    runs = Runs(site.runs)
    for job in summary.failed:
        print(f"failed: {jobs.jobs[job].label}: {runs[job].failure().message}\n        log: {runs[job].log}")
    if summary.blocked:
        print(f"blocked by that: {len(summary.blocked)} jobs")
    if summary.queued:
        print(
            f"{len(summary.queued)} jobs are in Slurm's hands: `bench status` says where they are, the same command "
            "then prints the table"
        )
        return int(bool(summary.failed or summary.blocked))
    if summary.cancelled:
        print(f"cancelled: {len(summary.cancelled)} jobs; the same command starts them again")
    if summary.stopped:
        print(f"stopped: {len(summary.stopped)} jobs; the same command goes on where they stopped")
    if summary.stopped or summary.cancelled:
        return 130
    return 0 if summary.complete else 1
