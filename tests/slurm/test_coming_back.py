"""A stopped job asks Slurm where it stands and requeues itself.

Squeue and scontrol are scripts that say what the test wants.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.execution.slurm.job import _come_back
from bench.runs.folder import Runs


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`says` holds squeue's answer, `asked` what scontrol was called with."""
    for name, line in {"squeue": f"cat {tmp_path}/says", "scontrol": f'echo "$@" >> {tmp_path}/asked'}.items():
        program = tmp_path / "programs" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}", prepend=":")
    return tmp_path


def requeued(slurm: Path, runs: Runs, state: str) -> str:
    run = runs["evaluate-0123456789abcdef"]
    (run.path / "state").mkdir(parents=True)
    (slurm / "says").write_text(f"{state}|0:24|10:00\n")
    assert _come_back(run, "48142002", begun=0) == 75
    asked = slurm / "asked"
    return asked.read_text() if asked.exists() else ""


@pytest.mark.parametrize("state", ["RUNNING", "SIGNALING"])
def test_a_stopped_job_requeues_itself_also_while_slurm_is_still_sending_the_signal(
    slurm: Path, runs: Runs, state: str
) -> None:
    assert requeued(slurm, runs, state) == "requeue 48142002\n"


def test_a_checkpoint_of_any_job_of_a_process_is_progress_of_all(slurm: Path, runs: Runs) -> None:
    first, second = runs["evaluate-0123456789abcdef"], runs["evaluate-fedcba9876543210"]
    for run in (first, second):
        (run.path / "state").mkdir(parents=True)
    (slurm / "says").write_text("RUNNING|9:50|10:00\n")
    assert _come_back(first, "1", 0, {first: 0, second: 0}) == 75
    second.checkpoint.touch()
    assert _come_back(first, "1", 0, {first: 0, second: 0}) == 75
    stamp = second.checkpoint.stat().st_mtime_ns
    assert _come_back(first, "1", 0, {first: 0, second: stamp}) == 75
    assert _come_back(first, "1", 0, {first: 0, second: stamp}, [first, second]) == 1
    assert (slurm / "asked").read_text() == "requeue 1\n" * 3
    for run in (first, second):
        assert "2 time limits of 10:00 in a row passed without progress" in run.failure().message


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PREEMPTED"])
def test_a_job_that_slurm_ends_does_not_requeue_itself(slurm: Path, runs: Runs, state: str) -> None:
    assert requeued(slurm, runs, state) == ""
