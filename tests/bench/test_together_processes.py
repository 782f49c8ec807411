"""Which probes share a process, and what becomes of them when it is killed, asked to stop, or not alone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.bench_toml import read_site
from bench.commands.jobs import cancel
from bench.costs.estimates import Costs
from bench.errors import BenchError
from bench.execution import scheduler, worker
from bench.execution.events import Event, Summary
from bench.execution.exits import DONE, STOPPED
from bench.execution.inline import InlineExecutor
from bench.execution.local.forks import fits
from bench.execution.local.slots import LocalExecutor
from bench.execution.protocol import Ended
from bench.planning.graph import JobGraph, plan
from bench.planning.together import together_as
from bench.runs import claims
from bench.runs.claims import TOGETHER
from bench.runs.folder import RunFolder, Runs, State
from bench.spec import Data, Evaluate, Random, Resources
from evals.knn import Config as Knn
from tests.bench.test_local import site_of, wait_for_metrics
from tests.bench.test_together import PROBE, assert_same, folders, photos, probe_of
from tests.conftest import DIGITS, TINY

__all__ = ["photos"]  # the fixture
LONG = replace(PROBE, epochs=4000)


class Silent:
    """Nobody watches."""

    def tell(self, event: Event) -> None:
        """Nothing."""

    def tick(self) -> None:
        """Nothing."""


class Slots:
    """Has so many slots, and keeps what it is given until `ended` is asked for."""

    def __init__(self, slots: int, *, gpus: bool = True) -> None:
        self.slots, self.gpus = slots, gpus
        self.groups: list[list[str]] = []
        self._busy: list[Sequence[RunFolder]] = []

    def get_ready(self) -> None:
        pass

    def room(self, run: RunFolder) -> bool:
        return len(self._busy) < self.slots

    def most(self, run: RunFolder) -> int:
        return self.slots

    def has_gpu(self, run: RunFolder) -> bool:
        return self.gpus

    def submit(self, run: RunFolder, beside: Sequence[RunFolder] = ()) -> None:
        self._busy.append([run, *beside])
        self.groups.append([one.job_id for one in (run, *beside)])

    def ended(self) -> list[Ended]:
        if self.room(RunFolder(Path())):  # what is ready is to be started first
            return []
        found = [one for group in self._busy for one in group]
        self._busy = []
        for one in found:
            one.fail("error", "as told")
        return [Ended(one.job_id, 1) for one in found]

    def running(self) -> list[str]:
        return []

    def stop(self, jobs: list[str]) -> None:
        pass


class OneByOne(Slots):
    """Its slots come free at different moments: each time the one that has worked for longest."""

    seen = 0  # groups when `ended` was asked for before

    def ended(self) -> list[Ended]:
        begun, self.seen = len(self.groups) - self.seen, len(self.groups)
        if not self._busy or (begun and self.room(RunFolder(Path()))):  # what is ready is to be started first
            return []
        found = self._busy.pop(0)
        for one in found:
            one.fail("error", "as told")
        return [Ended(one.job_id, 1) for one in found]


def graph_of(runs: Runs, specs: Sequence[Evaluate]) -> JobGraph:
    graph = plan([(f"number {number}", spec) for number, spec in enumerate(specs)])
    for job in graph:
        runs[job.id].create(job, Resources())
    return graph


def probes(count: int, **changes: Any) -> list[Evaluate]:
    return [replace(probe_of(Random(backbone=TINY, seed=seed)), **changes) for seed in range(count)]


def drive(graph: JobGraph, runs: Runs, executor: Any, together: int | None) -> Summary:
    return scheduler.drive(graph, runs, executor, Costs(runs, graph), Silent(), together)


@pytest.mark.parametrize(
    ("ready", "slots", "together", "sizes"),
    [(8, 1, 8, [8]), (6, 2, 8, [3, 3]), (8, 1, 4, [4, 4]), (3, 3, 8, [1, 1, 1]), (4, 2, 1, [1] * 4)],
)
def test_ready_probes_are_shared_out_among_the_slots(
    ready: int, slots: int, together: int, sizes: list[int], runs: Runs
) -> None:
    executor = Slots(slots)
    summary = drive(graph_of(runs, probes(ready)), runs, executor, together)
    assert len(summary.failed) == ready
    assert [len(group) for group in executor.groups] == sizes
    assert len({job for group in executor.groups for job in group}) == ready


def test_what_is_left_at_the_end_is_shared_out_among_slots_that_come_free_one_by_one(runs: Runs) -> None:
    executor = OneByOne(4)
    drive(graph_of(runs, probes(11)), runs, executor, 2)
    assert [len(group) for group in executor.groups] == [2, 2, 2, 2, 1, 1, 1]
    executor = OneByOne(2)
    for job in (graph := graph_of(runs, probes(5))):
        runs[job.id].forget_failure()
    drive(graph, runs, executor, 8)
    assert [len(group) for group in executor.groups] == [3, 2]


def test_without_the_setting_they_share_a_process_where_it_has_a_gpu(runs: Runs) -> None:
    for gpus, sizes in ((True, [4, 4]), (False, [1] * 8)):
        executor = Slots(2, gpus=gpus)
        graph = graph_of(runs, probes(8))
        for job in graph:
            runs[job.id].forget_failure()
        drive(graph, runs, executor, None)
        assert [len(group) for group in executor.groups] == sizes


def test_what_ran_when_a_process_died_is_started_alone(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of(runs, probes(6))
    killed = list(graph.jobs)[1:3]
    with monkeypatch.context() as patch:
        patch.setattr(claims, "_born", lambda pid: 1)  # of a process that is gone
        assert all(runs[job].claim(TOGETHER) for job in killed)
    executor = Slots(1)
    drive(graph, runs, executor, 8)
    assert sorted(map(len, executor.groups)) == [1, 1, 4]
    assert {group[0] for group in executor.groups if len(group) == 1} == set(killed)


class OneStopped(Slots):
    """A process of which one job was cancelled: its code is that of a stop for all of its jobs."""

    def ended(self) -> list[Ended]:
        found, self._busy = [one for group in self._busy for one in group], []
        if len(self.groups) == 1 and found:
            found[0].cancel()
        else:
            for one in found:
                one.fail("error", "as told")
        return [Ended(one.job_id, STOPPED) for one in found]


def test_others_of_a_process_in_which_one_was_cancelled_are_looked_at_again(runs: Runs) -> None:
    executor = OneStopped(1)
    graph = graph_of(runs, probes(3))
    for job in list(graph.jobs):
        runs[job].path.joinpath("checkpoint.pt").touch()
    summary = drive(graph, runs, executor, 8)
    assert [len(group) for group in executor.groups] == [3, 2]
    assert (len(summary.cancelled), len(summary.failed), summary.stopped) == (1, 2, ())


def test_more_names_than_a_packet_has_room_for_are_no_matter_of_the_fork_server(tmp_path: Path) -> None:
    name = str(tmp_path / ("a name of a folder" * 50))
    assert fits([name] * 8)
    assert not fits([name] * 80)


def test_only_what_sees_the_same_batches_of_files_shares_a_process(runs: Runs) -> None:
    other = replace(PROBE, learning_rates=(0.25,))
    specs = [
        *probes(2),
        *probes(2, protocol=other),
        *probes(2, seed=1),
        *probes(2, data=Data(name="imagenet", size=48)),
    ]
    executor = Slots(1)
    drive(graph_of(runs, specs), runs, executor, 8)
    assert [len(group) for group in executor.groups] == [2, 2, 2, 2]
    in_memory = probes(2, data=DIGITS)
    assert {together_as(spec) for spec in (*in_memory, *probes(1, protocol=Knn(neighbours=20)))} == {""}
    executor = Slots(1)
    drive(graph_of(runs, in_memory), runs, executor, 8)
    assert [len(group) for group in executor.groups] == [1, 1]


def test_the_number_is_read_from_bench_toml(tmp_path: Path) -> None:
    file = tmp_path / "bench.toml"
    file.write_text("[local]\nprobes_together = 3\n", encoding="utf-8")
    assert read_site(file).probes_together == 3
    for wrong, said in (
        ("0", "expected a positive number"),
        ("65", "expected at most 64"),
        ("true", "positive number"),
    ):
        file.write_text(f"[local]\nprobes_together = {wrong}\n", encoding="utf-8")
        with pytest.raises(BenchError, match=said):
            read_site(file)


def test_the_executor_inline_works_on_them_together(photos: Path) -> None:
    runs = Runs(photos / "runs")
    graph = graph_of(runs, probes(3))
    assert drive(graph, runs, InlineExecutor(), 8).complete
    assert [runs[job.id].result().provenance.together for job in graph] == [3, 3, 3]


@pytest.mark.slow
def test_two_slots_have_the_results_of_one_by_one(photos: Path) -> None:
    apart = folders(photos / "apart", 4)
    assert [worker.main(str(run.path)) for run in apart] == [DONE] * 4
    runs = Runs(photos / "runs")
    graph = graph_of(runs, probes(4))
    assert drive(graph, runs, LocalExecutor(site_of(photos, 2)), 8).complete
    for expected in apart:
        found = runs[expected.job_id]
        assert_same(found, expected)
        assert found.result().provenance.together == 2
        assert found.log_tail().rstrip().endswith("done")


@pytest.mark.slow
def test_a_killed_process_is_said_of_each_and_each_goes_on_from_its_checkpoint(photos: Path) -> None:
    runs = Runs(photos / "runs")
    graph = graph_of(runs, probes(3, protocol=LONG))
    folder = [runs[job.id] for job in graph]
    killer = threading.Thread(target=_kill, args=(folder,))
    killer.start()
    summary = drive(graph, runs, LocalExecutor(site_of(photos)), 8)
    killer.join()
    assert len(summary.failed) == 3
    assert all("killed by SIGKILL" in run.failure().message for run in folder)
    assert all("probes_together = 1" in run.failure().message for run in folder)
    for run in folder:
        run.forget_failure()
    stopper = threading.Thread(target=_terminate, args=(folder,))
    stopper.start()
    executor = LocalExecutor(site_of(photos))
    executor.submit(folder[0], folder[1:])
    ended: list[Ended] = []
    deadline = time.monotonic() + 120
    while len(ended) < 3:
        assert time.monotonic() < deadline
        ended += executor.ended()
        time.sleep(0.05)
    stopper.join()
    assert {end.code for end in ended} == {STOPPED}
    assert all(run.state() is State.STOPPED and run.has_checkpoint() for run in folder)
    assert all("the checkpoint is saved" in run.log_tail() for run in folder)


def _kill(folder: Sequence[RunFolder]) -> None:
    for run in folder:
        wait_for_metrics(run)
    claims = [run.claim_holder() for run in folder]
    pids = {claim.pid for claim in claims if claim is not None}
    assert len(pids) == 1
    os.kill(pids.pop(), signal.SIGKILL)


def _terminate(folder: Sequence[RunFolder]) -> None:
    time.sleep(0.5)
    deadline = time.monotonic() + 100
    while not all(run.state() is State.RUNNING for run in folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    wait_for_metrics(folder[0])
    time.sleep(1.0)
    claim = folder[0].claim_holder()
    assert claim is not None
    os.kill(claim.pid, signal.SIGTERM)


@pytest.mark.slow
def test_two_drivers_at_once_do_each_job_once(photos: Path) -> None:
    runs = Runs(photos / "runs")
    graph = graph_of(runs, probes(6))
    found: list[Summary] = []
    drivers = [
        threading.Thread(target=lambda: found.append(drive(graph, runs, LocalExecutor(site_of(photos, 2)), 3)))
        for _ in range(2)
    ]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert [summary.complete for summary in found] == [True, True]
    assert [summary.done for summary in found] == [6, 6]
    assert all(runs[job.id].log_tail().splitlines().count("done") == 1 for job in graph)


@pytest.mark.slow
def test_the_failure_of_one_is_told_while_the_others_go_on(photos: Path) -> None:
    runs = Runs(photos / "runs")
    first, second = (runs[job.id] for job in graph_of(runs, probes(2, protocol=LONG)))
    second.job_file.write_text(second.job_file.read_text().replace('"seed": 1', '"seed": 7'), encoding="utf-8")
    executor = LocalExecutor(site_of(photos))
    executor.submit(first, [second])
    wait_for_metrics(first)
    deadline = time.monotonic() + 120
    while not (told := executor.ended()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [end.job for end in told] == [second.job_id]
    assert "it was edited" in second.failure().message
    assert executor.running() == [first.job_id]
    assert first.state() is State.RUNNING
    executor.stop(executor.running())
    while not (told := executor.ended()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert told == [Ended(first.job_id, STOPPED)]


@pytest.mark.slow
def test_bench_cancel_of_one_leaves_the_others_running(photos: Path) -> None:
    runs = Runs(photos / "runs")
    graph = graph_of(runs, probes(2, protocol=replace(PROBE, epochs=400)))
    first, second = (runs[job.id] for job in graph)
    executor = LocalExecutor(site_of(photos))
    executor.submit(first, [second])
    wait_for_metrics(second)
    cancel(site_of(photos), first.job_id, ())
    deadline = time.monotonic() + 120
    ended: list[Ended] = []
    while executor.running():
        assert time.monotonic() < deadline
        ended += executor.ended()
        time.sleep(0.05)
    assert [end.job for end in ended] == [first.job_id, second.job_id]
    assert first.state() is State.CANCELLED
    assert second.state() is State.DONE
