"""One run folder never has two workers: in containers, on machines of one name, after a restart, after a long sleep."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NoReturn

import pytest

from bench import ROOT
from bench.commands.jobs import _cancel
from bench.errors import BenchError, ClaimLost
from bench.execution import exits
from bench.execution.local.slots import LocalExecutor
from bench.execution.readiness import holder
from bench.files import read_json, write_json
from bench.runs import claims
from bench.runs.claims import STALE_SECONDS
from bench.runs.folder import RunFolder, State
from bench.training.checkpoint import Keeper
from tests.bench.test_local import prepared, site_of, wait, wait_for_metrics

CLAIM = """
import sys, time
from pathlib import Path
from bench.runs.folder import RunFolder
run = RunFolder(Path(sys.argv[1]))
print(run.claim(), flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "pretrain-0000")


def say(run: RunFolder, **other: object) -> None:
    """Change what the claim on a run folder says."""
    file = run.path / "state" / "claim"
    write_json(file, read_json(file) | other)


def forget(run: RunFolder, *keys: str) -> None:
    """As an older version wrote it."""
    file = run.path / "state" / "claim"
    write_json(file, {key: value for key, value in read_json(file).items() if key not in keys})


def age(run: RunFolder, seconds: float) -> None:
    """Make the last heartbeat so old."""
    then = time.time() - seconds
    os.utime(run.path / "state" / "heartbeat", (then, then))


def of_the_dead(run: RunFolder) -> int:
    """A claim of a process that was killed; returns its number."""
    with subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(run.path), "600"],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"True\n"
        process.kill()
    return process.pid


def test_a_claim_says_where_its_process_number_means_something(run: RunFolder) -> None:
    assert run.claim("slot")
    claim = run.claim_holder()
    assert claim is not None
    assert claim.is_here
    assert (claim.pid, claim.slot) == (os.getpid(), "slot")
    if sys.platform == "linux":
        assert claim.namespace == str(Path("/proc/self/ns/pid").readlink())
        assert claim.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert holder(run) == f"process {os.getpid()} on {claim.host} works on it"


def test_here_the_death_of_the_process_frees_the_job_at_once(run: RunFolder) -> None:
    of_the_dead(run)
    assert run.state() is State.STOPPED  # though its heartbeat is fresh
    assert run.claim()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"namespace": "pid:[1]"}, "(in another container)"),
        ({"namespace": "unseen"}, "(in another container)"),
        ({"boot": "another"}, "(another of this name, or before its restart)"),
        ({"host": "far-away"}, "on far-away works"),
    ],
)
@pytest.mark.parametrize("dead", [True, False])
def test_elsewhere_the_heartbeat_decides_whatever_runs_here_under_that_number(
    run: RunFolder, other: dict[str, object], words: str, dead: bool
) -> None:
    if dead:
        of_the_dead(run)
    else:
        assert run.claim()
    say(run, **other)
    assert run.state() is State.RUNNING
    assert words in holder(run)
    assert not RunFolder(run.path).claim()
    age(run, STALE_SECONDS / 2)
    assert run.state() is State.RUNNING
    age(run, 2 * STALE_SECONDS)
    assert run.state() is State.STOPPED
    assert run.claim()
    assert run.state() is State.RUNNING


def test_where_proc_shows_other_processes_the_heartbeat_decides(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_whereabouts", lambda: (None, "boot"))
    assert run.claim()
    assert not run.claim()
    age(run, 2 * STALE_SECONDS)
    assert run.state() is State.STOPPED


def test_a_claim_of_an_older_version_goes_by_host_and_process(run: RunFolder) -> None:
    assert run.claim()
    forget(run, "namespace", "boot", "token")
    age(run, 2 * STALE_SECONDS)
    assert run.state() is State.RUNNING
    say(run, born=1)
    assert run.state() is State.STOPPED
    say(run, host="far-away")
    assert run.state() is State.STOPPED
    age(run, 0)
    assert run.state() is State.RUNNING


@pytest.mark.parametrize("pid", [0, -1, None, 1e30, "7"])
def test_a_claim_of_no_process_is_none(run: RunFolder, pid: object) -> None:
    write_json(run.path / "state" / "claim", {"host": socket.gethostname(), "pid": pid, "born": 0})
    assert run.state() is not State.RUNNING
    assert run.claim()


def test_what_a_newer_version_adds_to_a_claim_is_let_be(run: RunFolder) -> None:
    assert run.claim()
    say(run, colour="red")
    assert run.state() is State.RUNNING


@pytest.mark.parametrize("wrong", [-86400.0, 86400.0])
def test_the_clock_of_the_file_system_decides_how_old_a_heartbeat_is(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    true = time.time
    monkeypatch.setattr(claims, "_ahead", {})
    monkeypatch.setattr("bench.runs.claims.time.time", lambda: true() + wrong)
    assert run.claim()
    say(run, host="far-away")
    assert run.state() is State.RUNNING
    monkeypatch.undo()
    age(run, 2 * STALE_SECONDS)
    assert run.state() is State.STOPPED


def test_a_heartbeat_from_the_future_is_of_a_clock_that_was_put_right(run: RunFolder) -> None:
    assert run.claim()
    say(run, host="far-away")
    age(run, -86400)
    assert run.state() is State.STOPPED


def no_locks(*_: object) -> NoReturn:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def _without_locks(path: str, go: float) -> bool:
    fcntl.lockf = no_locks
    time.sleep(max(0.0, go - time.time()))
    won = RunFolder(Path(path)).claim()
    time.sleep(0.5)  # stay alive, so that a late second claim would be wrong
    return won


@pytest.mark.parametrize("dead", [True, False])
def test_of_many_processes_one_gets_the_job_where_locks_do_not_work(run: RunFolder, dead: bool) -> None:
    if dead:
        of_the_dead(run)
    with get_context("fork").Pool(8) as pool:
        won = pool.starmap(_without_locks, [(str(run.path), time.time() + 0.3)] * 8)
    assert sum(won) == 1
    assert {path.name for path in (run.path / "state").iterdir()} <= {"claim", "heartbeat", "mutex", "clock"}


def test_what_a_crash_in_the_middle_of_claiming_left_does_not_stand_in_the_way_for_ever(run: RunFolder) -> None:
    taking = run.path / "state" / "taking"
    taking.parent.mkdir(parents=True)
    taking.touch()
    assert not run.claim()  # another process may be at it
    then = time.time() - 2 * STALE_SECONDS
    os.utime(taking, (then, then))
    assert not run.claim()
    assert run.claim()
    assert not taking.exists()


def take_over(run: RunFolder) -> dict[str, object]:
    """What another worker does after this one was silent for too long."""
    say(run, host="far-away", token="another")
    return read_json(run.path / "state" / "claim")


def test_who_has_lost_the_job_writes_nothing_and_does_not_release_it(run: RunFolder) -> None:
    assert run.claim()
    keeper = Keeper(run.path, 10)
    keeper.log_line({"step": 1, "steps": 10})
    keeper.keep(1, dict, stop=False)
    theirs = take_over(run)
    before = run.metrics.read_text()

    def saved() -> dict[str, Any]:
        raise AssertionError("nothing is to be saved")

    writes: list[Callable[[], object]] = [
        lambda: keeper.log_line({"step": 2, "steps": 10}),
        lambda: keeper.keep(2, saved, stop=True),
        run.check_claim,
    ]
    for write in writes:
        with pytest.raises(ClaimLost, match=r"taken over by process \d+ on far-away"):
            write()
    assert run.metrics.read_text() == before
    assert not run.checkpoint.exists()
    run.release()
    assert read_json(run.path / "state" / "claim") == theirs
    assert (run.path / "state" / "heartbeat").exists()


def test_a_checkpoint_during_which_the_job_was_lost_is_thrown_away(run: RunFolder) -> None:
    assert run.claim()

    def slow() -> dict[str, Any]:
        take_over(run)  # the machine sleeps while it writes
        return {"x": 1}

    with pytest.raises(ClaimLost):
        Keeper(run.path, 10).keep(2, slow, stop=True)
    assert sorted(path.name for path in run.path.iterdir()) == ["state"]


def test_a_job_of_another_container_is_not_cancelled_by_its_number(run: RunFolder) -> None:
    assert run.claim()
    say(run, namespace="pid:[1]")
    with pytest.raises(BenchError, match=r"runs on .* \(in another container\): run `bench cancel` there"):
        _cancel(run)


@pytest.mark.slow
def test_a_worker_that_wakes_up_after_its_job_was_taken_over_stops_and_leaves_all_as_it_is(workplace: Path) -> None:
    run = prepared(workplace, epochs=1000)
    executor = LocalExecutor(site_of(workplace))
    executor.submit(run)
    wait_for_metrics(run)
    claim = run.claim_holder()
    assert claim is not None
    os.kill(claim.pid, signal.SIGSTOP)
    time.sleep(0.2)  # what it was writing is written
    theirs, lines = take_over(run), run.metrics.read_text()
    os.kill(claim.pid, signal.SIGCONT)
    assert wait(executor).code == exits.TAKEN
    assert read_json(run.path / "state" / "claim") == theirs
    assert run.metrics.read_text() == lines
    assert not run.checkpoint.exists()
    assert not run.result_file.exists()
    assert not run.error_file.exists()
    assert "taken over by process" in run.log_tail()


@contextmanager
def in_another_namespace(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is number 1 among its own, as in a container; the test is skipped where that is not allowed."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root may make a namespace of processes")
    probe = ["unshare", "--pid", "--fork", "--mount-proc"]
    tried = subprocess.run([*probe, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no namespace of processes can be made here: {tried.stderr.strip()}")
    with subprocess.Popen(
        [*probe, "--kill-child", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # and with it all that is inside


def test_of_two_containers_with_one_host_name_one_gets_the_job(run: RunFolder) -> None:
    claiming = (sys.executable, "-c", CLAIM, str(run.path))
    with in_another_namespace(*claiming, "600") as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        claim = run.claim_holder()
        assert claim is not None
        assert claim.pid == 1
        assert not claim.is_here
        assert run.state() is State.RUNNING
        assert not run.claim()
        with in_another_namespace(*claiming, "0") as third:  # its own number 1 is not the holder
            assert third.stdout is not None
            assert third.stdout.readline() == "False\n"
        other.kill()
        other.wait()
        assert run.state() is State.RUNNING  # nothing here can tell that it is gone: the heartbeat is young
        age(run, 2 * STALE_SECONDS)
        assert run.claim()


@pytest.mark.slow
def test_a_driver_in_another_container_waits_for_the_job_that_is_trained_here(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_table = ["run", "--table", "simclr_table6", "--scale", "smoke", "--rows", "random", "--columns", "kNN Top-1"]
    bench = (sys.executable, "-m", "bench.cli", *run_table)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    planned = subprocess.run(
        (*bench[:3], "plan", *run_table[1:]), capture_output=True, text=True, timeout=120, check=True
    ).stdout
    job = next(word.strip("()") for word in planned.split() if word.strip("()").startswith("evaluate-"))
    held = RunFolder(workplace / "runs" / job)
    assert held.claim("held by a test")
    (workplace / "theirs").mkdir()
    monkeypatch.setenv("TMPDIR", str(workplace / "theirs"))  # a container has a /tmp, and so slots, of its own
    with in_another_namespace(*bench) as driver:
        assert driver.stdout is not None
        waiting = next(line for line in driver.stdout if line.startswith(("elsewhere", "started")))
        assert waiting.startswith("elsewhere")
        assert f"process {os.getpid()} on " in waiting
        assert "(in another container) works on it" in waiting
        held.release()
        rest = driver.stdout.read()
        assert driver.wait(timeout=300) == 0, rest
    assert "started" in rest
    assert held.state() is State.DONE
