"""A data set whose images tell a number, and a backbone that reads it: evaluations with a known answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from bench.contracts import Context, Subject
from bench.data.splits import Arrays, Files, Split, SplitData
from bench.settings.site import Site
from bench.spec import Data

CLASSES = 6
SIZE = 16


class Reader(nn.Module):
    """Images -> soft one-hot code of their mean red value, the same for every crop. Counts the images that it sees."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.seen = 0
        self.levels = torch.arange(classes) / classes

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return torch.exp(-((images[:, 0].mean(dim=(1, 2))[:, None] - self.levels) * 12).square())


def told(numbers: Tensor, rng: torch.Generator, doubt: float = 0.0) -> Tensor:
    """uint8 images (N, 3, 16, 16): red tells the number, with a deviation of `doubt` (of 255); the rest is noise."""
    images = torch.randint(0, 256, (len(numbers), 3, SIZE, SIZE), dtype=torch.uint8, generator=rng)
    red = numbers * 255 // CLASSES + doubt * torch.randn(len(numbers), generator=rng)
    images[:, 0] = red.clamp(0, 255).to(torch.uint8)[:, None, None]
    return images


def splits(
    *, doubt: float = 0.0, random_labels: bool = False, sizes: tuple[int, int, int] = (240, 60, 600)
) -> dict[Split, SplitData]:
    """train, val, test.

    With `doubt` numbers are mistaken for others; with `random_labels` they say nothing about the label.
    """
    rng = torch.Generator().manual_seed(0)
    made: dict[Split, SplitData] = {}
    names: tuple[Split, ...] = ("train", "val", "test")
    for name, count in zip(names, sizes, strict=True):
        numbers = torch.arange(count)[torch.randperm(count, generator=rng)] % CLASSES
        labels = numbers[torch.randperm(count, generator=rng)] if random_labels else numbers
        made[name] = Arrays(told(numbers, rng, doubt), labels, CLASSES)
    return made


def as_files(found: Mapping[Split, SplitData], folder: Path) -> dict[Split, SplitData]:
    """The same images as lossless files, wider than high so that they are cropped."""
    made: dict[Split, SplitData] = {}
    for name, split in found.items():
        assert isinstance(split, Arrays)
        paths = []
        for number, image in enumerate(split.images):
            paths.append(folder / f"{name}-{number}.png")
            Image.fromarray(image.permute(1, 2, 0).numpy()).resize((24, 20)).save(paths[-1])
        made[name] = Files(tuple(paths), split.labels, split.classes)
    return made


def subject() -> Subject:
    """A reader of its own, so that it counts its own images."""
    return Subject(key="reader", network=Reader().eval(), feature_dim=CLASSES)


def small(context: Context) -> Context:
    """The context with the size of these images."""
    return replace(context, data=Data(name="mnist5k", size=SIZE))


def own_place(context: Context, folder: Path) -> Context:
    """The context with a feature cache and a run folder of its own."""
    (folder / "run").mkdir(parents=True)
    site = Site(root=folder, runs=folder, output=folder / "out", report=folder / "report")
    return replace(context, site=site, features=folder / "features", folder=folder / "run")
