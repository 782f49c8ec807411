"""What was handed to Slurm, written down before sbatch is called and completed after it.

runs/slurm/<token>/submission.json   the jobs of one sbatch call; `slurm_id` is empty until sbatch has answered
runs/slurm/<token>/submission.sh     the script, and beside it what workers print before they can write to their log
runs/slurm/lock                      held by whoever submits, and by its sbatch, so that nothing is submitted twice

The token is the end of the job's name in Slurm, so a submission whose driver died before it could write the answer down
is found again with squeue or sacct. A job's state is matched by id AND token: an id that a new cluster gives out again
is not taken for ours. Folders whose jobs are all done are removed.
"""

from __future__ import annotations

import fcntl
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from bench.errors import InputCorrupt
from bench.execution.slurm import squeue as state
from bench.execution.slurm.squeue import QueueRow
from bench.files import read_json, write_json
from bench.runs.folder import Runs

FORMAT = 1
MARK = "~"  # between a job's name and its token


@dataclass(frozen=True)
class Submission:
    """One sbatch call: one job, or those of an array in order of its elements, each of one job or several."""

    token: str
    name: str  # in squeue, token included
    jobs: tuple[str, ...]  # job ids; empty for the job that runs the notify command
    submitted: float  # seconds since the epoch
    user: str
    slurm_id: str = ""
    titles: tuple[str, ...] = ()  # of the plans that asked, for the notify command
    together: tuple[int, ...] = ()  # element of each of `jobs`; (): each has its own

    @property
    def elements(self) -> int:
        """How many processes, or groups of ranks, Slurm starts."""
        return max(self.together) + 1 if self.together else len(self.jobs)

    def element(self, number: int) -> int:
        """Of the job with this number in `jobs`."""
        return self.together[number] if self.together else number

    def members(self, element: int) -> list[str]:
        """The jobs of an element."""
        return [job for number, job in enumerate(self.jobs) if self.element(number) == element]

    def id_of(self, number: int) -> str:
        """Slurm's id of the job with this number in `jobs`."""
        return f"{self.slurm_id}_{self.element(number)}" if self.elements > 1 else self.slurm_id


class Journal:
    """All submissions of a runs folder."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.folder = runs.root / "slurm"

    @contextmanager
    def lock(self) -> Iterator[int]:
        """One driver submits at a time.

        Yields the open file, which sbatch inherits: a killed driver's sbatch still holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("another `bench` is submitting to Slurm: waiting for it", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file.fileno()

    def open(self, name: str, jobs: Sequence[str], together: tuple[int, ...] = ()) -> Submission:
        """Write down what is about to be submitted."""
        token = uuid.uuid4().hex[:12]
        made = Submission(
            token=token,
            name=f"{name}{MARK}{token}",
            jobs=tuple(jobs),
            submitted=time.time(),
            user=state.user(),
            together=together,
        )
        self.write(made)
        return made

    def write(self, submission: Submission) -> None:
        """Replace its record."""
        body = {"format": FORMAT, **asdict(submission)}
        if not submission.together:
            del body["together"]  # so that versions that do not know it read the others
        write_json(self.path(submission) / "submission.json", body)

    def path(self, submission: Submission) -> Path:
        """Its folder."""
        return self.folder / submission.token

    def read(self) -> list[Submission]:
        """All of them, oldest first.

        Damaged records are left out (their jobs then look as if never submitted by us).
        """
        found = []
        for path in self.folder.glob("*/submission.json"):
            try:
                found.append(read_submission(path.parent))
            except (InputCorrupt, FileNotFoundError, TypeError):
                continue
        return sorted(found, key=lambda s: s.submitted)

    def remove(self, submission: Submission) -> None:
        """Forget a submission that is over, or that never reached Slurm."""
        shutil.rmtree(self.path(submission), ignore_errors=True)


def read_submission(folder: Path) -> Submission:
    """One record. Raises InputCorrupt, FileNotFoundError."""
    data = read_json(folder / "submission.json")
    if data.pop("format", None) != FORMAT:
        raise InputCorrupt(f"{folder} was written by another version of the project")
    body = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    return Submission(**body)  # type: ignore[arg-type]


@dataclass(frozen=True)
class QueueView:
    """Every submitted job's newest submission, and what Slurm says of it."""

    submissions: tuple[Submission, ...]
    rows: tuple[QueueRow, ...]
    unknown: str = ""  # why Slurm could not be asked; "" when it answered

    @cached_property
    def _newest(self) -> dict[str, tuple[Submission, int]]:
        known = (submission for submission in self.submissions if submission.slurm_id)
        return {job: (submission, number) for submission in known for number, job in enumerate(submission.jobs)}

    @cached_property
    def _by_id(self) -> dict[str, QueueRow]:
        return {row.id: row for row in self.rows}

    def row(self, job: str) -> QueueRow | None:
        """None when the job was never submitted.

        State "GONE": Slurm does not know it any more; "UNKNOWN": it did not answer.
        """
        if job not in self._newest:
            return None
        submission, number = self._newest[job]
        found = self._by_id.get(submission.id_of(number))
        if found is not None and found.name.endswith(MARK + submission.token):
            return found
        return QueueRow(submission.id_of(number), "UNKNOWN" if self.unknown else "GONE")

    def beside(self, job: str) -> list[str]:
        """The other jobs of its element, but for those that were submitted again since."""
        if job not in self._newest:
            return []
        submission, number = self._newest[job]
        members = submission.members(submission.element(number))
        return [other for other in members if other != job and self._newest[other][0] is submission]

    def folder(self, job: str, root: Path) -> Path | None:
        """Where the job's newest submission lies under the journal's folder."""
        return root / self._newest[job][0].token if job in self._newest else None

    def alive(self, jobs: Iterable[str]) -> dict[str, str]:
        """Slurm's ids of those jobs that are in the queue or running."""
        rows = {job: self.row(job) for job in jobs}
        return {job: row.id for job, row in rows.items() if row is not None and row.alive}


def look(journal: Journal) -> QueueView:
    """Ask Slurm once. Raises BenchError when it does not answer."""
    known = journal.read()
    if not known:
        return QueueView((), ())
    users = {submission.user for submission in known}
    rows = state.queue(users)
    listed = {row.id.partition("_")[0] for row in rows} | {row.name.rpartition(MARK)[2] for row in rows}
    lost = [s for s in known if not {s.slurm_id, s.token} & listed and not _over(s, journal.runs)]
    if lost:
        seen = {row.id for row in rows}
        rows += [row for row in state.history(users, min(s.submitted for s in lost)) if row.id not in seen]
    return QueueView(tuple(known), tuple(rows))


def adopt(journal: Journal, view: QueueView) -> QueueView:
    """Find the submissions again whose driver died before it wrote Slurm's answer down. Only with the lock held."""
    found = []
    for submission in view.submissions:
        if submission.slurm_id:
            found.append(submission)
            continue
        row = next((row for row in view.rows if row.name.endswith(MARK + submission.token)), None)
        if row is None:  # sbatch was never called, or refused
            journal.remove(submission)
            continue
        found.append(replace(submission, slurm_id=row.id.partition("_")[0]))
        journal.write(found[-1])
        print(
            f"found again: Slurm job {found[-1].slurm_id}, submitted by a `bench run` that was interrupted", flush=True
        )
    return replace(view, submissions=tuple(found))


def prune(journal: Journal, view: QueueView) -> None:
    """Remove the folders of submissions whose jobs are all done and gone from the queue."""
    queued = {row.name.rpartition(MARK)[2] for row in view.rows if row.alive}
    for submission in view.submissions:
        if submission.token not in queued and submission.slurm_id and _over(submission, journal.runs):
            journal.remove(submission)


def _over(submission: Submission, runs: Runs) -> bool:
    return all(runs[job].result_file.exists() for job in submission.jobs)
