from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.execution import worker
from bench.execution.exits import LOST, NOT_STARTED
from bench.execution.local.forks import Forked
from bench.execution.local.slots import LocalExecutor
from bench.execution.protocol import Ended
from bench.planning.graph import plan
from bench.runs.folder import RunFolder, Runs, State
from bench.spec import Resources
from tests.bench.test_local import prepared, site_of, wait, wait_for_metrics
from tests.conftest import ROOT, tiny_pretrain

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")]


def server_of(executor: LocalExecutor) -> int:
    assert executor._server is not None
    return executor._server._process.pid


def is_running(pid: int) -> bool:
    process = Path(f"/proc/{pid}/stat")
    return process.exists() and process.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 30
    while is_running(pid):
        assert time.monotonic() < deadline, "the process is still there"
        time.sleep(0.02)


def test_a_forked_worker_has_the_digits_of_one_started_from_nothing(workplace: Path) -> None:
    forked, alone = prepared(workplace), RunFolder(workplace / "alone" / prepared(workplace).job_id)
    alone.create(next(iter(plan([("tiny", tiny_pretrain())]))), Resources())
    executor = LocalExecutor(site_of(workplace))
    executor.submit(forked)
    assert isinstance(executor._workers[forked.job_id].processes[0], Forked)
    assert wait(executor).code == 0
    assert worker.main(str(alone.path)) == 0
    assert forked.result().metrics == alone.result().metrics
    assert forked.result().details["weights_sha256"] == alone.result().details["weights_sha256"]


def test_a_job_of_two_threads_is_started_from_nothing(workplace: Path) -> None:
    run = prepared(workplace)
    run.create(next(iter(plan([("tiny", tiny_pretrain())]))), Resources(threads=2))
    executor = LocalExecutor(site_of(workplace))
    executor.submit(run)
    assert not isinstance(executor._workers[run.job_id].processes[0], Forked)
    assert wait(executor).code == 0, run.log_tail()


def test_a_server_has_one_thread_also_when_it_has_imported_all(workplace: Path) -> None:
    executor = LocalExecutor(site_of(workplace))
    executor.get_ready()
    deadline = time.monotonic() + 60
    while "_liblinear" not in Path(f"/proc/{server_of(executor)}/maps").read_text():  # of sklearn.svm, which comes last
        assert time.monotonic() < deadline, "scikit-learn was not imported"
        time.sleep(0.05)
    assert len(list(Path(f"/proc/{server_of(executor)}/task").iterdir())) == 1


def test_a_second_job_of_a_driver_knows_nothing_of_the_first(workplace: Path) -> None:
    executor = LocalExecutor(site_of(workplace))
    runs = Runs(workplace / "runs")
    of_first = []
    for seed in (1, 0, 2):
        (job,) = plan([("tiny", tiny_pretrain(seed=seed))])
        runs[job.id].create(job, Resources())
        executor.submit(runs[job.id])
        assert wait(executor).code == 0
        of_first.append(runs[job.id].result().metrics)
    (job,) = plan([("tiny", tiny_pretrain(seed=0))])
    alone = Runs(workplace / "alone")[job.id]
    alone.create(job, Resources())
    assert worker.main(str(alone.path)) == 0
    assert of_first[1] == alone.result().metrics
    assert of_first[0] != of_first[1] != of_first[2]


def test_workers_outlive_the_server_and_the_next_job_gets_a_new_one(workplace: Path) -> None:
    run = prepared(workplace, epochs=3)
    executor = LocalExecutor(site_of(workplace))
    executor.submit(run)
    wait_for_metrics(run)
    first = server_of(executor)
    os.kill(first, signal.SIGKILL)
    assert wait(executor) == Ended(run.job_id, LOST)  # nobody knows its own code, but its result is there
    assert run.state() is State.DONE
    again = prepared(workplace / "again")
    executor.submit(again)
    assert server_of(executor) != first
    assert wait(executor) == Ended(again.job_id, 0)


def test_a_worker_whose_server_died_first_is_lost_and_its_slot_free(workplace: Path) -> None:
    run = prepared(workplace, epochs=1000)
    executor = LocalExecutor(site_of(workplace))
    executor.submit(run)
    os.kill(server_of(executor), signal.SIGKILL)  # while it imports
    assert wait(executor) == Ended(run.job_id, LOST)
    assert run.state() is State.PENDING
    assert executor.room(run)


def test_the_first_job_goes_to_the_server_that_was_started_ahead(workplace: Path) -> None:
    executor = LocalExecutor(site_of(workplace))
    executor.get_ready()
    ahead = server_of(executor)
    run = prepared(workplace)
    executor.submit(run)
    assert server_of(executor) == ahead
    assert wait(executor).code == 0, run.log_tail()


def test_a_server_that_died_ahead_of_the_first_job_is_replaced(workplace: Path) -> None:
    executor = LocalExecutor(site_of(workplace))
    executor.get_ready()
    ahead = server_of(executor)
    os.kill(ahead, signal.SIGKILL)
    wait_until_gone(ahead)
    run = prepared(workplace)
    executor.submit(run)
    assert server_of(executor) != ahead
    assert wait(executor).code == 0, run.log_tail()


def test_a_worker_is_stopped_before_it_is_there(workplace: Path) -> None:
    run = prepared(workplace, epochs=1000)
    executor = LocalExecutor(site_of(workplace))
    executor.submit(run)
    executor.stop([run.job_id])
    assert wait(executor).code in (75, -signal.SIGTERM)
    assert run.state() in (State.PENDING, State.STOPPED)


DRIVER = """
import sys, time
from pathlib import Path
from bench.execution.local.slots import LocalExecutor
from tests.bench.test_forks import prepared, server_of, site_of

executor = LocalExecutor(site_of(Path.cwd()))
executor.submit(prepared(Path.cwd(), epochs=1000))
print(server_of(executor), flush=True)
time.sleep(600)
"""


def test_a_driver_that_is_killed_takes_the_server_with_it_and_leaves_the_worker(workplace: Path) -> None:
    run = prepared(workplace, epochs=1000)
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as driver:
        assert driver.stdout is not None
        server = int(driver.stdout.readline())
        wait_for_metrics(run)
        driver.kill()
    wait_until_gone(server)
    claim = run.claim_holder()
    assert claim is not None
    assert is_running(claim.pid)
    os.kill(claim.pid, signal.SIGTERM)
    wait_until_gone(claim.pid)
    assert run.state() is State.STOPPED
    assert run.checkpoint.exists()


@pytest.mark.parametrize("line", ['raise ValueError("cannot be imported")', 'raise SystemExit("ends the process")'])
def test_a_plug_in_that_cannot_be_imported_fails_no_other_job(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    folder = workplace / "plugins" / "methods"
    folder.mkdir(parents=True)
    (folder / "broken.py").write_text(f'"""Broken."""\n\n{line}\n')
    monkeypatch.setenv("BENCH_PLUGINS", str(folder.parent))
    run = prepared(workplace)
    executor = LocalExecutor(site_of(workplace))
    executor.submit(run)
    assert wait(executor) == Ended(run.job_id, 0), run.log_tail()


def test_a_fork_that_fails_is_said_in_the_job_s_log_and_ends_no_other(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    startup = workplace / "startup"
    startup.mkdir()
    (startup / "sitecustomize.py").write_text(
        "import os, pathlib\n"
        "fork = os.fork\n"
        "def failing():\n"
        f"    if pathlib.Path({str(workplace / 'full')!r}).exists():\n"
        "        raise BlockingIOError(11, 'Resource temporarily unavailable')\n"
        "    return fork()\n"
        "os.fork = failing\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(startup))
    (workplace / "full").touch()
    executor, run = LocalExecutor(site_of(workplace)), prepared(workplace)
    executor.submit(run)
    assert wait(executor) == Ended(run.job_id, NOT_STARTED)
    assert "no process could be started: Resource temporarily unavailable" in run.log_tail()
    server = server_of(executor)
    (workplace / "full").unlink()
    executor.submit(run)
    assert wait(executor).code == 0, run.log_tail()
    assert server_of(executor) == server


def test_a_process_that_cannot_be_started_ends_its_job_only(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    executor, run = LocalExecutor(site_of(workplace)), prepared(workplace)
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", no_more)
        executor.get_ready()
        executor.submit(run)
    assert wait(executor) == Ended(run.job_id, NOT_STARTED)
    assert "Resource temporarily unavailable" in run.log_tail()
    assert executor.room(run)


def test_what_a_server_prints_that_was_started_ahead_is_in_the_first_job_s_log(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    startup = workplace / "startup"
    startup.mkdir()
    (startup / "sitecustomize.py").write_text(
        "import sys\nprint('a word', flush=True)\nsys.stderr.write('another\\n')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(startup))
    executor, run = LocalExecutor(site_of(workplace)), prepared(workplace)
    executor.get_ready()
    executor.submit(run)
    assert wait(executor).code == 0
    again = prepared(workplace / "again")
    executor.submit(again)
    assert wait(executor).code == 0
    said = run.log.read_text() + again.log.read_text()
    assert said.count("a word\n") == said.count("another\n") == 1


def test_a_stop_does_not_wait_for_an_import_that_hangs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    startup = workplace / "startup"
    startup.mkdir()
    (startup / "sitecustomize.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(startup))
    monkeypatch.setattr("bench.execution.local.forks.STOP_SECONDS", 0.5)
    executor, run = LocalExecutor(site_of(workplace)), prepared(workplace)
    executor.submit(run)
    server, asked = server_of(executor), time.monotonic()
    executor.stop([run.job_id])
    assert time.monotonic() - asked < 0.3
    assert wait(executor) == Ended(run.job_id, LOST)  # which of a job that shall stop means stopped
    assert time.monotonic() - asked < 10
    assert not is_running(server)


def test_a_worker_is_followed_without_pidfd_open(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared(workplace, epochs=1000)
    executor = LocalExecutor(site_of(workplace))
    executor.submit(run)
    wait_for_metrics(run)
    os.kill(server_of(executor), signal.SIGKILL)
    wait_until_gone(server_of(executor))
    monkeypatch.delattr(os, "pidfd_open")
    assert executor.ended() == []
    executor.stop([run.job_id])
    assert wait(executor) == Ended(run.job_id, LOST)
    assert run.state() is State.STOPPED
