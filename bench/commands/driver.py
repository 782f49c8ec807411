"""From a graph of jobs to done, with a live view: what `bench run` and `bench evaluate` share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal, get_args

from bench import plugins
from bench.commands import progress
from bench.costs.estimates import Costs, disk_total
from bench.data.fingerprint import DataHere
from bench.data.location import check_present
from bench.data.share import check_share
from bench.errors import BenchError, one_line, unknown_name
from bench.execution import executors, readiness, scheduler
from bench.execution.events import Summary
from bench.execution.protocol import Executor
from bench.machine import versions
from bench.planning.graph import Job, JobGraph
from bench.planning.resources import problems
from bench.runs import freshness
from bench.runs.folder import Runs, State
from bench.runs.result import Result
from bench.settings.site import Site
from bench.spec import Evaluate
from bench.wording import counted


def check_executor(name: str) -> None:
    """Raises BenchError with the valid names."""
    if name not in executors.NAMES:
        raise unknown_name("executor", name, executors.NAMES)


def check_ranks(jobs: JobGraph, site: Site, executor: str) -> None:
    """Raises BenchError for jobs to run whose batches do not divide among their ranks: the first, and how many more."""
    runs = Runs(site.runs)
    found = problems([job for job in jobs if runs[job.id].state() is not State.DONE], site, executor)
    for job, error in found.items():
        more = f" ({counted(len(found) - 1, 'job')} more like this: `bench plan` names them.)" if len(found) > 1 else ""
        raise BenchError(f"{jobs.jobs[job].label}: {one_line(error)}{more}")


_What = Literal["package", "data", "labels"]


@dataclass(frozen=True)
class _Needed:
    """Something that a job needs and that may not be here: an evaluation's package, a data set, a share of labels."""

    what: _What
    name: str  # of the evaluation or the data set
    share: float = 1.0

    def absent(self, site: Site) -> BenchError | None:
        """Why it cannot be used here."""
        try:
            if self.what == "package":
                reason = plugins.evaluation(self.name).missing()
                return BenchError(reason) if reason else None
            if self.what == "data":
                check_present(self.name, site)
            else:
                check_share(self.name, self.share, site)
        except BenchError as error:
            return error
        return None


def _needed(job: Job) -> list[_Needed]:
    data = job.spec.data.name
    if not isinstance(job.spec, Evaluate):
        return [_Needed("data", data)]
    evaluation = plugins.evaluation_of(job.spec.protocol)
    share = evaluation.label_fraction(job.spec.protocol)
    return [_Needed("package", evaluation.name), _Needed("data", data), _Needed("labels", data, share)]


def missing_data(jobs: JobGraph, site: Site, *, packages: bool = True) -> list[BenchError]:
    """One error per data set and list of labels that is not there, and per package of an evaluation (its MISSING)."""
    needed = sorted(dict.fromkeys(n for job in jobs for n in _needed(job)), key=lambda n: get_args(_What).index(n.what))
    found = [error for each in needed if (packages or each.what != "package") and (error := each.absent(site))]
    return list({str(error): error for error in found}.values())


def cannot_run(jobs: JobGraph, site: Site, forced: frozenset[str] = frozenset()) -> dict[str, BenchError]:
    """Jobs to run whose data set or package is not here, and what waits for them; with the reason."""
    runs, absent = Runs(site.runs), cache(lambda needed: needed.absent(site))
    found: dict[str, BenchError] = {}
    for job in jobs:
        if runs[job.id].result_file.exists() and job.id not in forced:
            continue
        reasons = [*map(absent, _needed(job)), *map(found.get, job.needs)]
        reason = next(filter(None, reasons), None)
        if reason is not None:
            found[job.id] = reason
    return found


def set_apart(jobs: JobGraph, why: Mapping[str, BenchError], site: Site, executor: str) -> None:
    """Record in the folders of these jobs why they cannot run here, and say so; the next `bench run` tries again."""
    runs = Runs(site.runs)
    for job, reason in why.items():
        if runs[job].state() is not State.RUNNING:  # elsewhere
            runs[job].create(jobs.jobs[job], site.resources(jobs.jobs[job].resources_as, executor))
            runs[job].fail("blocked", one_line(reason))
    for text, count in Counter(map(str, why.values())).items():
        print(f"{counted(count, 'job')} cannot run here: {text}", flush=True)


@dataclass(frozen=True)
class Again:
    """Jobs that run again, or from their beginning, all the same."""

    forced: frozenset[str] = frozenset()  # asked for by --force
    outdated: Mapping[str, Result] = field(default_factory=dict)  # their data changed; with what they came to
    restart: bool = False  # checkpoints that cannot be used may be given up


def again(jobs: JobGraph, here: DataHere, forced: frozenset[str], *, accept_data: bool) -> Again:
    """Compare what done jobs read with what is here, say what differs; with `accept_data` note it and keep them."""
    runs = Runs(here.site.runs)
    fresh = freshness.compare(list(jobs), runs, here, accept=accept_data)
    for line in (*fresh.lines(), *freshness.notes(fresh, versions() if fresh.results else {})):
        print(line, flush=True)
    freshness.accept(fresh, runs, here)
    return Again(forced, {job: fresh.results[job] for job in fresh.outdated})


def overtaken(jobs: JobGraph, here: DataHere) -> Again:
    """Evaluations that were done before their pretraining ran anew, and came to other weights: said, to run again."""
    fresh = freshness.compare(list(jobs), Runs(here.site.runs), here, accept=True)  # data were compared before
    for line in replace(fresh, changes=(), unknown=0, problems=()).lines():
        print(line, flush=True)
    return Again(outdated={job: fresh.results[job] for job in fresh.outdated})


def without_what_stays(repeated: Again, jobs: JobGraph, site: Site) -> Again:
    """Without the done jobs that could not run again here: better the result of other data, and said, than none."""
    why = cannot_run(jobs, site, repeated.forced | repeated.outdated.keys())
    staying = [job for job in repeated.outdated if job in why]
    for text, count in Counter(str(why[job]) for job in staying).items():
        print(f"{count:,} of these cannot run again here, the old results stay: {text}", flush=True)
    return replace(repeated, outdated={job: old for job, old in repeated.outdated.items() if job not in why})


def prepare(jobs: JobGraph, site: Site, repeated: Again, executor: str = "local") -> None:
    """Everything before the first worker starts. Raises BenchError when the disk has too little room."""
    runs = Runs(site.runs)
    todo = (job for job in jobs if job.id in repeated.outdated or runs[job.id].state() is not State.DONE)
    readiness.free_space(runs, disk_total(todo))
    for event in readiness.verify(jobs, runs, repeated.forced | repeated.outdated.keys()):
        print(f"{event.what}: {jobs.jobs[event.job].label}: {event.message}", flush=True)
    if executor != "slurm":  # there it is done when it is known what is in the queue
        readiness.prepare(
            jobs,
            runs,
            site,
            readiness.RetryRules(restart=repeated.restart),
            repeated.forced,
            executor,
            outdated=repeated.outdated,
        )


def drive(jobs: JobGraph, here: DataHere, place: Executor) -> Summary:
    """Run what is not done yet in this place, and say so when nothing is left."""
    runs = Runs(here.site.runs)
    todo = [job for job in jobs if runs[job.id].state() is not State.DONE]
    if not todo:
        what = f"all {len(jobs)} jobs are" if len(jobs) > 1 else "the job is"
        print(f"{what} done already: nothing to compute", flush=True)
        return Summary(done=len(jobs), already=len(jobs), failed=(), blocked=(), stopped=())
    saved = f" ({jobs.asked} asked for, each job once)" if jobs.asked > len(jobs) else ""
    print(f"{counted(len(jobs), 'job')}{saved}, {len(jobs) - len(todo)} done already, {len(todo)} to run", flush=True)
    with progress.shown(jobs, runs) as shown:
        costs = Costs(runs, jobs, None, executors.forked(here.site), here.short, runs_code=False)
        return scheduler.drive(jobs, runs, place, costs, shown, here.site.probes_together)


def drive_slurm(jobs: JobGraph, site: Site, repeated: Again, titles: Sequence[str], *, watch: bool) -> Summary:
    """Submit what is neither done nor in the queue; with `watch` follow everything to its end, else return at once."""
    from bench.execution.slurm import submit
    from bench.execution.slurm.watch import standing
    from bench.execution.slurm.watch import watch as follow

    runs = Runs(site.runs)

    def ready(active: Collection[str]) -> None:
        rules = readiness.RetryRules(restart=repeated.restart)
        readiness.prepare(jobs, runs, site, rules, repeated.forced, "slurm", active, repeated.outdated)

    made = submit.submit(list(jobs), runs, site, ready, titles)
    before = standing(list(jobs.jobs), runs)
    queue = f"{len(made.active)} in Slurm's queue already, {len(made.new)} submitted now ({made.calls} sbatch calls)"
    print(f"{counted(len(jobs), 'job')}: {before.done} done, {queue}", flush=True)
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
        print(f"blocked by that: {counted(len(summary.blocked), 'job')}")
    if summary.missing:
        print(f"cannot run here, as said above: {counted(len(summary.missing), 'job')}")
    if summary.queued:
        print(
            f"{counted(len(summary.queued), 'job')} in Slurm's hands: `bench status` says where they are, the same "
            "command then prints the table"
        )
        return int(bool(summary.failed or summary.blocked or summary.missing))
    if summary.cancelled:
        print(f"cancelled: {counted(len(summary.cancelled), 'job')}; the same command starts them again")
    if summary.stopped:
        print(f"stopped: {counted(len(summary.stopped), 'job')}; the same command goes on where they stopped")
    if summary.stopped or summary.cancelled:
        return 130
    return 0 if summary.complete else 1
