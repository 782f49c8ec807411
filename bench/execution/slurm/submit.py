"""Hands a whole graph to Slurm and lets go: edges become Slurm's own dependencies, alike jobs become arrays.

submitit writes the sbatch script and reads Slurm's environment inside the job. Its submit() is not used: it names its
pickle after the job id only when sbatch has returned, so a driver that dies in between leaves a job that cannot start.
Here everything the job needs is on disk before sbatch is called, and no pickle is needed at all: the script starts
`bench.execution.slurm.job` with the path of the submission's folder. Result pickles, the count of time-outs and the
state watcher of submitit are thereby out of the way (bench/execution/slurm/squeue.py says what they get wrong).
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.errors import BenchError
from bench.execution import environment
from bench.execution.slurm import squeue as state
from bench.execution.slurm.elements import elements_of
from bench.execution.slurm.journal import Journal, QueueView, Submission, adopt, look, prune
from bench.execution.slurm.settle import Job, is_over, settle, waits_for_cancelled
from bench.execution.slurm.snapshot import Snapshot, take
from bench.files import atomic_path, write_atomic
from bench.machine import DEVICE
from bench.runs.commit import commit
from bench.runs.folder import Runs, State
from bench.settings.site import Site
from bench.settings.slurm import SlurmRequest

ENDING_SECONDS = 40.0  # to wait for a wanted job that is just ending, before it counts as in the queue
SCANCEL_CHUNK = 500  # ids in one call
ENTRY = "bench.execution.slurm.job"
NOTIFY = "bench.execution.slurm.notify"
ANSWER = re.compile(r"^\s*(\d+)(?:;\S+)?\s*$", re.MULTILINE)  # of --parsable; some sites' own sbatch greets before it
UNSPEAKABLE = {"\\": "a backslash", "\n": "a line break", "\r": "a line break"}  # in what sbatch reads as a path


@dataclass(frozen=True)
class Submitted:
    """What one call of `submit` did."""

    new: tuple[str, ...]  # jobs handed to Slurm
    active: tuple[str, ...]  # jobs that were in the queue already
    calls: int  # of sbatch


def submit(
    jobs: Sequence[Job], runs: Runs, site: Site, prepare: Callable[[Collection[str]], None], titles: Sequence[str] = ()
) -> Submitted:
    """Submit what is neither done nor in the queue, parents first; `jobs` in topological order.

    `prepare` gets the jobs that are in the queue already and readies the others' run folders; a job that it leaves
    failed is not submitted, and what needs it is blocked. Raises BenchError when Slurm does not answer or refuses: what
    was submitted until then is written down and stays.
    """
    journal = Journal(runs)
    with journal.lock() as lock:
        view = _decided(journal, jobs)
        prune(journal, view)
        settle(jobs, runs, view)
        alive = view.alive(job.id for job in jobs if not runs[job.id].result_file.exists())
        over = {job for job in alive if view.beside(job) and is_over(runs[job])}
        prepare(alive.keys() - over)
        # an element that has not started yet takes such a job with it after all, where it may be tried again
        waiting = {job for job in over if _waits(view, job) and runs[job].state() is not State.FAILED}
        active = {job: number for job, number in alive.items() if job not in over - waiting}
        ids = dict(active)
        todo: list[Job] = []
        for job in jobs:
            run = runs[job.id]
            if job.id in active or run.result_file.exists():
                continue
            if run.state() is State.FAILED:
                continue
            lost = [need for need in job.needs if need not in ids and not runs[need].result_file.exists()]
            if lost:
                if not waits_for_cancelled(lost, runs):
                    run.fail("blocked", f"needs {lost[0]}, which failed")
                continue
            ids[job.id] = ""  # known when its level has been submitted
            todo.append(job)
        snapshot = take(runs, commit()) if todo else None
        calls, sinks = 0, set[str]()
        for group in _groups(todo, runs, site):
            assert snapshot is not None
            after = _parents(group[0], ids, runs)
            try:
                made = _sbatch(group, after, journal, site, snapshot, lock)
            except BenchError as error:
                there = sum(bool(ids[job.id]) for job in todo)
                raise BenchError(
                    f"{error} {there} of {len(todo)} jobs are submitted and stay so; the same command goes on with "
                    "the others."
                ) from error
            ids |= {job.id: made.id_of(number) for number, job in enumerate(group)}
            calls += 1
            sinks = (sinks - {number.partition("_")[0] for number in after}) | {made.slurm_id}
        if site.notify and snapshot is not None:
            _submit_notify(sorted(sinks), [job.id for job in jobs], journal, site, snapshot, lock, titles)
            calls += 1
    return Submitted(tuple(job.id for job in todo), tuple(active), calls)


def cancel(runs: Runs, jobs: Iterable[str]) -> int:
    """Scancel the jobs that are in Slurm's queue; returns how many. Raises BenchError when Slurm does not answer."""
    journal = Journal(runs)
    view = look(journal)
    wanted = set(jobs)
    ending = [job for job in wanted if all(is_over(runs[other]) for other in {*view.beside(job)} - wanted)]
    rows = [row for row in map(view.row, ending) if row is not None and (row.alive or row.hopeless)]
    ids = sorted({row.id for row in rows})
    for start in range(0, len(ids), SCANCEL_CHUNK):
        state.call(["scancel", *ids[start : start + SCANCEL_CHUNK]])
    return len(ids)


def _waits(view: QueueView, job: str) -> bool:
    row = view.row(job)
    return row is not None and row.state == "PENDING"


def _decided(journal: Journal, jobs: Sequence[Job]) -> QueueView:
    """What Slurm says, once no wanted job is between running and ended."""
    deadline = time.monotonic() + ENDING_SECONDS
    while True:
        view = adopt(journal, look(journal))
        wanted = [job.id for job in jobs if not journal.runs[job.id].result_file.exists()]
        ending = [row.id for row in map(view.row, wanted) if row is not None and row.state == "COMPLETING"]
        if not ending or time.monotonic() > deadline:
            return view
        time.sleep(0.5)


def _groups(todo: Sequence[Job], runs: Runs, site: Site) -> list[list[Job]]:
    """Jobs that one sbatch call can take: the same kind, ranks and parents, not more than an array may have.

    Parents first.
    """
    depth: dict[str, int] = {}
    groups: dict[tuple[int, str, int, tuple[str, ...]], list[Job]] = {}
    for job in todo:
        depth[job.id] = max((depth[need] + 1 for need in job.needs if need in depth), default=0)
        waits = tuple(need for need in job.needs if not runs[need].result_file.exists())
        groups.setdefault((depth[job.id], job.resources_as, runs[job.id].resources.ranks, waits), []).append(job)
    found = []
    for key in sorted(groups, key=lambda key: key[0]):
        size = site.slurm.request(key[1]).array
        found += [groups[key][start : start + size] for start in range(0, len(groups[key]), size)]
    return found


def _parents(job: Job, ids: dict[str, str], runs: Runs) -> list[str]:
    """Slurm's ids of the parents that are still to come.

    A parent with a result needs no edge, and must have none: `afterok` of an id that slurmctld has forgotten counts as
    satisfied whatever became of that job, so only ids go in that this call has seen alive or has just been given.
    """
    return [ids[need] for need in job.needs if need in ids and not runs[need].result_file.exists()]


def _sbatch(
    group: Sequence[Job], after: Sequence[str], journal: Journal, site: Site, snapshot: Snapshot, lock: int
) -> Submission:
    name = _name([job.label for job in group], group[0].id.partition("-")[0])
    together = elements_of([journal.runs[job.id] for job in group], site.probes_together or 1)
    made = journal.open(name, [job.id for job in group], together)
    folder = journal.path(made)
    dependency = f"afterok:{':'.join(after)}" if after else None
    request = site.slurm.request(group[0].resources_as).shaped(journal.runs[group[0].id].resources.ranks)
    text = script(folder, made, request, site, snapshot, dependency=dependency, module=ENTRY)
    return _call_sbatch(text, journal, made, lock)


def _submit_notify(
    sinks: list[str],
    jobs: list[str],
    journal: Journal,
    site: Site,
    snapshot: Snapshot,
    lock: int,
    titles: Sequence[str],
) -> None:
    """A job of seconds that runs the notify command when everything that was just submitted is over, well or not."""
    made = replace(journal.open("bench-notify", ()), titles=tuple(titles))
    journal.write(made)
    write_atomic(journal.path(made) / "jobs", "\n".join(jobs) + "\n")
    evaluate = site.slurm.evaluate
    small = replace(evaluate, minutes=10, gpus=0, cpus=1, memory="1G" if evaluate.memory else "")
    text = script(
        journal.path(made), made, small, site, snapshot, dependency=f"afterany:{':'.join(sinks)}", module=NOTIFY
    )
    _call_sbatch(text, journal, made, lock)


def _call_sbatch(text: str, journal: Journal, made: Submission, lock: int) -> Submission:
    """Call sbatch; the record of `made` is on disk before and completed after.

    Whether a failing sbatch submitted is found out later.
    """
    path = journal.path(made) / "submission.sh"
    with atomic_path(path) as temporary:
        temporary.write_bytes(os.fsencode(text))  # the name of a folder need not be UTF-8
    try:
        found = subprocess.run(
            ["sbatch", "--parsable", str(path)],
            env=environment.of_no_launcher(os.environ),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=state.TIMEOUT_SECONDS,
            pass_fds=(lock,),
        )
    except FileNotFoundError as error:
        raise BenchError("there is no sbatch here: `--executor slurm` works on a login node of a cluster.") from error
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"sbatch gave no answer in {state.TIMEOUT_SECONDS:.0f} s: is slurmctld up?") from error
    said = " ".join((found.stderr or found.stdout).split())
    if found.returncode:
        raise BenchError(f"sbatch refused {made.name}: {said.removeprefix('sbatch: error: ')[-500:]}.")
    numbers = ANSWER.findall(found.stdout)
    if not numbers:
        raise BenchError(f"sbatch took {made.name} and gave no number of a job: {said[-500:]}.")
    made = replace(made, slurm_id=numbers[-1])
    journal.write(made)
    return made


def script(
    folder: Path,
    made: Submission,
    request: SlurmRequest,
    site: Site,
    snapshot: Snapshot,
    *,
    dependency: str | None,
    module: str,
) -> str:
    """The text of the sbatch script, by submitit. Raises BenchError for a folder that Slurm cannot be told of."""
    import submitit

    if shutil.which("srun") is None:
        raise BenchError("there is no srun here: `--executor slurm` works on a login node of a cluster.")
    _check_names(folder, site.root)
    unnamed = f"/{made.token}"  # for submitit: of a real folder it would take "%t" and "%j" for its own
    executor = submitit.SlurmExecutor(folder=unnamed, python=shlex.quote(sys.executable))
    more: dict[str, object] = {**request.options, "requeue": True, "chdir": str(site.root)}
    if dependency:
        more["kill-on-invalid-dep"] = "yes"
    executor.update_parameters(
        job_name=made.name,
        comment=made.token,
        time=request.minutes,
        nodes=request.nodes,
        ntasks_per_node=request.tasks,
        cpus_per_task=request.cpus,
        gpus_per_node=request.gpus or None,
        mem=request.memory or None,
        partition=request.partition or None,
        constraint=request.constraint or None,
        account=request.account or None,
        qos=request.qos or None,
        dependency=dependency,
        signal_delay_s=request.signal_seconds,
        setup=[*request.setup, *_exports(request, site, snapshot)],
        # One rank that fails ends the others; srun does not take the number of CPUs from sbatch since Slurm 22.05.
        srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={request.cpus}"],
        stderr_to_stdout=True,
        wckey=None,  # submitit's default is refused where keys are checked
        array_parallelism=made.elements or 1,
        additional_parameters=more,
    )
    if made.elements > 1:
        executor.parameters["map_count"] = made.elements
    command = f"{executor.python} -u -m {module} {shlex.quote(str(folder))}"
    text: str = executor._make_submission_file_text(command, made.token)
    escaped = str(folder).replace("%", "%%")  # as Slurm reads --output
    return re.sub(rf"(?<==|\s){unnamed}/(\S+)", lambda found: shlex.quote(f"{escaped}/{found[1]}"), text)


def _check_names(folder: Path, root: Path) -> None:
    """What neither sbatch nor PYTHONPATH has a way to say."""
    for path, unspeakable in ((folder, {**UNSPEAKABLE, os.pathsep: f"a {os.pathsep!r}"}), (root, UNSPEAKABLE)):
        for character, called in unspeakable.items():
            if character in str(path):
                raise BenchError(
                    f"{str(path)!r} has {called} in its name, which Slurm's jobs cannot be told: work in another "
                    "folder, or name another one under [paths] runs."
                )


def _exports(request: SlurmRequest, site: Site, snapshot: Snapshot) -> list[str]:
    """The worker's environment: threads, the pinned code before any other, the same site and plug-ins."""
    values = {
        **environment.with_threads(request.cpus),
        **environment.UTF8,
        "PYTHONUNBUFFERED": "1",
        "BENCH_SIGNAL_SECONDS": str(request.signal_seconds),
        "PYTHONSAFEPATH": "1",  # a folder `results` in the working folder must not hide ours
        "BENCH_PLUGINS": os.pathsep.join(map(str, snapshot.plugins)),
    }
    if request.gpus:
        values[DEVICE] = "cuda"
    if site.file is not None:
        values["BENCH_SITE"] = str(site.file)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    return [
        environment.unset_on_node(),
        *lines,
        f"export PYTHONPATH={shlex.quote(str(snapshot.code))}${{PYTHONPATH:+:$PYTHONPATH}}",
    ]


def _name(labels: Sequence[str], kind: str) -> str:
    """What one recognises in squeue: the job's label, or what an array's labels begin with and how many there are."""
    if len(labels) == 1:
        text = labels[0]
    else:
        words = zip(*(re.split(r"[\s|,]+", label) for label in labels), strict=False)
        common = [same[0] for same in itertools.takewhile(lambda same: len(set(same)) == 1, words)]
        text = f"{' '.join(common) or kind} x{len(labels)}"
    return re.sub(r"[^A-Za-z0-9_.+=-]+", "-", text).strip("-")[:60] or kind
