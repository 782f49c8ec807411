"""Jobs are given what makes them fit into a GPU, and named before they start where nothing does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from bench import plugins
from bench.bench_toml import read_site
from bench.commands import gpu_memory
from bench.costs import fit as fitting
from bench.costs.devices import device_named
from bench.costs.fit import SAFE, Fit, advice, describe, fit, fits, resources_for
from bench.costs.memory import GIB, predicted
from bench.errors import BenchError
from bench.execution import readiness
from bench.execution.gpu_memory import memory_of, memory_on
from bench.execution.local import gpus
from bench.planning.graph import Job, JobGraph, plan
from bench.planning.resources import problems, valid_ranks
from bench.planning.scales import scale_of
from bench.runs.folder import Runs
from bench.settings.site import Site
from bench.spec import Pretrain, Resources
from results.cells import load_table, plan_table
from tests.bench.test_memory import training
from tests.conftest import ROOT, knn_of, tiny_pretrain

H100 = memory_on(device_named("h100"))
SIMCLR = training("simclr")
WIDE = training("simclr", width=4)


def local(tmp_path: Path, text: str) -> Site:
    file = tmp_path / "bench.toml"
    file.write_text(text, encoding="utf-8")
    return read_site(file)


def one(spec: Pretrain, label: str = "simclr resnet50") -> JobGraph:
    return plan([(label, spec)])


# -- What a job is given -------------------------------------------------------------------------------------------


def test_a_training_that_fits_keeps_its_activations(tmp_path: Path) -> None:
    found = fit(SIMCLR, local(tmp_path, "[local]\nranks = 32\n"), "local", H100)
    assert found.resources == Resources(ranks=32)
    assert 0.2 < found.share < 0.5


def test_one_that_fits_only_so_computes_its_activations_twice(tmp_path: Path) -> None:
    found = fit(SIMCLR, local(tmp_path, "[local]\nranks = 8\n"), "local", H100)
    assert found.resources == Resources(ranks=8, checkpoint_activations=True)
    assert found.share < SAFE < predicted(SIMCLR, 8) / (80 * GIB)


@pytest.mark.parametrize("chosen", ["true", "false"])
def test_bench_toml_may_choose_for_all(tmp_path: Path, chosen: str) -> None:
    for ranks in (8, 32):
        site = local(tmp_path, f"[local]\nranks = {ranks}\ncheckpoint_activations = {chosen}\n")
        assert fit(SIMCLR, site, "local", H100).resources.checkpoint_activations is (chosen == "true")


def test_without_a_known_memory_nothing_is_chosen_but_what_bench_toml_says(tmp_path: Path) -> None:
    site = local(tmp_path, "[local]\nranks = 8\n")
    assert fit(SIMCLR, site, "local", {}) == Fit(Resources(ranks=8))
    forced = replace(site, checkpoint_activations=True)
    assert resources_for(SIMCLR, forced, "local", {}) == Resources(ranks=8, checkpoint_activations=True)


def test_a_compiled_encoder_keeps_its_activations(tmp_path: Path) -> None:
    found = fit(replace(SIMCLR, compile=True), local(tmp_path, "[local]\nranks = 8\n"), "local", H100)
    assert not found.resources.checkpoint_activations
    assert found.share > 1


def test_more_ranks_than_images_per_gpu_asks_for_are_taken_where_memory_needs_them(tmp_path: Path) -> None:
    site = local(tmp_path, "[local]\nranks = 64\nimages_per_gpu = 512\n")
    assert fit(SIMCLR, site, "local", H100).resources.ranks == 8
    found = fit(WIDE, site, "local", H100)
    assert found.resources == Resources(ranks=16, checkpoint_activations=True)
    assert found.share <= SAFE
    fixed = local(tmp_path, "[local]\nranks = 8\n")
    assert fit(WIDE, fixed, "local", H100).resources.ranks == 8


def test_jobs_that_are_small_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "predicted", lambda *_, **__: pytest.fail("counted"))
    assert fit(tiny_pretrain(), local(tmp_path, ""), "local", H100) == Fit(Resources())


# -- What does not fit ---------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_named_with_what_would_help(tmp_path: Path) -> None:
    site = local(tmp_path, "[local]\nranks = 8\n")
    found = fit(WIDE, site, "local", H100)
    assert found.share > 1
    text = advice(WIDE, found, site, "local")
    ranks, chunks = 16, 2
    assert f"{ranks} GPUs ([local] ranks)" in text
    assert f"chunks = {chunks} under [recipe], with which batch norm sees {4096 // chunks} images" in text
    assert predicted(WIDE, ranks, recompute=True) <= SAFE * 80 * GIB < predicted(WIDE, ranks // 2, recompute=True)
    assert predicted(replace(WIDE, chunks=chunks), 8, recompute=True) <= SAFE * 80 * GIB
    assert describe(found).endswith(" GiB of 80")


def test_checkpointed_activations_are_advised_where_they_are_off(tmp_path: Path) -> None:
    site = local(tmp_path, "[local]\nranks = 8\ncheckpoint_activations = false\n")
    assert advice(SIMCLR, fit(SIMCLR, site, "local", H100), site, "local").startswith(
        'checkpoint_activations = "auto" under [local]'
    )


def test_a_job_that_cannot_fit_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    site = local(tmp_path, "[local]\nranks = 8\ngpu_memory = 80\n")
    with pytest.raises(BenchError, match=r"simclr resnet50 does not fit: simclr is predicted to take .* of 80") as said:
        gpu_memory.check(one(WIDE), site, "local")
    assert "--ignore-memory" in str(said.value)
    assert "\n" not in str(said.value)


def test_with_ignore_memory_it_is_said_and_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    gpu_memory.check(one(WIDE), local(tmp_path, "[local]\nranks = 8\ngpu_memory = 80\n"), "local", ignore=True)
    assert "does not fit: simclr resnet50" in capsys.readouterr().out


def test_close_ones_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    near = int(predicted(SIMCLR, 8, recompute=True) / GIB / 0.96)
    gpu_memory.check(one(SIMCLR), local(tmp_path, f"[local]\nranks = 8\ngpu_memory = {near}\n"), "local")
    assert "may not fit: simclr resnet50: simclr is predicted to take" in capsys.readouterr().out


def test_nothing_is_said_where_there_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    gpu_memory.check(one(WIDE), local(tmp_path, "[local]\nranks = 8\ngpu_memory = 80\n"), "local")
    assert capsys.readouterr().out == ""


# -- How much there is ---------------------------------------------------------------------------------------------


def test_memory_is_what_bench_toml_or_the_driver_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    tool = tmp_path / "nvidia-smi"
    rows = "0, GPU-aa11, 81559\\n1, GPU-bb22, 24564\\n10, GPU-cc33, 2048\\n"  # the last drives the screen
    tool.write_text(f"#!/bin/sh\nprintf '{rows}'\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert gpus.memory() == pytest.approx(24564 / 1024)
    assert memory_of(local(tmp_path, ""), "local")["evaluate"] == pytest.approx(24564 / 1024)
    for named, there in (("0", 81559), ("GPU-aa", 81559), ("0,10", 2048), ("10", 2048)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert gpus.memory() == there / 1024
    for unknown in ("MIG-aa", "7"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", unknown)
        assert memory_of(local(tmp_path, ""), "local") == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert memory_of(local(tmp_path, "[local]\ngpu_memory = 40\n"), "local")["pretrain"] == 40


def test_of_slurms_nodes_bench_toml_alone_knows(tmp_path: Path) -> None:
    site = local(tmp_path, "[slurm]\ngpus = 8\ngpu_memory = 80\n[slurm.evaluate]\ngpu_memory = 40\n")
    assert memory_of(site, "slurm") == {"pretrain": 80, "evaluate": 40}
    assert memory_of(local(tmp_path, "[slurm]\ngpus = 8\n"), "slurm") == {}
    said = list(gpu_memory.on([], local(tmp_path, "[slurm]\ngpus = 8\n"), "slurm", {}))
    assert said == [
        "memory of the GPUs is not known: gpu_memory = 80 (GiB) under [slurm] lets it be compared with the jobs"
    ]


def test_evaluations_without_a_gpu_beside_pretrainings_with_many_are_named(tmp_path: Path) -> None:
    site = local(tmp_path, "[slurm.pretrain]\ngpus = 8\n")
    jobs = list(plan([("simclr | knn", knn_of(tiny_pretrain()))]))
    said = list(gpu_memory.on(jobs, site, "slurm", {}))
    assert said[0] == "evaluations get no GPU: gpus = 1 under [slurm.evaluate] gives each of them one"
    assert (
        len(
            list(
                gpu_memory.on(jobs, replace(site, slurm=replace(site.slurm, evaluate=site.slurm.pretrain)), "slurm", {})
            )
        )
        == 1
    )


def test_an_imagined_device_has_the_memory_of_its_data_sheet_and_a_cpu_is_not_asked() -> None:
    assert memory_on(device_named("v100")) == {"pretrain": 32, "evaluate": 32}
    assert memory_on(device_named("cpu")) == {}


# -- The clusters of the paper scale -------------------------------------------------------------------------------


def of_the_page(folder: Path, nodes: int) -> Site:
    """The bench.toml of docs/cluster.md on so many of its nodes; on one with the section that it adds for one."""
    blocks = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8").split("```toml\n")[1:]
    texts = [block.partition("```")[0] for block in blocks]
    whole = next(text for text in texts if "[slurm.pretrain]" in text)
    assert "nodes = 4 " in whole
    alone = next(text for text in texts if text.startswith("[recipe]"))
    changed = whole.replace("nodes = 4 ", f"nodes = {nodes} ")
    return local(folder, changed + (alone if nodes == 1 else ""))


@pytest.mark.parametrize("nodes", [1, 4, 8])
def test_no_job_of_any_table_fails_for_ranks_or_memory_with_the_bench_toml_of_the_page(
    tmp_path: Path, nodes: int
) -> None:
    site = of_the_page(tmp_path, nodes)
    scale = scale_of("paper", site.overrides)
    tables = [plan_table(load_table(name), scale) for name in plugins.names("table")]
    jobs = plan((cell.label, cell.spec) for table in tables for cell in table.asked)
    assert len(jobs) > 500
    assert problems(jobs, site, "slurm") == {}
    memory = memory_of(site, "slurm")
    assert memory == {"pretrain": 80, "evaluate": 80}
    found = fits(jobs, site, "slurm", memory)
    assert found.keys() == jobs.jobs.keys()
    assert above(found, jobs.jobs, SAFE) == {}


def above(found: Mapping[str, Fit], jobs: Mapping[str, Job], share: float) -> dict[str, str]:
    return {jobs[name].label: describe(each) for name, each in found.items() if each.share > share}


def test_what_cannot_be_predicted_is_said_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object, **named: object) -> float:
        raise RuntimeError("aten.nonzero.default\nhas no shape without numbers")

    monkeypatch.setattr("bench.costs.fit.predicted", broken)
    monkeypatch.setattr(gpu_memory, "memory_of", lambda site, executor: H100)
    site = local(tmp_path, "[local]\nranks = 8\n")
    assert fit(SIMCLR, site, "local", H100).resources == Resources(ranks=8)
    gpu_memory.check(one(SIMCLR), site, "local")
    assert "memory not predicted, as it does not run on tensors without numbers" in capsys.readouterr().out


def test_ranks_and_chunks_leave_groups_of_batch_norm_whole(tmp_path: Path) -> None:
    triplet = training("truncated_triplet")  # 6,272 images in groups of 1,568
    site = local(tmp_path, "[local]\nranks = 64\nimages_per_gpu = 128\n")
    small = {"pretrain": 8.0}
    found = fit(triplet, site, "local", small)
    valid = valid_ranks(triplet.batch_size, 1, triplet.norm_group)
    assert found.resources.ranks in valid
    for number in re.findall(r"(\d+) GPUs|chunks = (\d+)", advice(triplet, found, site, "local")):
        ranks, chunks = (int(part or 0) for part in number)
        assert ranks in valid if ranks else found.resources.ranks in valid_ranks(6272, chunks, triplet.norm_group)


def test_a_finished_table_asks_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sick(site: Site, executor: str) -> None:
        raise AssertionError("the driver was asked")

    monkeypatch.setattr(gpu_memory, "memory_of", sick)
    monkeypatch.setattr(readiness, "memory_of", sick)
    gpu_memory.check(JobGraph({}, 0), local(tmp_path, ""), "local")
    site = local(tmp_path, "")
    readiness.prepare(JobGraph({}, 0), Runs(site.runs), site, readiness.RetryRules(), frozenset())
