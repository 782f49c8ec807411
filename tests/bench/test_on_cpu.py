"""No job that was meant for a GPU runs on a CPU unseen, and nobody starts years of CPU time by mistake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.commands import on_cpu
from bench.errors import BenchError
from bench.execution.device import prepare_device
from bench.execution.inline import InlineExecutor
from bench.execution.local import gpus
from bench.execution.local.slots import LocalExecutor
from bench.machine import DEVICE
from bench.planning.graph import JobGraph, plan
from bench.planning.scales import SCALES
from bench.planning.translate import encoder
from bench.runs.folder import Runs, State
from bench.settings.site import Site
from bench.settings.slurm import SlurmRequest, SlurmSettings
from bench.spec import Evaluate, Pretrain, Resources
from bench.training.ranks import Ranks, device_of
from evals.knn import Config as Knn


@pytest.fixture
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def trained(epochs: float = 100) -> Pretrain:
    found = encoder(SCALES["paper"], "simclr", network="resnet50", width=1, epochs=epochs, dataset="imagenet", seed=0)
    assert isinstance(found, Pretrain)
    return found


def graph_of(spec: Pretrain) -> JobGraph:
    return plan([("SimCLR | kNN", Evaluate(encoder=spec, protocol=Knn(), data=spec.data))])


def test_a_job_that_was_given_a_gpu_fails_where_torch_finds_none(
    monkeypatch: pytest.MonkeyPatch, without_cuda: None
) -> None:
    monkeypatch.setenv(DEVICE, "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(BenchError, match=r"given a GPU \(CUDA_VISIBLE_DEVICES is 3\), but torch .*finds none: install"):
        device_of(Ranks())
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(BenchError, match=rf"torch {torch.__version__.split('+')[0]}.*built for CUDA 13.0"):
        device_of(Ranks())
    monkeypatch.delenv(DEVICE)
    assert device_of(Ranks()).type == "cpu"


def test_a_job_that_wants_no_gpu_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of(Ranks(rank=9, world=16, local=1)) == torch.device("cuda", 1)
    assert prepare_device(Resources(gpu=False), Ranks()) == torch.device("cpu")


def test_a_worker_in_a_gpu_slot_is_told_so_and_one_on_cores_is_not(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICE, "cuda")  # left in the shell
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert DEVICE not in LocalExecutor(here)._environment(Resources(), ["cpu0"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    made = LocalExecutor(here)._environment(Resources(), ["1"])
    assert (made[DEVICE], made["CUDA_VISIBLE_DEVICES"]) == ("cuda", "1")


def test_in_this_process_too_a_machine_with_gpus_gives_them(
    here: Site, small: Pretrain, monkeypatch: pytest.MonkeyPatch, without_cuda: None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    job = next(iter(plan([("small", small)])))
    run = Runs(here.runs)[job.id]
    run.create(job, Resources())
    InlineExecutor().submit(run)
    assert run.state() is State.FAILED
    assert "was given a GPU" in run.failure().message


def test_gpus_are_seen_without_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpus, "DEVICES", tmp_path / "dev")
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "gpus")
    assert gpus.visible() == []
    for bus in ("0000:3b:00.0", "0000:86:00.0"):
        (tmp_path / "gpus" / bus).mkdir(parents=True)
    assert gpus.visible() == ["0", "1"]
    (tmp_path / "dev").mkdir()
    for name in ("nvidia5", "nvidiactl", "nvidia-uvm", "nvidia-caps"):  # the container has one of the two
        (tmp_path / "dev" / name).touch()
    assert gpus.visible() == ["0"]


def test_a_driver_that_fails_beside_gpus_is_an_error_and_no_reason_for_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(gpus, "DEVICES", tmp_path / "dev")
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "gpus")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Driver/library version mismatch'; exit 18\n")
    tool.chmod(0o755)
    assert gpus.visible() == []
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").touch()
    with pytest.raises(BenchError, match=r"nvidia-smi fails \(Driver/library version mismatch\): mend the driver"):
        gpus.visible()


def test_years_on_cpus_are_refused_and_what_is_small_or_has_a_gpu_is_not(
    here: Site, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    long, short = graph_of(trained()), graph_of(trained(epochs=1e-4))
    with pytest.raises(BenchError, match=r"1 pretraining would take about .* d on the .* no GPU is seen.*--on-cpu"):
        on_cpu.check(long, here, "local")
    on_cpu.check(short, here, "local")
    # a folder with 24 images to try things out
    on_cpu.check(long, replace(here, data={"imagenet": photographs}), "local")
    on_cpu.check(plan([]), here, "local")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    on_cpu.check(long, here, "local")


def test_slurm_without_gpus_is_refused_and_with_gpus_is_not(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # a login node
    jobs = graph_of(trained())
    none = replace(here, slurm=SlurmSettings(pretrain=SlurmRequest(cpus=16)))
    with pytest.raises(BenchError, match=r"the 16 cores that \[slurm.pretrain\] asks for with gpus = 0: set gpus"):
        on_cpu.check(jobs, none, "slurm")
    on_cpu.check(jobs, replace(here, slurm=SlurmSettings(pretrain=SlurmRequest(gpus=8, tasks=8))), "slurm")
