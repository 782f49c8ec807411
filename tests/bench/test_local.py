from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from site import getsitepackages

import pytest

from bench import ROOT
from bench.errors import BenchError
from bench.execution.local.slots import LocalExecutor, slot_names
from bench.execution.protocol import Ended, NoSlotError
from bench.planning.graph import plan
from bench.runs.folder import RunFolder, Runs, State
from bench.settings.site import Site
from bench.spec import Random, Resources
from tests.conftest import TINY, knn_of, tiny_pretrain

pytestmark = pytest.mark.slow


def site_of(folder: Path, slots: int = 1) -> Site:
    return Site(root=folder, runs=folder / "runs", output=folder / "out", report=folder / "report", slots=slots)


def wait(executor: LocalExecutor) -> Ended:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for ended in executor.ended():
            return ended
        time.sleep(0.05)
    raise AssertionError("the worker did not end")


def wait_for(run: RunFolder, state: State) -> None:
    deadline = time.monotonic() + 120
    while run.state() is not state:
        assert time.monotonic() < deadline, f"{run.state()} instead of {state}: {run.log_tail()}"
        time.sleep(0.02)


def wait_for_metrics(run: RunFolder) -> None:
    deadline = time.monotonic() + 120
    while not run.metrics.exists():
        assert time.monotonic() < deadline, run.log_tail()
        time.sleep(0.05)


def prepared(folder: Path, epochs: float = 1.0) -> RunFolder:
    job = next(iter(plan([("tiny", tiny_pretrain(epochs=epochs))])))
    run = Runs(folder / "runs")[job.id]
    run.create(job, Resources())
    return run


def test_a_worker_runs_with_its_threads_and_without_gpus(workplace: Path) -> None:
    job = next(iter(plan([("random", knn_of(Random(backbone=TINY)))])))
    run = Runs(workplace / "runs")[job.id]
    run.create(job, Resources(threads=1))
    executor = LocalExecutor(site_of(workplace))
    executor.submit(run)
    environment = Path(f"/proc/{executor._workers[job.id].processes[0].pid}/environ")
    if environment.exists():
        deadline = time.monotonic() + 30
        while b"PYTHONUNBUFFERED" not in environment.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.01)
        found = dict(line.split(b"=", 1) for line in environment.read_bytes().split(b"\0") if b"=" in line)
        assert found[b"OMP_NUM_THREADS"] == b"1"
        assert found[b"CUDA_VISIBLE_DEVICES"] == b""
    assert wait(executor).code == 0
    assert run.state() is State.DONE
    assert run.result().provenance.threads == 1


def test_a_slot_belongs_to_the_worker_until_it_is_gone(workplace: Path) -> None:
    run = prepared(workplace, epochs=1000)
    executor, other = LocalExecutor(site_of(workplace)), LocalExecutor(site_of(workplace))
    assert other.room(run)
    executor.submit(run)
    assert not executor.room(run)
    assert not other.room(run)  # a second driver on this machine shares the slots
    with pytest.raises(NoSlotError):
        other.submit(run)
    wait_for(run, State.RUNNING)
    claim = run.claim_holder()
    assert claim is not None
    os.kill(claim.pid, signal.SIGKILL)
    assert wait(executor) == Ended(run.job_id, -signal.SIGKILL)
    assert executor.room(run)
    assert run.state() is State.STOPPED


def test_stop_saves_the_state(workplace: Path) -> None:
    run = prepared(workplace, epochs=1000)
    executor = LocalExecutor(site_of(workplace))
    executor.submit(run)
    wait_for_metrics(run)
    executor.stop([run.job_id])
    assert wait(executor).code == 75
    assert run.checkpoint.exists()
    assert run.state() is State.STOPPED
    assert "the checkpoint is saved" in run.log_tail()


def test_workers_search_the_checkout_but_not_site_packages(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "theirs")
    executor = LocalExecutor(site_of(workplace))
    assert executor._environment(Resources(), [])["PYTHONPATH"] == f"{ROOT}{os.pathsep}{workplace / 'theirs'}"
    monkeypatch.setattr("bench.execution.local.slots.ROOT", Path(getsitepackages()[0]).resolve())
    assert executor._environment(Resources(), [])["PYTHONPATH"] == str(workplace / "theirs")


def test_slots_follow_the_gpus_where_there_are_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    site = Site(root=tmp_path, runs=tmp_path, output=tmp_path, report=tmp_path)
    assert slot_names(site) == ["3", "5"]
    with pytest.raises(BenchError, match="slots is 4, but this machine has 2 GPUs"):
        slot_names(site_of(tmp_path, slots=4))


def two_ranks(folder: Path, epochs: float) -> RunFolder:
    run = prepared(folder, epochs)
    job = next(iter(plan([("tiny", run.read_spec())])))
    run.create(job, Resources(ranks=2))
    return run


def test_two_ranks_train_together(workplace: Path) -> None:
    run = two_ranks(workplace, 0.3)
    executor = LocalExecutor(site_of(workplace))
    executor.submit(run)
    assert wait(executor).code == 0, run.log_tail()
    assert run.result().provenance.ranks == 2
    assert run.weights.exists()


def test_two_ranks_stop_together_and_go_on(workplace: Path) -> None:
    run = two_ranks(workplace, 1000)
    executor = LocalExecutor(site_of(workplace))
    executor.submit(run)
    wait_for_metrics(run)
    executor.stop([run.job_id])
    assert wait(executor).code == 75, run.log_tail()
    assert run.state() is State.STOPPED
    assert run.checkpoint.exists()


def test_a_rank_that_dies_takes_the_others_with_it_and_frees_the_slot(workplace: Path) -> None:
    run = two_ranks(workplace, 1000)
    executor = LocalExecutor(site_of(workplace))
    executor.submit(run)
    wait_for_metrics(run)
    executor._workers[run.job_id].processes[1].kill()
    assert wait(executor).code == -signal.SIGKILL
    assert executor.room(run)


def test_a_second_driver_leaves_a_job_of_two_ranks_alone(workplace: Path) -> None:
    run = two_ranks(workplace, 1000)
    executor, other = LocalExecutor(site_of(workplace, slots=2)), LocalExecutor(site_of(workplace, slots=2))
    executor.submit(run)
    wait_for(run, State.RUNNING)
    other.submit(run)
    assert wait(other).code == 3
    assert run.state() is State.RUNNING
    executor.stop([run.job_id])
    assert wait(executor).code == 75, run.log_tail()
