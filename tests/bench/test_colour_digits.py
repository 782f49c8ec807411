"""The digits in flat colours (tflat), and what tables about colour become at each scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor

from bench.data.catalogue import entry
from bench.data.datasets import open_split
from bench.data.location import check_present
from bench.data.sets import digits
from bench.data.sets.digits import CONTRAST, flat_colours
from bench.data.splits import SPLITS, Arrays, Split
from bench.data.views.colour import GRAY_WEIGHTS
from bench.errors import BenchError
from bench.planning.scales import SCALES
from bench.planning.translate import Change, encoder
from bench.settings.site import Site
from bench.spec import Augment, Data, Pretrain
from methods.parts.views import autoaugment, colour_distortion

FLAT, GRAY = Data(name="tflat", size=32), Data(name="mnist5k", size=32)


def opened(data: Data, split: Split, here: Site) -> Arrays:
    return cast(Arrays, open_split(data, split, here))


def luma(colours_N3: Tensor) -> Tensor:
    return colours_N3 @ torch.tensor(GRAY_WEIGHTS)


@pytest.mark.parametrize("split", SPLITS)
def test_the_digits_and_splits_are_those_of_mnist5k(split: Split, here: Site) -> None:
    flat, gray = opened(FLAT, split, here), opened(GRAY, split, here)
    assert torch.equal(flat.labels, gray.labels)
    assert (flat.images.dtype, flat.images.shape, flat.classes) == (torch.uint8, gray.images.shape, 10)
    # Between the two colours of its image every pixel lies as far as the gray one between black and white.
    ground, ink = (
        flat.images[:, :, 0, 0].float(),
        torch.stack(
            [i.flatten(1)[:, g[0].argmax()] for i, g in zip(flat.images.float(), gray.images.flatten(2), strict=True)]
        ),
    )
    share = gray.images[:, :1].float() / 255
    share = share / share.amax(dim=(2, 3), keepdim=True)
    expected = ground[:, :, None, None] + (ink - ground)[:, :, None, None] * share
    assert float((flat.images - expected).abs().max()) <= 1.01  # both ends are rounded


@pytest.mark.parametrize("split", SPLITS)
def test_every_digit_is_lighter_than_its_ground_by_enough_to_be_read(split: Split, here: Site) -> None:
    flat, gray = opened(FLAT, split, here), opened(GRAY, split, here)
    ground = flat.images[:, :, 0, 0].float() / 255
    full = gray.images[:, 0].flatten(1).argmax(dim=1)
    ink = flat.images.float().flatten(2)[torch.arange(len(flat)), :, full] / 255
    peak = gray.images[:, 0].flatten(1).amax(dim=1) / 255
    assert bool((luma(ink) - luma(ground) > CONTRAST * peak - 0.01).all())


def test_colours_are_random_and_tell_nothing_of_the_class(here: Site) -> None:
    flat = opened(FLAT, "train", here)
    ground = flat.images[:, :, 0, 0].float() / 255
    assert len({tuple(colour) for colour in flat.images[:, :, 0, 0].tolist()}) > 3400
    means = torch.stack([ground[flat.labels == c].mean(dim=0) for c in range(10)])
    error = ground.std(dim=0) / 350**0.5
    assert bool(((means - ground.mean(dim=0)).abs() < 4.5 * error).all())


def test_colours_are_uniform_among_the_pairs_with_enough_contrast() -> None:
    ink, ground = flat_colours(20_000, torch.Generator().manual_seed(0))
    difference = luma(ink) - luma(ground)
    assert float(difference.min()) >= CONTRAST
    assert float(ink.min()) >= 0
    assert float(ink.max()) <= 1
    pairs = torch.rand(400_000, 2, 3, generator=torch.Generator().manual_seed(1))
    kept = pairs[luma(pairs[:, 0]) - luma(pairs[:, 1]) >= CONTRAST]
    for ours, theirs in ((ink, kept[:, 0]), (ground, kept[:, 1])):
        torch.testing.assert_close(ours.mean(dim=0), theirs.mean(dim=0), rtol=0, atol=0.012)
        torch.testing.assert_close(ours.std(dim=0), theirs.std(dim=0), rtol=0, atol=0.012)


def test_every_job_sees_the_same_colours(here: Site) -> None:
    first = opened(FLAT, "val", here).images
    digits.tflat.cache_clear()
    again = opened(FLAT, "val", here).images
    assert first is not again
    assert torch.equal(first, again)
    # splits have colours of their own
    assert not torch.equal(first[:100, :, 0, 0], opened(FLAT, "test", here).images[:100, :, 0, 0])
    # another colour is another data set: records would lie
    assert opened(FLAT, "train", here).images[0, :, 0, 0].tolist() == [
        235,
        18,
        3,
    ]


def test_the_catalogue_says_what_is_there(here: Site) -> None:
    check_present("tflat", here)
    known = entry("tflat")
    assert (known.train_images, known.classes) == (len(opened(FLAT, "train", here)), 10)
    with pytest.raises(BenchError, match="tflat has images of 32 px, the spec asks for 28"):
        open_split(replace(FLAT, size=28), "train", here)


# -- tables about colour ---------------------------------------------------------------------------------------------


def views_of(
    scale: str, method: str, fields_of_view: Mapping[str, object], dataset: str = "imagenet-colour"
) -> tuple[Augment, ...]:
    made = encoder(
        SCALES[scale],
        method,
        network="resnet50",
        width=1,
        epochs=None,
        dataset=dataset,
        seed=0,
        changes=[Change(views=fields_of_view)],
    )
    assert isinstance(made, Pretrain)
    return made.views


@pytest.mark.parametrize(
    ("scale", "name"), [("embedded", "tflat"), ("smoke", "tflat"), ("cifar", "cifar10"), ("paper", "imagenet")]
)
def test_imagenet_in_colour_is_translated_at_every_scale(scale: str, name: str) -> None:
    made = encoder(SCALES[scale], "simclr", network="resnet50", width=1, epochs=None, dataset="imagenet-colour", seed=0)
    assert isinstance(made, Pretrain)
    assert made.data.name == name


def test_simclrs_colour_distortion_has_the_published_values() -> None:
    full = {"jitter": 0.8, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "gray": 0.2, "blur": 0.5}
    assert colour_distortion(1, blur=0.5) == full
    eighth = {
        "jitter": 0.8,
        "brightness": 0.1,
        "contrast": 0.1,
        "saturation": 0.1,
        "hue": 0.025,
        "gray": 0.2,
        "blur": 0.0,
    }
    assert colour_distortion(1 / 8) == eighth
    default = encoder(SCALES["paper"], "simclr", network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0)
    assert isinstance(default, Pretrain)
    assert views_of("paper", "simclr", full) == default.views  # strength 1 with blur is the paper's default


def test_autoaugment_replaces_the_whole_colour_distortion() -> None:
    for scale in SCALES:
        for view in views_of(scale, "simclr", autoaugment()):
            assert view.policy == "autoaugment"
            assert (view.brightness, view.contrast, view.saturation, view.hue, view.gray, view.blur) == (0,) * 6
    assert views_of("paper", "supervised", autoaugment()) == (Augment(size=224, policy="autoaugment"),)


def test_only_flat_colours_turn_gray_half_of_the_time() -> None:
    grays = {scale: {view.gray for view in views_of(scale, "simclr", colour_distortion(1 / 2))} for scale in SCALES}
    assert grays == {"embedded": {0.5}, "smoke": {0.5}, "cifar": {0.2}, "paper": {0.2}}
    assert {view.gray for view in views_of("embedded", "simclr", colour_distortion(1 / 2), dataset="imagenet")} == {0.2}


def test_a_caveat_names_only_the_data_of_its_table() -> None:
    scale = SCALES["embedded"]
    assert "tflat stands in for ImageNet, so" in scale.caveat(["imagenet-colour"])
    assert "mnist5k" not in scale.caveat(["imagenet-colour"])
    assert "mnist5k stands in for ImageNet, so" in scale.caveat(["imagenet"])
    assert scale.caveat(["imagenet", "imagenet-colour"]).startswith("This is not ImageNet. ")
    assert SCALES["paper"].caveat(["imagenet-colour"]) == ""


@pytest.mark.parametrize(
    ("scale", "share", "expected"),
    [
        ("paper", None, 100),
        ("paper", 100, 100),
        ("embedded", None, 0.1),
        ("embedded", 100, 1.0),
        ("embedded", 200, 0.5),
    ],
)
def test_a_full_run_shrinks_to_the_whole_recipe_away_from_the_published_scale(
    scale: str, share: float | None, expected: float
) -> None:
    arguments = {"network": "resnet50", "width": 1, "dataset": "imagenet-colour", "seed": 0}
    whole = encoder(SCALES[scale], "simclr", epochs=None, **arguments)  # type: ignore[arg-type]
    found = encoder(SCALES[scale], "simclr", epochs=100, full_run=share, **arguments)  # type: ignore[arg-type]
    assert isinstance(whole, Pretrain)
    assert isinstance(found, Pretrain)
    assert found.epochs == pytest.approx(expected if scale == "paper" else expected * whole.epochs)
