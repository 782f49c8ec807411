"""Pretraining loops without a harness around them, as papers' codes and peers have them.

What `bench`'s loop is held against.

ref-i    Pillow images from PNG files through torchvision's v1 transforms, one by one, in a DataLoader; float32
ref-ii   images in memory, one augmentation for the whole batch, channels_last; float32
ref-iii  the same with bfloat16 autocast

All train the module that `bench` trains (its encoder and projector, its loss function) with torch's SGD, log nothing
and save nothing. Each returns the CPU seconds of its steps but for the first, and their images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms import transforms

from bench.data.splits import Arrays
from bench.data.views import augment, draws
from bench.spec import Augment, Pretrain
from bench.training.methods import build_method
from methods.simclr import Config, nt_xent

Views = tuple[Tensor, Tensor]
MakeView = Callable[[Tensor, Augment], Tensor]


def write_pngs(split: Arrays, folder: Path) -> Path:
    """The images of a split as torchvision's ImageFolder has them."""
    for label in range(split.classes):
        (folder / str(label)).mkdir(parents=True)
    for number, (image, label) in enumerate(zip(split.images, split.labels.tolist(), strict=True)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / str(label) / f"{number:04}.png")
    return folder


def train(spec: Pretrain, batches: Iterable[Views], *, channels_last: bool, bf16: bool) -> float:
    """The loop; CPU seconds of all steps but the first."""
    method = build_method(spec, steps=1000).train()
    encoder, projector = method.get_submodule("encoder"), method.get_submodule("projector")
    if channels_last:
        method.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        method.parameters(), spec.optim.lr, momentum=spec.optim.momentum, weight_decay=spec.optim.weight_decay
    )
    assert isinstance(spec.method, Config)
    begun = 0.0
    for step, views in enumerate(batches):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            embedded: Tensor = projector(encoder(torch.cat(views)))
        za, zb = embedded.float().chunk(2)
        loss = nt_xent(za, zb, temperature=spec.method.temperature)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step == 0:
            begun = time.process_time()
    return time.process_time() - begun


def from_files(folder: Path, spec: Pretrain, steps: int) -> Iterator[Views]:
    """ref-i: two views of each image, made one by one."""
    view = spec.views[0]
    jitter = transforms.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
    make = transforms.Compose(
        [
            transforms.RandomResizedCrop(view.size, scale=view.crop_scale),
            transforms.RandomHorizontalFlip(view.flip),
            transforms.RandomApply([jitter], p=view.jitter),
            transforms.RandomGrayscale(view.gray),
            transforms.ToTensor(),
        ]
    )
    data = ImageFolder(str(folder), lambda image: (make(image), make(image)))
    loader = torch.utils.data.DataLoader(data, spec.batch_size, shuffle=True, drop_last=True)
    done = 0
    while True:
        for (first, second), _ in loader:
            if done == steps:
                return
            done += 1
            yield first, second


def in_memory(split: Arrays, spec: Pretrain, steps: int, make: MakeView) -> Iterator[Views]:
    """ref-ii and ref-iii: two views of a batch, each made at once."""
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < spec.batch_size:
            order = torch.randperm(len(split))
        chosen, order = order[: spec.batch_size], order[spec.batch_size :]
        images = split.images[chosen]
        first, second = (make(images, view).contiguous(memory_format=torch.channels_last) for view in spec.views)
        yield first, second


def bench_views(images: Tensor, view: Augment) -> Tensor:
    """Those of `bench`: every image's four colour operations in an order of its own, as torchvision's."""
    return augment.apply(images, view, draws.draw(view, len(images), torch.default_generator))


# Rows of the turn from RGB to one brightness and two colour axes (YIQ, as NTSC had it), on which a hue is an angle.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = torch.linalg.inv(_TO_YIQ)


def plain_views(images_BCHW: Tensor, view: Augment) -> Tensor:
    """The least of equal nominal strengths: crop and flip in one resampling, all colour operations in one matrix.

    Brightness, contrast, saturation, hue and gray in this order for every image, nothing cut off between them, hue as a
    turn in YIQ.
    """
    count = len(images_BCHW)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count) * (high - low) + low

    area, ratio = uniform(*view.crop_scale), torch.exp(uniform(-0.2877, 0.2877))  # log(4 / 3)
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    x, y = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    mirror, zero = torch.where(torch.rand(count) < view.flip, -1.0, 1.0), torch.zeros(count)
    theta = torch.stack([torch.stack([width * mirror, zero, x], dim=1), torch.stack([zero, height, y], dim=1)], dim=1)
    grid = F.affine_grid(theta, [count, 3, view.size, view.size], align_corners=False)
    views = F.grid_sample(images_BCHW.float().div_(255), grid, padding_mode="border", align_corners=False)

    jittered = torch.rand(count) < view.jitter
    bright, contrast, saturation = (
        torch.where(jittered, uniform(1 - s, 1 + s), 1.0) for s in (view.brightness, view.contrast, view.saturation)
    )
    saturation = torch.where(torch.rand(count) < view.gray, 0.0, saturation)
    angle = torch.where(jittered, uniform(-view.hue, view.hue), 0.0) * (2 * torch.pi)
    turn = torch.zeros(count, 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = saturation * angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -saturation * angle.sin(), saturation * angle.sin()
    matrix = (bright * contrast)[:, None, None] * (_FROM_YIQ @ turn @ _TO_YIQ)
    mean = (views.mean(dim=(2, 3)) @ _TO_YIQ[0] * bright * (1 - contrast))[:, None, None]
    return torch.baddbmm(mean, matrix, views.flatten(2)).clamp_(0, 1).view_as(views)
