from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import Context, Outcome, Subject
from bench.data import datasets, stream
from bench.data.datasets import open_split
from bench.data.loader import Plan, train_batches
from bench.data.splits import Arrays, Split, SplitData
from bench.errors import BenchError, Stopped
from bench.seeding import seed_of
from bench.spec import Augment
from evals import linear_augmented
from evals.linear_augmented import VARIANTS, Config, evaluate
from evals.parts.features import features_of
from tests.evals.known_answers import CLASSES, SIZE, Reader, as_files, own_place, small, splits, subject

ONE = Config(learning_rates=(2.0,), epochs=8, batch_size=32, start="zero")
MANY = replace(ONE, learning_rates=(0.02, 0.2, 2.0), weight_decays=(0.0, 1e-3))
Given = dict[Split, SplitData]


def given(made: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluate on these images."""
    monkeypatch.setitem(datasets.LOADERS, "mnist5k", lambda site, size: made)


def relabelled(made: Given, name: Split) -> Given:
    part = made[name]
    assert isinstance(part, Arrays)
    return {**made, name: Arrays(part.images, part.labels.roll(1), part.classes)}


@pytest.fixture
def place(context: Context, monkeypatch: pytest.MonkeyPatch) -> Context:
    given(splits(), monkeypatch)
    return small(context)


@pytest.fixture
def hard(context: Context, monkeypatch: pytest.MonkeyPatch) -> Context:
    """Images that nobody can tell for certain."""
    given(splits(doubt=40.0), monkeypatch)
    return small(context)


@pytest.mark.parametrize(
    "config", [ONE, MANY, replace(ONE, head="batchnorm_linear", start="uniform"), replace(ONE, optimizer="lars")]
)
def test_separable_images_give_100_percent(config: Config, place: Context) -> None:
    assert dict(evaluate(config, subject(), place).metrics) == {"top1": 100.0, "top5": 100.0, "best_epoch_top1": 100.0}


def test_random_labels_give_chance(place: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    given(splits(random_labels=True), monkeypatch)
    found = evaluate(MANY, subject(), place).metrics
    assert found["top1"] == pytest.approx(100 / CLASSES, abs=5 * 100 * math.sqrt((1 / 6) * (5 / 6) / 600))
    assert found["top5"] == pytest.approx(500 / CLASSES, abs=5 * 100 * math.sqrt((1 / 6) * (5 / 6) / 600))


def test_it_is_the_head_that_torch_trains_on_the_same_batches(hard: Context) -> None:
    config = Config(
        learning_rates=(0.5,),
        weight_decays=(1e-3,),
        epochs=4,
        batch_size=32,
        nesterov=True,
        warmup_epochs=1,
        start="zero",
    )
    reader = subject()
    found = evaluate(config, reader, hard)
    data = open_split(hard.data, "trainval", hard.site)
    plan = Plan(images=300, batch_size=32, seed=seed_of(0, "augmented heads"))
    layer = nn.Linear(CLASSES, CLASSES)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-3, nesterov=True)
    view = Augment(size=SIZE, crop_scale=(0.08, 1.0), flip=0.5)
    for step, batch in enumerate(train_batches(data, (view,), plan, range(4 * 9), hard.device, workers=0)):
        optimizer.param_groups[0]["lr"] = 0.5 * (0.5 + 0.5 * math.cos(math.pi * (step // 9) / 4)) * min(1.0, step / 9)
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(layer(reader.network(batch.views[0])), batch.labels))
        optimizer.step()
    x, y = features_of(reader, hard, splits=("test",))["test"]
    expected = 100 * float((layer(x).argmax(dim=1) == y).double().mean())
    assert found.metrics["top1"] == pytest.approx(expected, abs=0.2)  # rounding may move an image of 600
    assert 40 < expected < 70
    assert found.details["train_images"] == 300


def test_a_sweep_of_30_heads_passes_the_backbone_as_often_as_one(place: Context) -> None:
    counts = []
    for config in (
        replace(ONE, split="train"),
        replace(ONE, learning_rates=(0.01, 0.03, 0.1, 0.3, 1.0, 2.0), weight_decays=(0, 1e-6, 1e-5, 1e-4, 1e-3)),
    ):
        reader = subject()
        features_of(reader, place)  # the test and val features, shared with every other evaluation of the encoder
        network: Any = reader.network
        network.seen = 0
        evaluate(config, reader, place)
        counts.append(network.seen)
    assert counts == [8 * 224, 8 * 224]  # 8 epochs of the 7 whole batches of 32 in 240 images, and nothing else


def test_heads_are_chosen_on_val_and_never_on_test(
    hard: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weak = replace(MANY, epochs=2)
    found = evaluate(weak, subject(), hard)
    sweep: Any = found.details["sweep"]
    best = max(row["val_top1"] for row in sweep)
    first = next(row for row in sweep if row["val_top1"] == best)  # ties go to the first
    assert found.details["chosen"] == {**first, "by": "the held-out split"}
    assert len({row["val_top1"] for row in sweep}) > 1
    outcomes = []
    parts: tuple[Split, ...] = ("test", "val", "train")
    for number, name in enumerate(parts):
        given(relabelled(splits(doubt=40.0), name), monkeypatch)
        outcomes.append(evaluate(weak, subject(), own_place(hard, tmp_path / str(number))).details["sweep"])
    assert outcomes[0] == sweep
    assert outcomes[1] != sweep
    assert outcomes[2] != sweep


def test_one_head_trains_on_all_training_images_and_a_grid_not_on_the_held_out(
    hard: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def top1(config: Config, made: Given, name: str) -> tuple[Any, Any]:
        given(made, monkeypatch)
        found = evaluate(config, subject(), own_place(hard, tmp_path / name))
        return found.details["test_top1_by_epoch"], found.details["train_images"]

    weak = replace(ONE, learning_rates=(0.1,), epochs=2)
    plain, changed = splits(doubt=40.0), relabelled(splits(doubt=40.0), "val")
    assert top1(weak, plain, "a")[1] == 300
    assert top1(weak, plain, "b")[0] != top1(weak, changed, "c")[0]
    held = replace(weak, split="train")
    assert top1(held, plain, "d") == top1(held, changed, "e")
    assert top1(held, plain, "f")[1] == 240


def test_the_last_epoch_is_reported_and_the_best_kept_beside_it(hard: Context) -> None:
    rough = replace(ONE, learning_rates=(300.0,), schedule="milestones", milestones=(99,), batch_size=8, epochs=6)
    found = evaluate(rough, subject(), hard)
    by_epoch: Any = found.details["test_top1_by_epoch"]
    assert found.metrics["top1"] == pytest.approx(by_epoch[-1])
    assert found.metrics["best_epoch_top1"] == max(by_epoch)
    assert found.details["best_epoch"] == by_epoch.index(max(by_epoch)) + 1
    assert len(by_epoch) == 6
    assert by_epoch[-1] < max(by_epoch)  # or this test would not tell them apart
    assert "last epoch, or does not say" in str(found.details["paper_prints"])
    assert "best epoch" in str(
        evaluate(replace(rough, best_epoch_reported=True), subject(), hard).details["paper_prints"]
    )


def lines(context: Context) -> list[dict[str, float]]:
    assert context.folder is not None
    found = [json.loads(line) for line in (context.folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("img_s", "seconds") and not key.endswith("_ms")}
        for line in found
    ]


def stopping(after: int) -> Iterator[bool]:
    """False `after` times, then True."""
    for _ in range(after):
        yield False
    while True:
        yield True


@pytest.mark.parametrize(
    "config", [MANY, replace(MANY, head="batchnorm_linear", nesterov=True), replace(ONE, optimizer="lars")]
)
def test_a_resumed_run_ends_with_the_digits_of_an_undisturbed_one(
    config: Config, hard: Context, tmp_path: Path
) -> None:
    weak = replace(config, learning_rates=tuple(rate / 10 for rate in config.learning_rates), epochs=3, start="normal")
    whole, broken = own_place(hard, tmp_path / "whole"), own_place(hard, tmp_path / "broken")
    expected = evaluate(weak, subject(), whole)
    images: Any = expected.details["train_images"]
    total: int = 3 * (images // 32)
    found: Outcome | None = None
    for pause in (0, 4, 9, total):  # in the middle of an epoch, at its end or beyond, and never
        answers = stopping(pause)
        try:
            found = evaluate(weak, subject(), replace(broken, should_stop=lambda answers=answers: next(answers)))  # type: ignore[misc]
        except Stopped:
            continue
    assert found is not None
    assert found == expected
    assert lines(broken) == lines(whole)
    assert [line["step"] for line in lines(whole)] == list(range(1, total + 1))


def test_a_stop_after_the_last_step_loses_nothing(place: Context, tmp_path: Path) -> None:
    whole, broken = own_place(place, tmp_path / "whole"), own_place(place, tmp_path / "broken")
    expected = evaluate(ONE, subject(), whole)
    answers = stopping(8 * 9 - 1)
    with pytest.raises(Stopped):
        evaluate(ONE, subject(), replace(broken, should_stop=lambda: next(answers)))
    resumed = subject()
    assert evaluate(ONE, resumed, broken) == expected
    network: Any = resumed.network
    assert network.seen == 0


def test_the_seed_decides_crops_order_and_start(hard: Context) -> None:
    weak = replace(ONE, learning_rates=(0.01,), start="normal", epochs=1)
    first, again, other = (evaluate(weak, subject(), replace(hard, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_images_are_cropped_and_flipped_and_nothing_else(place: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def recorded(split: Any, views: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(views)
        return train_batches(split, views, *args, **kwargs)

    monkeypatch.setattr(stream, "train_batches", recorded)
    evaluate(replace(ONE, epochs=1, crop_scale=(0.2, 1.0), flip=0.5), subject(), place)
    assert asked == [(Augment(size=SIZE, crop_scale=(0.2, 1.0), flip=0.5, jitter=0.0),)]
    assert VARIANTS["simclr"]["embedded"].flip == 0  # digits are not mirror-symmetric


def test_files_on_disk_give_the_same_answer(place: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given(as_files(splits(sizes=(60, 30, 60)), tmp_path), monkeypatch)
    assert evaluate(replace(ONE, epochs=20, batch_size=16), subject(), place).metrics["top1"] == 100.0


class _Linear(Reader):
    """A backbone with a layer that autocast touches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(CLASSES, CLASSES)
        self.kinds: list[torch.dtype] = []

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.layer(super().forward(images))
        self.kinds.append(out.dtype)
        assert not self.training
        assert not out.requires_grad
        return out


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("fp32", torch.float32), ("tf32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)],
)
def test_the_backbone_runs_in_the_precision_asked_for_without_gradient(
    precision: Any, expected: torch.dtype, place: Context
) -> None:
    network = _Linear().eval()  # its parameters ask for gradients
    reader = Subject(key="linear", network=network, feature_dim=CLASSES)
    features_of(reader, place, splits=("test",))
    network.kinds.clear()
    evaluate(replace(ONE, epochs=1, precision=precision), reader, place)
    assert set(network.kinds) == {expected}


def test_a_head_that_diverges_is_named_and_in_a_sweep_never_chosen(place: Context) -> None:
    wild = replace(ONE, weight_decays=(1e6,), learning_rates=(1e3,), epochs=12)
    with pytest.raises(BenchError, match="diverged"):
        evaluate(wild, subject(), place)
    found = evaluate(replace(wild, weight_decays=(0.0, 1e6), learning_rates=(0.002, 1e3)), subject(), place)
    sweep: Any = found.details["sweep"]
    assert sweep[3]["val_top1"] is None
    assert found.metrics["top1"] > 50
    json.dumps(found.details, allow_nan=False)


def test_images_with_several_labels_are_refused(place: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {
        name: Arrays(part.images, F.one_hot(part.labels, CLASSES).to(torch.int8), CLASSES)
        for name, part in splits().items()
        if isinstance(part, Arrays)
    }
    given(dict(made), monkeypatch)
    with pytest.raises(BenchError, match="mnist5k has several labels an image"):
        evaluate(ONE, subject(), place)


# Name: peak rate after scaling, decay, batch, epochs, crop from, initial weights, of the papers and codes named in the
# file.
PUBLISHED = {
    "simclr": (1.6, 0.0, 4096, 90, 0.08, "zero"),
    "barlow_twins": (0.3, 1e-6, 256, 100, 0.08, "normal"),
    "vicreg": (0.02, 1e-6, 256, 100, 0.08, "normal"),
    "twist": (0.2, 0.0, 1024, 100, 0.08, "normal"),
    "twist_vit": (0.08, 0.0, 1024, 100, 0.08, "normal"),
    "twist_vit_base": (0.006, 0.0, 1024, 100, 0.08, "normal"),
    "directclr": (0.1, 1e-6, 256, 100, 0.08, "normal"),
    "fnc": (0.16, 0.0, 1024, 90, 0.2, "zero"),
    "truncated_triplet_short": (0.15, 0.0, 256, 100, 0.08, "normal"),
    "truncated_triplet_long": (0.04, 0.0, 256, 100, 0.08, "normal"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_published_settings(name: str) -> None:
    config = VARIANTS[name]["paper"]
    rate, decay, batch, epochs, crop, start = PUBLISHED[name]
    assert config.grid[0] == pytest.approx((rate, decay))
    assert len(config.grid) == 1
    assert (config.batch_size, config.epochs, config.crop_scale[0], config.start) == (batch, epochs, crop, start)
    assert config.nesterov == (name in {"simclr", "fnc"})
    others = {"simclr": "cosine_step", "fnc": "cosine_step", "directclr": "constant"}
    assert config.schedule == others.get(name, "cosine_epoch")
    assert config.best_epoch_reported == (
        name in {"barlow_twins", "vicreg", "twist", "twist_vit", "twist_vit_base", "directclr"}
    )
    assert round(224 * config.test_resize) == 256
    assert config.trained_on == "trainval"
    text = config.describe()
    assert f"batch {batch}, {epochs} epochs" in text
    assert ("prints the best epoch" in text) == config.best_epoch_reported
    assert ("10 epochs of warm-up" in text) == name.startswith("truncated")
    assert ("last 4 blocks" in text) == name.startswith("twist_vit")


def test_variants_are_one_job_where_they_are_the_same() -> None:
    assert PUBLISHED.keys() == VARIANTS.keys()
    for scale in ("embedded", "cifar"):
        assert {recipes[scale] for recipes in VARIANTS.values()} == {linear_augmented.RECIPES[scale]}
    text = linear_augmented.RECIPES["embedded"].describe()
    assert "best of 7 rates and decays on the held-out split" in text
    assert "flips" not in text


def test_the_probes_of_simclr_and_fnc_draw_crops_as_tensorflow_and_the_others_as_torchvision() -> None:
    """Their codes cut training images with tf.image.sample_distorted_bounding_box also under a frozen network."""
    drawn_as = {name: config["paper"].view(224).crop for name, config in VARIANTS.items()}
    assert {name for name, crop in drawn_as.items() if crop == "tensorflow"} == {"simclr", "fnc"}
    assert {config[scale].view(32).crop for config in VARIANTS.values() for scale in ("embedded", "cifar")} == {
        "torchvision"
    }
    assert "drawn as TensorFlow does" in VARIANTS["simclr"]["paper"].describe()
    with pytest.raises(BenchError, match="unknown crop_sampler of linear_augmented 'pillow'"):
        Config(crop_sampler="pillow")  # type: ignore[arg-type]


def test_heads_are_trained_on_crops_of_the_sampler_that_was_asked_for(
    place: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.42 of a square image on average instead of 0.48: the loop hands the choice on to the loader."""
    asked: list[Augment] = []

    def batches(data: SplitData, views: tuple[Augment, ...], *rest: Any, **more: Any) -> Iterator[Any]:
        asked.extend(views)
        return train_batches(data, views, *rest, **more)

    monkeypatch.setattr(stream, "train_batches", batches)
    evaluate(replace(ONE, epochs=1, crop_sampler="tensorflow"), subject(), place)
    assert [view.crop for view in asked] == ["tensorflow"]
