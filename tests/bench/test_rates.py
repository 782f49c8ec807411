from __future__ import annotations

from dataclasses import replace

import pytest

from bench.costs.history import pairs
from bench.costs.rates import RELATIVE, listed, own
from bench.networks.vit import VITS
from bench.planning.scales import SCALES
from bench.spec import Backbone

R50 = Backbone(name="resnet50")


def hours_of_100_epochs(images_per_second: float) -> float:
    return 100 * 1_281_167 / images_per_second / 3600 / 32


@pytest.mark.parametrize(
    ("method", "hours"), [("vicreg", 11), ("byol", 10), ("swav", 9), ("barlow_twins", 12.4), ("directclr", 7)]
)
def test_a_method_with_published_hours_takes_them(method: str, hours: float) -> None:
    rate = listed(R50, 224, method)
    assert rate.kind == "published"
    assert hours_of_100_epochs(rate.images_per_second) == pytest.approx(hours)
    assert "V100" in rate.source
    assert not rate.scaled


def test_views_by_their_area_give_the_published_hours_of_multi_crop() -> None:
    views = pairs([224] * 2 + [96] * 6, 224)
    published = 13  # VICReg's table 14, SwAV with multi-crop; 9 without
    assert hours_of_100_epochs(own()["swav"].rate.images_per_second) * views == pytest.approx(published, rel=0.08)


def test_another_network_is_a_guess_that_says_from_what() -> None:
    wide = listed(replace(R50, width=2), 224, "vicreg")
    assert (wide.kind, wide.scaled) == ("guessed", ("channels squared",))
    assert wide.images_per_second == pytest.approx(listed(R50, 224).images_per_second / 4)
    deep = listed(Backbone(name="resnet101"), 224)
    assert (deep.kind, deep.scaled) == ("guessed", ("multiply-adds",))
    assert "Barlow Twins" in deep.why
    assert deep.why.endswith("scaled with multiply-adds")
    guess = listed(Backbone(name="resnet18", stem="cifar"), 32)
    assert (guess.kind, guess.device, guess.images_per_second) == ("guessed", "GPU", 640.0)


def test_larger_images_and_finer_stems_cost_by_their_pixels() -> None:
    half = listed(R50, 112)
    assert half.images_per_second == pytest.approx(4 * listed(R50, 224).images_per_second)
    assert half.scaled == ("pixels",)
    # Strides of 1 where the ImageNet stem has 4: a feature map of 32 px as behind 128.
    assert listed(replace(R50, stem="cifar"), 32).images_per_second == pytest.approx(listed(R50, 128).images_per_second)


def test_what_this_project_measured_is_no_measurement_of_here() -> None:
    rate = listed(SCALES["embedded"].networks["resnet50"], 32, "barlow_twins")
    assert (rate.kind, rate.device, rate.images_per_second) == ("measured elsewhere", "core", 2900.0)


def test_every_network_of_every_scale_has_a_rate() -> None:
    for scale in SCALES.values():
        for backbone in scale.networks.values():
            rate = listed(backbone, scale.data["imagenet"].size)
            assert rate.images_per_second > 0
            assert rate.source
    assert {"vit_digits", *RELATIVE} >= set(VITS)
