from __future__ import annotations

import colorsys
import itertools
import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as T

from bench.data import loader
from bench.data.views import augment, colour, crops, draws
from bench.data.views.draws import Draw
from bench.errors import BenchError
from bench.spec import Augment

COLOURS = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(1))
# every operation, every probability between 0 and 1
FULL = Augment(
    size=12,
    rotation=20.0,
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    gray=0.2,
    blur=0.5,
    solarize=0.2,
)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def still(count: int, **changes: Tensor) -> Draw:
    """The draw that changes nothing, but for `changes`."""
    whole = Augment(size=12, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0, jitter=0.0)
    nothing = replace(
        draws.draw(whole, count, rng()),
        corner_B2=torch.zeros(count, 2),
        order_B4=torch.arange(4).expand(count, 4),
        sigma_B=torch.ones(count),
    )
    return replace(nothing, **changes)


def jittered(images: Tensor, operation: int, factors: list[float]) -> Tensor:
    """One colour operation with one factor an image."""
    table = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(len(images), 1)
    table[:, operation] = torch.tensor(factors)
    spec = Augment(size=12, jitter=1.0, **{("brightness", "contrast", "saturation", "hue")[operation]: 0.4})  # type: ignore[arg-type]
    drawn = still(len(images), factor_B4=table, jitter_B=torch.ones(len(images), dtype=torch.bool))
    return colour.colour(images, spec, drawn)


def blend(image: Tensor, other: Tensor, factor: float) -> Tensor:
    return (factor * image + (1 - factor) * other).clamp(0, 1)


def luma(image: Tensor) -> Tensor:
    """PIL's "L": ITU-R 601. torchvision rounds the first weight to 0.2989."""
    return (0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2])[None]


FACTORS = [0.0, 0.2, 0.6, 1.0, 1.4, 1.8]


@pytest.mark.parametrize(
    ("operation", "theirs", "exact", "tolerance"),
    [
        (BRIGHTNESS, T.adjust_brightness, lambda x, f: blend(x, torch.zeros_like(x), f), 1e-6),
        (CONTRAST, T.adjust_contrast, lambda x, f: blend(x, luma(x).mean().expand_as(x), f), 1e-4),
        (SATURATION, T.adjust_saturation, lambda x, f: blend(x, luma(x).expand_as(x), f), 1e-4),
    ],
)
def test_blends_equal_pils_formula_and_torchvision(
    operation: int,
    theirs: Callable[[Tensor, float], Tensor],
    exact: Callable[[Tensor, float], Tensor],
    tolerance: float,
) -> None:
    found = jittered(COLOURS, operation, FACTORS)
    formula = torch.stack([exact(image, factor) for image, factor in zip(COLOURS, FACTORS, strict=True)])
    torch.testing.assert_close(found, formula, rtol=0, atol=1e-6)
    torchvisions = torch.stack([theirs(image, factor) for image, factor in zip(COLOURS, FACTORS, strict=True)])
    torch.testing.assert_close(found, torchvisions, rtol=0, atol=tolerance)  # 1e-4: its rounded gray weight


def test_hue_equals_torchvision() -> None:
    turns = [-0.5, -0.2, -0.05, 0.0, 0.1, 0.45]
    expected = torch.stack([T.adjust_hue(image, turn) for image, turn in zip(COLOURS, turns, strict=True)])
    torch.testing.assert_close(jittered(COLOURS, HUE, turns), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 255.0])
@pytest.mark.parametrize("turn", [0.0, 0.5, -0.5, 1 / 3, -1 / 6, 0.07, -0.31])
def test_hue_equals_colorsys_pixel_by_pixel_also_where_channels_tie(turn: float, scale: float) -> None:
    levels = (0.0, 1e-7, 0.2, 0.5, 1.0)
    pixels = [*itertools.product(levels, repeat=3), *torch.rand(75, 3, generator=rng()).tolist()]  # 200 of them
    expected = []
    for pixel in pixels:
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        expected.append(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value))
    image, turned = (torch.tensor(colours).T.reshape(1, 3, 20, 10) for colours in (pixels, expected))
    found = colour.adjust_hue(image * scale, torch.tensor([turn]))
    torch.testing.assert_close(found, turned * scale, rtol=0, atol=2e-6 * scale)


def test_hue_can_be_turned_in_place() -> None:
    images, turns = COLOURS.clone(), torch.linspace(-0.5, 0.5, 6)
    colour.adjust_hue(images, turns, out=images)
    assert torch.equal(images, colour.adjust_hue(COLOURS, turns))


def test_hue_leaves_gray_alone_and_turns_red_to_green() -> None:
    gray = torch.linspace(0, 1, 6)[:, None, None, None].expand(6, 3, 12, 12)
    torch.testing.assert_close(colour.adjust_hue(gray, torch.full((6,), 0.3)), gray)
    red, green = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    red[:, 0], green[:, 1] = 1, 1
    torch.testing.assert_close(colour.adjust_hue(red, torch.tensor([1 / 3])), green, rtol=0, atol=1e-5)


def test_jitter_follows_each_images_own_order_and_clips_after_each_operation() -> None:
    operations = (T.adjust_brightness, T.adjust_contrast, T.adjust_saturation, T.adjust_hue)
    orders = torch.stack([torch.randperm(4, generator=rng(seed)) for seed in range(6)])
    factors = torch.tensor([1.8, 1.7, 0.3, 0.2]).repeat(6, 1)  # bright enough that clipping matters
    spec = Augment(size=12, jitter=1.0, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
    found = colour.colour(
        COLOURS, spec, still(6, order_B4=orders, factor_B4=factors, jitter_B=torch.ones(6, dtype=torch.bool))
    )
    for image, order, view in zip(COLOURS, orders.tolist(), found, strict=True):
        expected = image
        for operation in order:
            expected = operations[operation](expected, float(factors[0, operation]))
        torch.testing.assert_close(view, expected, rtol=0, atol=5e-4)
    late = colour.colour(COLOURS, spec, still(6, factor_B4=factors, jitter_B=torch.ones(6, dtype=torch.bool)))
    assert float((late - found).abs().max()) > 0.05  # so the order does matter here


STRENGTHS = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}


@pytest.mark.parametrize(
    "asked", [("hue",), ("brightness", "contrast"), ("contrast", "saturation", "hue"), tuple(STRENGTHS)]
)
@pytest.mark.parametrize("eight_bit", [False, True])
def test_a_batch_of_all_orders_equals_its_images_with_one_operation_after_the_other(
    asked: tuple[str, ...], eight_bit: bool
) -> None:
    orders = torch.tensor(list(itertools.permutations(range(4)))).repeat_interleave(2, dim=0)[
        torch.randperm(48, generator=rng())
    ]
    mask = torch.rand(48, generator=rng()) < 0.8
    factors = torch.rand(48, 4, generator=rng(1)) * torch.tensor([1.6, 1.6, 1.6, 0.4]) + torch.tensor(
        [0.2, 0.2, 0.2, -0.2]
    )
    images = (torch.rand(48, 3, 12, 12, generator=rng(2)) * 255).floor() / 255
    before = images.clone()
    spec = Augment(size=12, jitter=0.8, **{name: STRENGTHS[name] for name in asked})  # type: ignore[arg-type]
    drawn = still(48, order_B4=orders, factor_B4=factors, jitter_B=mask)
    found = colour.colour(images, spec, drawn, eight_bit=eight_bit)
    assert torch.equal(images, before)
    for row, view in enumerate(found):
        expected, one = images[row : row + 1], drawn.rows(slice(row, row + 1))
        for operation in orders[row].tolist():
            name = tuple(STRENGTHS)[operation]
            if mask[row] and name in asked:
                single = Augment(size=12, jitter=1.0, **{name: STRENGTHS[name]})  # type: ignore[arg-type]
                expected = colour.colour(expected, single, one, eight_bit=eight_bit)
        assert torch.equal(view, expected[0]), (row, orders[row])


def test_an_operation_that_is_not_asked_for_is_left_out_of_the_jitter() -> None:
    factors = torch.tensor([1.5, 0.2, 0.2, 0.3]).repeat(6, 1)
    drawn = still(6, factor_B4=factors, jitter_B=torch.ones(6, dtype=torch.bool))
    found = colour.colour(COLOURS, Augment(size=12, jitter=1.0, brightness=0.5), drawn)
    torch.testing.assert_close(found, (COLOURS * 1.5).clamp(max=1))


@pytest.mark.parametrize("name", ["jitter", "gray", "blur", "solarize", "flip"])
def test_a_chance_touches_the_drawn_images_and_no_other(name: str) -> None:
    images = (COLOURS * 255).to(torch.uint8)
    mask = torch.tensor([True, False, True, False, False, True])
    drawn = still(6, factor_B4=torch.tensor([0.5, 0.5, 0.5, 0.2]).repeat(6, 1), **{f"{name}_B": mask})
    found = augment.apply(images, FULL, drawn)
    changed = (found - images / 255).abs().amax(dim=(1, 2, 3)) > 0.01
    assert changed.tolist() == mask.tolist()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["gray", "blur", "solarize"])
def test_only_drawn_images_are_painted_and_their_bits_are_those_of_painting_all(
    name: str, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.rand(9, 3, 32, 32, generator=rng()).contiguous(memory_format=layout)
    sigmas = torch.linspace(0.1, 2.0, 9)
    mask = torch.tensor([False, True, False, False, True, True, False, False, False])
    spec = Augment(size=32, jitter=0.0, **{name: 0.1})  # type: ignore[arg-type]
    everyone = still(9, sigma_B=sigmas, **{f"{name}_B": torch.ones(9, dtype=torch.bool)})
    whole = colour.colour(images, spec, everyone)
    painted: list[int] = []

    def counted(true: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def paint(some: Tensor, *more: object) -> Tensor:
            painted.append(len(some))
            return true(some, *more)

        return paint

    for operation in ("_luma", "gaussian_blur", "_solarize"):
        monkeypatch.setattr(colour, operation, counted(getattr(colour, operation)))
    found = colour.colour(images, spec, still(9, sigma_B=sigmas, **{f"{name}_B": mask}))
    assert painted == [3]
    assert torch.equal(found[mask], whole[mask])
    assert torch.equal(found[~mask], images[~mask])
    assert found.is_contiguous(memory_format=layout)
    colour.colour(images, spec, still(9, **{f"{name}_B": torch.zeros(9, dtype=torch.bool)}))
    assert painted == [3]  # where none is drawn, nothing is called


def test_gray_equals_torchvision() -> None:
    found = colour.colour(COLOURS, Augment(size=12, gray=1.0), still(6, gray_B=torch.ones(6, dtype=torch.bool)))
    torch.testing.assert_close(
        found, torch.stack([luma(image).expand(3, -1, -1) for image in COLOURS]), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(found, T.rgb_to_grayscale(COLOURS, 3), rtol=0, atol=1e-4)  # its rounded gray weight


@pytest.mark.parametrize("threshold", [0.25, 0.5])
def test_solarize_equals_torchvision(threshold: float) -> None:
    images = COLOURS.clone()
    images[0, 0, 0, 0] = threshold  # the threshold itself is inverted
    spec = Augment(size=12, solarize=1.0, solarize_threshold=threshold)
    found = colour.colour(images, spec, still(6, solarize_B=torch.ones(6, dtype=torch.bool)))
    torch.testing.assert_close(found, T.solarize(images, threshold))


@pytest.mark.parametrize(("side", "kernel"), [(32, 3), (64, 7), (224, 23)])
def test_blur_equals_torchvision_with_a_kernel_of_a_tenth_of_the_side(side: int, kernel: int) -> None:
    images = torch.rand(3, 3, side, side, generator=rng())
    sigmas = [0.1, 0.7, 2.0]
    found = colour.colour(
        images,
        Augment(size=side, blur=1.0),
        still(3, blur_B=torch.ones(3, dtype=torch.bool), sigma_B=torch.tensor(sigmas)),
    )
    expected = torch.stack(
        [T.gaussian_blur(image, [kernel, kernel], [sigma, sigma]) for image, sigma in zip(images, sigmas, strict=True)]
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_operations_come_in_the_order_of_the_fields() -> None:
    yes = torch.ones(6, dtype=torch.bool)
    factors = torch.tensor([1.4, 1.0, 1.0, 0.0]).repeat(6, 1)
    spec = Augment(size=12, jitter=1.0, brightness=0.4, gray=1.0, blur=1.0, solarize=1.0)
    found = colour.colour(
        COLOURS, spec, still(6, jitter_B=yes, factor_B4=factors, gray_B=yes, blur_B=yes, solarize_B=yes)
    )
    x = T.rgb_to_grayscale(T.adjust_brightness(COLOURS, 1.4), 3)
    expected = T.solarize(T.gaussian_blur(x, [3, 3], [1.0, 1.0]), 0.5)
    near = (T.gaussian_blur(x, [3, 3], [1.0, 1.0]) - 0.5).abs() < 1e-3  # there a last digit decides
    torch.testing.assert_close(found[~near], expected[~near], rtol=0, atol=1e-3)


# -- geometry --------------------------------------------------------------------------------------------------------


def boxed(top: float, left: float, height: float, width: float) -> dict[str, Tensor]:
    """The draw of one given crop box, in shares of a square image."""
    room = torch.tensor([1 - height, 1 - width])
    corner = torch.where(room > 0, torch.tensor([top, left]) / room.clamp_min(1e-9), torch.zeros(2))
    size = torch.ones(1, draws.TRIES)
    return {"area_BT": size * height * width, "ratio_BT": size * width / height, "corner_B2": corner[None]}


def photo(side: int) -> Tensor:
    """A smooth colour image, uint8 (1, 3, side, side), unlike under any symmetry of the square."""
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    waves = [0.5 + 0.4 * torch.sin(3 * x + 5 * y * y + phase) for phase in (0.0, 1.0, 2.0)]
    return (torch.stack(waves)[None] * 255).to(torch.uint8)


def test_a_full_box_at_the_same_size_is_the_image_itself() -> None:
    images = (COLOURS * 255).to(torch.uint8)
    found = augment.apply(images, Augment(size=12), still(6))
    torch.testing.assert_close(found, images / 255, rtol=0, atol=1e-5)


@pytest.mark.parametrize("degrees", [0.0, 25.0])
def test_a_crop_reads_where_affine_grid_says(degrees: float) -> None:
    spec = Augment(size=20, rotation=degrees)
    drawn = draws.draw(spec, 6, rng())
    images = (COLOURS * 255).to(torch.uint8)
    top, left, height, width = crops.boxes(spec, drawn, torch.ones(6)).unbind(1)
    cos, sin, mirror = drawn.angle_B.cos(), drawn.angle_B.sin(), torch.where(drawn.flip_B, -1.0, 1.0)
    x = torch.stack([width * cos * mirror, -width * sin, 2 * left + width - 1], dim=1)
    y = torch.stack([height * sin * mirror, height * cos, 2 * top + height - 1], dim=1)
    grid = F.affine_grid(torch.stack([x, y], dim=1), [6, 3, 20, 20], align_corners=False)
    expected = F.grid_sample(images / 255, grid, padding_mode="zeros" if degrees else "border", align_corners=False)
    torch.testing.assert_close(augment.crop(images, spec, drawn), expected, rtol=0, atol=1e-5)


def test_a_flip_mirrors_left_and_right() -> None:
    images = (COLOURS * 255).to(torch.uint8)
    found = augment.crop(images, Augment(size=12), still(6, flip_B=torch.ones(6, dtype=torch.bool)))
    torch.testing.assert_close(found, T.hflip(images / 255), rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [24, 32])
def test_an_enlarged_full_box_equals_torchvision_to_the_rim(side: int) -> None:
    images = (COLOURS * 255).to(torch.uint8)
    found = augment.crop(images, Augment(size=side), still(6))
    torch.testing.assert_close(found, T.resize(images / 255, [side, side], antialias=False), rtol=0, atol=1e-5)


@pytest.mark.parametrize("box", [(0, 0, 16, 16), (5, 3, 16, 16), (16, 16, 16, 16), (2, 9, 20, 15), (7, 0, 12, 16)])
def test_an_enlarged_box_equals_torchvision(box: tuple[int, int, int, int]) -> None:
    image, size = photo(32), 48
    top, left, height, width = box
    found = augment.crop(image, Augment(size=size), still(1, **boxed(*(value / 32 for value in box))))
    expected = T.resized_crop(
        image / 255, top, left, height, width, [size, size], InterpolationMode.BILINEAR, antialias=False
    )
    # at the rim torchvision repeats the box's last pixel, here its neighbour shows
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)
    torch.testing.assert_close(found[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2], rtol=0, atol=1e-4)


def test_a_box_is_cut_before_the_flip() -> None:
    box = (2 / 32, 9 / 32, 20 / 32, 15 / 32)
    plain = augment.crop(photo(32), Augment(size=24), still(1, **boxed(*box)))
    flipped = augment.crop(photo(32), Augment(size=24), still(1, **boxed(*box), flip_B=torch.ones(1, dtype=torch.bool)))
    torch.testing.assert_close(flipped, plain.flip(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("degrees", [-25.0, 10.0, 90.0])
@pytest.mark.parametrize("flip", [False, True])
def test_rotation_has_the_direction_and_amount_of_torchvisions(degrees: float, flip: bool) -> None:
    image = photo(64)
    drawn = still(1, angle_B=torch.tensor([math.radians(degrees)]), flip_B=torch.tensor([flip]))
    found = augment.crop(image, Augment(size=64, rotation=90.0), drawn)
    expected = T.rotate(image / 255, degrees, InterpolationMode.BILINEAR)
    expected = T.hflip(expected) if flip else expected
    middle = (..., slice(18, 46), slice(18, 46))  # where no corner comes in
    torch.testing.assert_close(found[middle], expected[middle], rtol=0, atol=5e-3)
    opposite = augment.crop(image, Augment(size=64, rotation=90.0), replace(drawn, angle_B=-drawn.angle_B))
    assert float((opposite - expected)[middle].abs().max()) > 0.1


@pytest.mark.parametrize("turned", [0.0, 25.0])
def test_gray_images_cut_as_one_channel_give_the_same_views_bit_for_bit(turned: float) -> None:
    spec = replace(FULL, rotation=turned)
    gray = (torch.rand(9, 1, 16, 16, generator=rng(3)) * 255).to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    drawn = draws.draw(spec, 9, rng())
    one = loader.one_channel(gray)
    assert one.shape == (9, 1, 16, 16)
    assert torch.equal(augment.apply(one, spec, drawn), augment.apply(gray, spec, drawn))


def test_one_pixel_of_colour_keeps_three_channels() -> None:
    images = torch.full((4, 3, 8, 8), 100, dtype=torch.uint8)
    images[3, 1, 7, 7] = 101
    assert loader.one_channel(images) is images


def test_rotation_fills_the_corners_with_black() -> None:
    white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    found = augment.crop(white, Augment(size=32, rotation=45.0), still(1, angle_B=torch.tensor([math.pi / 4])))
    assert float(found[0, 0, 0, 0]) == 0
    assert float(found[0, 0, 16, 16]) == pytest.approx(1)


ASPECTS = (0.4, 0.75, 1.0, 1.5, 3.0)


@pytest.mark.parametrize("aspect", ASPECTS)
def test_boxes_lie_inside_with_the_area_and_ratio_that_are_asked_for(aspect: float) -> None:
    spec = Augment(size=32, crop_scale=(0.08, 0.5))
    drawn = draws.draw(spec, 2000, rng())
    top, left, height, width = crops.boxes(spec, drawn, torch.full((2000,), aspect)).unbind(1)
    assert bool(((top >= 0) & (left >= 0) & (top + height <= 1 + 1e-6) & (left + width <= 1 + 1e-6)).all())
    ratio, area = width * aspect / height, height * width
    assert bool(((ratio > 3 / 4 - 1e-5) & (ratio < 4 / 3 + 1e-5)).all())
    assert bool((area < 0.5 + 1e-5).all())
    assert bool((area > 0.08 - 1e-5).all())
    for corner, side in ((top, height), (left, width)):  # anywhere in the room that is left
        share = corner / (1 - side)
        assert float(share.mean()) == pytest.approx(0.5, abs=0.04)
        assert float(share.min()) < 0.02
        assert float(share.max()) > 0.98


@pytest.mark.parametrize("size", [(1000, 1000), (750, 1000), (400, 1000)])
def test_boxes_are_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    count, (tall, wide) = 3000, size
    spec = Augment(size=32)
    found = crops.boxes(spec, draws.draw(spec, count, rng()), torch.full((count,), wide / tall))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image = torch.empty(3, tall, wide)
        theirs = torch.tensor([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)])
    theirs = theirs / torch.tensor([tall, wide, tall, wide])
    for ours, other in zip(found.unbind(1), theirs.unbind(1), strict=True):
        assert float(ours.mean()) == pytest.approx(float(other.mean()), abs=0.025)
        assert float(ours.std()) == pytest.approx(float(other.std()), abs=0.02)


@pytest.mark.parametrize(("aspect", "height", "width"), [(3.0, 1.0, 4 / 9), (0.5, 2 / 3, 1.0), (1.0, 1.0, 1.0)])
def test_where_no_box_fits_the_largest_central_one_is_taken(aspect: float, height: float, width: float) -> None:
    spec = Augment(size=32)
    never = still(
        1,
        area_BT=torch.full((1, draws.TRIES), 1.0),
        ratio_BT=torch.full((1, draws.TRIES), 4 / 3 if aspect <= 1 else 3 / 4),
    )
    box = crops.boxes(spec, never, torch.tensor([aspect]))[0]
    torch.testing.assert_close(box, torch.tensor([(1 - height) / 2, (1 - width) / 2, height, width]))


def test_the_first_try_that_fits_is_taken() -> None:
    areas = torch.tensor([[1.0, 1.0, 0.25, 0.16, *[0.09] * 6]])
    box = crops.boxes(
        Augment(size=32), still(1, area_BT=areas, ratio_BT=torch.tensor([[2.0, 2.0, *[1.0] * 8]])), torch.tensor([1.0])
    )[0]
    torch.testing.assert_close(box[2:], torch.tensor([0.5, 0.5]))


# -- draws -----------------------------------------------------------------------------------------------------------


def same(a: Draw, b: Draw) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Draw))


def test_a_seed_gives_the_same_draw_and_another_seed_another() -> None:
    assert same(draws.draw(FULL, 16, rng(3)), draws.draw(FULL, 16, rng(3)))
    first, other = draws.draw(FULL, 16, rng(3)), draws.draw(FULL, 16, rng(4))
    for name in (
        "area_BT",
        "ratio_BT",
        "corner_B2",
        "angle_B",
        "flip_B",
        "jitter_B",
        "order_B4",
        "factor_B4",
        "sigma_B",
        "solarize_B",
    ):
        assert not torch.equal(getattr(first, name), getattr(other, name)), name


def test_a_draw_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    draws.draw(FULL, 16, rng())
    assert torch.equal(before, torch.random.get_rng_state())


def test_rows_are_the_rows_of_the_global_draw() -> None:
    whole = draws.draw(FULL, 10, rng())
    part = whole.rows(slice(3, 7))
    for f in fields(Draw):
        assert torch.equal(getattr(part, f.name), getattr(whole, f.name)[3:7]), f.name
    images = (torch.rand(10, 3, 12, 12, generator=rng(9)) * 255).to(torch.uint8)
    assert torch.equal(augment.apply(images[3:7], FULL, part), augment.apply(images, FULL, whole)[3:7])


def test_draws_have_the_distributions_of_the_spec() -> None:
    count = 8000
    spec = Augment(
        size=32,
        crop_scale=(0.2, 0.8),
        rotation=30,
        flip=0.3,
        jitter=0.8,
        brightness=0.4,
        contrast=1.5,
        saturation=0.2,
        hue=0.1,
        gray=0.2,
        blur=0.1,
        solarize=0.6,
    )
    drawn = draws.draw(spec, count, rng())

    def is_uniform(values: Tensor, low: float, high: float) -> bool:
        error = 5 * (high - low) / math.sqrt(12 * values.numel())
        inside = bool((values >= low - 1e-6).all() and (values <= high + 1e-6).all())
        deviation = float(values.std()) / ((high - low) / math.sqrt(12))
        return inside and abs(float(values.mean()) - (low + high) / 2) < error and abs(deviation - 1) < 0.05

    assert is_uniform(drawn.area_BT, 0.2, 0.8)
    assert is_uniform(drawn.ratio_BT.log(), math.log(3 / 4), math.log(4 / 3))
    assert is_uniform(drawn.corner_B2, 0, 1)
    assert is_uniform(drawn.angle_B, -math.pi / 6, math.pi / 6)
    assert is_uniform(drawn.sigma_B, 0.1, 2.0)
    for operation, (low, high) in enumerate([(0.6, 1.4), (0.0, 2.5), (0.8, 1.2), (-0.1, 0.1)]):
        assert is_uniform(drawn.factor_B4[:, operation], low, high), operation
    for name, chance in (("flip", 0.3), ("jitter", 0.8), ("gray", 0.2), ("blur", 0.1), ("solarize", 0.6)):
        share = float(getattr(drawn, f"{name}_B").float().mean())
        assert abs(share - chance) < 5 * math.sqrt(chance * (1 - chance) / count), name
    assert bool((drawn.order_B4.sort(dim=1).values == torch.arange(4)).all())
    for place in range(4):
        shares = F.one_hot(drawn.order_B4[:, place], 4).float().mean(dim=0)
        assert bool(((shares - 0.25).abs() < 5 * math.sqrt(0.25 * 0.75 / count)).all())


def test_chances_of_zero_and_one_are_never_and_always() -> None:
    always = draws.draw(replace(FULL, flip=1, jitter=1, gray=1, blur=1, solarize=1), 500, rng())
    never = draws.draw(replace(FULL, flip=0, jitter=0, gray=0, blur=0, solarize=0), 500, rng())
    for name in ("flip", "jitter", "gray", "blur", "solarize"):
        assert bool(getattr(always, f"{name}_B").all())
        assert not bool(getattr(never, f"{name}_B").any())


def test_views_are_floats_between_zero_and_one() -> None:
    images = (torch.rand(64, 3, 20, 20, generator=rng()) * 255).to(torch.uint8)
    strong = replace(FULL, size=32, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.5)
    views = augment.apply(images, strong, draws.draw(strong, 64, rng(1)))
    assert (views.shape, views.dtype) == ((64, 3, 32, 32), torch.float32)
    assert float(views.min()) >= -1e-6
    assert float(views.max()) <= 1 + 1e-6
    assert bool(views.isfinite().all())


@pytest.mark.parametrize(
    "wrong",
    [
        {"flip": 1.1},
        {"jitter": -0.1},
        {"gray": 2.0},
        {"blur": -1.0},
        {"solarize": 1.5},
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.5, 0.2)},
        {"crop_scale": (0.5, 1.2)},
        {"crop_ratio": (2.0, 1.0)},
        {"hue": 0.6},
    ],
)
def test_impossible_values_are_refused_by_name(wrong: dict[str, Any]) -> None:
    (name, value), *_ = wrong.items()
    with pytest.raises(BenchError, match=f"augmentation: {name} is") as caught:
        augment.check_view(Augment(**{"size": 32, **wrong}))
    assert str(value) in str(caught.value)


def test_an_unknown_choice_comes_with_its_neighbour() -> None:
    with pytest.raises(BenchError, match=r"unknown augmentation colour 'tensorflw'.*Did you mean 'tensorflow'"):
        augment.check_view(Augment(size=32, colour="tensorflw"))  # type: ignore[arg-type]


def test_usual_values_are_accepted() -> None:
    augment.check_view(FULL)
    augment.check_view(Augment(size=32, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0, jitter=1.0, hue=0.5))
