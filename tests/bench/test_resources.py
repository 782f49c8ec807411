"""Each job gets ranks among which its batch divides; what would fail for them is said before anything starts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import plugins
from bench.bench_toml import read_site
from bench.commands.driver import check_ranks
from bench.contracts import Batch
from bench.errors import BenchError
from bench.execution.local.slots import LocalExecutor
from bench.planning.graph import Job, JobGraph, plan
from bench.planning.resources import problems, resources_of, valid_ranks
from bench.planning.scales import SCALES
from bench.runs.folder import Runs
from bench.settings.site import Site
from bench.settings.slurm import SlurmRequest, SlurmSettings
from bench.spec import Data, Evaluate, Pretrain, Random, Resources
from bench.training.chunks import split
from evals.knn import Config as Knn
from evals.svm import Config as Svm
from results.cells import load_table, plan_table


@pytest.fixture(scope="module")
def everything() -> JobGraph:
    """`--all --scale paper`."""
    tables = [plan_table(load_table(name), SCALES["paper"]) for name in plugins.names("table")]
    return plan((cell.label, cell.spec) for table in tables for cell in table.asked)


def cluster(gpus: int, images: int = 0) -> Site:
    """Nodes of 8 GPUs."""
    pretrain = SlurmRequest(nodes=gpus // 8, gpus=8, tasks=8, cpus=8, memory="400G", images_per_gpu=images)
    place = Path("/nowhere")
    return Site(root=place, runs=place, output=place, report=place, slurm=SlurmSettings(pretrain=pretrain))


def test_valid_ranks_leave_every_rank_the_same_whole_chunks() -> None:
    assert valid_ranks(12) == [1, 2, 3, 4, 6, 12]
    assert valid_ranks(24, chunks=4) == [1, 2, 3, 6]
    assert valid_ranks(10, chunks=4) == []
    assert [ranks for ranks in valid_ranks(4080) if ranks <= 32][-8:] == [10, 12, 15, 16, 17, 20, 24, 30]


@pytest.mark.parametrize("gpus", [8, 32, 64])
@pytest.mark.parametrize("chunks", [1, 4])
def test_no_job_of_any_table_fails_for_its_ranks(everything: JobGraph, gpus: int, chunks: int) -> None:
    site = cluster(gpus, images=64)
    assert problems(everything, site, "slurm") == {}
    for job in everything:
        spec = replace(job.spec, chunks=chunks) if isinstance(job.spec, Pretrain) else job.spec
        ranks = resources_of(spec, site, "slurm").ranks
        shaped = site.slurm.request(job.resources_as).shaped(ranks)
        assert shaped.ranks == ranks <= gpus
        if isinstance(spec, Pretrain):
            each = spec.batch_size / ranks
            assert each == int(each) >= 64
            assert each % chunks == 0
        elif job.resources_as == "pretrain":
            assert ranks == 8  # detection: 16 images, two a GPU
        else:
            assert ranks == 1


def test_images_per_gpu_takes_the_most_gpus_that_leave_each_so_many(everything: JobGraph) -> None:
    found = Counter(
        (job.spec.batch_size, resources_of(job.spec, cluster(32, images=64), "slurm").ranks)
        for job in everything
        if isinstance(job.spec, Pretrain)
    )
    assert set(found) == {
        *((256, 4), (512, 8), (1024, 16), (1920, 24), (2048, 32), (4080, 24), (4096, 32), (6272, 32), (8192, 32)),
    }
    small = replace(everything_of(everything, "moco"), batch_size=32)
    assert resources_of(small, cluster(32, images=64), "slurm").ranks == 1


def everything_of(jobs: JobGraph, method: str) -> Pretrain:
    """A pretraining of a method."""
    return next(
        job.spec for job in jobs if isinstance(job.spec, Pretrain) and plugins.name_of(job.spec.method) == method
    )


def test_a_number_that_does_not_divide_is_refused_with_those_that_do(everything: JobGraph) -> None:
    found = problems(everything, cluster(32), "slurm")
    assert {everything.jobs[job].spec.data.name for job in found} == {"imagenet"}
    (error,) = found.values()
    assert str(error) == (
        "dino: batch 4080 does not divide into 32 ranks ([slurm.pretrain] nodes x gpus); valid: 10, 12, 15, 16, 17, "
        "20, 24, 30. Change them, or let images_per_gpu = 64 under [slurm.pretrain] choose for each job."
    )
    chunked = replace(everything_of(everything, "truncated_triplet"), chunks=4)
    local = replace(cluster(64), ranks=64)
    asked = r"batch 6272 in 4 chunks with batch norm over groups of 1568 images does not divide into 64 ranks"
    with pytest.raises(BenchError, match=rf"{asked} \(\[local\] ranks\)"):
        resources_of(chunked, local)


def test_a_run_is_refused_before_anything_starts_and_names_the_row(everything: JobGraph, tmp_path: Path) -> None:
    dino = everything_of(everything, "dino")
    specs = [(f"row {size}", replace(dino, batch_size=size)) for size in (4096, 4080, 4081)]
    site = replace(cluster(32), runs=tmp_path)
    with pytest.raises(BenchError, match=r"row 4080: dino: batch 4080 .* \(1 job more like this: `bench plan`"):
        check_ranks(plan(specs), site, "slurm")
    check_ranks(plan(specs[:1]), site, "slurm")


def test_a_job_of_fewer_ranks_asks_for_its_share_of_a_node() -> None:
    request = cluster(32).slurm.pretrain
    assert request.shaped(32) == request
    small = request.shaped(4)
    assert (small.nodes, small.tasks, small.gpus, small.memory) == (1, 4, 4, "200G")
    wide = request.shaped(24)
    assert (wide.nodes, wide.tasks, wide.gpus, wide.memory) == (3, 8, 8, "400G")
    assert (request.shaped(20).nodes, request.shaped(20).gpus) == (4, 5)
    with pytest.raises(BenchError, match="no room for 30 ranks"):
        request.shaped(30)


def test_bench_toml_has_images_per_gpu_here_and_on_slurm(tmp_path: Path) -> None:
    file = tmp_path / "bench.toml"
    file.write_text("[local]\nranks = 8\nimages_per_gpu = 32\n[slurm]\ngpus = 4\nimages_per_gpu = 64\n")
    site = read_site(file)
    assert (site.images_per_gpu_of("local"), site.images_per_gpu_of("slurm")) == (32, 64)
    assert (site.slurm.evaluate.images_per_gpu, site.slurm.pretrain.ranks) == (0, 4)
    for text, message in (
        ("[local]\nimages_per_gpu = 32\n", "local.images_per_gpu chooses among up to `ranks` GPUs: say how many"),
        ("[slurm.evaluate]\nimages_per_gpu = 32\n", "slurm.evaluate.images_per_gpu: an evaluation is one process"),
        ("[slurm]\nimages_per_gpu = 0\n", "images_per_gpu is 0, expected a whole number, at least 1"),
        ("[slurm.cpu]\ngpus = 1\n", "slurm.cpu.gpus is 1: these jobs use no GPU"),
    ):
        file.write_text(text)
        with pytest.raises(BenchError, match=message):
            read_site(file)


def test_an_svm_asks_for_cores_and_no_gpu(tmp_path: Path, everything: JobGraph) -> None:
    file = tmp_path / "bench.toml"
    file.write_text('[slurm]\npartition = "gpu"\ngpus = 8\ncpus = 4\n[slurm.cpu]\npartition = "cpu"\n')
    site = read_site(file)
    svm = [job for job in everything if isinstance(job.spec, Evaluate) and isinstance(job.spec.protocol, Svm)]
    assert len(svm) > 10
    assert {job.resources_as for job in svm} == {"cpu"}
    request = site.slurm.request("cpu")
    assert (request.gpus, request.cpus, request.partition, request.nodes) == (0, 8, "cpu", 1)
    assert resources_of(svm[0].spec, site, "slurm") == Resources(ranks=1, threads=8, gpu=False)
    file.write_text("[slurm.evaluate]\ncpus = 2\n")  # nothing has a GPU there: as the others
    assert read_site(file).slurm.cpu == read_site(file).slurm.evaluate


def test_beside_gpus_an_svm_takes_cores_and_leaves_the_gpus_to_others(
    here: Site, small: Pretrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    jobs = [
        Job(f"evaluate-{name}", Evaluate(encoder=Random(backbone=small.backbone), protocol=protocol, data=data), (), "")
        for name, protocol, data in (("0", Svm(), Data(name="digit_scenes", size=64)), ("1", Knn(), small.data))
    ]
    svm, knn = (Runs(here.runs)[job.id] for job in jobs)
    for job in jobs:
        Runs(here.runs)[job.id].create(job, resources_of(job.spec, here))
    executor = LocalExecutor(here)
    executor._folder = here.root / "slots"  # the machine's own may be taken
    assert list(executor._take(svm.resources)) == ["cpu0"]
    assert executor._environment(svm.resources, ["cpu0"])["CUDA_VISIBLE_DEVICES"] == ""
    assert list(executor._take(knn.resources)) == ["0"]


def test_no_image_of_a_rank_is_left_out_of_its_chunks() -> None:
    def batch(images: int) -> Batch:
        return Batch(views=[torch.zeros(images, 3, 2, 2)], labels=torch.arange(images), indices=torch.arange(images))

    assert [part.labels.tolist() for part in split(batch(4), 2)] == [[0, 1], [2, 3]]
    for images, chunks in ((255, 4), (2, 4)):
        with pytest.raises(BenchError, match=f"the {images} images of a rank do not divide into {chunks} chunks"):
            list(split(batch(images), chunks))
