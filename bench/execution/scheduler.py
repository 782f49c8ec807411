"""Brings a JobGraph to done through an Executor. Retries are rules (data), not code."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bench.costs.estimates import Costs
from bench.execution import exits
from bench.execution.events import Event, Summary, Watcher
from bench.execution.protocol import Executor, NoSlotError
from bench.execution.readiness import holder
from bench.planning.graph import JobGraph
from bench.planning.together import MOST, together_as
from bench.runs.folder import RunFolder, Runs, State

POLL_SECONDS = 0.1
GRACE_SECONDS = 60.0  # for workers to save their state after Ctrl-C
APART = (
    "the same command starts each that ran then by itself, probes_together = 1 under [local] in bench.toml all of them"
)


def drive(
    graph: JobGraph, runs: Runs, executor: Executor, costs: Costs, progress: Watcher, together: int | None = 1
) -> Summary:
    """Start jobs as their parents finish and slots come free, until nothing can be done any more.

    Up to `together` evaluations that see the same batches share a process, where more of them are ready than there
    are slots; None: where a GPU waits for images, and nowhere else. A job that another driver works on is waited for.
    Ctrl-C or SIGTERM asks the workers to save their state and end.
    """
    driver = _Driver(graph, runs, executor, costs, progress, together)
    with _interruptible() as interrupted:
        while driver.left and not interrupted.is_set():
            driver.reap()
            if not driver.advance():
                progress.tick()
                time.sleep(POLL_SECONDS)
        if interrupted.is_set():
            driver.stop()
    return driver.summary()


class _Driver:
    """The state of one `drive`."""

    def __init__(
        self,
        graph: JobGraph,
        runs: Runs,
        executor: Executor,
        costs: Costs,
        progress: Watcher,
        together: int | None,
    ) -> None:
        self.graph, self.runs, self.executor, self.progress, self.together = graph, runs, executor, progress, together
        self.finished = {job.id for job in graph if runs[job.id].state() is State.DONE}
        self.already = len(self.finished)
        self.left = {job.id: job for job in graph if job.id not in self.finished}
        place = {job: number for number, job in enumerate(graph.jobs)}
        # Longest chain first: a long job that starts last would keep every other slot waiting at the end.
        self.order = sorted(self.left, key=lambda job: (-costs.longest_path(graph, job), place[job]))
        self.alike = {job: together_as(self.left[job].spec) if together != 1 else "" for job in self.order}
        self.started: set[str] = set()  # by this driver, still running
        self.shared: set[str] = set()  # started with others in one process
        self.again: set[str] = set()  # looked at again after a process that had several jobs was stopped
        self.dealt: Counter[str] = Counter()  # started since one of its like has ended: the slots fill up with those
        self.elsewhere: set[str] = set()  # seen running under another driver
        self.stopping = False
        self.ends: dict[str, list[str]] = {what: [] for what in ("done", "failed", "blocked", "stopped", "cancelled")}
        for job in self.order:  # failed in an earlier run and not to be tried again
            if job in self.left and runs[job].state() is State.FAILED:
                self.settle(job, State.FAILED)

    def reap(self) -> None:
        """Settle the jobs whose workers have ended."""
        for ended in self.executor.ended():
            self.started.discard(ended.job)
            self.dealt.pop(self.alike.get(ended.job, ""), None)
            if ended.job not in self.left:
                continue
            shared = ended.job in self.shared
            state = _state_after(self.runs[ended.job], ended.code, asked=self.stopping, shared=shared)
            if shared and state is State.STOPPED and not self.stopping and ended.job not in self.again:
                self.again.add(ended.job)  # the code may be that of another of its jobs, which was cancelled
            elif state is not State.RUNNING:  # running: another driver has it, or had it; it is looked at again
                self.settle(ended.job, state)

    def advance(self) -> bool:
        """Start or settle one job; False when nothing can be done right now."""
        full: set[str] = set()  # kinds of job for which no slot is free
        for job in self.order:
            if job not in self.left or job in self.started or not self.finished.issuperset(self.left[job].needs):
                continue
            kind = self.left[job].resources_as
            if kind in full and job not in self.elsewhere:
                # hundreds may wait for a slot, and to look at each ten times a second would take a seventh of a core
                continue
            run = self.runs[job]
            state = run.state()
            if state is State.RUNNING:
                if job not in self.elsewhere:
                    self.elsewhere.add(job)
                    self.progress.tell(Event(job, "elsewhere", holder(run)))
            elif state in (State.DONE, State.CANCELLED, State.FAILED):  # under another driver, seen here or not
                self.settle(job, state)
                return True
            elif self.executor.room(run):
                self.elsewhere.discard(job)
                try:
                    beside = self.beside(job)
                    self.executor.submit(run, [self.runs[other] for other in beside])
                except NoSlotError:
                    return False
                self.dealt[self.alike[job]] += 1 + len(beside)
                self.shared -= {job}
                self.shared |= {job, *beside} if beside else set()
                for begun in (job, *beside):
                    self.started.add(begun)
                    self.progress.tell(Event(begun, "started"))
                return True
            else:
                full.add(kind)
        return False

    def beside(self, job: str) -> list[str]:
        """Others that see the same batches and are ready too: as many of them as come to each slot.

        Busy slots count: they may come free long before so many are done, and would have nothing to do. Not those that
        ran when a process died: one of them may have been why, and would take the others with it each time.
        """
        if not self.alike[job] or self.runs[job].claim_holder() is not None:
            return []
        most = self.together or (MOST if self.executor.has_gpu(self.runs[job]) else 1)
        if most == 1:
            return []
        ready = [
            other
            for other in self.order
            if self.alike[other] == self.alike[job]
            and other in self.left
            and other not in self.started
            and other != job
            and self.finished.issuperset(self.left[other].needs)
            and self.runs[other].state() in (State.PENDING, State.STOPPED)
            and self.runs[other].claim_holder() is None
        ]
        if not ready:
            return []
        dealt = self.dealt[self.alike[job]]
        each = -(-(1 + len(ready) + dealt) // max(1, self.executor.most(self.runs[job])))
        return ready[: min(most, each) - 1]

    def settle(self, job: str, state: State) -> None:
        """Take a job that has come to an end out of the list, and what can no longer run with it."""
        del self.left[job]
        what = state.value if state in (State.DONE, State.FAILED, State.CANCELLED) else "stopped"
        self.ends[what].append(job)
        self.progress.tell(Event(job, what, self.runs[job].failure().message if state is State.FAILED else ""))
        if state is State.DONE:
            self.finished.add(job)
            return
        if self.stopping and state is not State.FAILED:
            return  # what waits for it is not blocked, only not reached; the next run goes on
        for lost in self.graph.dependents(job):
            if lost in self.left:
                del self.left[lost]
                if state is State.CANCELLED:  # that is no failure of what waits for it: nothing is recorded
                    self.ends["stopped"].append(lost)
                    self.progress.tell(Event(lost, "stopped", f"needs {job}, which was cancelled"))
                    continue
                self.ends["blocked"].append(lost)
                self.runs[lost].fail(
                    "blocked", f"needs {job}, which {'failed' if state is State.FAILED else 'was stopped'}"
                )
                self.progress.tell(Event(lost, "blocked", f"needs {job}"))

    def stop(self) -> None:
        """Ask this driver's workers to save and end, and wait for them."""
        self.stopping = True
        self.executor.stop(self.executor.running())
        deadline = time.monotonic() + GRACE_SECONDS
        while self.executor.running() and time.monotonic() < deadline:
            self.reap()
            time.sleep(POLL_SECONDS)
        self.reap()
        self.ends["stopped"] += list(self.left)

    def summary(self) -> Summary:
        """How it ended."""
        ends = self.ends
        return Summary(
            done=self.already + len(ends["done"]),
            already=self.already,
            failed=tuple(ends["failed"]),
            blocked=tuple(ends["blocked"]),
            stopped=tuple(ends["stopped"]),
            cancelled=tuple(ends["cancelled"]),
        )


def _state_after(run: RunFolder, code: int, *, asked: bool, shared: bool = False) -> State:
    """What became of a job whose worker ended; a worker that could not say why it died is recorded here.

    `asked`: the worker was asked to stop; the signal may have come before it could listen. `shared`: it had other jobs
    too. RUNNING: another driver has taken the job over already.
    """
    state = run.state()
    if state in (State.DONE, State.CANCELLED, State.RUNNING, State.FAILED):
        return state
    if code == exits.TAKEN:  # and is gone again
        return State.RUNNING
    if code == exits.STOPPED or (asked and code in (-signal.SIGTERM, -signal.SIGINT, exits.LOST)):
        return State.STOPPED
    cause = f"{_cause(code)}, with the other jobs that it had: {APART}" if shared else _cause(code)
    if run.fail_if_nobody_works("crashed", f"{cause}; log: {run.log}") or run.error_file.exists():
        return State.FAILED
    return run.state()


def _cause(code: int) -> str:
    if code == exits.NOT_STARTED:
        return "this machine starts no further process (limits: `ulimit -u`, memory); the same command tries again"
    if code >= 0:
        lost = "the process that starts the workers was killed (out of memory, or by hand), and this worker is gone too"
        return lost if code == exits.LOST else f"the worker exited with code {code} and no result"
    name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
    hint = {"SIGKILL": " (out of memory, or killed by hand)", "SIGSEGV": " (segmentation fault)"}.get(name, "")
    return f"the worker was killed by {name}{hint}"


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM set the event instead of raising; a second Ctrl-C raises."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handler(number: int, frame: FrameType | None) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
