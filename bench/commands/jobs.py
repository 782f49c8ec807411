"""`bench status`, `logs`, `cancel` and `retry`: run folders and Slurm's queue, neither torch nor any plug-in.

But for `retry`, which works out what each job is given.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from bench.commands.progress import describe
from bench.data.fingerprint import DataHere
from bench.errors import BenchError, InputCorrupt, one_line
from bench.execution.slurm.journal import Journal, QueueView, look
from bench.execution.slurm.settle import note, states_of
from bench.runs import freshness, plans
from bench.runs.claims import TOGETHER
from bench.runs.folder import RunFolder, Runs, State
from bench.runs.plans import StoredJob, StoredPlan
from bench.settings.site import Site
from bench.wording import counted

ORDER = (*(state.value for state in State), "queued", "starting", "ending", "blocked", "lost")


@dataclass(frozen=True)
class Standing:
    """How things stand: what is printed, and by plan and job the word for its state."""

    lines: tuple[str, ...]
    states: Mapping[str, Mapping[str, str]]
    slurm: bool = False  # whether Slurm was asked


def show_status(site: Site, tables: Sequence[str]) -> None:
    """One line a table, or with names one line a job, and what of the data changed. Slurm is asked once."""
    runs = Runs(site.runs)
    found = plans.of_table(runs, tables)
    for line in _standing(found, runs, in_full=bool(tables)).lines:
        print(line, flush=True)
    # Last, as it may take a while: what is above was to be seen at once.
    jobs = list({job.id: job for plan in found for job in plan.jobs}.values())
    for line in freshness.compare(jobs, runs, DataHere(site)).lines():
        print(line, flush=True)


def standing_of(runs: Runs, tables: Sequence[str]) -> Standing:
    """The state of these tables, all without names. Raises BenchError for one that was never run here."""
    return _standing(plans.of_table(runs, tables), runs, in_full=bool(tables))


def _standing(found: Sequence[StoredPlan], runs: Runs, *, in_full: bool) -> Standing:
    if not found:
        return Standing(
            (f"nothing was run under {runs.root}: `bench run --table simclr_table6` starts the first table",), {}
        )
    view = _view(runs, [job.id for m in found for job in m.jobs])
    states = {m.name: states_of(m.jobs, runs, view) for m in found}
    lines = []
    for m in found:
        lines.append(f"{m.name}: {_counts(states[m.name])}")
        lines += _job_lines(m, states[m.name], runs, view) if in_full else []
    if view.unknown:
        lines.append(f"Slurm does not answer ({view.unknown}): what stands here is from the run folders alone")
    return Standing(tuple(lines), states, slurm=bool(view.submissions))


def show_log(site: Site, job: str, *, follow: bool) -> None:
    """Print the log; `follow` goes on until the job is neither running nor waiting."""
    run = Runs(site.runs).find(job)
    if not run.log.exists() and not follow:
        print(f"{run.job_id} has no log yet ({run.state()})")
        for line in _before_the_log(run):
            print(line)
        return
    position = 0
    while True:
        over = run.state() not in (State.RUNNING, State.PENDING)
        if run.log.exists():
            with run.log.open(encoding="utf-8", errors="backslashreplace") as file:
                file.seek(position)
                print(file.read(), end="", flush=True)
                position = file.tell()
        if not follow or over:
            return
        time.sleep(0.5)


def cancel(site: Site, job: str | None, tables: Sequence[str]) -> None:
    """Cancel one job, or every unfinished job of some tables."""
    _check_one("cancel", job, tables)
    runs = Runs(site.runs)
    folders = [runs.find(job)] if job else [runs[j.id] for m in plans.of_table(runs, tables) for j in m.jobs]
    unique = list(dict.fromkeys(folder.job_id for folder in folders))
    cancelled = [run for run in map(runs.__getitem__, unique) if _cancel(run)]
    if Journal(runs).read():  # after the marks: a worker that is told to end sees that it shall not come back
        from bench.execution.slurm import submit

        submit.cancel(runs, [run.job_id for run in cancelled])
    print(
        f"cancelled {len(cancelled)} of {counted(len(unique), 'job')}; done ones stay, `bench run` starts the others "
        "again"
    )


def _check_one(command: str, job: str | None, tables: Sequence[str]) -> None:
    if (job is None) == (not tables):
        raise BenchError(f"{command} needs either a job id or --table.")


def retry(site: Site, job: str | None, tables: Sequence[str]) -> None:
    """Submit failed, cancelled, blocked and lost jobs to Slurm again.

    With `job` that one and what waits for it, however it failed.
    """
    from bench.costs.fit import resources_for
    from bench.execution.gpu_memory import memory_of
    from bench.execution.slurm import submit

    _check_one("retry", job, tables)
    runs = Runs(site.runs)
    wanted = runs.find(job).job_id if job else None
    remembered = [m for m in plans.of_table(runs, tables) if wanted is None or wanted in {j.id for j in m.jobs}]
    jobs = list({j.id: j for m in remembered for j in m.jobs}.values())
    if wanted is not None:
        jobs = _around(wanted, jobs)

    memory = memory_of(site, "slurm")

    def ready(active: Collection[str]) -> None:
        for j in jobs:
            run = runs[j.id]
            if j.id not in active and not run.result_file.exists():
                run.forget_failure()
                with suppress(BenchError, InputCorrupt):  # a spec of another version says so in its worker
                    run.give(resources_for(run.read_spec(), site, "slurm", memory))

    made = submit.submit(jobs, runs, site, ready, [m.name for m in remembered])
    print(f"{counted(len(made.new), 'job')} submitted again, {len(made.active)} in Slurm's queue already")


def _around(wanted: str, jobs: Sequence[StoredJob]) -> list[StoredJob]:
    """The job, what it needs and what needs it, in order."""
    by_id = {job.id: job for job in jobs}
    kept = {wanted}
    for job in reversed(jobs):
        if job.id in kept:
            kept.update(need for need in job.needs if need in by_id)
    below = {wanted}
    for job in jobs:
        if below.intersection(job.needs):
            below.add(job.id)
    return [job for job in jobs if job.id in kept | below]


def _cancel(run: RunFolder) -> bool:
    state = run.state()
    if state in (State.DONE, State.FAILED, State.CANCELLED):
        return False
    run.cancel()
    claim = run.claim_holder()
    # Slurm's are ended with scancel, and a process that has other jobs beside this one looks for the mark by itself
    if state is State.RUNNING and claim is not None and not claim.slot.startswith(("slurm", TOGETHER)):
        if not claim.is_here:  # its process number is another process's here
            raise BenchError(f"{run.job_id} runs on {claim.where}: run `bench cancel` there.")
        try:
            os.kill(claim.pid, signal.SIGTERM)
        except ProcessLookupError:
            return True
    return True


def _view(runs: Runs, jobs: Sequence[str]) -> QueueView:
    """What Slurm says, if any of the jobs is not done and was submitted to it.

    A Slurm that does not answer is no error here.
    """
    journal = Journal(runs)
    submitted = {job for submission in journal.read() for job in submission.jobs}
    if all(runs[job].result_file.exists() for job in jobs if job in submitted):
        return QueueView((), ())
    try:
        return look(journal)
    except BenchError as error:
        return QueueView(tuple(journal.read()), (), one_line(error))


def _before_the_log(run: RunFolder) -> list[str]:
    """What Slurm says of a job without a log, and what was printed before the worker could write one.

    A failing set-up line, for instance.
    """
    runs = Runs(run.path.parent)
    view = _view(runs, [run.job_id])
    row = view.row(run.job_id)
    if row is None:
        return []
    lines = [
        (
            f"Slurm {row.id}: "
            f"{row.state}{', ' + row.reason if row.reason else ''}{view.unknown and ' (' + view.unknown + ')'}"
        )
    ]
    folder = view.folder(run.job_id, Journal(runs).folder)
    for file in sorted(folder.glob(f"{row.id}_*_log.out")) if folder is not None else ():
        lines += [f"{file}:", *file.read_text(encoding="utf-8", errors="backslashreplace").splitlines()[-40:]]
    return lines


def _counts(states: dict[str, str]) -> str:
    counts = Counter(states.values())
    return ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])


def _job_lines(m: StoredPlan, states: dict[str, str], runs: Runs, view: QueueView) -> list[str]:
    lines = []
    for job in m.jobs:
        state, run = states[job.id], runs[job.id]
        notes = [note(job, runs, view.row(job.id), state)]
        if state == "running":
            notes.append(describe(run.last_metrics()))
        elif state in ("failed", "blocked") and run.error_file.exists():
            notes.append(run.failure().message)
        lines.append("  ".join(filter(None, [f"  {state:<9} {job.id:<26} {job.label}", *notes])))
    return lines
