from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from bench.contracts import Attempt, Context, Subject
from bench.data import datasets
from bench.data.splits import Arrays, Split, SplitData
from bench.errors import Stopped
from bench.runs.folder import RunFolder
from bench.training.checkpoint import spent_before
from evals.linear_transfer import METRICS, RECIPES, VARIANTS, Config, evaluate
from tests.evals.known_answers import CLASSES, own_place, small, splits, subject, told

PLAIN = Config(
    learning_rates=(0.1,), weight_decays=(5e-4,), epochs=6, batch_size=32, schedule="milestones", milestones=(2, 4)
)


@pytest.fixture
def place(context: Context, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setitem(datasets.LOADERS, "mnist5k", lambda site, size: splits())
    return small(context)


def test_separable_images_give_100_percent(place: Context) -> None:
    assert dict(evaluate(PLAIN, subject(), place).metrics) == {"top1": 100.0, "top5": 100.0, "mean_class_top1": 100.0}


def test_random_labels_give_chance(place: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(datasets.LOADERS, "mnist5k", lambda site, size: splits(random_labels=True))
    found = evaluate(PLAIN, subject(), place).metrics
    for name in ("top1", "mean_class_top1"):
        assert found[name] == pytest.approx(100 / CLASSES, abs=8)


def long_tailed(classes: int, counts: list[int]) -> dict[Split, SplitData]:
    """Every class but the first is half mixed up with it: the frequent class wins."""
    rng = torch.Generator().manual_seed(1)
    made: dict[Split, SplitData] = {}
    names: tuple[Split, ...] = ("train", "val", "test")
    for name in names:
        labels = torch.arange(classes).repeat_interleave(torch.tensor(counts))
        labels = labels[torch.randperm(len(labels), generator=rng)]
        shown = torch.where(torch.rand(len(labels), generator=rng) < 0.6, torch.zeros_like(labels), labels)
        made[name] = Arrays(told(shown, rng), labels, classes)
    return made


def test_the_mean_over_classes_is_told_from_top_1_on_long_tails(
    place: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(datasets.LOADERS, "mnist5k", lambda site, size: long_tailed(6, [300, 20, 20, 20, 20, 20]))
    found = evaluate(PLAIN, subject(), place).metrics
    assert found["top1"] == pytest.approx(100 * (300 + 0.4 * 100) / 400, abs=4)
    assert found["mean_class_top1"] == pytest.approx(100 * (1 + 5 * 0.4) / 6, abs=10)
    assert set(found) == set(METRICS)


def test_top_5_needs_five_classes(place: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(datasets.LOADERS, "mnist5k", lambda site, size: long_tailed(4, [40, 40, 40, 40]))
    assert set(evaluate(PLAIN, subject(), place).metrics) == {"top1", "mean_class_top1"}


def test_badly_scaled_features_do_no_harm_because_of_the_batch_norm(place: Context) -> None:
    class Scaled(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = subject().network(images) * 0.1 + 50
            return out

    scaled = Subject(key="scaled", network=Scaled().eval(), feature_dim=CLASSES)
    longer = replace(PLAIN, epochs=30, milestones=(10, 20))  # running statistics take a hundred steps to reach 50
    assert evaluate(longer, scaled, place).metrics["top1"] == 100.0
    assert evaluate(replace(longer, head="linear"), scaled, place).metrics["top1"] < 50.0


def test_a_resumed_run_keeps_the_statistics_of_the_batch_norm(
    place: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setitem(datasets.LOADERS, "mnist5k", lambda site, size: splits(doubt=40.0))
    weak = replace(PLAIN, learning_rates=(0.001,), epochs=3, milestones=(1, 2))
    whole, broken = own_place(place, tmp_path / "whole"), own_place(place, tmp_path / "broken")
    expected = evaluate(weak, subject(), whole)
    with pytest.raises(Stopped):
        evaluate(
            weak,
            subject(),
            replace(broken, should_stop=lambda: True, attempt=Attempt(began=time.monotonic() - 1e6)),
        )
    assert broken.folder is not None
    assert spent_before(RunFolder(broken.folder)).seconds > 1e6
    assert evaluate(weak, subject(), broken) == expected


# Name: rate, decay, epochs, milestones: Barlow Twins' appendix C.1, VISSL's two configs, VICReg's appendix C.3.
PUBLISHED: dict[str, tuple[float, float, int, tuple[float, ...]]] = {
    "barlow_twins_places205": (0.01, 5e-4, 14, (14 / 3, 28 / 3)),
    "barlow_twins_inat18": (0.01, 5e-4, 84, (28, 56)),
    "vissl_places205": (0.01, 5e-4, 14, (4, 8, 12)),
    "vissl_inat18": (0.01, 5e-4, 84, (24, 48, 72)),
    "vicreg_places205": (0.003, 1e-4, 28, (4, 8, 12)),
    "vicreg_inat18": (0.005, 1e-4, 84, (24, 48, 72)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_published_settings(name: str) -> None:
    config = VARIANTS[name]["paper"]
    rate, decay, epochs, milestones = PUBLISHED[name]
    assert config.grid == ((rate, decay),)
    assert (config.epochs, config.milestones, config.factor, config.batch_size) == (epochs, milestones, 0.1, 256)
    assert (config.head, config.start, config.nesterov, config.decay_bias) == (
        "batchnorm_linear",
        "uniform",
        True,
        True,
    )
    text = config.describe()
    assert "batch norm and linear classifier" in text
    assert f"rate x 0.1 at epochs {', '.join(f'{m:g}' for m in milestones)}" in text
    assert {recipes["embedded"] for recipes in VARIANTS.values()} == {RECIPES["embedded"]}
