"""How many cores a process of a job has, by Slurm, affinity and control groups, and how many workers decode for it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from bench import machine
from bench.commands import doctor, memory
from bench.execution.local.slots import LocalExecutor
from bench.machine import BESIDE, cores, cores_of_rank
from bench.settings.site import Site
from bench.settings.slurm import SlurmRequest, SlurmSettings
from bench.settings.workers import decoding
from bench.spec import Resources


@pytest.fixture(autouse=True)
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of sixteen cores without limits, outside of Slurm."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(machine, "_quota", lambda: None)
    for name in ("SLURM_CPUS_PER_TASK", "LOCAL_WORLD_SIZE", BESIDE):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 16),
        ({"LOCAL_WORLD_SIZE": "8"}, 2),
        ({"LOCAL_WORLD_SIZE": "32"}, 1),
        ({BESIDE: "4"}, 4),  # four slots, with a job of one rank in each
        ({BESIDE: "4", "LOCAL_WORLD_SIZE": "2"}, 4),  # a job of two ranks takes two of them
        ({"SLURM_CPUS_PER_TASK": "6", "LOCAL_WORLD_SIZE": "8"}, 6),  # Slurm counts them for each rank
        ({"SLURM_CPUS_PER_TASK": "64"}, 16),
        ({"SLURM_CPUS_PER_TASK": ""}, 16),
    ],
)
def test_cores_are_those_of_the_rank(
    environment: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch, here: Site
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cores_of_rank() == expected
    assert here.loader_workers("cuda") == min(12, max(1, expected - 1))
    assert replace(here, workers=9).loader_workers("cuda") == 9


V2, V1 = "0::/job/task\n", "4:memory:/x\n3:cpu,cpuacct:/job\n0::/\n"
LIMITS: dict[str, tuple[str, dict[str, str], int]] = {
    "none": (V2, {}, 16),
    "no number": (V2, {"job/task/cpu.max": "max 100000\n"}, 16),
    "of the task": (V2, {"job/task/cpu.max": "400000 100000\n", "cpu.max": "max 100000\n"}, 4),
    "of a group above": (V2, {"job/task/cpu.max": "800000 100000\n", "job/cpu.max": "350000 100000\n"}, 3),
    "of a container": (V2, {"cpu.max": "200000 100000\n"}, 2),  # its path is the host's, and not there
    "less than one": (V2, {"cpu.max": "50000 100000\n"}, 1),
    "more than there are": (V2, {"cpu.max": "9900000 100000\n"}, 16),
    "version 1": (V1, {"cpu/job/cpu.cfs_quota_us": "500000\n", "cpu/job/cpu.cfs_period_us": "100000\n"}, 5),
    "version 1, none": (V1, {"cpu/job/cpu.cfs_quota_us": "-1\n", "cpu/job/cpu.cfs_period_us": "100000\n"}, 16),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_control_groups_limit_the_cores(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    own, files, expected = LIMITS[limit]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    read = Path.read_text
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(
        Path, "read_text", lambda path, **how: own if str(path) == "/proc/self/cgroup" else read(path, **how)
    )
    assert cores() == expected


def test_without_control_groups_there_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    def gone(path: Path, **how: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", gone)
    assert machine._quota() is None


def test_jobs_side_by_side_on_gpus_share_the_cores(
    workplace: Path, here: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shown, site, beside in (("0,1,2,3", here, "4"), ("0,1,2,3", replace(here, slots=2), "2")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        assert LocalExecutor(site)._environment(Resources(), ["0"])[BESIDE] == beside
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert LocalExecutor(replace(here, slots=3, ranks=2))._environment(Resources(), [])[BESIDE] == "6"


BY = "images on disk are decoded by"
TURNS = "they take turns; ask for more cores (cpus under [slurm]), or leave [local] workers out, for 3 workers"
SHARE = "it and the job share that core; ask for more (cpus under [slurm])"
SAID: dict[str, tuple[int | None, str, int, str]] = {
    "chosen by the cores": (None, "cuda", 8, f"{BY} 7 workers, this process has 8 cores"),
    "on a CPU": (None, "cpu", 8, f"{BY} the job itself, this process has 8 cores"),
    "as the file says": (4, "cuda", 4, f"{BY} 4 workers, this process has 4 cores"),
    "too many": (12, "cuda", 4, f"warning: {BY} 12 workers, this process has 4 cores ([local] workers): {TURNS}"),
    "one core": (None, "cuda", 1, f"warning: {BY} 1 worker, this process has 1 core: {SHARE}"),
}


@pytest.mark.parametrize("what", SAID)
def test_the_log_says_who_decodes_and_warns_where_cores_are_too_few(what: str, here: Site) -> None:
    workers, device, own, text = SAID[what]
    assert decoding(replace(here, workers=workers), device, own).line() == text


def test_doctor_looks_at_this_machine_and_at_what_slurm_is_asked_for(
    here: Site, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = SlurmRequest(gpus=8, cpus=8)
    site = replace(here, workers=12, slots=2, slurm=SlurmSettings(pretrain=request, evaluate=replace(request, cpus=16)))
    texts = [(found.text, bool(found.advice)) for found in memory.decodings(site)]
    assert texts == [
        ("images on disk are decoded by 12 workers, each of 2 at once has 8 cores ([local] workers)", True),
        ("images on disk are decoded by 12 workers, on Slurm (pretrain) each has 8 cores ([local] workers)", True),
        ("images on disk are decoded by 12 workers, on Slurm (evaluate) each has 16 cores", False),
    ]
    shown = [check for check in doctor.checks(site) if check.topic == "workers"]
    assert [check.state for check in shown] == ["off", "off", "ok"]
    (line, *_) = memory.decodings(here)
    assert line.text == "images on disk are decoded by the job itself, each of 16 at once has 1 core"
