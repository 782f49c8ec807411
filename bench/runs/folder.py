"""Run folders: `runs/<job id>/`. The files are the truth, so any number of processes on any node agree.

job.json        spec, label, needs, resources          log.txt        what the worker printed
state/claim     who works on the job: claims.py        metrics.jsonl  one line per logged step
state/heartbeat touched every few seconds meanwhile    checkpoint.pt  to go on from; gone when the job is done
state/cancelled the user said stop                     checkpoint.previous.pt  the one before it
state/restart   damaged checkpoints may be given up    weights.pt     what a pretraining leaves
state/now.json  where the job stands between two lines of metrics
result.json     the job is done                        error.json     the job has failed, and why
state/inputs.json  what the newest attempt reads: inputs.py
earlier/        results and weights of data that have changed since; a checkpoint of such data is .pt.other-data
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from bench.errors import BenchError, InputCorrupt
from bench.files import read_json, set_aside, write_json
from bench.identity import canonical, from_json
from bench.planning.graph import Job
from bench.runs.claims import Claim, Claims
from bench.runs.result import Result, read_result
from bench.spec import Resources, Spec
from bench.wording import printable

FORMAT = 1  # of job.json

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


class RunFolder:
    """The folder of one job. Reading changes nothing that is read; writing is atomic."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.result_file = path / "result.json"
        self.error_file = path / "error.json"
        self.job_file = path / "job.json"
        self.log = path / "log.txt"
        self.metrics = path / "metrics.jsonl"
        self.now = path / "state" / "now.json"
        self.checkpoint = path / "checkpoint.pt"
        self.previous = path / "checkpoint.previous.pt"
        self.weights = path / "weights.pt"
        self._claims = Claims(path / "state")
        self._cancelled = path / "state" / "cancelled"
        self._restart = path / "state" / "restart"

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
        if claim is not None and self._claims.is_alive(claim):
            return State.RUNNING
        if self.result_file.exists():  # finished between the two looks
            return State.DONE
        if self._cancelled.exists():
            return State.CANCELLED
        if self.error_file.exists():
            return State.FAILED
        return State.STOPPED if claim is not None or self.has_checkpoint() else State.PENDING

    def has_checkpoint(self) -> bool:
        """Whether there is something to go on from; between two renames it is the previous one alone."""
        return self.checkpoint.exists() or self.previous.exists()

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
        with self._claims.mutex():
            if self.result_file.exists() or self.error_file.exists() or self._claims.living():
                return False
            self.fail(kind, message)
            return True

    def forget_failure(self) -> None:
        """Let a failed, cancelled or stopped job start again; its checkpoint stays."""
        self.error_file.unlink(missing_ok=True)
        self._cancelled.unlink(missing_ok=True)

    def forget_result(self) -> None:
        """Let a finished job start from nothing."""
        for file in (self.result_file, self.weights, self.metrics, self.now):
            file.unlink(missing_ok=True)
        self.forget_checkpoints()
        self.forget_failure()

    def forget_checkpoints(self) -> None:
        """The job is done, or starts from nothing."""
        self.checkpoint.unlink(missing_ok=True)
        self.previous.unlink(missing_ok=True)

    def let_restart(self, allowed: bool) -> None:
        """Whether the next attempt may give up checkpoints that are damaged or do not fit, and start anew."""
        if allowed and self.has_checkpoint():
            self._restart.parent.mkdir(parents=True, exist_ok=True)
            self._restart.touch()
        else:
            self._restart.unlink(missing_ok=True)

    def may_restart(self) -> bool:
        """Whether the user said so: `bench run --restart`."""
        return self._restart.exists()

    def set_aside(self, file: Path) -> Path | None:
        """Keep a damaged file under another name; None when another process did so first."""
        with self._claims.mutex():
            return set_aside(file) if file.exists() else None

    def cancel(self) -> None:
        """Mark the job as cancelled, so that no driver starts it again in this run."""
        self._cancelled.parent.mkdir(parents=True, exist_ok=True)
        self._cancelled.touch()

    def was_cancelled(self) -> bool:
        """Whether the user said stop, which a living worker may not have noticed yet."""
        return self._cancelled.exists()

    # -- who works on it ---------------------------------------------------------------------------------------

    def claim(self, slot: str = "") -> bool:
        """Take the job for this process; False when it is done or a living process has it."""
        with self._claims.mutex():
            holder = self.claim_holder()
            if self.result_file.exists() or (holder is not None and self._claims.is_alive(holder)):
                return False
            return self._claims.take(slot, holder)

    def check_claim(self) -> None:
        """Before the holder writes. Raises ClaimLost when another process has taken the job over."""
        self._claims.check()

    def has_lost_claim(self) -> bool:
        """Whether another process has taken over the job that this one had."""
        return self._claims.is_lost()

    def release(self) -> None:
        """Give the job back, if this process still has it."""
        self._claims.release()

    def beat(self) -> None:
        """Say that the holder is alive."""
        self._claims.beat()

    def claim_holder(self) -> Claim | None:
        """Who claimed the job, dead or alive."""
        return self._claims.holder()

    # -- what it says ------------------------------------------------------------------------------------------

    def last_metrics(self) -> dict[str, float]:
        """The newest line of metrics.jsonl, or what the job said since; {} before the first."""
        line = self._last_line()
        try:
            now: dict[str, Any] = read_json(self.now)
        except (OSError, InputCorrupt):
            return line
        return now if now.get("step", 0) > line.get("step", 0) else line

    def _last_line(self) -> dict[str, float]:
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
        for line in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
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
