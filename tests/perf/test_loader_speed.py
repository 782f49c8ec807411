"""What the loader costs for photographs of ImageNet's size, each in pairs with papers' and peers' usual one, in CPU time of one core.

The usual one: a data set of Pillow images through torchvision's v1 transforms to float tensors, in a DataLoader. Each round runs it first
and then the measured one, so that both meet the same machine; `ratio` is the median over the rounds. Nothing here fails for its time.
"""

from __future__ import annotations

import random
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import InterpolationMode, transforms

from bench.data.loader import Plan, _load, _Views, decode
from bench.data.splits import Files
from bench.spec import Augment

PHOTOGRAPHS, IMAGES, ROUNDS = 30, 120, 5  # each photograph is read four times in a batch of one rank
EPOCHS = 3  # of a pass through a DataLoader, so that starting its worker counts little
CPU = torch.device("cpu")
FIRST = Augment(size=224, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, gray=0.2, blur=1.0)  # BYOL, Barlow Twins, VICReg
VIEWS = (FIRST, replace(FIRST, blur=0.1, solarize=0.2))


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """30 JPEGs of 500 x 375 px, 100 kB each as ImageNet's: parts of scikit-learn's two photographs with the noise of a sensor."""
    from sklearn.datasets import load_sample_images

    folder, rng, noise = tmp_path_factory.mktemp("perf"), random.Random(0), np.random.default_rng(0)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    for number in range(PHOTOGRAPHS):
        width, height = (375, 500) if number % 4 == 0 else (500, 375)
        share = rng.uniform(0.62, 0.99) * min(640 / width, 427 / height)
        left, top = rng.uniform(0, 640 - share * width), rng.uniform(0, 427 - share * height)
        part = photos[number % 2].resize((width, height), Image.Resampling.BICUBIC, box=(left, top, left + share * width, top + share * height))
        grainy = np.asarray(part) + noise.normal(0, 2.5, (height, width, 3))
        file = folder / f"{number:02}.jpg"
        Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(file, quality=96, subsampling=0 if number % 5 == 0 else 2)
    return Files(sorted(folder.iterdir()) * (IMAGES // PHOTOGRAPHS), torch.zeros(IMAGES, dtype=torch.long), 1)


class Usual(torch.utils.data.Dataset[list[Tensor]]):
    """Two float views of each image, as published code makes them."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = list(paths)
        self.transforms = [self._transform(view) for view in VIEWS]

    @staticmethod
    def _transform(view: Augment) -> Any:
        jitter = transforms.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
        blur = transforms.Lambda(lambda image: image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0))))
        return transforms.Compose(
            [
                transforms.RandomResizedCrop(view.size, interpolation=InterpolationMode.BICUBIC),
                transforms.RandomHorizontalFlip(),
                transforms.RandomApply([jitter], p=view.jitter),
                transforms.RandomGrayscale(view.gray),
                transforms.RandomApply([blur], p=view.blur),
                transforms.RandomSolarize(128, p=view.solarize),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> list[Tensor]:
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB")
        return [transform(image) for transform in self.transforms]


def cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def pairs(benchmark: Any, usual: Callable[[], object], measured: Callable[[], object], images: int) -> None:
    """Both in turn, round by round; a first round warms up."""
    times: list[float] = []

    def before() -> None:
        begun = cpu_seconds()
        usual()
        times.append((cpu_seconds() - begun) / images)

    mine: list[float] = []

    def timed() -> None:
        begun = cpu_seconds()
        measured()
        mine.append((cpu_seconds() - begun) / images)

    before()
    timed()
    times.clear()
    mine.clear()
    benchmark.pedantic(timed, setup=before, rounds=ROUNDS, iterations=1)
    benchmark.extra_info |= {
        "images": images,
        "milliseconds": 1e3 * statistics.median(mine),
        "usual_milliseconds": 1e3 * statistics.median(times),
        "ratio": statistics.median(a / b for a, b in zip(times, mine, strict=True)),
    }


def made(photographs: Files, *, finish: bool, exact: bool = False) -> _Views:
    views = tuple(replace(view, exact=exact) for view in VIEWS)
    return _Views(photographs, views, Plan(images=IMAGES, batch_size=IMAGES, seed=0), replace_unreadable=False, finish=finish)


def all_of(items: Iterable[object]) -> None:
    for _ in items:
        pass


@pytest.fixture
def usual(photographs: Files) -> Callable[[], None]:
    data = Usual(photographs.paths)

    def run() -> None:
        for index in range(IMAGES):
            data[index]

    return run


@pytest.mark.benchmark(group="loader", timer=time.process_time)
@pytest.mark.parametrize("what", ["decode", "split", "full", "exact"])
def test_in_one_process(benchmark: Any, photographs: Files, usual: Callable[[], None], what: str) -> None:
    if what == "decode":
        pairs(benchmark, usual, lambda: all_of(decode(photographs, index) for index in range(IMAGES)), IMAGES)
        return
    views, steps = made(photographs, finish=what != "split", exact=what == "exact"), iter(range(1000))
    pairs(benchmark, usual, lambda: views.batch(next(steps)), IMAGES)


@pytest.mark.benchmark(group="loader")
@pytest.mark.parametrize("what", ["split", "full"])
def test_through_a_data_loader_with_one_worker(benchmark: Any, photographs: Files, what: str) -> None:
    views = made(photographs, finish=what == "full")

    def usual() -> None:
        data = torch.utils.data.DataLoader(Usual(list(photographs.paths) * EPOCHS), batch_size=IMAGES, num_workers=1)
        all_of(data)

    pairs(benchmark, usual, lambda: all_of(_load(views.batch, range(EPOCHS), CPU, seed=0, workers=1)), IMAGES * EPOCHS)
