"""`exact`: torchvision's digits for the drawn parameters, through the loader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as T

from bench.data import loader
from bench.data.datasets import open_split
from bench.data.loader import Plan
from bench.data.splits import Files
from bench.data.views import crops, draws
from bench.data.views.draws import OneDraw
from bench.identity import canonical, digest
from bench.seeding import generator
from bench.settings.site import Site
from bench.spec import Augment, Data

CPU = torch.device("cpu")
# every operation, every probability between 0 and 1
VIEW = Augment(
    size=48,
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.2,
    hue=0.1,
    gray=0.2,
    blur=0.5,
    solarize=0.3,
    exact=True,
)


@pytest.fixture
def split(here: Site, photographs: Path) -> Files:
    return cast(
        Files, open_split(Data(name="imagenet", size=32), "train", replace(here, data={"imagenet": photographs}))
    )


def by_torchvision(path: Path, view: Augment, row: draws.OneDraw) -> Tensor:
    with Image.open(path) as file:
        image = file.convert("RGB")
    top, left, height, width = crops.pixel_box(view, row, image.height, image.width)
    image = T.resized_crop(image, top, left, height, width, [view.size, view.size], InterpolationMode.BICUBIC)
    if row.flip:
        image = T.hflip(image)
    if row.jitter:
        for operation in row.order:
            image = (T.adjust_brightness, T.adjust_contrast, T.adjust_saturation, T.adjust_hue)[operation](
                image, row.factors[operation]
            )
    if row.gray:
        image = T.rgb_to_grayscale(image, 3)
    if row.blur:
        image = image.filter(ImageFilter.GaussianBlur(row.sigma))
    if row.solarize:
        image = T.solarize(image, 128)
    made: Tensor = T.to_tensor(image)
    return made


@pytest.mark.parametrize("workers", [0, 1])
def test_views_are_torchvisions_digit_for_digit(split: Files, workers: int) -> None:
    plan = Plan(images=len(split), batch_size=len(split), seed=1)
    (batch,) = loader.train_batches(split, (VIEW,), plan, range(1), CPU, workers=workers)
    drawn = draws.draw(VIEW, len(split), generator(plan.seed, "augment", 0, 0)).images()
    assert all(
        0 < sum(getattr(row, name) for row in drawn) < len(drawn)
        for name in ("flip", "jitter", "gray", "blur", "solarize")
    )
    for view, index, row in zip(batch.views[0], batch.indices.tolist(), drawn, strict=True):
        assert torch.equal(view, by_torchvision(split.paths[index], VIEW, row))


def test_the_fast_way_differs_from_it_by_rounding_only(split: Files) -> None:
    plan = Plan(images=len(split), batch_size=len(split), seed=1)
    # The fast blur ends a twentieth of the side away, as SimCLR's; at 48 px larger sigmas would show it.
    views = [replace(VIEW, exact=exact, solarize=0.0, blur_sigma=(0.1, 0.7)) for exact in (True, False)]
    exact, fast = (
        next(iter(loader.train_batches(split, (view,), plan, range(1), CPU, workers=0))).views[0] for view in views
    )
    gap = (exact - fast).abs().mean(dim=(1, 2, 3)) * 255
    assert 0 < float(gap.mean()) < 1
    assert float(gap.max()) < 3


def test_exact_and_fast_views_of_one_image_go_together(split: Files) -> None:
    plan = Plan(images=len(split), batch_size=8, seed=1)
    fast = replace(VIEW, exact=False, size=32)
    (both,) = loader.train_batches(split, (VIEW, fast), plan, range(1), CPU, workers=0)
    (alone,) = loader.train_batches(split, (VIEW,), plan, range(1), CPU, workers=0)
    assert [tuple(view.shape) for view in both.views] == [(8, 3, 48, 48), (8, 3, 32, 32)]
    assert torch.equal(both.views[0], alone.views[0])


def test_boxes_are_those_of_torchvision_for_its_random_numbers() -> None:
    low, high = torch.log(torch.tensor([3 / 4, 4 / 3]))
    centred = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        height, width = rng.integers(10, 700, 2).tolist()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            box = RandomResizedCrop.get_params(Image.new("L", (width, height)), [0.08, 1.0], [3 / 4, 4 / 3])
            torch.manual_seed(seed)
            tries = [
                (torch.empty(1).uniform_(0.08, 1.0).item(), torch.exp(torch.empty(1).uniform_(low, high)).item())
                for _ in range(10)
            ]
        top, left, tall, wide = box
        # Its corner is a whole number drawn from those that are possible, ours a share of them.
        row = OneDraw(
            areas=[area for area, _ in tries],
            ratios=[ratio for _, ratio in tries],
            corner=[(top + 0.5) / (height - tall + 1), (left + 0.5) / (width - wide + 1)],
            flip=False,
            jitter=False,
            order=[],
            factors=[],
            gray=False,
            blur=False,
            sigma=1.0,
            solarize=False,
            policy=[],
        )
        assert crops.pixel_box(Augment(size=32), row, height, width) == box
        anywhere = row._replace(corner=[0.99999, 0.0])
        centred += crops.pixel_box(Augment(size=32), anywhere, height, width)[:2] == (top, left)
    assert centred > 10  # images so narrow that no try fits


def test_it_is_another_job_and_leaves_the_old_ones_alone() -> None:
    fast = replace(VIEW, exact=False)
    assert "exact" not in cast(dict[str, object], canonical(fast))
    assert digest(fast) != digest(VIEW)
