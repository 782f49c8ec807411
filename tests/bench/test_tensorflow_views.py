"""Views as TensorFlow makes them, a batch on a device and an image on a CPU, against formulas in float64."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from bench.data.views import augment, draws, exact, photo
from bench.data.views.crops import boxes, pixel_box
from bench.data.views.draws import Draw
from bench.spec import Augment

SIZE, COUNT = 20, 12
LEVEL = 0.5 / 255 + 5e-6  # what is rounded to 8 bits once
Kind = Literal["tensorflow", "tensorflow_multiplied"]
KINDS: tuple[Kind, ...] = ("tensorflow", "tensorflow_multiplied")
STRONG = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
PLAIN = Augment(size=SIZE, crop_scale=(1.0, 1.0), flip=0.0, jitter=1.0)
Way = Callable[[Tensor, Augment, Draw], Tensor]


def on_device(crops: Tensor, view: Augment, drawn: Draw) -> Tensor:
    return augment.finish(crops, view, drawn)


def in_memory(crops: Tensor, view: Augment, drawn: Draw) -> Tensor:
    return augment.apply(crops, replace(view, crop_ratio=(1.0, 1.0)), replace(drawn, ratio_BT=drawn.ratio_BT * 0 + 1))


def on_cpu(crops: Tensor, view: Augment, drawn: Draw) -> Tensor:
    out = torch.empty_like(crops)
    for crop, row, made in zip(crops, drawn.images(), out, strict=True):
        photo.painter(view.size).paint(crop, view, row, made)
    return out.double() / 255


def by_pillow(crops: Tensor, view: Augment, drawn: Draw) -> Tensor:
    return (
        torch.stack([exact.view(crop, view, row) for crop, row in zip(crops, drawn.images(), strict=True)]).double()
        / 255
    )


WAYS = pytest.mark.parametrize(
    ("way", "tolerance"), [(on_device, 5e-6), (in_memory, 5e-6), (on_cpu, LEVEL), (by_pillow, LEVEL)]
)


def noise() -> Tensor:
    """Colours of every kind, grays and black among them."""
    rng, tint = torch.Generator().manual_seed(4), torch.tensor([255, 150, 60])[:, None, None]
    crops = (torch.rand(COUNT, 3, SIZE, SIZE, generator=rng) * tint).to(torch.uint8)
    crops[:, :, :2] = crops[:, :1, :2]
    crops[:, :, 2] = 0
    return crops


def drawn_for(view: Augment, count: int = COUNT) -> Draw:
    return draws.draw(view, count, torch.Generator().manual_seed(7))


def by_hand(crop: Tensor, view: Augment, row: draws.OneDraw) -> Tensor:
    """tf.image's operations in the drawn order, each clipped: float64, saturation and hue by colorsys."""
    x = crop.double() / 255
    active = (view.brightness, view.contrast, view.saturation, view.hue)
    for operation in row.order if row.jitter else ():
        factor = row.factors[operation]
        if not active[operation]:
            continue
        if operation == 0:
            x = x + factor if view.colour == "tensorflow" else x * factor
        elif operation == 1:
            mean = x.mean(dim=(1, 2), keepdim=True)
            x = factor * (x - mean) + mean
        else:
            pixels = []
            for pixel in x.flatten(1).T.tolist():
                hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
                if operation == 2:
                    saturation = min(max(saturation * factor, 0.0), 1.0)
                else:
                    hue = (hue + factor) % 1
                pixels.append(colorsys.hsv_to_rgb(hue, saturation, value))
            x = torch.tensor(pixels, dtype=torch.float64).T.reshape(x.shape)
        x = x.clamp(0, 1)
    return x


@WAYS
@pytest.mark.parametrize("name", [*STRONG, "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_jitter_is_tf_images(way: Way, tolerance: float, name: str, kind: Kind) -> None:
    changes: dict[str, Any] = STRONG if name == "all" else {name: STRONG[name]}
    view = replace(PLAIN, colour=kind, jitter=0.8 if name == "all" else 1.0, **changes)
    crops, drawn = noise(), drawn_for(view)
    expected = torch.stack([by_hand(crop, view, row) for crop, row in zip(crops, drawn.images(), strict=True)])
    torch.testing.assert_close(way(crops, view, drawn).double(), expected, rtol=0, atol=tolerance)
    torchvisions = way(crops, replace(view, colour="torchvision"), drawn).double()
    if name != "hue" and (name, kind) != ("brightness", "tensorflow_multiplied"):
        assert float((torchvisions - expected).abs().mean()) > 3 / 255  # so the choice matters


@WAYS
def test_added_brightness_moves_the_mean_twice_as_far_as_multiplied(way: Way, tolerance: float) -> None:
    """On a mean of 0.45: +-0.8, evenly, has a standard deviation of 0.46, and 0.45 times 0.2 to 1.8 one of 0.21."""
    count, mean = 4000, 115 / 255
    crops = torch.full((count, 3, 4, 4), 115, dtype=torch.uint8)
    for kind in KINDS:
        spread = (1 if kind == "tensorflow" else mean) * 0.8 / math.sqrt(3)
        view = replace(PLAIN, size=4, colour=kind, brightness=0.8)
        drawn = drawn_for(view, count)
        factor = drawn.factor_B4[:, 0].double()
        moved = mean + factor if kind == "tensorflow" else mean * factor
        assert float(moved.std()) == pytest.approx(spread, rel=0.02)
        assert round(spread, 2) == (0.46 if kind == "tensorflow" else 0.21)
        found = way(crops, view, drawn).double().mean(dim=(1, 2, 3))
        torch.testing.assert_close(found, moved.clamp(0, 1), rtol=0, atol=tolerance)


def test_what_is_drawn_besides_brightness_does_not_depend_on_the_colours() -> None:
    plain, added = (drawn_for(replace(PLAIN, colour=kind, **STRONG)) for kind in ("torchvision", "tensorflow"))  # type: ignore[arg-type]
    assert torch.equal(plain.factor_B4[:, 1:], added.factor_B4[:, 1:])
    assert torch.equal(plain.order_B4, added.order_B4)
    torch.testing.assert_close(plain.factor_B4[:, 0] - 1, added.factor_B4[:, 0])


def mean_area(scale: tuple[float, float]) -> tuple[float, float]:
    """Of a square image: the mean share of tf.image's crops, and the part of them below 0.2, by summing over a grid."""
    count, shares = 2000, []
    for ratio in ((index + 0.5) / count * (4 / 3 - 3 / 4) + 3 / 4 for index in range(count)):
        high = min(1.0, 1 / ratio, math.sqrt(scale[1] / ratio))
        low = min(math.sqrt(scale[0] / ratio), high)
        heights = low + (high - low) * (torch.arange(count, dtype=torch.float64) + 0.5) / count
        area = heights.square() * ratio
        shares.append(area[area >= 0.1])  # min_object_covered
    found = torch.cat(shares)
    return float(found.mean()), float((found < 0.2).double().mean())


def test_crops_of_square_images_have_tensorflows_areas() -> None:
    count, view = 20_000, Augment(size=32, crop="tensorflow")
    drawn = drawn_for(view, count)
    mean, small = mean_area((0.08, 1.0))
    assert (round(mean, 2), round(small, 2)) == (0.42, 0.21)
    shares = boxes(view, drawn, torch.ones(count)).double()
    whole = torch.tensor([pixel_box(view, row, 500, 500) for row in drawn.images()]).double() / 500
    for found in (shares, whole):
        area = found[:, 2] * found[:, 3]
        assert float(area.mean()) == pytest.approx(mean, abs=0.006)
        assert float((area < 0.2).double().mean()) == pytest.approx(small, abs=0.012)
    same = (shares - whole).abs().amax(dim=1) < 0.006
    assert float(same.double().mean()) > 0.995  # but where a try shows a tenth of the image within a pixel
    plain = replace(view, crop="torchvision")
    usual = boxes(plain, drawn_for(plain, count), torch.ones(count))
    assert float((usual[:, 2] * usual[:, 3]).mean()) == pytest.approx(0.48, abs=0.01)


@pytest.mark.parametrize(("height", "width"), [(500, 375), (333, 500), (32, 32), (1200, 200), (7, 9)])
def test_crops_in_pixels_obey_tensorflows_sampler(height: int, width: int) -> None:
    view = Augment(size=32, crop="tensorflow", crop_scale=(0.2, 0.9))
    for row in drawn_for(view, 500).images():
        top, left, h, w = pixel_box(view, row, height, width)
        assert 0 <= top <= height - h
        assert 0 <= left <= width - w
        if (h, w) != (height, width):
            assert any(w == round(h * ratio) for ratio in row.ratios)
            assert 0.2 <= h * w / (height * width) <= 0.9
    least = replace(view, crop_scale=(0.01, 0.05))  # less than the tenth that a crop must show
    assert {pixel_box(least, row, height, width) for row in drawn_for(least, 50).images()} == {(0, 0, height, width)}
    shares = boxes(least, drawn_for(least, 50), torch.full((50,), width / height))
    assert torch.equal(shares, torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(50, 4))


def test_only_the_crop_depends_on_its_sampler() -> None:
    plain, other = (drawn_for(replace(PLAIN, crop=crop)) for crop in ("torchvision", "tensorflow"))
    assert torch.equal(plain.corner_B2, other.corner_B2)
    assert torch.equal(plain.factor_B4, other.factor_B4)
