"""What Slurm starts, once a rank: `python -m bench.execution.slurm.job SUBMISSION_FOLDER`.

Around bench.execution.worker it

- finds its job in the submission (and its place in the array), and its rank through submitit's environment;
- waits for another process that has the job, and says `blocked` when a parent has no result after all;
- takes SIGTERM and SIGUSR2 (preemption, the end of the time limit) as "save and come back": the worker finishes its
  step
  and saves, the first rank requeues the job. Slurm keeps the id, so what waits for it goes on waiting;
- gives up when two time limits in a row passed without a new checkpoint: a third would not help.

Only the run folder's files count afterwards. A job that is requeued after its result was written ends at once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from bench.errors import BenchError, InputCorrupt, one_line
from bench.execution.exits import DONE, FAILED, STOPPED, TAKEN
from bench.execution.slurm import squeue as state
from bench.execution.slurm.journal import read_submission
from bench.execution.slurm.settle import is_over
from bench.files import read_json, write_json
from bench.runs.claims import STALE_SECONDS
from bench.runs.folder import RunFolder, Runs, State

POLL_SECONDS = 1.0
PARENT_SECONDS = 60.0  # how late a parent's result may show on this node: network file systems cache what is not there
NOBODY: Mapping[RunFolder, int] = {}
IN_VAIN = 2  # time limits without a new checkpoint before the job is given up


class Signals:
    """Remembers that the job was asked to stop, also before the worker listens."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.asked.is_set() and signal.getsignal(number) == self._handle:  # the worker does not listen yet
            threading.Thread(target=self._repeat, daemon=True).start()
        self.asked.set()

    def _repeat(self) -> None:
        while signal.getsignal(signal.SIGUSR2) == self._handle:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR2)


def main(folder: str) -> int:
    """The exit code of one rank: 0 lets dependents start, anything else cancels them."""
    signals = Signals()
    submission = read_submission(Path(folder))
    runs = Runs(Path(folder).parents[1])
    members = [runs[job] for job in submission.members(int(os.environ.get("SLURM_ARRAY_TASK_ID", "0")))]
    run = members[0]
    own_log = _write_to(run.log, Path(folder))
    rank = _export_ranks()
    number = _job_id()
    slot = f"slurm {number} attempt {os.environ.get('SLURM_RESTART_COUNT', '0')}"
    print(f"--- {slot} on {os.environ.get('SLURMD_NODENAME', '?')}, rank {rank}", flush=True)
    if len(members) > 1:
        code = _several(members, runs, number, slot, signals)
    else:
        code = _first(run, runs, number, slot, signals) if rank == 0 else _other(run, slot, signals)
    if code == DONE and own_log is not None and own_log.exists() and not own_log.stat().st_size:
        own_log.unlink()
    return code


def _first(run: RunFolder, runs: Runs, number: str, slot: str, signals: Signals) -> int:
    if run.result_file.exists():
        return DONE
    if run.state() is State.CANCELLED:
        return STOPPED
    lost = _missing_parent(run, runs, signals.asked.is_set)
    if lost:
        run.fail("blocked", f"needs {lost}, which has no result")
        print(f"blocked: {lost} has no result", flush=True)
        return FAILED
    begun = _stamp(run)
    code = STOPPED
    while not signals.asked.is_set():
        # another driver's worker, or this job's on a node that was given up: its heartbeat decides
        if _held_by_another(run):
            time.sleep(POLL_SECONDS)
            continue
        from bench.execution import worker

        if signals.asked.is_set():
            break
        code = worker.main(str(run.path), slot)
        if code != TAKEN:
            break
        if run.result_file.exists():
            return DONE
        code = STOPPED
    if code != STOPPED or run.state() is State.CANCELLED:
        return code
    return _come_back(run, number, begun)


def _several(members: Sequence[RunFolder], runs: Runs, number: str, slot: str, signals: Signals) -> int:
    """The same for jobs that one process works on together; of each the run folder says how it ended."""
    begun: dict[RunFolder, int] = {}
    for run in members:
        if is_over(run):  # perhaps before a requeue
            continue
        lost = _missing_parent(run, runs, signals.asked.is_set)
        if lost:
            run.fail("blocked", f"needs {lost}, which has no result")
        else:
            begun[run] = _stamp(run)
    codes = dict.fromkeys(begun, TAKEN)
    worked = False
    given_up: set[RunFolder] = set()  # cancelled: whoever wants such a one again has submitted it again
    # after a requeue the claims of a node that failed look alive for a while, and what starts now starts together
    deadline = time.monotonic() + STALE_SECONDS + POLL_SECONDS
    while not signals.asked.is_set():
        left = [run for run, code in codes.items() if code == TAKEN and not run.result_file.exists()]
        free = [run for run in left if not _held_by_another(run)]
        if not left:
            break
        if not free or (len(free) < len(left) and not worked and time.monotonic() < deadline):
            time.sleep(POLL_SECONDS)
            continue
        from bench.execution import together

        if signals.asked.is_set():
            break
        worked = True
        codes.update(zip(free, together.work(free, slot), strict=True))
        if not signals.asked.is_set():
            given_up |= {run for run in free if codes[run] == STOPPED}
    stopped = [
        run for run, code in codes.items() if code in (STOPPED, TAKEN) and not is_over(run) and run not in given_up
    ]
    if stopped:
        had = [run for run in stopped if codes[run] == STOPPED]
        return _come_back(stopped[0], number, begun[stopped[0]], begun, had)
    return DONE if all(run.result_file.exists() for run in members) else FAILED


def _other(run: RunFolder, slot: str, signals: Signals) -> int:
    """Ranks other than the first start when the first has the job.

    Stopped, they leave quietly, as the first requeues.
    """
    while not signals.asked.is_set():
        if run.result_file.exists():
            return DONE
        holder = run.claim_holder()
        if holder is not None and holder.slot == slot:
            from bench.execution import worker

            code = worker.main(str(run.path), slot)
            # srun --kill-on-bad-exit would end the first rank before it has requeued the job
            return DONE if code == STOPPED else code
        time.sleep(POLL_SECONDS / 5)
    return DONE


def _come_back(
    run: RunFolder,
    number: str,
    begun: int,
    beside: Mapping[RunFolder, int] = NOBODY,
    had: Sequence[RunFolder] | None = None,
) -> int:
    """Requeue the stopped job, unless that is in vain or Slurm ends it anyway (scancel, or a requeue of its own).

    `begun`: the stamp of its checkpoint at the beginning; `beside`: those of all jobs of its process, of which it `had`
    some itself, and others were another's.
    """
    while True:
        try:
            # Slurm looks only every half minute and may signal that much early: a generous guess costs nothing, as it
            # takes two stops without a checkpoint to count.
            said = state.call(["squeue", "--noheader", f"--jobs={number}", "--format=%T|%M|%l"])
            now, elapsed, limit = next(line for line in reversed(said.split()) if line.count("|") == 2).split("|")
            break
        except (BenchError, StopIteration) as error:  # slurmctld is down: no limit ends the job meanwhile
            print(f"cannot ask Slurm for this job: {one_line(error)}", flush=True)
            time.sleep(5)
    if now not in ("RUNNING", "SIGNALING"):  # SIGNALING: what stopped the worker is still being sent
        print(f"Slurm is ending the job ({now}): it goes on if Slurm requeues it", flush=True)
        return STOPPED
    margin = 60 + int(os.environ.get("BENCH_SIGNAL_SECONDS", "120"))
    if state.seconds_of(elapsed) >= state.seconds_of(limit) - margin and _in_vain(run, {**beside, run: begun}):
        message = (
            f"{IN_VAIN} time limits of {limit} in a row passed without progress: raise `time` (or `signal`) "
            "under [slurm]."
        )
        for one in [run] if had is None else had:
            if not one.result_file.exists() and not one.error_file.exists():
                one.fail("error", message)
        print(f"failed: {message}", flush=True)
        return FAILED
    print("requeueing", flush=True)  # before it happens: afterwards there may be no time
    for _ in range(100):
        try:
            found = subprocess.run(
                ["scontrol", "requeue", number],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=60,
                check=False,
            )
        except FileNotFoundError:
            print(
                "there is no scontrol on this node, so the job cannot requeue itself; the same `bench run` goes on "
                "with it",
                flush=True,
            )
            return STOPPED
        except subprocess.TimeoutExpired:
            continue
        if found.returncode == 0:
            return STOPPED
        print(f"scontrol requeue: {found.stderr.strip()}", flush=True)
        if "nable to contact" not in found.stderr and "timed out" not in found.stderr:
            return STOPPED
        time.sleep(5)
    return STOPPED


def _in_vain(run: RunFolder, begun: Mapping[RunFolder, int]) -> bool:
    """Whether this is the second time limit in a row without a new checkpoint of any of these; counts it for `run`."""
    file = run.path / "state" / "slices.json"
    try:
        before = read_json(file).get("in_vain", 0)
    except (FileNotFoundError, InputCorrupt):
        before = 0
    as_before = all(_stamp(one) == stamp for one, stamp in begun.items())
    count = (before if isinstance(before, int) else 0) + 1 if as_before else 0
    if count >= IN_VAIN:
        file.unlink(missing_ok=True)  # the next `bench run` tries anew, with a limit that was raised meanwhile
        return True
    write_json(file, {"in_vain": count})
    return False


def _stamp(run: RunFolder) -> int:
    """Changes when a checkpoint is saved."""
    try:
        return run.checkpoint.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _missing_parent(run: RunFolder, runs: Runs, asked: Callable[[], bool]) -> str:
    """A parent without a result, "" when all have one. Waits a while unless the parent says itself that it failed."""
    deadline = time.monotonic() + PARENT_SECONDS
    while True:
        lost = [need for need in run.needs if not runs[need].result_file.exists()]
        if not lost or asked():
            return ""
        if time.monotonic() > deadline or any(runs[need].error_file.exists() for need in lost):
            return lost[0]
        time.sleep(POLL_SECONDS)


def _held_by_another(run: RunFolder) -> bool:
    return run.state() is State.RUNNING


def _export_ranks() -> int:
    """Rank, world and meeting point for bench.training.ranks; returns the rank."""
    import submitit
    from submitit.helpers import TorchDistributedEnvironment

    environment = submitit.JobEnvironment()
    if environment.num_tasks == 1:
        return 0
    # Distinct for jobs that share a node, below the ports that the kernel hands out, and the same on every rank.
    os.environ["MASTER_PORT"] = str(20000 + int(environment.raw_job_id) % 12000)
    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if len(visible) == 1 and environment.num_tasks > environment.num_nodes:
        os.environ["LOCAL_RANK"] = "0"  # the site gives each rank its own GPU and hides the others
    return environment.global_rank


def _job_id() -> str:
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _write_to(log: Path, folder: Path) -> Path | None:
    """Send what this process prints to the job's log; returns Slurm's own file for it, which stays empty then."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    return folder / f"{_job_id()}_{os.environ.get('SLURM_PROCID', '0')}_log.out"


if __name__ == "__main__":
    try:
        _code = main(sys.argv[1])
    except Exception as _error:  # before the job's folder is known there is only Slurm's file to write to
        print(json.dumps({"failed": one_line(_error)}), flush=True)
        _code = FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_code)  # threads of a process group that is torn down late would abort a rank whose work is done
