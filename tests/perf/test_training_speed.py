"""What `bench`'s training loop costs over a bare one, on one core.

Setting B: SimCLR on digits of 32 px, batch 256, a ResNet-10 of 16 channels (307,536 parameters), projector 128-256-128.
Setting A: the same with a ResNet-18 and CIFAR's stem. Both sides train the same module with SGD 0.06 / 0.9 / 5e-4 for
the same number of steps; the first does not count. `bench` logs as often as in a run of 36 epochs, and the share of its
checkpoints is added. Rates of peers were measured in these settings on another machine (see `PEERS`).
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from bench.data.datasets import open_split
from bench.data.splits import Arrays
from bench.errors import Stopped
from bench.networks import encoders
from bench.runs.folder import RunFolder
from bench.settings.site import Site
from bench.spec import Augment, Backbone, Data, Optim, Pretrain
from bench.training import checkpoint, loop
from bench.training.ranks import Ranks
from methods.simclr import Config
from tests.perf import references
from tests.perf.pairs import Published, Side, Usual, pairs

VIEW = Augment(size=32, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, gray=0.2)
SETTING_B = Pretrain(
    method=Config(temperature=0.5, hidden=256, output=128),
    backbone=Backbone(name="resnet10", base_channels=16, stem="small", zero_init_residual=False),
    data=Data(name="mnist5k", size=32),
    views=(VIEW, VIEW),
    optim=Optim(name="sgd", lr=0.06, weight_decay=5e-4, warmup_epochs=0, vector_weight_decay=True),
    batch_size=256,
    epochs=36,
)
SETTING_A = replace(SETTING_B, backbone=Backbone(name="resnet18", stem="cifar"))
STEPS = {"B": 18, "A": 2}
REFERENCES = {
    "ref-i": "ref-i: Pillow and torchvision's v1 transforms in a DataLoader, float32",
    "ref-ii": "ref-ii: a bare loop, a batched augmentation of its own, float32",
    "ref-iii": "ref-iii: ref-ii in bfloat16",
    "ref-ii, same views": "ref-ii with the views of `bench`",
    "ref-iii, same views": "ref-iii with the views of `bench`",
}
# Images a second of CPU time on one core of an AMD EPYC with AVX512-BF16, 2026-11-22, torch 2.14.1: the fastest peer of
# lightly 1.6.0 (732 in setting B, 18.9 in A), solo-learn 1.0.6 (863, 24.5) and stable-pretraining 0.1.8 (1,057; 18.2),
# and the reference there. The goals of B are 1.65 and 2.4 within the 5 % that the loop may cost.
PEERS = {
    ("B", "fp32"): Published(
        peer="stable-pretraining 0.1.8 (batched)", peer_rate=1057, usual_rate=1744, at_least=0.95 * 1.65
    ),
    ("B", "bf16"): Published(
        peer="stable-pretraining 0.1.8 (batched)", peer_rate=1057, usual_rate=2556, at_least=0.95 * 2.4
    ),
    ("A", "bf16"): Published(peer="solo-learn 1.0.6", peer_rate=24.5, usual_rate=23.4, at_least=1.7),
}
CASES: list[tuple[str, Literal["fp32", "bf16"], str, float | None, Published | None]] = [
    ("B", "fp32", "ref-ii, same views", 0.95, None),
    ("B", "bf16", "ref-iii, same views", 0.95, None),
    ("B", "fp32", "ref-ii", 0.95, PEERS["B", "fp32"]),
    ("B", "bf16", "ref-iii", 0.95, PEERS["B", "bf16"]),
    ("B", "bf16", "ref-i", None, None),
    ("A", "bf16", "ref-ii", None, PEERS["A", "bf16"]),
]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Site:
    root = tmp_path_factory.mktemp("training")
    return Site(root=root, runs=root / "runs", output=root / "out", report=root / "report")


@pytest.fixture(scope="module")
def digits(here: Site) -> Arrays:
    split = open_split(SETTING_B.data, "train", here)
    assert isinstance(split, Arrays)
    return split


@pytest.fixture(scope="module")
def pngs(here: Site, digits: Arrays) -> Path:
    return references.write_pngs(digits, here.root / "pngs")


def bench_seconds(spec: Pretrain, here: Site, steps: int) -> float:
    """CPU seconds of `steps` steps of `bench`'s loop: between the calls asking after each step whether to stop."""
    run = RunFolder(here.runs / "measured")
    run.path.mkdir(parents=True, exist_ok=True)
    run.checkpoint.unlink(missing_ok=True)
    ticks: list[float] = []

    def should_stop() -> bool:
        ticks.append(time.process_time())
        return len(ticks) == steps + 1

    with pytest.raises(Stopped):
        loop.pretrain(spec, loop.Place(run, here, Ranks(), torch.device("cpu"), should_stop))
    # of the checkpoint when it stops; in a run there is one in so many seconds
    saving = time.process_time() - ticks[-1]
    assert len(ticks) == steps + 1, "the loop is expected to ask after every step"
    return (ticks[-1] - ticks[0]) * (1 + saving / checkpoint.SECONDS)


def reference_seconds(name: str, spec: Pretrain, digits: Arrays, pngs: Path, steps: int) -> float:
    if name == "ref-i":
        return references.train(spec, references.from_files(pngs, spec, steps + 1), channels_last=False, bf16=False)
    make = references.bench_views if name.endswith("same views") else references.plain_views
    batches = references.in_memory(digits, spec, steps + 1, make)
    return references.train(spec, batches, channels_last=True, bf16=name.startswith("ref-iii"))


def test_setting_b_is_that_of_the_peers() -> None:
    network = encoders.build(SETTING_B.backbone, seed=0)
    assert (encoders.parameters(network), network.feature_dim) == (307_536, 128)


@pytest.mark.benchmark(group="training", timer=time.process_time)
@pytest.mark.parametrize(
    ("setting", "precision", "reference", "at_least", "published"),
    CASES,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_loop(
    benchmark: Any,
    here: Site,
    digits: Arrays,
    pngs: Path,
    short: bool,
    rounds: int,
    setting: str,
    precision: Literal["fp32", "bf16"],
    reference: str,
    at_least: float | None,
    published: Published | None,
) -> None:
    spec = replace(SETTING_B if setting == "B" else SETTING_A, precision=precision)
    steps = STEPS[setting]
    if short:
        steps = 4 if setting == "B" else 1
        spec = replace(spec, batch_size=256 if setting == "B" else 32)
    goals: dict[Side, float] = {} if at_least is None else {"ratio at least": at_least}
    pairs(
        benchmark,
        f"setting {setting}, `bench`'s loop, {'float32' if precision == 'fp32' else 'bfloat16'}",
        lambda: bench_seconds(spec, here, steps),
        Usual(name=REFERENCES[reference], spent=lambda: reference_seconds(reference, spec, digits, pngs, steps)),
        unit="images/s",
        images=steps * spec.batch_size,
        rounds=min(rounds, 3) if setting == "A" else rounds,
        goals=goals,
        published=published,
        warm=setting == "B",
    )


@pytest.mark.benchmark(group="training", timer=time.process_time)
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")  # 3.13.1 mends it
@pytest.mark.parametrize("setting", ["B", "A"])
def test_compiled_encoder(benchmark: Any, here: Site, short: bool, rounds: int, setting: str) -> None:
    if short:
        pytest.skip("to compile takes a minute")
    spec = replace(SETTING_B if setting == "B" else SETTING_A, precision="bf16")
    steps = STEPS[setting]
    pairs(
        benchmark,
        f"setting {setting}, bfloat16, `compile = true`",
        lambda: bench_seconds(replace(spec, compile=True), here, steps),
        Usual(name="not compiled", spent=lambda: bench_seconds(spec, here, steps)),
        unit="images/s",
        images=steps * spec.batch_size,
        rounds=min(rounds, 3),
        note="the first step, which compiles, does not count",
    )
