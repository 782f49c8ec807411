from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest

from bench.commands.driver import closing
from bench.costs.estimates import Costs
from bench.errors import BenchError
from bench.execution import readiness, scheduler
from bench.execution.events import Event, Summary
from bench.execution.exits import STOPPED
from bench.execution.protocol import Ended
from bench.execution.readiness import RetryRules
from bench.execution.slurm.journal import QueueView
from bench.execution.slurm.settle import states_of
from bench.planning.graph import JobGraph, plan
from bench.runs.folder import FailureKind, RunFolder, Runs, State
from bench.runs.result import Provenance, Result
from bench.settings.site import Site
from bench.spec import Random
from tests.conftest import TINY, knn_of, linear_of, tiny_pretrain

PROVENANCE = Provenance(
    started="", seconds=1.0, cpu_seconds=1.0, host="h", device="cpu: x", ranks=1, threads=1, commit="c", versions={}
)


class FakeExecutor:
    """Ends every job at once, as `fates` says: "done", or a failure kind, or an exit code without a word."""

    def __init__(self, fates: dict[str, str | int] | None = None, slots: int = 1) -> None:
        self.fates, self.slots = fates or {}, slots
        self.order: list[str] = []
        self._ended: list[Ended] = []

    def get_ready(self) -> None:
        pass

    def room(self, run: RunFolder) -> bool:
        return len(self._ended) < self.slots

    def has_gpu(self, run: RunFolder) -> bool:
        return False

    def most(self, run: RunFolder) -> int:
        return self.slots

    def submit(self, run: RunFolder, beside: Sequence[RunFolder] = ()) -> None:
        for one in (run, *beside):
            self.work_on(one)

    def work_on(self, run: RunFolder) -> None:
        self.order.append(run.job_id)
        fate = self.fates.get(run.job_id, "done")
        code = 0
        if isinstance(fate, int):
            code = fate
        elif fate == "done":
            finish(run)
        else:
            run.fail(fate, "as told")  # type: ignore[arg-type]
            code = 1
        self._ended.append(Ended(run.job_id, code))

    def ended(self) -> list[Ended]:
        ended, self._ended = self._ended, []
        return ended

    def running(self) -> list[str]:
        return []

    def stop(self, jobs: list[str]) -> None:
        pass


class Watcher:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def tell(self, event: Event) -> None:
        self.events.append(event)

    def tick(self) -> None:
        pass


def finish(run: RunFolder) -> None:
    details: dict[str, str] = {}
    if run.job_id.startswith("pretrain"):
        run.path.mkdir(parents=True, exist_ok=True)
        run.weights.write_bytes(b"weights")
        details = {"weights_sha256": sha256(b"weights").hexdigest()}
    Result(job=run.job_id, metrics={"top1": 1.0}, details=dict(details), provenance=PROVENANCE).write(run.result_file)


@pytest.fixture
def graph() -> JobGraph:
    return plan(
        [
            ("a | kNN", knn_of(tiny_pretrain(0))),
            ("a | linear", linear_of(tiny_pretrain(0))),
            ("b | kNN", knn_of(tiny_pretrain(1))),
        ]
    )


def drive(
    graph: JobGraph, runs: Runs, executor: FakeExecutor, force: frozenset[str] = frozenset()
) -> tuple[Summary, list[Event]]:
    site = Site(root=runs.root.parent, runs=runs.root, output=runs.root, report=runs.root)
    readiness.prepare(graph, runs, site, RetryRules(), force)
    watcher = Watcher()
    return scheduler.drive(graph, runs, executor, Costs(runs, graph), watcher), watcher.events


def test_children_start_after_their_parents(graph: JobGraph, runs: Runs) -> None:
    executor = FakeExecutor(slots=5)
    summary, _ = drive(graph, runs, executor)
    assert summary.complete
    assert sorted(executor.order) == sorted(graph.jobs)
    for job in graph:
        assert all(executor.order.index(need) < executor.order.index(job.id) for need in job.needs)


def test_what_is_done_is_not_run_again(graph: JobGraph, runs: Runs) -> None:
    drive(graph, runs, FakeExecutor())
    executor = FakeExecutor()
    summary, events = drive(graph, runs, executor)
    assert executor.order == []
    assert events == []
    assert (summary.done, summary.already) == (5, 5)


class CancellingExecutor(FakeExecutor):
    """The user cancels one job as soon as it runs."""

    def __init__(self, victim: str) -> None:
        super().__init__()
        self.victim = victim

    def work_on(self, run: RunFolder) -> None:
        if run.job_id == self.victim:
            run.cancel()
            self._ended.append(Ended(run.job_id, STOPPED))
        else:
            super().work_on(run)


def test_what_the_user_cancelled_is_no_failure_nor_is_what_waits_for_it(
    graph: JobGraph, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    first = next(iter(graph)).id
    summary, events = drive(graph, runs, CancellingExecutor(first))
    assert (summary.failed, summary.blocked) == ((), ())
    assert summary.cancelled == (first,)
    assert set(summary.stopped) == set(graph.dependents(first))
    assert Event(first, "cancelled") in events
    states = states_of(list(graph), runs, QueueView((), ()))
    assert states[first] == "cancelled"
    assert {states[job] for job in graph.dependents(first)} == {"pending"}
    site = Site(root=runs.root.parent, runs=runs.root, output=runs.root, report=runs.root)
    assert closing(summary, graph, site) == 130
    said = capsys.readouterr().out
    assert "cancelled: 1 job; the same command starts them again" in said
    assert "failed" not in said
    summary, _ = drive(graph, runs, FakeExecutor())
    assert summary.complete


def test_what_a_failure_blocks_is_blocked_in_status_too(graph: JobGraph, runs: Runs) -> None:
    first = next(iter(graph)).id
    drive(graph, runs, FakeExecutor({first: "error"}))
    states = states_of(list(graph), runs, QueueView((), ()))
    assert states[first] == "failed"
    assert {states[job] for job in graph.dependents(first)} == {"blocked"}


def test_a_failure_blocks_its_dependents_and_nothing_else(graph: JobGraph, runs: Runs) -> None:
    first = next(iter(graph)).id
    summary, events = drive(graph, runs, FakeExecutor({first: "error"}))
    assert summary.failed == (first,)
    assert set(summary.blocked) == set(graph.dependents(first))
    assert summary.done == 2
    assert not summary.complete
    for lost in summary.blocked:
        assert runs[lost].state() is State.FAILED
        assert runs[lost].failure().kind == "blocked"
        assert first in runs[lost].failure().message
    assert {e.what for e in events if e.job == first} == {"started", "failed"}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-9, r"SIGKILL \(out of memory"),
        (-11, r"SIGSEGV \(segmentation"),
        (7, "exited with code 7"),
        (71, "starts the workers was killed"),
    ],
)
def test_a_worker_that_dies_without_a_word_gets_a_reason_and_a_log_path(
    graph: JobGraph, runs: Runs, code: int, words: str
) -> None:
    first = next(iter(graph)).id
    summary, _ = drive(graph, runs, FakeExecutor({first: code}))
    failure = runs[first].failure()
    assert summary.failed == (first,)
    assert failure.kind == "crashed"
    assert str(runs[first].log) in failure.message
    assert re.search(words, failure.message)


@pytest.mark.parametrize(
    ("kind", "again"), [("error", True), ("crashed", True), ("diverged", False), ("collapsed", False)]
)
def test_the_next_run_tries_again_what_may_go_better(
    graph: JobGraph, runs: Runs, kind: FailureKind, again: bool
) -> None:
    first = next(iter(graph)).id
    drive(graph, runs, FakeExecutor({first: kind}))
    executor = FakeExecutor()
    summary, _ = drive(graph, runs, executor)
    assert (first in executor.order) is again
    assert summary.complete is again


def test_force_runs_a_finished_job_and_what_hangs_on_it_again(graph: JobGraph, runs: Runs) -> None:
    drive(graph, runs, FakeExecutor())
    first = next(iter(graph)).id
    executor = FakeExecutor()
    drive(graph, runs, executor, frozenset({first, *graph.dependents(first)}))
    assert sorted(executor.order) == sorted([first, *graph.dependents(first)])


def test_a_damaged_result_is_set_aside_and_the_job_run_again(graph: JobGraph, runs: Runs) -> None:
    drive(graph, runs, FakeExecutor())
    victim = list(graph)[1].id
    runs[victim].result_file.write_text("{")
    events = readiness.verify(graph, runs)
    assert [(e.job, e.what) for e in events] == [(victim, "set aside")]
    assert "result.json is not valid JSON" in events[0].message
    assert (runs[victim].path / "result.json.corrupt-1").read_text() == "{"
    executor = FakeExecutor()
    assert drive(graph, runs, executor)[0].complete
    assert executor.order == [victim]


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_damaged_weights_are_trained_again_when_something_needs_them(graph: JobGraph, runs: Runs, damage: str) -> None:
    drive(graph, runs, FakeExecutor())
    parent, child = [job.id for job in graph][:2]
    if damage == "flip":
        runs[parent].weights.write_bytes(b"weighty")
    else:
        runs[parent].weights.unlink()
    assert readiness.verify(graph, runs) == []  # nothing needs them: every evaluation is done
    runs[child].result_file.unlink()
    events = readiness.verify(graph, runs)
    assert [e.job for e in events] == [parent]
    executor = FakeExecutor()
    assert drive(graph, runs, executor)[0].complete
    assert executor.order == [parent, child]


def test_a_job_of_another_driver_is_waited_for(graph: JobGraph, runs: Runs, tmp_path: Path) -> None:
    first = next(iter(graph)).id
    script = f"""
import sys, time
from pathlib import Path
from bench.runs.folder import RunFolder
from tests.bench.test_scheduler import finish
run = RunFolder(Path({str(runs[first].path)!r}))
assert run.claim()
print("claimed", flush=True)
time.sleep(1.0)
finish(run)
run.release()
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"claimed\n"
        executor = FakeExecutor()
        summary, events = drive(graph, runs, executor)
        assert other.wait(timeout=30) == 0
    assert summary.complete
    assert first not in executor.order
    assert any(e.job == first and e.what == "elsewhere" for e in events)


def test_what_failed_under_another_driver_while_all_slots_were_taken_is_not_run_again(
    graph: JobGraph, runs: Runs
) -> None:
    class Busy(FakeExecutor):
        """No slot is free at first.

        Meanwhile another driver starts and loses the pretraining that this one does not ask about.
        """

        asked = 0

        def room(self, run: RunFolder) -> bool:
            self.asked += 1
            if self.asked == 2:
                other = next(job.id for job in graph if job.kind == "pretrain" and job.id != run.job_id)
                runs[other].fail("diverged", "not finite")
            return self.asked > 2 and super().room(run)

    executor = Busy()
    summary, _ = drive(graph, runs, executor)
    assert len(summary.failed) == 1
    assert not set(summary.failed) & set(executor.order)
    assert set(summary.blocked) == set(graph.dependents(summary.failed[0]))


def test_a_disk_without_room_is_said_before_anything_starts(runs: Runs) -> None:
    with pytest.raises(BenchError, match=r"the disk is too full for this plan: it needs about .* GB"):
        readiness.free_space(runs, 1e18)
    readiness.free_space(runs, 1.0)


def test_the_longest_chain_starts_first(runs: Runs) -> None:
    short, long = tiny_pretrain(0, epochs=1), tiny_pretrain(1, epochs=100)
    graph = plan(
        [("r | kNN", knn_of(Random(backbone=TINY))), ("short | kNN", knn_of(short)), ("long | kNN", knn_of(long))]
    )
    executor = FakeExecutor()
    drive(graph, runs, executor)
    assert graph.jobs[executor.order[0]].label == "long"


def test_a_job_that_another_driver_has_taken_over_is_not_called_crashed(graph: JobGraph, runs: Runs) -> None:
    first = runs[next(iter(graph)).id]
    assert first.claim()  # by a living process: the other driver's worker
    assert scheduler._state_after(first, -9, asked=False) is State.RUNNING
    assert not first.error_file.exists()


def test_a_worker_that_was_asked_to_stop_before_it_could_listen_is_stopped(graph: JobGraph, runs: Runs) -> None:
    first = runs[next(iter(graph)).id]
    assert scheduler._state_after(first, -15, asked=True) is State.STOPPED
    assert scheduler._state_after(first, 71, asked=True) is State.STOPPED  # and the process that started it is gone
    assert not first.error_file.exists()
    assert scheduler._state_after(first, -15, asked=False) is State.FAILED


def test_a_result_of_another_format_can_be_forced(graph: JobGraph, runs: Runs) -> None:
    drive(graph, runs, FakeExecutor())
    victim = list(graph)[1].id
    runs[victim].result_file.write_text('{"format": 99}')
    with pytest.raises(BenchError, match="update the project"):
        readiness.verify(graph, runs)
    assert readiness.verify(graph, runs, frozenset({victim})) == []
    assert drive(graph, runs, FakeExecutor(), frozenset({victim}))[0].complete
    assert runs[victim].result().metrics == {"top1": 1.0}
