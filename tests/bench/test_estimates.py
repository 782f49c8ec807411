from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import plugins
from bench.costs.amounts import StepWork
from bench.costs.devices import DEVICES
from bench.costs.estimates import FORK_SECONDS, STARTUP_SECONDS, Costs, Estimate, Where, disk_total
from bench.costs.forecast import on_slots
from bench.costs.history import pairs
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
V100, H100 = Where(DEVICES["v100"]), Where(DEVICES["h100"])


def estimate(spec: Spec, tmp_path: Path, where: Where = H100) -> Estimate:
    job = Job(id="a", spec=spec, needs=(), label="a")
    return Costs(Runs(tmp_path), graph.plan([]), where=where).estimate(job)


def seconds(spec: Spec, tmp_path: Path, where: Where = H100) -> float:
    return estimate(spec, tmp_path, where).seconds


def pretraining(method: str, variant: str = "") -> Pretrain:
    made = encoder(PAPER, method, variant=variant, network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0)
    assert isinstance(made, Pretrain)
    return made


def test_a_v100_takes_the_hours_that_authors_published_of_one(tmp_path: Path) -> None:
    plain = pretraining("barlow_twins")
    found = estimate(plain, tmp_path, V100)
    assert found.seconds == pytest.approx(STARTUP_SECONDS + 1000 * IMAGENET / RATE)
    assert (found.kind, found.device) == ("published", "GPU")
    assert "V100" in found.source
    # in another precision, of another method or network, and on another device: by the work that was counted
    for other in (replace(plain, precision="fp32"), pretraining("twist"), replace(plain, backbone=wide(plain))):
        assert estimate(other, tmp_path, V100).kind == "counted"
    assert estimate(plain, tmp_path).kind == "counted"


@pytest.mark.parametrize(("method", "hours"), [("vicreg", 11), ("swav", 9), ("barlow_twins", 12.4), ("directclr", 7)])
def test_a_method_with_published_hours_takes_them(method: str, hours: float, tmp_path: Path) -> None:
    spec = replace(pretraining(method), epochs=100)
    share = IMAGENET * pairs([view.size for view in spec.views], 224) / 1_281_167
    assert seconds(spec, tmp_path, V100) / 3600 / 32 == pytest.approx(hours * share, rel=1e-3)


def wide(spec: Pretrain) -> Backbone:
    return replace(spec.backbone, width=2)


def test_a_pretraining_costs_its_epochs_its_views_and_all_its_networks(tmp_path: Path) -> None:
    plain = pretraining("simclr")
    longer = seconds(replace(plain, epochs=2 * plain.epochs), tmp_path) / seconds(plain, tmp_path)
    assert longer == pytest.approx(2, rel=1e-3)
    broad = seconds(replace(plain, backbone=wide(plain)), tmp_path) / seconds(plain, tmp_path)
    assert 2 < broad < 4  # four times the products, twice the values that are moved
    byol, supervised = (seconds(replace(pretraining(name), epochs=1000), tmp_path) for name in ("byol", "supervised"))
    assert 0.45 < supervised / seconds(plain, tmp_path) < 0.75  # one view, and no less to decode
    assert 1.2 < byol / seconds(plain, tmp_path) < 1.6  # the target's forward passes too


def test_a_recipes_precision_is_priced(tmp_path: Path) -> None:
    each = [seconds(replace(pretraining("simclr"), precision=p), tmp_path) for p in ("fp32", "tf32", "bf16", "fp16")]
    assert each[0] > 2.5 * each[1]
    assert each[1] > each[2] == each[3]
    # what a V100 computes in the place of TF32
    on_v100 = [seconds(replace(pretraining("simclr"), precision=p), tmp_path, V100) for p in ("fp32", "tf32", "fp16")]
    assert on_v100[0] == on_v100[1] > 1.5 * on_v100[2]


def test_ranks_are_those_of_the_site_and_a_slow_loader_holds_a_gpu_up(tmp_path: Path) -> None:
    site = Site(root=tmp_path, runs=tmp_path, output=tmp_path, report=tmp_path, ranks=8)
    small = replace(pretraining("moco"), precision="bf16")  # 256 images: 32 on each of 8 GPUs
    one, eight = (seconds(small, tmp_path, replace(H100, site=replace(site, ranks=ranks))) for ranks in (1, 8))
    assert eight > 1.5 * one  # GPU-seconds: kernels take as long to start for few images
    few = estimate(small, tmp_path, replace(H100, site=replace(site, ranks=1, workers=1)))
    assert few.source.endswith("held up by the decoding of images in 1 worker")
    assert few.seconds == pytest.approx(small.epochs * IMAGENET / 245, rel=0.02)


def test_a_method_that_cannot_be_counted_is_priced_by_its_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(pretraining("simclr"), batch_size=250)  # in no list

    def broken(spec: Pretrain) -> StepWork:
        raise RuntimeError("Tensor.item() cannot be called on meta tensors")

    monkeypatch.setattr("bench.costs.counting.step_work", broken)
    found = estimate(spec, tmp_path)
    assert found.kind == "guessed"
    assert "cannot be counted (RuntimeError: Tensor.item() cannot be called on meta tensors)" in found.source
    assert found.seconds == pytest.approx(seconds(pretraining("simclr"), tmp_path), rel=0.15)


def evaluate(protocol: str, variant: str) -> Evaluate:
    return evaluation(PAPER, pretraining("simclr"), protocol, variant=variant, dataset="imagenet", seed=0)


def test_an_augmented_evaluation_costs_a_forward_pass_an_epoch_and_is_held_up_by_the_loader(tmp_path: Path) -> None:
    probe = estimate(evaluate("linear_augmented", "simclr"), tmp_path)
    epochs = 90 * 1_281_167
    assert probe.seconds == pytest.approx(epochs / (8 * 245), rel=0.05)
    assert probe.source.endswith("held up by the decoding of images in 8 workers")
    site = Site(root=tmp_path, runs=tmp_path, output=tmp_path, report=tmp_path, workers=64)
    quick = seconds(evaluate("linear_augmented", "simclr"), tmp_path, replace(H100, site=site))
    assert epochs / 12400 < quick < epochs / 2950  # in TF32: between what was measured in bf16 and in fp32


def test_fine_tuning_costs_a_training_on_its_labels(tmp_path: Path) -> None:
    few, more = (seconds(evaluate("semi_supervised", f"simclr_{share}pct"), tmp_path) for share in (1, 10))
    assert 3 < more / few < 6  # 30 epochs of 10 % against 60 of 1 %


def test_what_runs_on_cores_alone_is_counted_as_cores(tmp_path: Path) -> None:
    spec = evaluation(PAPER, pretraining("simclr"), "svm", variant="vissl", dataset="voc2007", seed=0)
    found = estimate(spec, tmp_path)
    assert found.device == "core"
    assert 0.5 < found.seconds / 3600 < 2.5  # an hour of fits (evals/svm.py), and features of 10,000 images


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
