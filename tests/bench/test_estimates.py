from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import plugins
from bench.costs.estimates import FORK_SECONDS, FORWARD_SHARE, STARTUP_SECONDS, Costs, disk_total
from bench.costs.forecast import on_slots
from bench.execution import executors
from bench.execution.local import gpus
from bench.networks import encoders
from bench.networks.size import feature_dim, parameters
from bench.planning import graph
from bench.planning.graph import Job
from bench.planning.scales import SCALES
from bench.planning.translate import encoder, evaluation
from bench.runs.folder import Runs
from bench.settings.site import Site
from bench.spec import Backbone, Evaluate, Pixels, Pretrain, Spec

PAPER = SCALES["paper"]
IMAGENET = 1_268_356  # images held out for `val` not counted
# Barlow Twins' images a second and V100: 1000 epochs of all images in 124 h on 32
RATE = 1000 * 1_281_167 / (124 * 3600 * 32)


def seconds(spec: Spec, tmp_path: Path) -> float:
    job = Job(id="a", spec=spec, needs=(), label="a")
    return Costs(Runs(tmp_path), graph.plan([])).estimate(job).seconds


def pretraining(method: str, variant: str = "") -> Pretrain:
    made = encoder(PAPER, method, variant=variant, network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0)
    assert isinstance(made, Pretrain)
    return made


def test_a_pretraining_costs_its_epochs_and_views_by_their_area(tmp_path: Path) -> None:
    plain = pretraining("barlow_twins")
    assert seconds(plain, tmp_path) == pytest.approx(STARTUP_SECONDS + 1000 * IMAGENET / RATE)
    crops = pretraining("twist", "resnet50_multicrop")  # 2 of 224 px and 12 of 96
    pairs = (2 + 12 * (96 / 224) ** 2) / 2
    assert seconds(crops, tmp_path) == pytest.approx(STARTUP_SECONDS + 800 * IMAGENET * pairs / RATE)


def evaluate(protocol: str, variant: str) -> Evaluate:
    return evaluation(PAPER, pretraining("simclr"), protocol, variant=variant, dataset="imagenet", seed=0)


def test_an_augmented_evaluation_costs_a_forward_pass_an_epoch_and_fine_tuning_a_training_on_its_labels(
    tmp_path: Path,
) -> None:
    frozen, augmented = (
        seconds(evaluate("linear", ""), tmp_path),
        seconds(evaluate("linear_augmented", "simclr"), tmp_path),
    )
    assert augmented - frozen == pytest.approx(90 * IMAGENET * FORWARD_SHARE / RATE)
    few, more = (seconds(evaluate("semi_supervised", f"simclr_{share}pct"), tmp_path) for share in (1, 10))
    assert more - few == pytest.approx((30 * 0.1 - 60 * 0.01) * IMAGENET / 2 / RATE)


def test_a_forked_worker_costs_no_three_seconds(tmp_path: Path) -> None:
    jobs = graph.plan([("a", evaluate("knn", ""))])
    started, forked = Costs(Runs(tmp_path), jobs), Costs(Runs(tmp_path), jobs, forked={"evaluate"})
    saved = {job.kind: started.estimate(job).seconds - forked.estimate(job).seconds for job in jobs}
    assert saved == pytest.approx({"pretrain": 0, "evaluate": STARTUP_SECONDS - FORK_SECONDS}, abs=1e-6)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
@pytest.mark.parametrize(
    ("ranks", "threads", "devices", "kinds"),
    [
        (1, 1, [], {"pretrain", "evaluate", "cpu"}),
        (2, 1, [], {"evaluate", "cpu"}),
        (1, 2, [], set()),
        (1, 1, ["0"], set()),
    ],
)
def test_what_is_forked_is_what_the_executor_forks(
    ranks: int, threads: int, devices: list[str], kinds: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "visible", lambda: devices)
    site = Site(root=tmp_path, runs=tmp_path, output=tmp_path, report=tmp_path, ranks=ranks, threads=threads)
    assert executors.forked(site) == kinds


def test_wall_clock_packs_chains_into_slots(tmp_path: Path) -> None:
    specs = [replace(pretraining("simclr"), seed=seed) for seed in range(3)]
    jobs = graph.plan([(f"seed {spec.seed}", spec) for spec in specs])
    costs = Costs(Runs(tmp_path), jobs)
    one = costs.estimate(next(iter(jobs))).seconds
    assert on_slots(list(jobs), costs, 1) == pytest.approx(3 * one)
    assert on_slots(list(jobs), costs, 2) == pytest.approx(2 * one)
    assert on_slots(list(jobs), costs, 8) == pytest.approx(one)


# -- disk ------------------------------------------------------------------------------------------------------------

TRAIN_VAL_TEST = (1_281_167 + 50_000) * 2048 * 4.0  # bytes of ImageNet's features by a ResNet-50


def disk(*specs: Spec) -> float:
    return disk_total([Job(id=str(number), spec=spec, needs=(), label="") for number, spec in enumerate(specs)])


def test_evaluations_of_one_encoder_share_its_features_on_disk() -> None:
    knn, linear = evaluate("knn", ""), evaluate("linear", "")
    assert disk(knn) == pytest.approx(TRAIN_VAL_TEST)
    assert disk(knn, linear, replace(linear, seed=1), evaluate("svm", "centre_crop")) == pytest.approx(TRAIN_VAL_TEST)
    assert disk(knn, evaluate("svm", "vissl")) == pytest.approx(2 * TRAIN_VAL_TEST)  # other crops are other features
    other = replace(knn, encoder=replace(pretraining("simclr"), seed=1))
    assert disk(knn, other) == pytest.approx(2 * TRAIN_VAL_TEST)


def test_what_trains_on_images_leaves_few_features_or_a_checkpoint() -> None:
    assert disk(evaluate("linear_augmented", "simclr")) == pytest.approx(50_000 * 2048 * 4)
    checkpoint = (
        parameters(pretraining("simclr").backbone) * 24
    )  # weights and momentum, three times while one is written
    assert disk(
        evaluate("semi_supervised", "simclr_1pct"), evaluate("semi_supervised", "simclr_10pct")
    ) == pytest.approx(2 * checkpoint)
    detection = evaluation(PAPER, pretraining("simclr"), "detection_voc", dataset="voc0712", seed=0)
    assert disk(detection) == pytest.approx(checkpoint)


def test_an_evaluation_without_features_takes_no_disk_and_one_that_says_nothing_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    toy = evaluation(PAPER, Pixels(), "linear_collapse", dataset="imagenet", seed=0)
    assert disk(toy) == 0
    knn = evaluate("knn", "")
    silent = replace(plugins.evaluation("knn"), features=None)
    monkeypatch.setattr(plugins, "evaluation", lambda _: silent)
    assert disk(knn) == pytest.approx(TRAIN_VAL_TEST)
    birds = replace(knn, data=replace(knn.data, name="birdsnap"))  # copies differ: numbers are guessed
    assert disk(birds) == pytest.approx(1.5 * 42_648 * 2048 * 4)


def test_sizes_of_a_network_are_those_of_the_built_one_and_need_no_compiler() -> None:
    for backbone in (
        Backbone(name="resnet18", width=2, base_channels=8, stem="small"),
        Backbone(name="vit_cifar"),
        Backbone(name="resnet50"),
    ):
        network = encoders.build(backbone, seed=0)
        assert (parameters(backbone), feature_dim(backbone)) == (encoders.parameters(network), network.feature_dim)
    program = (
        "import sys; from bench.networks.size import parameters; from bench.spec import Backbone;"
        "assert parameters(Backbone(name='vit_base16')) > 8e7 and parameters(Backbone(name='resnet50')) == 23508032;"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
