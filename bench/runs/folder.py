"""Run folders: `runs/<job id>/`. The files are the truth, so any number of processes on any node agree.

job.json        spec, label, needs, resources          log.txt        what the worker printed
state/claim     who works on the job (host, pid)       metrics.jsonl  one line per logged step
state/heartbeat touched every few seconds meanwhile    checkpoint.pt  to go on from; gone when the job is done
state/cancelled the user said stop                     weights.pt     what a pretraining leaves
result.json     the job is done                        error.json     the job has failed, and why
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Literal

from bench.errors import BenchError, InputCorrupt
from bench.files import read_json, set_aside, write_json
from bench.identity import canonical, from_json
from bench.planning.graph import Job
from bench.runs.result import Result, read_result
from bench.spec import Resources, Spec
from bench.wording import printable

FORMAT = 1  # of job.json
HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 60.0  # a claim from another node without a heartbeat for so long is dead

FailureKind = Literal["error", "crashed", "diverged", "collapsed", "blocked"]


class State(StrEnum):
    """What the files of a run folder say about its job."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"  # interrupted; goes on from its checkpoint
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Failure:
    """Why a job failed: one line, and its kind, which decides whether the next run tries again."""

    kind: FailureKind
    message: str


@dataclass(frozen=True)
class Claim:
    """Who works on a job. `born` is the process start time, so that a recycled pid is not taken for the owner."""

    host: str
    pid: int
    born: int
    slot: str = ""


class RunFolder:
    """The folder of one job. Reading never changes anything; writing is atomic."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.result_file = path / "result.json"
        self.error_file = path / "error.json"
        self.job_file = path / "job.json"
        self.log = path / "log.txt"
        self.metrics = path / "metrics.jsonl"
        self.checkpoint = path / "checkpoint.pt"
        self.weights = path / "weights.pt"
        self._claim = path / "state" / "claim"
        self._heartbeat = path / "state" / "heartbeat"
        self._cancelled = path / "state" / "cancelled"

    @property
    def job_id(self) -> str:
        """The name of the folder."""
        return self.path.name

    # -- what the job is ---------------------------------------------------------------------------------------

    def create(self, job: Job, resources: Resources) -> None:
        """Write job.json unless it says the same already; a damaged or edited one is replaced."""
        body = {
            "format": FORMAT,
            "spec": canonical(job.spec),
            "label": job.label,
            "needs": list(job.needs),
            "resources": asdict(resources),
        }
        try:
            if read_json(self.job_file) == body:
                return
        except (FileNotFoundError, InputCorrupt):
            pass  # nothing there, or damaged: written below
        write_json(self.job_file, body, durable=False)  # made anew by every run, and thousands of syncs take minutes

    def give(self, resources: Resources) -> None:
        """Change what the job is given, before it is submitted anew."""
        data = read_json(self.job_file)
        if data.get("resources") != asdict(resources):
            write_json(self.job_file, data | {"resources": asdict(resources)})

    @property
    def needs(self) -> tuple[str, ...]:
        """Jobs that must be done before this one."""
        return tuple(read_json(self.job_file).get("needs", ()))  # type: ignore[arg-type]

    def read_spec(self) -> Spec:
        """The spec, rebuilt. Raises BenchError when another version of the project wrote it."""
        data = read_json(self.job_file)
        if data.get("format") != FORMAT:
            raise BenchError(
                f"{self.job_file} has format {data.get('format')}, this version reads {FORMAT}: run the table anew."
            )
        return from_json(data["spec"])  # type: ignore[arg-type, return-value]

    @property
    def resources(self) -> Resources:
        """What the job was given when it was last submitted."""
        return Resources(**read_json(self.job_file)["resources"])  # type: ignore[arg-type]

    # -- what state it is in -----------------------------------------------------------------------------------

    def state(self) -> State:
        """Read off the files; a result counts when its file exists."""
        if self.result_file.exists():
            return State.DONE
        claim = self.claim_holder()
        if claim is not None and self._alive(claim):
            return State.RUNNING
        if self.result_file.exists():  # finished between the two looks
            return State.DONE
        if self._cancelled.exists():
            return State.CANCELLED
        if self.error_file.exists():
            return State.FAILED
        return State.STOPPED if claim is not None or self.checkpoint.exists() else State.PENDING

    def result(self) -> Result:
        """The result of a finished job. Raises InputCorrupt when its file is damaged."""
        result = read_result(self.result_file)
        if result.job != self.job_id:
            raise InputCorrupt(f"{self.result_file} belongs to {result.job}.")
        return result

    def failure(self) -> Failure:
        """Why the job failed."""
        try:
            data = read_json(self.error_file)
            return Failure(kind=data["kind"], message=printable(data["message"]))  # type: ignore[arg-type]
        except (InputCorrupt, KeyError, FileNotFoundError) as error:
            return Failure(kind="error", message=f"unknown: {error}")

    def fail(self, kind: FailureKind, message: str) -> None:
        """Record a failure."""
        write_json(self.error_file, {"kind": kind, "message": message})

    def fail_if_nobody_works(self, kind: FailureKind, message: str) -> bool:
        """Record a failure unless a living process has the job, or it is done, or has said itself why it failed."""
        with self._mutex():
            holder = self.claim_holder()
            if self.result_file.exists() or self.error_file.exists() or (holder is not None and self._alive(holder)):
                return False
            self.fail(kind, message)
            return True

    def forget_failure(self) -> None:
        """Let a failed, cancelled or stopped job start again; its checkpoint stays."""
        self.error_file.unlink(missing_ok=True)
        self._cancelled.unlink(missing_ok=True)

    def forget_result(self) -> None:
        """Let a finished job start from nothing."""
        for file in (self.result_file, self.weights, self.checkpoint, self.metrics):
            file.unlink(missing_ok=True)
        self.forget_failure()

    def set_aside(self, file: Path) -> Path | None:
        """Keep a damaged file under another name; None when another process did so first."""
        with self._mutex():
            return set_aside(file) if file.exists() else None

    def cancel(self) -> None:
        """Mark the job as cancelled, so that no driver starts it again in this run."""
        self._cancelled.parent.mkdir(parents=True, exist_ok=True)
        self._cancelled.touch()

    # -- who works on it ---------------------------------------------------------------------------------------

    def claim(self, slot: str = "") -> bool:
        """Take the job for this process; False when it is done or a living process has it."""
        with self._mutex():
            holder = self.claim_holder()
            if self.result_file.exists() or (holder is not None and self._alive(holder)):
                return False
            self.beat()
            write_json(
                self._claim,
                asdict(Claim(host=socket.gethostname(), pid=os.getpid(), born=_born(os.getpid()), slot=slot)),
            )
            return True

    def release(self) -> None:
        """Give the job back. Only the holder may call this."""
        self._claim.unlink(missing_ok=True)
        self._heartbeat.unlink(missing_ok=True)

    def beat(self) -> None:
        """Say that the holder is alive."""
        self._heartbeat.parent.mkdir(parents=True, exist_ok=True)
        self._heartbeat.touch()

    def claim_holder(self) -> Claim | None:
        """Who claimed the job, dead or alive."""
        try:
            return Claim(**read_json(self._claim))  # type: ignore[arg-type]
        except (FileNotFoundError, InputCorrupt, TypeError):
            return None

    def _alive(self, claim: Claim) -> bool:
        if claim.host == socket.gethostname():
            return _born(claim.pid) == claim.born
        try:
            return time.time() - self._heartbeat.stat().st_mtime < STALE_SECONDS
        except FileNotFoundError:
            return False

    @contextmanager
    def _mutex(self) -> Iterator[None]:
        """Serialises the few lines that read a claim and replace it. The kernel frees it when its holder dies."""
        self._claim.parent.mkdir(parents=True, exist_ok=True)
        with (self._claim.parent / "mutex").open("w") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            yield

    # -- what it says ------------------------------------------------------------------------------------------

    def last_metrics(self) -> dict[str, float]:
        """The newest line of metrics.jsonl, {} before the first."""
        try:
            with self.metrics.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
                lines = file.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return {}
        for line in reversed(lines):
            try:
                data = json.loads(line)
            except ValueError:
                continue  # a line that is being written, or the tail of a cut one
            if isinstance(data, dict):
                return data
        return {}

    def curves(self) -> list[dict[str, float]]:
        """All complete lines of metrics.jsonl."""
        if not self.metrics.exists():
            return []
        found = []
        for line in self.metrics.read_text(errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return [line for line in found if isinstance(line, dict)]

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of the log, "" when there is none."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 300 * lines))
                return "\n".join(file.read().decode(errors="backslashreplace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""


class Runs:
    """All run folders of a site."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __getitem__(self, job: str) -> RunFolder:
        return RunFolder(self.root / job)

    def find(self, prefix: str) -> RunFolder:
        """The one run folder whose id begins with, or contains after the kind, `prefix`."""
        known = [folder.name for folder in self.root.glob("*-*") if (folder / "job.json").exists()]
        hits = [name for name in known if name.startswith(prefix) or name.partition("-")[2].startswith(prefix)]
        if len(hits) == 1:
            return self[hits[0]]
        if not hits:
            raise BenchError(f"no job {prefix!r} under {self.root}: `bench status` lists the jobs.")
        raise BenchError(f"{prefix!r} fits {len(hits)} jobs ({', '.join(sorted(hits)[:4])}, ...): give more of the id.")

    @cached_property
    def features(self) -> Path:
        """Where features of frozen encoders are kept."""
        return self.root / "features"


def _born(pid: int) -> int:
    """Start time of a process in clock ticks since boot, 0 when it does not run (or is a zombie)."""
    try:
        tail = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if tail[0] == "Z" else int(tail[19])
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return 0
    except (IndexError, ValueError, ProcessLookupError):
        return 0
    try:  # no /proc (macOS): the pid alone has to do
        os.kill(pid, 0)
    except ProcessLookupError:
        return 0
    except PermissionError:
        return 1
    return 1
