from __future__ import annotations

import errno
import json
import math
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from bench import files
from bench.errors import BenchError, InputCorrupt
from bench.files import as_full_disk, atomic_path, read_json, set_aside, want_of_room, write_atomic, write_json
from bench.planning.graph import Job
from bench.runs.claims import STALE_SECONDS
from bench.runs.folder import RunFolder, Runs, State
from bench.runs.result import FORMAT, Provenance, Result, read_result
from bench.spec import Resources

PROVENANCE = Provenance(
    started="2026-01-01T00:00:00+00:00",
    seconds=1.0,
    cpu_seconds=1.0,
    host="h",
    device="cpu",
    ranks=1,
    threads=1,
    commit="c",
    versions={"torch": "2"},
)


def finish(run: RunFolder, **metrics: float) -> None:
    Result(job=run.job_id, metrics=metrics or {"top1": 50.0}, provenance=PROVENANCE).write(run.result_file)


def test_states_are_read_off_the_files(runs: Runs, job: Job) -> None:
    run = runs[job.id]
    assert run.state() is State.PENDING
    run.create(job, Resources())
    assert run.state() is State.PENDING
    assert run.claim()
    assert run.state() is State.RUNNING
    run.release()
    run.checkpoint.touch()
    assert run.state() is State.STOPPED
    run.fail("error", "no luck")
    assert run.state() is State.FAILED
    assert run.failure().message == "no luck"
    run.forget_failure()
    run.cancel()
    assert run.state() is State.CANCELLED
    finish(run)
    assert run.state() is State.DONE


def test_job_json_gives_the_spec_back(runs: Runs, job: Job) -> None:
    run = runs[job.id]
    run.create(job, Resources(ranks=2, threads=3))
    assert run.read_spec() == job.spec
    assert run.resources == Resources(ranks=2, threads=3)


@pytest.mark.parametrize(
    "damage", ["{}", "not json", '{"format": 1, "spec": {}, "label": "", "needs": [], "resources": {"rank": 1}}']
)
def test_a_damaged_or_edited_job_json_is_replaced(runs: Runs, job: Job, damage: str) -> None:
    run = runs[job.id]
    run.create(job, Resources())
    run.job_file.write_text(damage)
    run.create(job, Resources())
    assert run.read_spec() == job.spec
    assert run.resources == Resources()


def test_a_claim_is_exclusive_while_its_holder_lives(runs: Runs, job: Job) -> None:
    run = runs[job.id]
    assert run.claim()
    assert not RunFolder(run.path).claim()
    run.release()
    assert run.claim()


def test_a_finished_job_cannot_be_claimed(runs: Runs, job: Job) -> None:
    finish(runs[job.id])
    assert not runs[job.id].claim()


def test_the_claim_of_a_killed_process_is_taken_over(runs: Runs, job: Job) -> None:
    run = runs[job.id]
    code = "from bench.runs.folder import RunFolder; from pathlib import Path; import os; "
    code += f"assert RunFolder(Path({str(run.path)!r})).claim(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert run.claim_holder() is not None
    assert run.state() is State.STOPPED
    assert run.claim()


def test_a_recycled_process_number_is_not_taken_for_the_holder(runs: Runs, job: Job) -> None:
    run = runs[job.id]
    assert run.claim()
    claim = run.path / "state" / "claim"
    write_json(claim, read_json(claim) | {"born": 1})
    assert run.state() is State.STOPPED


def test_a_claim_from_another_node_lives_by_its_heartbeat(runs: Runs, job: Job) -> None:
    run = runs[job.id]
    assert run.claim()
    claim = run.path / "state" / "claim"
    write_json(claim, read_json(claim) | {"host": socket.gethostname() + "-other"})
    assert run.state() is State.RUNNING
    old = time.time() - 2 * STALE_SECONDS
    os.utime(run.path / "state" / "heartbeat", (old, old))
    assert run.state() is State.STOPPED
    assert run.claim()


def _try_claim(path: str, go: float) -> bool:
    time.sleep(max(0.0, go - time.time()))
    won = RunFolder(Path(path)).claim()
    time.sleep(0.5)  # stay alive, so that a late second claim would be wrong
    return won


def test_of_many_processes_one_gets_the_job(runs: Runs, job: Job) -> None:
    with get_context("fork").Pool(8) as pool:
        won = pool.starmap(_try_claim, [(str(runs[job.id].path), time.time() + 0.3)] * 8)
    assert sum(won) == 1


def test_damaged_results_are_named(runs: Runs, job: Job) -> None:
    run = runs[job.id]
    finish(run)
    run.result_file.write_text(run.result_file.read_text()[:40])
    with pytest.raises(InputCorrupt, match=r"result.json is not valid JSON"):
        run.result()
    run.result_file.write_text("[]")
    with pytest.raises(InputCorrupt, match="expected a JSON object"):
        run.result()
    run.result_file.write_text(json.dumps({"format": FORMAT}))
    with pytest.raises(InputCorrupt, match="does not hold a result"):
        run.result()


def test_a_result_in_the_wrong_folder_is_not_believed(runs: Runs, job: Job) -> None:
    run = runs[job.id]
    Result(job="evaluate-0000", metrics={}, provenance=PROVENANCE).write(run.result_file)
    with pytest.raises(InputCorrupt, match="belongs to evaluate-0000"):
        run.result()


def test_a_result_of_before_it_said_how_it_was_computed_is_read(runs: Runs, job: Job) -> None:
    run = runs[job.id]
    run.create(job, Resources())
    finish(run)
    body = json.loads(run.result_file.read_text())
    for key in ("deterministic", "layout", "checkpoint_activations"):
        del body["provenance"][key]
    run.result_file.write_text(json.dumps(body))
    assert read_result(run.result_file).provenance == PROVENANCE
    assert PROVENANCE.computed == ""


def test_how_a_result_was_computed_in_words() -> None:
    made = replace(PROVENANCE, deterministic=False, layout="channels_last", checkpoint_activations=True)
    assert made.computed == (
        "kernels that need not be deterministic, channels_last in memory, activations computed twice"
    )
    made = replace(made, deterministic=True, layout="contiguous", checkpoint_activations=None)
    assert made.computed == "deterministic kernels, contiguous in memory"


def test_too_new_and_too_old_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"format": FORMAT + 1})
    with pytest.raises(BenchError, match="update the project"):
        read_result(path)
    write_json(path, {"format": FORMAT - 1})
    with pytest.raises(BenchError, match="--force"):
        read_result(path)


def test_nan_never_becomes_a_result(runs: Runs, job: Job) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        finish(runs[job.id], top1=float("nan"))
    assert runs[job.id].state() is State.PENDING
    assert not list(runs[job.id].path.glob(".*tmp"))


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def fail_half_way() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with (
        pytest.raises(BenchError, match=r"the disk is full: could not write .*file"),
        atomic_path(tmp_path / "file"),
        full.open("w") as device,
    ):
        device.write("x" * 10_000)
    assert not list(tmp_path.iterdir())


def full_at(path: object = None) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def test_a_disk_is_called_full_only_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")
    assert as_full_disk(shared, tmp_path) is None
    assert want_of_room(shared, tmp_path) is None
    assert want_of_room(ValueError("No space left on device"), tmp_path) is None
    monkeypatch.setattr(files, "FULL_BYTES", 0)  # no disk here is full
    other = want_of_room(full_at(), tmp_path)
    assert re.search(r"not a file of this job, whose disk has [\d.]+ GB: .*No space left", str(other))
    for named in (
        want_of_room(full_at("/elsewhere/file"), tmp_path),
        as_full_disk(full_at("/elsewhere/file"), tmp_path),
    ):
        assert str(named).startswith("the disk is full: could not write /elsewhere/file.")
    monkeypatch.setattr(files, "FULL_BYTES", math.inf)  # all are
    assert str(want_of_room(full_at(), tmp_path)).startswith(f"the disk is full: could not write {tmp_path}.")
    assert str(as_full_disk(full_at(), tmp_path)).startswith(f"the disk is full: could not write {tmp_path}.")


def test_files_set_aside_never_overwrite_each_other(tmp_path: Path) -> None:
    for content in ("one", "two"):
        (tmp_path / "result.json").write_text(content)
        set_aside(tmp_path / "result.json")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "result.json.corrupt-1": "one",
        "result.json.corrupt-2": "two",
    }


def test_jobs_are_found_by_the_beginning_of_their_id(runs: Runs, job: Job) -> None:
    runs[job.id].create(job, Resources())
    assert runs.find(job.id[:14]).job_id == job.id
    assert runs.find(job.id.partition("-")[2][:5]).job_id == job.id
    with pytest.raises(BenchError, match="no job 'nope'"):
        runs.find("nope")


def test_last_metrics_survive_a_half_written_line(runs: Runs, job: Job) -> None:
    run = runs[job.id]
    run.path.mkdir(parents=True)
    run.metrics.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert run.last_metrics() == {"step": 2}
    assert run.curves() == [{"step": 1}, {"step": 2}]
