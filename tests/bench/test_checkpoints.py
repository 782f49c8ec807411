"""What a checkpoint survives: errors while it is read, damage, and a kill while it is written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from bench.contracts import Subject
from bench.errors import BenchError, InputCorrupt, Stopped
from bench.execution import readiness
from bench.execution.subject import load_subject
from bench.files import Json
from bench.planning.graph import plan
from bench.runs.folder import RunFolder, Runs, State
from bench.runs.result import Provenance, Result
from bench.settings.site import Site
from bench.training import generations
from bench.training.checkpoint import Keeper, save_weights, spent_before
from bench.training.generations import Seal, is_whole, save, seal_of
from bench.training.methods import build_method
from tests.bench import checkpoint_programs as programs
from tests.conftest import tiny_pretrain

ROOT = Path(__file__).parents[2]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, programs.__file__, arguments[0], str(folder), *arguments[1:]]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def said(folder: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / f"{name}.json").read_text())
    return found


@pytest.mark.slow
def test_a_hundred_errors_while_a_checkpoint_is_read_lose_no_more_than_the_last_interval(tmp_path: Path) -> None:
    processes = [start(tmp_path, "ranks", str(rank)) for rank in (0, 1)]
    try:
        texts = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(text[-2000:] for text in texts)
    first, second = said(tmp_path, "rank0"), said(tmp_path, "rank1")
    assert len(first) == len(programs.FAULTS) * 2 * programs.TIMES >= 100
    for here, there in zip(first, second, strict=True):
        damage = here["kind"] in programs.DAMAGE
        step = programs.NEWEST - (programs.INTERVAL if damage else 0)
        assert here["second"] == there["second"] == {"step": step}, here
        assert here["first"] == there["first"], here  # both ranks, with the same reason
        if damage:
            assert here["first"] == {"step": step}, here
        else:
            assert here["stay"], here
            assert f"rank {here['victim']}: " in here["first"]["error"], here
            assert "checkpoint.pt" in here["first"]["error"], here
    told = Counter("does not fit" in each["first"].get("error", "") for each in first)
    assert told[True] == len(programs.UNFIT) * 2 * programs.TIMES


@pytest.mark.slow
def test_a_kill_at_any_line_of_saving_leaves_the_newest_or_the_one_before(tmp_path: Path) -> None:
    process = start(tmp_path, "lines")
    text = process.communicate(timeout=240)[0]
    assert process.returncode == 0, text[-2000:]
    found = said(tmp_path, "lines")
    assert Counter(each["code"] for each in found).keys() == {0, -9}
    for each in found:
        if each["apart"]:  # of other data: between two renames nothing may be left but the one before that
            assert (each["other_data"], each["apart"]) == (True, 2)
            assert each["step"] in {None, 1, 3}
        else:
            assert each["step"] in {2, 3}
        assert (each["then"], each["left_over"]) == (4, [])
    assert {each["step"] for each in found if not each["other_data"]} == {2, 3}
    assert sum(each["apart"] == 2 for each in found) > 1


@pytest.mark.slow
def test_processes_that_are_killed_while_they_save_lose_nothing_that_was_saved(tmp_path: Path) -> None:
    process = start(tmp_path, "kills")
    text = process.communicate(timeout=240)[0]
    assert process.returncode == 0, text[-2000:]
    found = said(tmp_path, "kills")
    assert len(found) == programs.ROUNDS
    for each in found:
        assert each["said"] <= each["step"] <= each["said"] + 1
    assert len(list(tmp_path.glob(".*.tmp"))) <= 1  # of the last one: each removes what the one before it left


# -- the seal ----------------------------------------------------------------------------------------------------------


def saved(folder: Path, *steps: int, size: int = 100) -> RunFolder:
    run = RunFolder(folder)
    for step in steps:
        save(run, {"x": torch.full((size,), float(step)), "step": step}, Seal(step, 1000))
    return run


def test_any_flipped_bit_and_any_missing_end_is_found(tmp_path: Path) -> None:
    run = saved(tmp_path, 1, size=10)
    content = run.checkpoint.read_bytes()
    seal = seal_of(run.checkpoint)
    assert seal is not None
    assert seal.bytes < len(content)
    for place in range(0, seal.bytes, 7):
        run.checkpoint.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        generations._checked.clear()
        assert not is_whole(run.checkpoint), place
    for length in range(0, seal.bytes, 13):
        run.checkpoint.write_bytes(content[:length])
        assert not is_whole(run.checkpoint), length


def test_a_checkpoint_without_a_seal_is_judged_by_the_check_sums_of_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"x": torch.arange(1000.0), "step": 3}, path)  # as older versions wrote it
    assert seal_of(path) is None
    assert is_whole(path)
    content = path.read_bytes()
    for broken in (content[:-1], content[: len(content) // 2], b"", bytes(len(content)), flipped(content)):
        path.write_bytes(broken)
        assert not is_whole(path)


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2  # a tensor's bytes
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_torch_reads_a_sealed_checkpoint_as_it_is(tmp_path: Path) -> None:
    run = saved(tmp_path, 7)
    for mmap in (False, True):
        assert torch.load(run.checkpoint, weights_only=True, mmap=mmap)["step"] == 7


def test_a_check_sum_that_is_wrong_once_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, real, wrong = saved(tmp_path, 1), generations._sums, iter([True])
    monkeypatch.setattr(generations, "_sums", lambda file, length: -1 if next(wrong, False) else real(file, length))
    assert is_whole(run.checkpoint)


def test_a_file_is_read_for_its_check_sum_once_by_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, real = saved(tmp_path, 1), generations._sums
    calls: list[int] = []

    def counted(file: BinaryIO, length: int) -> int:
        calls.append(length)
        return real(file, length)

    monkeypatch.setattr(generations, "_sums", counted)
    assert spent_before(run).resumed == 1
    assert Keeper(tmp_path, 1000).load() is not None
    assert len(calls) == 1


# -- two generations ---------------------------------------------------------------------------------------------------


def test_the_one_before_takes_over_from_a_damaged_one_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved(tmp_path, 400, 500)
    run.checkpoint.write_bytes(flipped(run.checkpoint.read_bytes()))
    state = Keeper(tmp_path, 1000).load()
    assert state is not None
    assert state["step"] == 400
    assert (
        "checkpoint.pt is damaged (its check sum is wrong, or it is cut off); set aside as checkpoint.pt.corrupt-1, "
        "going on from checkpoint.previous.pt\ngoing on after step 400 of 1000"
    ) in capsys.readouterr().out
    assert run.state() is State.STOPPED
    saved(tmp_path, 450)
    assert {file.name for file in tmp_path.glob("*.pt*")} == {
        "checkpoint.pt",
        "checkpoint.previous.pt",
        "checkpoint.pt.corrupt-1",
    }


@pytest.mark.parametrize(("step", "asks"), [(9, False), (10, False), (11, True), (500, True)])
def test_a_loss_of_more_than_a_hundredth_has_to_be_allowed(tmp_path: Path, step: int, asks: bool) -> None:
    run = saved(tmp_path, step - 1, step)
    for file in (run.checkpoint, run.previous):
        file.write_bytes(flipped(file.read_bytes()))
    if asks:
        message = (
            rf"^checkpoint\.pt and checkpoint\.previous\.pt in {tmp_path} are damaged \(the check sum is wrong, or the "
            rf"file is cut off\), and to start anew loses {step} of 1,000 steps: `bench run --restart` with the same "
        )
        for _ in range(2):
            with pytest.raises(BenchError, match=message):
                Keeper(tmp_path, 1000).load()
        run.let_restart(True)
    assert Keeper(tmp_path, 1000).load() is None
    assert not run.may_restart()
    assert (tmp_path / "checkpoint.previous.pt.corrupt-1").exists()


def test_a_loss_that_nobody_can_tell_has_to_be_allowed(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(BenchError, match=r"loses an unknown number of 1,000 steps"):
        Keeper(tmp_path, 1000).load()


def test_a_passing_error_is_no_reason_to_start_anew_whatever_the_user_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = saved(tmp_path, 100, 200)
    run.let_restart(True)
    with monkeypatch.context() as broken:
        broken.setattr(generations, "_sums", lambda file, length: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
        with pytest.raises(BenchError, match="Errno 5"):
            Keeper(tmp_path, 1000).load()
    state = Keeper(tmp_path, 1000).load()
    assert state is not None
    assert state["step"] == 200


def test_checkpoints_of_other_data_are_kept_each_under_a_name_of_its_own(tmp_path: Path) -> None:
    run = saved(tmp_path, 1, 2)
    for number in (1, 2):
        keeper = Keeper(tmp_path, 1000)
        keeper.replaces = True
        with pytest.raises(Stopped):
            keeper.keep(number, dict, stop=True)
        assert not run.previous.exists()
    kept = [torch.load(tmp_path / name)["step"] for name in ("checkpoint.pt.other-data", "checkpoint.pt.other-data-2")]
    assert kept == [2, 1]


# -- what the user says, and what stands on a pretraining --------------------------------------------------------------


def test_a_run_says_for_itself_alone_that_jobs_may_restart(tmp_path: Path) -> None:
    jobs = plan([("row", tiny_pretrain())])
    (job,) = jobs
    site = Site(root=tmp_path, runs=tmp_path, output=tmp_path, report=tmp_path)
    runs = Runs(tmp_path)
    for saves, asked in ((False, True), (True, True), (True, False)):
        if saves:
            saved(runs[job.id].path, 1)
        readiness.prepare(jobs, runs, site, readiness.RetryRules(restart=asked), frozenset())
        assert runs[job.id].may_restart() == (saves and asked)


def test_whole_weights_that_cannot_be_read_stay_and_damaged_ones_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny_pretrain()
    (job,) = plan([("row", spec)])
    run = Runs(tmp_path)[job.id]
    run.path.mkdir()
    method = build_method(spec, 1)
    sha = save_weights(run.weights, method, method.get_submodule("encoder"))
    details: dict[str, Json] = {"weights_sha256": sha}
    Result(job=job.id, metrics={}, details=details, provenance=provenance()).write(run.result_file)

    def subject() -> Subject:
        return load_subject(spec, 32, Runs(tmp_path), torch.device("cpu"), projector=False)

    with monkeypatch.context() as broken:
        broken.setattr(torch, "load", lambda *a, **k: (_ for _ in ()).throw(OSError(errno.ESTALE, "Stale handle")))
        with pytest.raises(BenchError, match=r"Stale handle.* it stays where it is"):
            subject()
    assert subject().feature_dim
    run.weights.write_bytes(flipped(run.weights.read_bytes())[:-1])
    with pytest.raises(InputCorrupt, match=r"is damaged .* and set aside"):
        subject()
    assert not run.result_file.exists()


def provenance() -> Provenance:
    return Provenance(
        started="", seconds=1, cpu_seconds=1, host="", device="cpu", ranks=1, threads=1, commit="", versions={}
    )
