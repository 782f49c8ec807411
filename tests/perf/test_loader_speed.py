"""What the loader costs for photographs of ImageNet's size, in CPU time of one core.

Each cost is in pairs with papers' and peers' usual one. The usual one: a data set of Pillow images through
torchvision's v1 transforms to float tensors, in a DataLoader.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import InterpolationMode, transforms

from bench.data.loader import FileViews, Plan, decode
from bench.data.splits import Files
from bench.data.workers import load
from bench.spec import Augment
from tests.perf.pairs import Spent, Usual, pairs, timed

PHOTOGRAPHS, IMAGES = 30, 120  # each photograph is read four times in a batch of one rank
EPOCHS = 3  # of a pass through a DataLoader, so that starting its worker counts little
CPU = torch.device("cpu")
# BYOL, Barlow Twins, VICReg
FIRST = Augment(size=224, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, gray=0.2, blur=1.0)
VIEWS = (FIRST, replace(FIRST, blur=0.1, solarize=0.2))


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """30 JPEGs, 500 x 375 px, 100 kB each as ImageNet's: parts of scikit-learn's two photographs with sensor noise."""
    from sklearn.datasets import load_sample_images

    folder, rng, noise = tmp_path_factory.mktemp("perf"), random.Random(0), np.random.default_rng(0)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    for number in range(PHOTOGRAPHS):
        width, height = (375, 500) if number % 4 == 0 else (500, 375)
        share = rng.uniform(0.62, 0.99) * min(640 / width, 427 / height)
        left, top = rng.uniform(0, 640 - share * width), rng.uniform(0, 427 - share * height)
        part = photos[number % 2].resize(
            (width, height), Image.Resampling.BICUBIC, box=(left, top, left + share * width, top + share * height)
        )
        grainy = np.asarray(part) + noise.normal(0, 2.5, (height, width, 3))
        file = folder / f"{number:02}.jpg"
        Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(
            file, quality=96, subsampling=0 if number % 5 == 0 else 2
        )
    return Files(sorted(folder.iterdir()) * (IMAGES // PHOTOGRAPHS), torch.zeros(IMAGES, dtype=torch.long), 1)


class Pictures(torch.utils.data.Dataset[list[Tensor]]):
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


def made(photographs: Files, *, finish: bool, exact: bool = False) -> FileViews:
    views = tuple(replace(view, exact=exact) for view in VIEWS)
    return FileViews(
        photographs, views, Plan(images=IMAGES, batch_size=IMAGES, seed=0), replace_unreadable=False, finish=finish
    )


def decoding(photographs: Files) -> Spent:
    return timed(lambda: all_of(decode(photographs, index) for index in range(IMAGES)))


def all_of(items: Iterable[object]) -> None:
    for _ in items:
        pass


@pytest.fixture
def usual(photographs: Files) -> Usual:
    data = Pictures(photographs.paths)
    return Usual(
        name="Pillow and torchvision's v1 transforms",
        spent=timed(lambda: all_of(data[index] for index in range(IMAGES))),
    )


@dataclass(frozen=True)
class Case:
    """A way to make the views."""

    what: str
    at_least: float | None = None  # times as fast as the usual way
    note: str = ""


CASES = {
    "decode": Case("decoding alone"),
    "split": Case("the CPU's part where a GPU does the rest: decoding, two crops, uint8", 5.0),
    "full": Case("everything on the CPU, image by image", 3.0),
    "exact": Case(
        "`exact`: the same Pillow operations, digit for digit",
        note="for whoever wants torchvision's digits; not meant to be faster",
    ),
}


@pytest.mark.benchmark(group="loader", timer=time.process_time)
@pytest.mark.parametrize("name", list(CASES))
def test_in_one_process(benchmark: Any, photographs: Files, usual: Usual, rounds: int, name: str) -> None:
    case = CASES[name]
    views, steps = made(photographs, finish=name != "split", exact=name == "exact"), iter(range(1000))
    work = decoding(photographs) if name == "decode" else timed(lambda: views.batch(next(steps)))
    pairs(
        benchmark,
        case.what,
        work,
        usual,
        unit="ms an image",
        images=IMAGES,
        rounds=rounds,
        goals={"ratio at least": case.at_least} if case.at_least else {},
        note=case.note,
    )


@pytest.mark.benchmark(group="loader", timer=time.process_time)
def test_beside_decoding(benchmark: Any, photographs: Files, rounds: int) -> None:
    views, steps = made(photographs, finish=False), iter(range(1000))
    beside = Usual(name="decoding alone, to which nothing can come up", spent=decoding(photographs))
    work = timed(lambda: views.batch(next(steps)))
    pairs(
        benchmark,
        CASES["split"].what,
        work,
        beside,
        unit="ms an image",
        images=IMAGES,
        rounds=rounds,
        goals={"ratio at least": 0.6},
    )


@pytest.mark.benchmark(group="loader", timer=time.process_time)
@pytest.mark.parametrize("name", ["split", "full"])
def test_through_a_data_loader_with_one_worker(
    benchmark: Any, photographs: Files, short: bool, rounds: int, name: str
) -> None:
    views, epochs = made(photographs, finish=name == "full"), 1 if short else EPOCHS
    data = Pictures(list(photographs.paths) * epochs)

    def usual() -> None:
        all_of(torch.utils.data.DataLoader(data, batch_size=IMAGES, num_workers=1))

    pairs(
        benchmark,
        f"through a DataLoader with one worker: {CASES[name].what}",
        timed(lambda: all_of(load(views.batch, range(epochs), CPU, seed=0, workers=1, shared=views.shared(epochs)))),
        Usual(name="the same with float32 images and the default collation", spent=timed(usual)),
        unit="ms an image",
        images=IMAGES * epochs,
        rounds=rounds,
        goals={"ratio at least": 5.0 if name == "split" else 3.0},
        note="CPU time of both processes",
    )
