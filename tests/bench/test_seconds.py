"""Predicted seconds against measured ones: of GPUs each within a factor of 1.5, of what was measured on them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.contracts import Amount, Given
from bench.costs.amounts import StepWork
from bench.costs.counted import Counts
from bench.costs.devices import DEVICES, device_of
from bench.costs.seconds import Part, Step, loader_seconds, seconds, step_seconds
from bench.planning.scales import SCALES
from bench.planning.translate import encoder
from bench.spec import Backbone, Precision, Pretrain
from evals.knn import Config as Knn
from evals.linear import RECIPES as LINEAR
from evals.linear import Config as Linear

COUNTS = Counts(None)
R50 = Backbone(name="resnet50")
H100 = DEVICES["h100"]
FACTOR = 1.5
OLD_LARS = (
    0.020  # seconds of a step, as LARS was written when the steps below were measured (docs/gpus.md: 18 to 23 ms)
)


def paper(method: str) -> Pretrain:
    made = encoder(SCALES["paper"], method, network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0)
    assert isinstance(made, Pretrain)
    return made


def near(predicted: float, measured: float) -> bool:
    return measured / FACTOR < predicted < measured * FACTOR


def rate(device: str, method: str, batch: int, precision: Precision, beside: float, *, compiled: bool = False) -> float:
    """Images a second of one GPU, without a loader, views and optimizer, which take `beside` seconds a step."""
    work = COUNTS.step(paper(method))
    work = replace(work, update=Amount(), loss=Amount())
    step = Step(work=work, batch_size=batch, ranks=1, precision=precision, view_numbers=0.0, compiled=compiled)
    return batch / (step_seconds(DEVICES[device], step) + beside)


@pytest.mark.parametrize(
    ("precision", "batch", "measured"),
    [("fp32", 256, 391), ("tf32", 256, 1233), ("bf16", 256, 1951), ("bf16", 64, 1025)],
)
def test_simclr_steps_of_an_h100(precision: Precision, batch: int, measured: float) -> None:
    assert near(rate("h100", "simclr", batch, precision, OLD_LARS), measured)


def test_a_compiled_step_of_an_h100() -> None:
    assert near(rate("h100", "simclr", 256, "bf16", 0.0, compiled=True), 2974)


@pytest.mark.parametrize(
    ("device", "precision", "measured"),
    [("v100", "fp32", 367), ("v100", "fp16", 1200), ("a100", "tf32", 938), ("a100", "fp16", 2470)],
)
def test_supervised_training_as_nvidia_published_it(device: str, precision: Precision, measured: float) -> None:
    assert near(rate(device, "supervised", 256, precision, 0.0), measured)


@pytest.mark.parametrize(("precision", "measured"), [("fp32", 2950), ("bf16", 12400)])
def test_frozen_forward_passes_of_an_h100(precision: Precision, measured: float) -> None:
    work = COUNTS.network(R50, 224)
    assert near(1 / seconds(H100, [Part(work.frozen, precision, "frozen")]), measured)


def test_losses_and_optimizers_of_an_h100() -> None:
    loss = COUNTS.step(paper("vicreg")).loss
    assert near(seconds(H100, [Part(loss, "fp32", how="products")]), 0.037)
    assert near(seconds(H100, [Part(loss, "tf32", how="products")]), 0.010)
    assert near(seconds(H100, [Part(COUNTS.step(paper("simclr")).update)]), 0.0044)


def test_neighbours_and_heads_of_imagenet_on_an_h100() -> None:
    given = Given(train=1_268_356, val=12_811, test=50_000, width=2048, classes=1000)
    knn = Knn().work(given)
    assert near(seconds(H100, [Part(knn.heads, how="products")]) + knn.core_seconds, 8.6)
    linear = LINEAR["paper"]
    assert isinstance(linear, Linear)
    assert near(seconds(H100, [Part(linear.work(given).heads, how="products")]), 600)  # 22 ms a step


def test_views_and_images_on_disk_take_what_was_measured() -> None:
    view = seconds(H100, [Part(Amount(0.0, 3 * 224**2 * 130.0))])
    assert 5e-3 / FACTOR < 200 * view < 10e-3 * FACTOR  # 100 images with two views: 5 to 10 ms
    assert loader_seconds("imagenet", 1963, 8) == pytest.approx(1, rel=0.01)
    assert loader_seconds("mnist5k", 1963, 0) == 0


def test_a_few_images_take_as_long_as_their_kernels_start_on_a_gpu_and_less_on_a_core() -> None:
    tiny = Amount(1e6, 1e4, 1000.0)
    assert seconds(H100, [Part(tiny)]) == pytest.approx(1000 * H100.launch_seconds)
    assert seconds(DEVICES["cpu"], [Part(tiny)]) > 1000 * DEVICES["cpu"].launch_seconds


def test_ranks_share_images_and_products_over_the_batch_but_not_the_rest_of_a_loss() -> None:
    work = StepWork(Amount(1e12), Amount(), Amount(1e13, 1e9), Amount())
    one = Step(work=work, batch_size=256, ranks=1, precision="fp32", view_numbers=0.0)
    whole, shared = (replace(one, ranks=8, shared_loss=shared) for shared in (False, True))
    alone, among, together = (step_seconds(H100, step) for step in (one, whole, shared))
    assert together < among < alone
    assert 8 * together == pytest.approx(alone, rel=0.1)


def test_devices_are_known_by_the_names_that_results_have() -> None:
    assert device_of("cuda: NVIDIA H100 80GB HBM3").name == "h100"
    assert device_of("cuda: NVIDIA A100-SXM4-40GB").name == "a100-40gb"
    assert device_of("cuda: NVIDIA A100-SXM4-80GB").name == "a100"
    assert device_of("cuda: Tesla V100-SXM2-16GB").name == "v100-16gb"
    assert "stands for NVIDIA L4" in device_of("cuda: NVIDIA L4").title
    assert "not named" in device_of("cuda").title
    core = device_of("cpu: Intel(R) Xeon(R) Processor")
    assert (core.counted_as, core.peak["fp32"] < DEVICES["cpu"].peak["fp32"]) == ("core", True)
