"""Batches for training and for feature extraction, the same for data in memory and for files.

A batch is a function of (seed, step): the order is a fresh permutation per epoch with the last partial batch dropped,
the augmentation parameters come from a generator of the step. Each rank takes its rows of the global batch, so two
ranks together see exactly what one process would.

A damaged image is an error that names the file, or, where the caller says `replace_unreadable` (pretraining), the next
readable image of the same global batch takes its place, whoever decodes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from bench.data import augment
from bench.data.datasets import Arrays, Files, SplitData
from bench.errors import BenchError
from bench.seeding import generator, seed_of
from bench.spec import CENTRE, Augment, Crop


class UnreadableImageError(BenchError):
    """A file is there but its content is no whole image."""


@dataclass(frozen=True)
class Batch:
    """One rank's part of a batch: float views (b, 3, size, size) in [0, 1], labels (b,), positions in the split (b,).

    `unreadable` are positions of damaged images that were replaced; `indices` has what stands in their place.
    """

    views: list[Tensor]
    labels: Tensor
    indices: Tensor
    unreadable: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Which images each step sees. `rank` of `world` equal parts."""

    images: int
    batch_size: int
    seed: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch_size > self.images:
            raise BenchError(f"batch_size is {self.batch_size}, but the training split has {self.images} images.")
        if self.batch_size % self.world:
            raise BenchError(f"batch_size {self.batch_size} does not divide into {self.world} ranks.")

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch."""
        return self.images // self.batch_size

    def indices(self, step: int) -> Tensor:
        """This rank's images at a step, (batch_size / world,)."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = torch.randperm(self.images, generator=generator(self.seed, "order", epoch))
        return order[place * self.batch_size : (place + 1) * self.batch_size][self.rows]

    @property
    def rows(self) -> slice:
        """This rank's part of the global batch."""
        each = self.batch_size // self.world
        return slice(self.rank * each, (self.rank + 1) * each)


def train_batches(
    split: SplitData,
    views: tuple[Augment, ...],
    plan: Plan,
    steps: range,
    device: torch.device,
    *,
    workers: int,
    replace_unreadable: bool = False,
) -> Iterator[Batch]:
    """The batches of `steps`; starting in the middle of an epoch costs nothing.

    Raises BenchError that names a file which cannot be read or decoded; with `replace_unreadable` only when no image
    of a batch can be decoded, or the file system fails.
    """
    if isinstance(split, Arrays):
        yield from _array_batches(split, views, plan, steps, device)
    else:
        yield from _file_batches(_Crops(split, views, plan, replace_unreadable), steps, device, workers=workers)


def _array_batches(split: Arrays, views: tuple[Augment, ...], plan: Plan, steps: range, device: torch.device) -> Iterator[Batch]:
    images, labels = split.images.to(device), split.labels.to(device)
    for step in steps:
        indices = plan.indices(step)
        chosen = images[indices.to(device)]
        made = []
        for number, view in enumerate(views):
            drawn = augment.draw(view, plan.batch_size, generator(plan.seed, "augment", step, number)).rows(plan.rows)
            made.append(_layout(augment.apply(chosen, view, drawn)))
        yield Batch(views=made, labels=labels[indices.to(device)], indices=indices)


class _Batches(torch.utils.data.Dataset[Any]):
    """One item is one batch. A damaged file comes back as an item: raised in a worker, torch would put a traceback into its message."""

    def __getitem__(self, number: int) -> Any:
        try:
            return self.batch(number)
        except BenchError as error:
            return error

    def batch(self, number: int) -> Any:
        """Tensors. Raises BenchError for a damaged file."""
        raise NotImplementedError


def _load(batches: _Batches, numbers: Sequence[int], device: torch.device, *, seed: int, workers: int) -> Iterator[Any]:
    """The batches, made by worker processes. Raises the BenchError of a damaged file."""
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        # A generator of our own: the default would draw a base seed from, and so move, the global one.
        generator=torch.Generator().manual_seed(seed_of(seed, "loader")),
    )
    for item in loader:
        if isinstance(item, BenchError):
            raise item
        yield item


class _Crops(_Batches):
    """Batch `step`: this rank's images decoded once each, and the uint8 crops of every view cut from them."""

    def __init__(self, split: Files, views: tuple[Augment, ...], plan: Plan, replace_unreadable: bool) -> None:
        self.split, self.views, self.plan, self.replace_unreadable = split, views, plan, replace_unreadable

    def batch(self, number: int) -> tuple[list[Tensor], Tensor, tuple[int, ...]]:
        """Crops of each view, which images they are, and which could not be decoded."""
        step, indices = number, self.plan.indices(number)
        drawn = [
            augment.draw(view, self.plan.batch_size, generator(self.plan.seed, "augment", step, order)).rows(self.plan.rows)
            for order, view in enumerate(self.views)
        ]
        crops = [torch.empty(len(indices), 3, view.size, view.size, dtype=torch.uint8) for view in self.views]
        unreadable = []
        for row, index in enumerate(indices.tolist()):
            try:
                image = decode(self.split, index)
            except UnreadableImageError:
                if not self.replace_unreadable:
                    raise
                unreadable.append(index)
                image, indices[row] = self._instead(step, row)
            for view, d, out in zip(self.views, drawn, crops, strict=True):
                out[row] = _resized_box(image, view, d.rows(slice(row, row + 1)))
        return crops, indices, tuple(unreadable)

    def _instead(self, step: int, row: int) -> tuple[Tensor, int]:
        """The next readable image of the global batch, so that the ranks need not agree on anything."""
        whole = replace(self.plan, rank=0, world=1).indices(step).tolist()
        place = self.plan.rows.start + row
        for index in whole[place + 1 :] + whole[:place]:
            try:
                return decode(self.split, index), index
            except UnreadableImageError:
                continue
        raise BenchError(f"none of the {len(whole)} images of step {step + 1} can be decoded, {self.split.paths[whole[place]]} among them.")


def _file_batches(crops: _Crops, steps: range, device: torch.device, *, workers: int) -> Iterator[Batch]:
    """Workers decode and crop; flip and colour run batched on the device with the same drawn parameters."""
    views, plan, labels = crops.views, crops.plan, crops.split.labels
    if any(view.rotation for view in views):
        raise BenchError("rotation is made for small images in memory; it is not available for data on disk.")
    loaded = _load(crops, steps, device, seed=plan.seed, workers=workers)
    for step, (parts, indices, unreadable) in zip(steps, loaded, strict=True):
        made = []
        for number, (view, part) in enumerate(zip(views, parts, strict=True)):
            drawn = augment.draw(view, plan.batch_size, generator(plan.seed, "augment", step, number)).rows(plan.rows)
            x = part.to(device, non_blocking=True).float().div_(255)
            x = torch.where(drawn.flip_B.to(device)[:, None, None, None], x.flip(3), x)
            made.append(_layout(augment.colour(x, view, drawn)))
        yield Batch(views=made, labels=labels[indices].to(device, non_blocking=True), indices=indices, unreadable=tuple(unreadable))


def decode(split: Files, index: int) -> Tensor:
    """The image as uint8 (3, H, W), RGB.

    Raises UnreadableImageError that names a damaged file, BenchError when the file system cannot give it: a lost mount
    must not look like damaged images.
    """
    path = split.paths[index]
    try:
        with Image.open(path) as file:
            pixels = np.array(file.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        if isinstance(error, OSError) and error.errno is not None:
            raise BenchError(f"{path} cannot be read ({error.strerror}).") from error
        raise UnreadableImageError(f"{path} cannot be decoded ({error}): replace the file.") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _resized_box(image_CHW: Tensor, view: Augment, drawn: augment.Draw) -> Tensor:
    """Cut one drawn box and resize it, bicubic with antialiasing, on uint8."""
    height, width = image_CHW.shape[1:]
    top, left, tall, wide = augment.boxes(view, drawn, torch.tensor([width / height]))[0].tolist()
    h, w = max(1, round(tall * height)), max(1, round(wide * width))
    y, x = min(round(top * height), height - h), min(round(left * width), width - w)
    part = image_CHW[None, :, y : y + h, x : x + w]
    return F.interpolate(part, size=(view.size, view.size), mode="bicubic", antialias=True)[0]


def eval_batches(
    split: SplitData, size: int, batch_size: int, device: torch.device, workers: int, crop: Crop = CENTRE
) -> Iterator[tuple[Tensor, Tensor]]:
    """All images once, in order, without randomness: float (b, 3, size, size) in [0, 1] and labels (b, ...).

    Files are resized and cropped as `crop` says; its default is that of all seven papers.
    """
    if isinstance(split, Arrays):
        for start in range(0, len(split), batch_size):
            part = slice(start, start + batch_size)
            yield _layout(split.images[part].to(device).float().div_(255)), split.labels[part].to(device)
        return
    batches = _CentreCrops(split, size, batch_size, crop)
    for images, labels in _load(batches, range(0, len(split), batch_size), device, seed=0, workers=workers):
        yield _layout(images.to(device, non_blocking=True).float().div_(255)), labels.to(device, non_blocking=True)


class _CentreCrops(_Batches):
    """Batch `start`: the images from there on, uint8."""

    def __init__(self, split: Files, size: int, batch_size: int, crop: Crop) -> None:
        self.split, self.size, self.batch_size, self.crop = split, size, batch_size, crop

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Centre crops and labels."""
        chosen = range(number, min(number + self.batch_size, len(self.split)))
        return torch.stack([self._crop(index) for index in chosen]), self.split.labels[chosen.start : chosen.stop]

    def _crop(self, index: int) -> Tensor:
        from torchvision.transforms.v2 import functional as T

        side = [self.size, self.size] if self.crop.squash else [round(self.size * self.crop.resize)]
        image = T.resize(decode(self.split, index), side, interpolation=T.InterpolationMode.BICUBIC, antialias=True)
        cropped: Tensor = T.center_crop(image, [self.size, self.size])
        return cropped


def _layout(images: Tensor) -> Tensor:
    """channels_last: 1.4 times the speed of the step on the small ResNet (CPU), no change of values."""
    return images.contiguous(memory_format=torch.channels_last)
