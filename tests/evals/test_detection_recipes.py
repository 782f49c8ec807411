"""The papers' settings, their cost, and what a plan says where Detectron2 is missing. None of this needs Detectron2."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.commands.driver import missing_data
from bench.costs.devices import DEVICES
from bench.costs.estimates import Costs, Where
from bench.errors import BenchError
from bench.planning import graph
from bench.planning.graph import Job
from bench.planning.resources import resources_of
from bench.planning.scales import SCALES
from bench.planning.translate import encoder, evaluation
from bench.runs.folder import Runs
from bench.settings.site import Site
from bench.spec import Evaluate, Random
from evals import detection_coco, detection_voc
from evals.detection import compat
from evals.detection.recipes import Detector
from evals.detection_coco import Config as Coco
from evals.detection_voc import Config as Voc


def paper(variant: str, kind: str) -> Detector:
    module = detection_voc if kind == "voc" else detection_coco
    config = module.VARIANTS[variant]["paper"]
    assert isinstance(config, Voc if kind == "voc" else Coco)
    return config


# (architecture, iterations, schedule, steps, rate, warm-up, its factor, weight of the proposal losses, norms in the
# heads)
PUBLISHED = {
    ("moco", "voc"): ("C4", 24_000, "multistep", (18_000, 22_000), 0.02, 100, 0.001, 1.0, False),
    ("barlow_twins", "voc"): ("C4", 24_000, "multistep", (18_000, 22_000), 0.1, 1000, 0.333, 1.0, False),
    ("vicreg", "voc"): ("C4", 24_000, "multistep", (18_000, 22_000), 0.1, 1000, 0.333, 0.2, False),
    ("twist", "voc"): ("FPN", 24_000, "multistep", (18_000, 22_000), 0.02, 100, 0.001, 1.0, True),
    ("truncated_triplet", "voc"): ("C4", 24_000, "cosine", (), 0.2, 1200, 1e-4, 1.0, False),
    ("moco", "coco"): ("C4", 180_000, "multistep", (120_000, 160_000), 0.02, 1000, 0.001, 1.0, False),
    ("c4_1x", "coco"): ("C4", 90_000, "multistep", (60_000, 80_000), 0.02, 1000, 0.001, 1.0, False),
    ("fpn_1x", "coco"): ("FPN", 90_000, "multistep", (60_000, 80_000), 0.02, 1000, 0.001, 1.0, False),
    ("barlow_twins", "coco"): ("C4", 90_000, "multistep", (60_000, 80_000), 0.03, 1000, 0.001, 1.0, False),
    ("vicreg", "coco"): ("FPN", 90_000, "multistep", (60_000, 80_000), 0.04, 50, 0.001, 1.0, False),
    ("twist", "coco"): ("FPN", 90_000, "multistep", (60_000, 80_000), 0.02, 1000, 0.001, 1.0, True),
    ("truncated_triplet", "coco"): ("C4", 180_000, "cosine", (), 0.05, 10_000, 1e-4, 1.0, False),
}


@pytest.mark.parametrize(("variant", "kind"), PUBLISHED)
def test_settings_are_the_published_ones(variant: str, kind: str) -> None:
    found = paper(variant, kind)
    shown = (
        found.architecture,
        found.iterations,
        found.schedule,
        found.steps,
        found.lr,
        found.warmup,
        found.warmup_factor,
        found.rpn_loss,
    )
    assert (*shown, found.head_norm) == PUBLISHED[variant, kind]
    assert (found.batch_size, found.test_size, found.longest, found.extra_norm, found.precise_norm, found.flip) == (
        16,
        800,
        1333,
        True,
        200,
        True,
    )
    assert found.longest_trained == (1200 if (variant, kind) == ("truncated_triplet", "coco") else None)
    largest = 880 if variant == "truncated_triplet" else 800
    assert (min(found.train_sizes), max(found.train_sizes)) == (480 if kind == "voc" else 640, largest)


def test_every_variant_has_every_scale_and_shares_the_embedded_job() -> None:
    for module in (detection_voc, detection_coco):
        for name, recipes in module.VARIANTS.items():
            assert set(recipes) == {"embedded", "cifar", "paper"}, name
        small = {
            config.architecture: config for config in (recipes["embedded"] for recipes in module.VARIANTS.values())
        }
        assert all(
            recipes["embedded"] == small[recipes["embedded"].architecture] for recipes in module.VARIANTS.values()
        )
        assert set(small) == {"C4", "FPN"}


def test_the_protocol_names_what_a_reader_checks() -> None:
    text = detection_voc.VARIANTS["vicreg"]["paper"].describe()
    for part in ("Faster R-CNN C4", "24,000 iterations", "lr 0.1", "RPN loss times 0.2", "warm-up 1,000", "test 07"):
        assert part in text
    assert "norms in pyramid and heads" in detection_coco.VARIANTS["twist"]["paper"].describe()


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(BenchError, match="falls after"):
        Voc(iterations=100)
    with pytest.raises(BenchError, match="rate above 0"):
        Voc(lr=0.0)


def job_of(config: object, scale: str, word: str) -> Job:
    subject = encoder(SCALES[scale], "random", network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0)
    module = "detection_voc" if isinstance(config, Voc) else "detection_coco"
    spec = replace(evaluation(SCALES[scale], subject, module, dataset=word, seed=0), protocol=config)
    return next(iter(graph.plan([("random | detection", spec)])))


def test_cost_is_iterations_times_the_published_seconds_on_eight_gpus(tmp_path: Path) -> None:
    job, v100 = job_of(paper("moco", "voc"), "paper", "voc0712"), Where(DEVICES["v100"])
    estimate = Costs(Runs(tmp_path), graph.plan([(job.label, job.spec)]), where=v100).estimate(job)
    assert estimate.device == "GPU"
    assert "model zoo" in estimate.source
    hours = 24_000 * 0.551 * 8 / 3600
    assert 0.6 * hours < estimate.seconds / 3600 < 1.0 * hours  # smaller training images than COCO's
    longer = Costs(Runs(tmp_path), graph.plan([])).estimate(job_of(paper("moco", "coco"), "paper", "coco"))
    shorter = Costs(Runs(tmp_path), graph.plan([])).estimate(job_of(paper("c4_1x", "coco"), "paper", "coco"))
    assert longer.seconds == pytest.approx(2 * shorter.seconds, rel=1e-3)
    h100 = Costs(Runs(tmp_path), graph.plan([]), where=Where(DEVICES["h100"])).estimate(job)
    assert 1.5 < estimate.seconds / h100.seconds < 4  # as float32 training of the network
    embedded = Costs(Runs(tmp_path), graph.plan([])).estimate(
        job_of(detection_voc.RECIPES["embedded"], "embedded", "voc0712")
    )
    assert embedded.device == "core"
    assert 30 < embedded.seconds < 90


def test_a_detection_job_gets_the_ranks_of_a_pretraining(tmp_path: Path) -> None:
    site = Site(root=tmp_path, runs=tmp_path, output=tmp_path, report=tmp_path, ranks=8)
    job = job_of(detection_voc.RECIPES["paper"], "paper", "voc0712")
    assert job.kind == "evaluate"
    assert resources_of(job.spec, site).ranks == 8
    assert resources_of(job.spec, replace(site, ranks=32)).ranks == 8  # 16 images: 32 ranks would have half of one
    assert resources_of(job.spec, replace(site, ranks=32, images_per_gpu=64)).ranks == 8
    assert resources_of(job.spec, replace(site, ranks=3)).ranks == 2
    assert isinstance(job.spec, Evaluate)
    assert isinstance(job.spec.encoder, Random)
    knn = evaluation(SCALES["embedded"], job.spec.encoder, "knn", dataset="imagenet", seed=0)
    assert resources_of(knn, site).ranks == 1


def test_a_plan_says_what_is_missing_and_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "PACKAGES", ("detectron2_that_is_not_there",))
    site = Site(root=tmp_path, runs=tmp_path, output=tmp_path, report=tmp_path)
    job = job_of(detection_voc.RECIPES["embedded"], "embedded", "voc0712")
    (problem,) = missing_data(graph.plan([(job.label, job.spec)]), site)
    assert "detectron2_that_is_not_there" in str(problem)
    assert "make detection" in str(problem)
    assert compat.describe() == str(problem)
    with pytest.raises(BenchError, match="make detection"):
        compat.require()


TABLE = '''"""A table for a test."""
from results.table import Column, Row, Table

TABLE = Table(
    id="two_detectors", paper="VICReg", arxiv="2105.04906", number="2", title="t", order_by="VOC",
    columns=(
        Column(name="VOC", metric="box_ap50", protocol="detection_voc", variant="vicreg", dataset="voc0712"),
        Column(name="COCO box", metric="box_ap", protocol="detection_coco", variant="vicreg", dataset="coco"),
        Column(name="COCO mask", metric="mask_ap", protocol="detection_coco", variant="vicreg", dataset="coco"),
    ),
    rows=(Row(label="Random", method="random", printed={"VOC": "60.2"}),),
)
'''


def test_bench_plan_lists_iterations_and_gpu_hours(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workplace / "plug" / "tables").mkdir(parents=True)
    (workplace / "plug" / "tables" / "two_detectors.py").write_text(TABLE)
    monkeypatch.setenv("BENCH_PLUGINS", str(workplace / "plug"))
    command = [
        sys.executable,
        "-m",
        "bench.cli",
        "plan",
        "--table",
        "two_detectors",
        "--scale",
        "paper",
        "--device",
        "v100",
    ]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert text.count("evaluate-") == 2  # boxes and masks of COCO are one job
    assert "C4, norm behind res5, RPN loss times 0.2, 24,000 iterations, batch 16, lr 0.1" in text
    assert "FPN, 90,000 iterations, batch 16, lr 0.04" in text
    assert "GPU-hours" in text
    assert "model zoo" in text
    assert "missing: data set 'coco' needs a folder" in text
