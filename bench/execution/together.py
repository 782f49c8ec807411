"""One process, several evaluations that train on the same random views: each batch is decoded and augmented once.

`python -m bench.execution.together RUN_FOLDER RUN_FOLDER...`. Each job is worked on as bench/execution/worker.py would
do it alone: its own claim, log, metrics, checkpoint, result and failure, and the same digits. One that goes on from a
checkpoint joins at its step, one that fails leaves the others to go on, one that another process has is left to it.
In memory are the networks and heads of all, but one batch and the activations of one network at a time.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from itertools import count
from pathlib import Path
from typing import TextIO, cast

from bench.contracts import Attempt, Batch
from bench.data.stream import Steps, Stream, Wanted
from bench.errors import ClaimLost, Stopped, one_line
from bench.execution.exits import DONE, FAILED, STOPPED, TAKEN
from bench.execution.worker import in_steps, record_failure, stop_on_signal
from bench.runs.claims import TOGETHER
from bench.runs.folder import RunFolder, State
from bench.runs.heartbeat import beating
from bench.training.ranks import Ranks

CANCEL_SECONDS = 1.0  # between two looks at whether one of the jobs was cancelled


def main(folders: Sequence[str]) -> int:
    """Work on run folders until each is done, failed or asked to stop; the exit code speaks of the worst of them.

    Of each the run folder says how it ended.
    """
    codes = work([RunFolder(Path(folder).resolve()) for folder in folders])
    return next((code for code in (STOPPED, TAKEN, FAILED) if code in codes), DONE)


def work(runs: Sequence[RunFolder], slot: str = "", *, own_logs: bool = True) -> list[int]:
    """The exit code of each. Without `own_logs` all print where this process prints."""
    faulthandler.enable()
    with stop_on_signal(raises=False) as asked, ExitStack() as ends:
        members = [_Member(run, asked, own_log=own_logs) for run in runs]
        for member in members:
            ends.callback(member.leave)
            member.claim(slot or TOGETHER)
        claimed = [member for member in members if member.code is None]
        for member in claimed:
            with _counted_for(member, claimed):
                member.begin(len(claimed))
        while waiting := [member for member in claimed if member.goes_on()]:
            _see(waiting, claimed)
    return [FAILED if member.code is None else member.code for member in members]


class _Member:
    """One of the jobs. `wanted` is the batch that it waits for, `code` how it ended."""

    def __init__(self, run: RunFolder, asked: Callable[[], bool], *, own_log: bool) -> None:
        self.run, self.asked, self.own_log = run, asked, own_log
        self.wanted: Wanted | None = None
        self.code: int | None = None
        self.attempt: Attempt | None = None
        self._steps: Steps[int] | None = None
        self._log: TextIO | None = None
        self._held, self._has_it = ExitStack(), False
        self._lost = threading.Event()
        self._looked, self._cancelled = time.monotonic(), False

    def claim(self, slot: str) -> None:
        """Take the job, or end with what stands against that."""
        with self._for_itself():
            if self.own_log:
                self.run.path.mkdir(parents=True, exist_ok=True)
                self._log = self.run.log.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
            self._claim(slot)

    def _claim(self, slot: str) -> None:
        with self._speaking():
            if self.run.state() is State.CANCELLED:
                self.code = STOPPED
            elif not self.run.claim(slot):
                print("another process has this job, or it is done", flush=True)
                self.code = TAKEN
            else:
                self._has_it = True
                self._held.callback(self.run.release)
                self._lost = self._held.enter_context(beating(self.run))

    def begin(self, together: int) -> None:
        """Come to the first batch that it wants; nothing that was asked to stop begins."""
        with self._for_itself():
            if self.told():
                self._end(STOPPED)
                return
            self.attempt = Attempt(together=together)
            self._steps = in_steps(self.run, Ranks(), self._lost, self.attempt, self.told)
            self.go(None)

    def go(self, given: Batch | BaseException | None) -> None:
        """To the next batch that it wants, or to its end; None: from the beginning."""
        assert self._steps is not None
        steps = cast("Generator[Wanted, Batch | None, int]", self._steps)  # to send None is to begin
        with self._for_itself(), self._speaking():
            try:
                self.wanted = steps.throw(given) if isinstance(given, BaseException) else steps.send(given)
            except StopIteration as end:
                self._end(end.value)

    def told(self) -> bool:
        """Whether to stop: all of them by a signal, this one by `bench cancel`."""
        if not self._cancelled and time.monotonic() - self._looked >= CANCEL_SECONDS:
            self._looked, self._cancelled = time.monotonic(), self.run.was_cancelled()
        return self._cancelled or self.asked()

    def goes_on(self) -> bool:
        """Whether it waits for a batch. One that shall stop does so here: its checkpoint is the one that it came with.

        One that has taken a step since has saved, and stopped, by itself.
        """
        with self._for_itself():
            if self.wanted is not None and self._lost.is_set():
                self.go(ClaimLost("this job was taken over: it stops and writes nothing"))
            elif self.wanted is not None and self.told():
                step = self.wanted.step
                there = f"stopped after step {step}, where its checkpoint is"
                self.go(Stopped(there if step and self.run.has_checkpoint() else f"stopped before step {step + 1}"))
        return self.wanted is not None

    def _end(self, code: int) -> None:
        self.code, self.wanted, self._steps = code, None, None
        self._held.close()

    def leave(self) -> None:
        """Whatever happened: give the job back."""
        with self._for_itself():
            if self._steps is not None:
                self._steps.close()
            self._held.close()
        if self._log is not None:
            with suppress(OSError):
                self._log.close()

    @contextmanager
    def _for_itself(self) -> Iterator[None]:
        """What goes wrong around its work, with its folder, log or claim, is of this job alone; a result counts."""
        try:
            yield
        except Exception as error:
            steps, self.wanted, self._steps = self._steps, None, None
            if self.code is None:
                self.code = FAILED
                said = one_line(error)
                with suppress(Exception), self._speaking():  # where even that cannot be written the driver says it
                    print(f"failed: {said}", flush=True)
                    if self._has_it:
                        record_failure(self.run, "error", said)
                    else:
                        self.run.fail_if_nobody_works("error", said)
            if steps is not None:
                with suppress(Exception):
                    steps.close()
            with suppress(Exception):
                self._held.close()

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """What is printed goes to the job's log."""
        if self._log is None:
            yield
            return
        with redirect_stdout(self._log), redirect_stderr(self._log):
            yield


def _see(waiting: Sequence[_Member], claimed: Sequence[_Member]) -> None:
    """Open a stream where the first of its members stands, and go on until none of them is at the next step."""
    stream = _stream_of(waiting[0])
    members = [member for member in waiting if _stream_of(member) == stream]
    begin = min(member.wanted.step for member in members if member.wanted is not None)
    batches = stream.batches(begin)
    for step in count(begin):
        there = [member for member in members if member.wanted == Wanted(stream, step)]
        if not there:
            return
        alive = [member for member in waiting if member.code is None]
        for member in alive:
            if member.attempt is not None:
                member.attempt.elsewhere.ended = len(claimed) - len(alive)
        try:
            with _shared_by(alive):
                batch = next(batches)
        except Exception as error:  # of the images: it ends those who need this batch, as it would alone
            for member in there:
                member.go(error)
            return
        for member in there:
            with _counted_for(member, alive):
                member.go(batch)
        del batch  # not to be in memory beside the next one
        for member in alive:
            if member not in there:
                member.goes_on()


def _stream_of(member: _Member) -> Stream:
    assert member.wanted is not None
    return member.wanted.stream


@contextmanager
def _counted_for(one: _Member, members: Sequence[_Member]) -> Iterator[None]:
    """What one of the jobs takes, the others have spent elsewhere."""
    began, cpu_began = time.monotonic(), time.process_time()
    try:
        yield
    finally:
        _spend([member for member in members if member is not one], began, cpu_began, 1.0)


@contextmanager
def _shared_by(members: Sequence[_Member]) -> Iterator[None]:
    """What all wait for counts in equal parts."""
    began, cpu_began = time.monotonic(), time.process_time()
    try:
        yield
    finally:
        _spend(members, began, cpu_began, 1.0 - 1.0 / max(1, len(members)))


def _spend(members: Sequence[_Member], began: float, cpu_began: float, share: float) -> None:
    for member in members:
        if member.attempt is not None and member.code is None:
            member.attempt.elsewhere.seconds += share * (time.monotonic() - began)
            member.attempt.elsewhere.cpu_seconds += share * (time.process_time() - cpu_began)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
