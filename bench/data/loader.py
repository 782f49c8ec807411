"""Batches for training and for feature extraction, the same for data in memory and for files.

A batch is a function of (seed, step): the order is a fresh permutation per epoch with the last partial batch dropped,
the augmentation parameters come from a generator of the step. Each rank takes its rows of the global batch, so two
ranks together see exactly what one process would.

For images on disk, workers decode each image once and cut all its views from it, resized with antialiasing on 8-bit
numbers; flip and colour run batched on the device, or in the workers where the device is the CPU (photo.py), or all of
it by Pillow (exact.py). What travels from the workers is uint8.

A damaged image is an error that names the file, or, where the caller says `replace_unreadable` (pretraining), the next
readable image of the same global batch takes its place, whoever decodes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.contracts import Batch
from bench.data.decoding import UnreadableImageError, read_image
from bench.data.shared_memory import NOTHING, PAGE, Batches, whole_pages
from bench.data.splits import Arrays, Files, SplitData
from bench.data.views import augment, draws, exact
from bench.data.views.crops import pixel_box
from bench.data.views.photo import painter
from bench.data.views.to_device import sent
from bench.data.workers import PREFETCHED, load
from bench.errors import BenchError
from bench.seeding import generator
from bench.spec import CENTRE, Augment, Crop


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
        order = _order(self.images, self.seed, epoch)
        return order[place * self.batch_size : (place + 1) * self.batch_size][self.rows].clone()

    @property
    def rows(self) -> slice:
        """This rank's part of the global batch."""
        each = self.batch_size // self.world
        return slice(self.rank * each, (self.rank + 1) * each)


@lru_cache(maxsize=2)
def _order(images: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch. Kept: for ImageNet's images it takes longer to draw than a small step to compute."""
    return torch.randperm(images, generator=generator(seed, "order", epoch))


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
        made = FileViews(split, views, plan, replace_unreadable=replace_unreadable, finish=device.type == "cpu")
        yield from _file_batches(made, steps, device, workers=workers)


def _array_batches(
    split: Arrays, views: tuple[Augment, ...], plan: Plan, steps: range, device: torch.device
) -> Iterator[Batch]:
    images, labels = one_channel(split.images).to(device), split.labels.to(device)
    for step in steps:
        indices = plan.indices(step)
        there = sent(indices, device)
        chosen = images[there]
        made = []
        for number, view in enumerate(views):
            made.append(_layout(augment.apply(chosen, view, _draw(view, plan, step, number))))
        yield Batch(views=made, labels=labels[there], indices=indices)


def one_channel(images_BCHW: Tensor) -> Tensor:
    """The first channel, (B, 1, H, W), of images that are gray, to be cut and resampled once instead of three times.

    Others as they are.
    """
    first = images_BCHW[:, :1]
    return first.contiguous() if torch.equal(images_BCHW, first.expand_as(images_BCHW)) else images_BCHW


class FileViews:
    """Batch `step`: this rank's images decoded once each, and the uint8 views cut from them.

    With `finish` the views are finished here, on the CPU; else flip and colour are left to the device.
    """

    def __init__(
        self, split: Files, views: tuple[Augment, ...], plan: Plan, *, replace_unreadable: bool, finish: bool
    ) -> None:
        self.split, self.views, self.plan = split, views, plan
        self.replace_unreadable, self.finish = replace_unreadable, finish
        self.pillow = any(view.exact for view in views)
        self.places: list[list[Tensor]] = []
        self.turn = -1

    def batch(self, number: int) -> tuple[list[Tensor], Tensor, tuple[int, ...]]:
        """Each view's images (b, 3, size, size), which images of the split they are, and which could not be decoded."""
        indices = self.plan.indices(number)
        drawn = [_draw(view, self.plan, number, order).images() for order, view in enumerate(self.views)]
        made = self._memory(len(indices))
        unreadable = []
        for row, index in enumerate(indices.tolist()):
            try:
                image = decode(self.split, index, pillow=self.pillow)
            except UnreadableImageError:
                if not self.replace_unreadable:
                    raise
                unreadable.append(index)
                image, indices[row] = self._instead(number, row)
            for view, rows, out in zip(self.views, drawn, made, strict=True):
                out[row].copy_(
                    exact.view(image, view, rows[row]) if view.exact else _resized_box(image, view, rows[row])
                )
        if self.finish:
            self._paint(drawn, made)
        return made, indices, tuple(unreadable)

    def shared(self, steps: int) -> Batches:
        """What workers keep in shared memory: the places of _memory, and which images they are."""
        count = self.plan.batch_size // self.plan.world
        each = whole_pages([3 * count * view.size**2 for view in self.views] + [8 * count])
        return Batches(each, per_worker=PREFETCHED + 1, held=0, most=steps)

    def _memory(self, count: int) -> list[Tensor]:
        """Where a batch's views are written: the same few places in turn, as fresh memory costs a sixth of a batch.

        A worker makes them in shared memory, so that nothing is copied on the way. What it writes over was received:
        when it is asked for a batch, all but its last PREFETCHED were handed out, and all but the last of those were
        copied.
        """
        worker = torch.utils.data.get_worker_info() is not None
        self.turn = (self.turn + 1) % (PREFETCHED + 1 if worker else 1)
        if self.turn == len(self.places):
            # what the resize gives: see _resized_box
            layout = torch.contiguous_format if self.finish else torch.channels_last
            made = [
                torch.empty(count, 3, view.size, view.size, dtype=torch.uint8, memory_format=layout)
                for view in self.views
            ]
            shared = [memory.share_memory_() for memory in made] if worker else made  # type: ignore[no-untyped-call]
            self.places.append(shared)
        return self.places[self.turn]

    def _paint(self, drawn: Sequence[Sequence[draws.OneDraw]], made: Sequence[Tensor]) -> None:
        """After all are cut: what the painter works in stays in the core's cache then.

        Decoding an image would empty it.
        """
        for view, rows, crops in zip(self.views, drawn, made, strict=True):
            if not view.exact:
                for row, crop in zip(rows, crops, strict=True):
                    painter(view.size).paint(crop, view, row, crop)

    def _instead(self, step: int, row: int) -> tuple[Tensor, int]:
        """The next readable image of the global batch, so that the ranks need not agree on anything."""
        whole = replace(self.plan, rank=0, world=1).indices(step).tolist()
        place = self.plan.rows.start + row
        for index in whole[place + 1 :] + whole[:place]:
            try:
                return decode(self.split, index, pillow=self.pillow), index
            except UnreadableImageError:
                continue
        raise BenchError(
            f"none of the {len(whole)} images of step {step + 1} can be decoded, {self.split.paths[whole[place]]} "
            "among them."
        )


def _file_batches(made: FileViews, steps: range, device: torch.device, *, workers: int) -> Iterator[Batch]:
    """What the workers left to do runs batched on the device, with the same drawn parameters."""
    views, plan, labels = made.views, made.plan, made.split.labels
    if any(view.rotation for view in views):
        raise BenchError("rotation is made for small images in memory; it is not available for data on disk.")
    loaded = load(made.batch, steps, device, seed=plan.seed, workers=workers, shared=made.shared(len(steps)))
    for step, (parts, indices, unreadable) in zip(steps, loaded, strict=True):
        finished = []
        for number, (view, part) in enumerate(zip(views, parts, strict=True)):
            x = part.to(device, non_blocking=True)
            if made.finish or view.exact:
                finished.append(x.to(torch.float32, memory_format=torch.channels_last).div_(255))
            else:
                finished.append(_layout(augment.finish(x, view, _draw(view, plan, step, number))))
        yield Batch(views=finished, labels=sent(labels[indices], device), indices=indices, unreadable=tuple(unreadable))


def _draw(view: Augment, plan: Plan, step: int, number: int) -> draws.Draw:
    """The parameters of this rank's images for view `number` of a step."""
    return draws.draw(view, plan.batch_size, generator(plan.seed, "augment", step, number)).rows(plan.rows)


def decode(split: Files, index: int, *, pillow: bool = False) -> Tensor:
    """One image of a split: decoding.read_image."""
    return read_image(split.paths[index], pillow=pillow)


def _resized_box(image_CHW: Tensor, view: Augment, row: draws.OneDraw) -> Tensor:
    """Cut one drawn box and resize it, bicubic with antialiasing, on uint8.

    The result has the colours side by side: the fastest way.
    """
    top, left, height, width = pixel_box(view, row, *image_CHW.shape[1:])
    part = image_CHW[None, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
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
    crops = _CentreCrops(split, size, batch_size, crop)
    starts, shared = range(0, len(split), batch_size), pass_takes(split, size, batch_size)
    for images, labels in load(crops.batch, starts, device, seed=0, workers=workers, shared=shared):
        yield _layout(images.to(device, non_blocking=True).float().div_(255)), labels.to(device, non_blocking=True)


def pass_takes(split: SplitData, size: int, batch_size: int) -> Batches:
    """What `eval_batches` takes of shared memory."""
    if isinstance(split, Arrays):
        return NOTHING
    # a batch is made anew each time: beside those that are made ahead, one is looked at and one just received
    each = whole_pages([3 * min(batch_size, len(split)) * size**2, PAGE])
    return Batches(each, per_worker=PREFETCHED, held=2, most=-(-len(split) // batch_size))


def training_takes(split: SplitData, views: tuple[Augment, ...], plan: Plan, steps: int) -> Batches:
    """What `train_batches` takes of shared memory for so many steps."""
    if isinstance(split, Arrays):
        return NOTHING
    return FileViews(split, views, plan, replace_unreadable=False, finish=False).shared(steps)


class _CentreCrops:
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
