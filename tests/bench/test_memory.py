"""Predicted memory is what was counted and measured, in seconds and without a GPU."""

from __future__ import annotations

import importlib
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from bench.costs import known_peaks, peaks
from bench.costs.known_peaks import count
from bench.costs.memory import CONTEXT, GIB, predicted
from bench.costs.steps import Network, Training, key
from bench.data.datasets import open_split
from bench.data.splits import Arrays
from bench.planning import translate
from bench.planning.scales import SCALES
from bench.spec import Backbone, Data, Evaluate, Precision, Pretrain, Random
from bench.training.loop import Loop, Place
from evals.knn import Config as Knn
from evals.linear_augmented import VARIANTS as PROBES
from tests.conftest import ROOT
from tests.live_storage import peak_bytes

sys.path.insert(0, str(ROOT / "docs"))
make_memory = importlib.import_module("make_memory")
WITHIN = 0.15
RESNET = SCALES["paper"].networks["resnet50"]


def training(
    method: str, scale: str = "paper", width: int = 1, network: str = "resnet50", batch: int = 0, variant: str = ""
) -> Pretrain:
    made = translate.encoder(
        SCALES[scale], method, network=network, width=width, epochs=None, dataset="imagenet", seed=0, variant=variant
    )
    assert isinstance(made, Pretrain)
    return replace(made, batch_size=batch or made.batch_size)


# -- Against one H100 (docs/gpus.md) -------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "measured"), [("fp32", 84.7e6), ("bf16", 43.7e6)])
def test_a_view_of_a_resnet_50_takes_what_an_h100_measured(precision: Precision, measured: float) -> None:
    assert count(Network(RESNET, 224, precision, trains=True)).image == pytest.approx(measured, rel=WITHIN)


def test_a_step_of_simclr_with_256_images_takes_what_an_h100_measured() -> None:
    """About 42 GB in float32."""
    small = training("simclr", batch=256)
    assert predicted(replace(small, precision="fp32")) == pytest.approx(42e9, rel=WITHIN)


@pytest.mark.parametrize(("precision", "measured"), [("fp32", 42.9), ("fp16", 21.4)])
def test_a_frozen_pass_of_4096_images_takes_what_an_h100_measured(precision: Precision, measured: float) -> None:
    """Above the images, in one pass; since then probes go in slices."""
    image = 12.0 * 224**2
    passing = count(Network(RESNET, 224, precision, trains=False)).image - image
    assert 4096 * passing / GIB == pytest.approx(measured, rel=WITHIN)


def test_k_nn_of_all_of_imagenet_takes_what_an_h100_measured() -> None:
    spec = Evaluate(encoder=Random(backbone=RESNET), protocol=Knn(), data=Data(name="imagenet", size=224))
    assert (predicted(spec) - CONTEXT) / GIB == pytest.approx(19.4, rel=WITHIN)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_the_probe_of_simclr_fits_wherever_its_weights_do(width: int) -> None:
    """tests/evals/test_slices.py holds 6 GB for its passes, beside weights and images."""
    backbone = replace(RESNET, width=width)
    probe = PROBES["simclr"]["paper"]
    spec = Evaluate(encoder=Random(backbone=backbone), protocol=probe, data=Data(name="imagenet", size=224))
    frozen, images = count(Network(backbone, 224, "fp32", trains=False)), 4096 * 12 * 224**2
    beside = predicted(spec) - CONTEXT - frozen.trained
    assert beside - images < 6e9
    assert beside < 10e9


# -- Against the loop itself ---------------------------------------------------------------------------------------

TWINS = ("barlow_twins", "byol", "dino", "fnc", "moco", "simclr", "simsiam", "supervised", "swav", "twist", "vicreg")
QUICK = {("byol", True), ("fnc", False), ("moco", True), ("vicreg", False)}  # the others take their time


@pytest.mark.parametrize(
    ("method", "recompute"),
    [
        pytest.param(*each, marks=() if each in QUICK else pytest.mark.slow)
        for each in itertools.product(TWINS, (False, True))
    ],
)
def test_a_small_twin_takes_what_its_training_loop_takes(
    method: str, recompute: bool, place: Callable[..., Place]
) -> None:
    spec = replace(training(method, "embedded", batch=64), epochs=1)
    there = place(method)
    there = replace(there, site=replace(there.site, checkpoint_activations=recompute))
    split = open_split(spec.data, "train", there.site)
    assert isinstance(split, Arrays)

    def steps() -> None:
        loop = Loop(spec, there)
        for step, batch in loop.batches():
            loop.update(step, batch)
            if step == 2:
                break

    images = len(split) * 32 * 32  # gray, of one byte: a small data set lies on the device as a whole
    measured = peak_bytes(steps) - images
    assert predicted(spec, recompute=recompute) - CONTEXT == pytest.approx(measured, rel=WITHIN)


# -- What is kept of the counts ------------------------------------------------------------------------------------


def test_all_jobs_of_all_tables_were_counted() -> None:
    """`python docs/make_memory.py` counts what is missing, in minutes."""
    entries = json.loads(known_peaks.FILE.read_text(encoding="utf-8"))
    assert entries["counts"].keys() == entries["names"].keys() == make_memory.wanted().keys()


def test_what_is_kept_is_what_is_counted_now() -> None:
    frozen, supervised = Network(RESNET, 224, "fp16", trains=False), Training(training("supervised"), recompute=True)
    found = peaks.of_network(frozen), peaks.of_training(supervised.spec, recompute=True)
    for kept, now in zip((count(frozen), count(supervised)), found, strict=True):
        assert kept.trained == now.trained
        assert kept.image == pytest.approx(now.image, rel=0.01)
        assert kept.fixed == pytest.approx(now.fixed, rel=0.01, abs=20e6)


def test_rates_seeds_and_lengths_share_an_entry_and_sizes_do_not() -> None:
    spec = training("simclr")

    def of(other: Pretrain) -> str:
        return key(Training(other, recompute=False))

    colder = replace(spec, method=replace(spec.method, temperature=0.5), epochs=7, seed=3)  # type: ignore[type-var]
    assert of(colder) == of(replace(spec, precision="fp32")) == of(spec)
    wider = replace(spec, backbone=replace(spec.backbone, width=2))
    fewer = replace(spec, batch_size=2048)
    larger = replace(spec, views=tuple(replace(view, size=192) for view in spec.views))
    assert len({of(each) for each in (spec, wider, fewer, larger, replace(spec, precision="bf16"))}) == 5
    assert key(Training(spec, recompute=True)) != of(spec)


def test_chunks_leave_the_activations_of_one_and_all_views() -> None:
    spec, views = training("simclr"), 2 * 12 * 224**2
    found = count(Training(spec, recompute=False))
    whole, parts = (predicted(replace(spec, chunks=chunks), 8) for chunks in (1, 4))
    assert whole - parts == pytest.approx(512 * 3 / 4 * (found.image - views))


def test_counting_a_network_that_nobody_counted_works() -> None:
    small = Backbone(name="resnet10", base_channels=4, stem="small")
    data = Data(name="mnist5k", size=32)
    spec = Evaluate(encoder=Random(backbone=small), protocol=PROBES["simclr"]["embedded"], data=data)
    assert CONTEXT < predicted(spec) < CONTEXT + 100e6


def test_looking_up_brings_no_torch() -> None:
    code = (
        "import sys; from bench.costs import known_peaks, fit; from bench.spec import Backbone; "
        "known_peaks.count(known_peaks.Network(Backbone(name='resnet50'), 224, 'fp32', False)); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
