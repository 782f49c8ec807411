"""Both fast ways (a batch on a device, an image on a CPU) against Pillow for the same parameters, on real photographs.

Bounds are mean absolute differences in levels of 255; measured are about 0.00 for brightness and solarize, 0.01 for
contrast, 0.1 for saturation, 0.2 for hue (Pillow rounds it to 256 steps), 0.3 for all four, 0.5 for blur (Pillow's is
three box blurs).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as T

from bench.data.views import augment, colour, draws, exact, photo
from bench.data.views.draws import Draw
from bench.spec import Augment

SIZE = 224
Way = Callable[[Tensor, Augment, Draw], Tensor]
PLAIN = Augment(size=SIZE, crop_scale=(1.0, 1.0), flip=0.0, jitter=0.0)
YES = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}


def on_device(crops: Tensor, view: Augment, drawn: Draw) -> Tensor:
    return augment.finish(crops, view, drawn) * 255


def on_cpu(crops: Tensor, view: Augment, drawn: Draw) -> Tensor:
    out = torch.empty_like(crops)
    for crop, row, made in zip(crops, drawn.images(), out, strict=True):
        photo.painter(view.size).paint(crop, view, row, made)
    return out.float()


WAYS = pytest.mark.parametrize("way", [on_device, on_cpu])


@pytest.fixture(scope="module")
def crops() -> Tensor:
    """Eight parts of two photographs, uint8 (8, 3, 224, 224)."""
    from sklearn.datasets import load_sample_images

    parts = []
    for picture in map(Image.fromarray, load_sample_images().images):
        for box in ((0, 0, 640, 427), (200, 40, 500, 340), (30, 200, 180, 400), (400, 100, 500, 180)):
            parts.append(np.array(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)))
    return torch.from_numpy(np.stack(parts)).permute(0, 3, 1, 2).contiguous()


def drawn_for(view: Augment, seed: int = 0, **changes: Tensor) -> Draw:
    return replace(draws.draw(view, 8, torch.Generator().manual_seed(seed)), **changes)


def pillow(crops: Tensor, view: Augment, drawn: Draw) -> Tensor:
    """The view by Pillow: the whole image is the crop, so nothing is resized."""
    return torch.stack([exact.view(crop, view, row) for crop, row in zip(crops, drawn.images(), strict=True)]).float()


def differences(way: Way, crops: Tensor, view: Augment, drawn: Draw) -> tuple[float, float]:
    """Mean absolute difference and bias in levels."""
    gap = way(crops, view, drawn) - pillow(crops, view, drawn)
    return float(gap.abs().mean()), float(gap.mean())


@WAYS
@pytest.mark.parametrize(
    ("name", "bound"), [("brightness", 0.01), ("contrast", 0.05), ("saturation", 0.2), ("hue", 0.45)]
)
@pytest.mark.parametrize("strong", [False, True])
def test_a_colour_operation_gives_pillows_pixels(
    way: Way, crops: Tensor, name: str, bound: float, strong: bool
) -> None:
    changes: dict[str, Any] = {name: (0.5 if name == "hue" else 0.8) if strong else YES[name]}
    view = replace(PLAIN, jitter=1.0, **changes)
    drawn = drawn_for(view)
    distance, bias = differences(way, crops, view, drawn)
    assert distance < bound
    assert abs(bias) < 0.1
    plain = float((pillow(crops, view, drawn) - crops).abs().mean())
    assert plain > 2  # so the operation does something here


@WAYS
def test_all_four_in_their_orders_have_no_bias(way: Way, crops: Tensor) -> None:
    view = replace(PLAIN, jitter=1.0, **YES)  # type: ignore[arg-type]
    found = [differences(way, crops, view, drawn_for(view, seed)) for seed in range(4)]
    assert max(distance for distance, _ in found) < 0.6
    assert abs(sum(bias for _, bias in found) / 4) < 0.1  # without cutting off each fraction it is 1.4


@WAYS
def test_gray_is_pillows(way: Way, crops: Tensor) -> None:
    view = replace(PLAIN, gray=1.0)
    # a device does not round to 8 bits
    assert differences(way, crops, view, drawn_for(view))[0] < (0.3 if way is on_device else 0.002)


@WAYS
@pytest.mark.parametrize("threshold", [0.5, 0.25])
def test_solarize_is_pillows(way: Way, crops: Tensor, threshold: float) -> None:
    view = replace(PLAIN, solarize=1.0, solarize_threshold=threshold)
    assert differences(way, crops, view, drawn_for(view))[0] < 1e-4


@WAYS
@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 1.0, 1.5, 2.0])
def test_blur_is_near_pillows_and_nearer_to_the_true_one(way: Way, crops: Tensor, sigma: float) -> None:
    view = replace(PLAIN, blur=1.0)
    drawn = drawn_for(view, sigma_B=torch.full((8,), sigma))
    assert differences(way, crops, view, drawn)[0] < 1.0
    true = torch.stack([T.gaussian_blur(crop.float(), [23, 23], [sigma, sigma]) for crop in crops])
    assert float((way(crops, view, drawn) - true).abs().mean()) < 0.4  # two roundings to 8 bits
    assert abs(float((way(crops, view, drawn) - true).mean())) < 0.05


@pytest.mark.parametrize("size", [32, 96, 224, 230])
def test_blur_on_a_cpu_reflects_at_the_rim_for_every_size(size: int) -> None:
    noise = (torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    view = Augment(size=size, flip=0.0, jitter=0.0, blur=1.0)
    drawn = replace(draws.draw(view, 1, torch.Generator().manual_seed(0)), sigma_B=torch.tensor([1.2]))
    true = colour.gaussian_blur(noise.float(), drawn.sigma_B)
    assert float((on_cpu(noise, view, drawn) - true).abs().max()) < 2.5


@WAYS
def test_whole_views_equal_pillows_but_for_rounding(way: Way, crops: Tensor) -> None:
    view = replace(PLAIN, flip=0.5, jitter=0.8, gray=0.2, blur=0.5, solarize=0.2, **YES)  # type: ignore[arg-type]
    for seed in range(3):
        drawn = drawn_for(view, seed)
        gap = (way(crops, view, drawn) - pillow(crops, view, drawn)).abs().mean(dim=(1, 2, 3))
        assert float(gap.max()) < 2.5  # near solarize's threshold a level turns into its opposite
        assert float(gap.median()) < 1.0


@WAYS
@pytest.mark.parametrize("policy", ["autoaugment", "randaugment", "randaugment_released"])
def test_policies_are_those_of_the_exact_way(way: Way, crops: Tensor, policy: Any) -> None:
    view = replace(PLAIN, policy=policy)
    drawn = drawn_for(view)
    assert torch.equal(way(crops, view, drawn).round(), pillow(crops, view, drawn))


@WAYS
def test_gray_pixels_and_extreme_levels_stay_what_they_are(way: Way) -> None:
    ramp = torch.arange(256, dtype=torch.uint8).repeat(196).view(1, 1, SIZE, SIZE).expand(8, 3, -1, -1).contiguous()
    for name in ("saturation", "hue"):
        view = replace(PLAIN, jitter=1.0, **{name: YES[name]})  # type: ignore[arg-type]
        assert torch.equal(way(ramp, view, drawn_for(view)).round(), ramp.float()), name


def test_an_image_does_not_depend_on_what_was_painted_before(crops: Tensor) -> None:
    view = replace(PLAIN, flip=0.5, jitter=0.8, gray=0.2, blur=0.5, solarize=0.2, **YES)  # type: ignore[arg-type]
    drawn = drawn_for(view, 3)
    together = on_cpu(crops, view, drawn)
    photo.painter.cache_clear()
    for index in reversed(range(8)):
        one = slice(index, index + 1)
        assert torch.equal(on_cpu(crops[one], view, drawn.rows(one)), together[one])


@pytest.mark.parametrize("turn", [0.0, 0.03, 1 / 12, 0.1, -0.1, 1 / 6, 0.2, 0.25, -0.3, 1 / 3, -0.4, 0.45, 0.5, -0.5])
def test_a_turn_of_the_hue_on_a_cpu_is_the_true_one_rounded_once(crops: Tensor, turn: float) -> None:
    noise = (torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 256).to(torch.uint8)
    few = noise // 128 * 255  # corners of the colour cube: ties between channels
    images = torch.cat([crops[:2], noise, few])
    view = replace(PLAIN, jitter=1.0, hue=0.5)
    drawn = draws.draw(view, len(images), torch.Generator().manual_seed(0))
    drawn.factor_B4[:, 3] = turn
    true = colour.adjust_hue(images.double(), torch.full((len(images),), turn, dtype=torch.float64))
    assert float((on_cpu(images, view, drawn) - true).abs().max()) < 0.501


def test_a_view_does_not_depend_on_where_its_crop_is_stored(crops: Tensor) -> None:
    view = replace(PLAIN, flip=0.5, jitter=0.8, gray=0.2, blur=0.5, solarize=0.2, **YES)  # type: ignore[arg-type]
    drawn = drawn_for(view, 3)
    expected = on_cpu(crops, view, drawn)
    beside, in_place = torch.empty_like(crops), crops.clone()
    side_by_side = crops.contiguous(memory_format=torch.channels_last)  # as the resize gives it
    for row, crop, out, image in zip(drawn.images(), side_by_side, beside, in_place, strict=True):
        photo.painter(SIZE).paint(crop, view, row, out)
        photo.painter(SIZE).paint(image, view, row, image)
    assert torch.equal(beside.float(), expected)
    assert torch.equal(in_place.float(), expected)
