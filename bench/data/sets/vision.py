"""Data sets that torchvision reads: small images as `Arrays`, photographs as `Files`.

Where the data set has no validation part of its own, a tenth of the training images is held out as `val`, always the
same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from itertools import compress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from bench.data.catalogue import entry
from bench.data.location import root_of
from bench.data.sets.class_folders import without_hidden
from bench.data.splits import Arrays, Files, Paths, Split, SplitData, check_size, hold_out
from bench.errors import BenchError, one_line
from bench.seeding import generator
from bench.settings.site import Site

T = TypeVar("T")


def load_cifar10(site: Site, size: int) -> Mapping[Split, SplitData]:
    """32 px; 5,000 of the 50,000 training images are `val`."""
    check_size("cifar10", size, 32)
    return _cifar("cifar10", root_of("cifar10", site))


def load_cifar100(site: Site, size: int) -> Mapping[Split, SplitData]:
    """32 px; 5,000 of the 50,000 training images are `val`."""
    check_size("cifar100", size, 32)
    return _cifar("cifar100", root_of("cifar100", site))


def load_stl10(site: Site, size: int) -> Mapping[Split, SplitData]:
    """96 px, the 5,000 labelled training images; 500 of them are `val`."""
    check_size("stl10", size, 96)
    return _stl10(root_of("stl10", site))


def load_stl10_unlabelled(site: Site, size: int) -> Mapping[Split, SplitData]:
    """The same `val` and `test`; `train` has the 100,000 unlabelled images after the labelled ones, with label -1.

    For pretraining.
    """
    check_size("stl10-unlabelled", size, 96)
    root = root_of("stl10-unlabelled", site)
    known = _stl10(root)
    train = known["train"]
    assert isinstance(train, Arrays)  # for the type checker
    unlabelled = _unlabelled(root)
    labels = torch.cat([train.labels, torch.full((len(unlabelled),), -1)])
    return {**known, "train": Arrays(torch.cat([train.images, unlabelled]), labels, train.classes)}


def load_food101(site: Site, size: int) -> Mapping[Split, SplitData]:
    """Food-101: 75,750 + 25,250 images."""
    return _files("food101", root_of("food101", site))


def load_cars(site: Site, size: int) -> Mapping[Split, SplitData]:
    """Stanford Cars: 8,144 + 8,041 images."""
    return _files("cars", root_of("cars", site))


def load_aircraft(site: Site, size: int) -> Mapping[Split, SplitData]:
    """FGVC Aircraft with its own validation part, 100 variants."""
    return _files("aircraft", root_of("aircraft", site))


def load_dtd(site: Site, size: int) -> Mapping[Split, SplitData]:
    """Describable Textures, the first of its ten partitions, as SimCLR (arXiv:2002.05709, appendix B.8.1)."""
    return _files("dtd", root_of("dtd", site))


def load_pets(site: Site, size: int) -> Mapping[Split, SplitData]:
    """Oxford-IIIT Pets: 3,680 + 3,669 images, 37 breeds."""
    return _files("pets", root_of("pets", site))


def load_flowers102(site: Site, size: int) -> Mapping[Split, SplitData]:
    """Oxford 102 Flowers with its own validation part: 1,020 + 1,020 + 6,149 images."""
    return _files("flowers102", root_of("flowers102", site))


# Data set -> torchvision's class, and what it calls our splits: two parts (training, test) or three.
SETS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "food101": ("Food101", ("train", "test")),
    "cars": ("StanfordCars", ("train", "test")),
    "aircraft": ("FGVCAircraft", ("train", "val", "test")),
    "dtd": ("DTD", ("train", "val", "test")),  # partition 1 is its default
    "pets": ("OxfordIIITPet", ("trainval", "test")),
    "flowers102": ("Flowers102", ("train", "val", "test")),
}


@lru_cache(maxsize=2)
def _files(name: str, root: Path) -> Mapping[Split, SplitData]:
    from torchvision import datasets

    kind, parts = SETS[name]
    made = [_read(name, partial(_opened, getattr(datasets, kind), root, part)) for part in parts]
    classes = max(int(files.labels.max()) for files in made) + 1
    made = [replace(files, classes=classes) for files in made]
    if len(made) == 3:
        return {"train": made[0], "val": made[1], "test": made[2]}
    kept, held = hold_out(made[0].labels, max(1, len(made[0]) // 10), name)
    return {"train": made[0].rows(kept), "val": made[0].rows(held), "test": made[1]}


def _opened(kind: Callable[..., Any], root: Path, part: str) -> Files:
    """Paths and labels of one of torchvision's data sets of files, which keep them under one of three names."""
    found = kind(str(root), split=part)
    if hasattr(found, "_samples"):
        paths, labels = zip(*found._samples, strict=True)
    else:
        paths, labels = getattr(found, "_image_files", None) or found._images, found._labels
    keep, left_out = without_hidden((str(path).removeprefix(f"{root}/") for path in paths), root)
    return Files(Paths(compress(paths, keep)), torch.tensor([int(n) for n in compress(labels, keep)]), 0, left_out)


@lru_cache(maxsize=2)
def _cifar(name: str, root: Path) -> Mapping[Split, SplitData]:
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]

    def part(train: bool) -> tuple[Tensor, Tensor]:
        raw = kind(str(root), train=train)
        return torch.from_numpy(raw.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(raw.targets)

    images, labels = _read(name, lambda: part(True))
    classes = entry(name).classes
    order = torch.randperm(len(labels), generator=generator(0, name))
    held = len(labels) // 10
    train, val = order[held:].sort().values, order[:held].sort().values
    whole = Arrays(images, labels, classes)
    return {
        "train": whole.rows(train),
        "val": whole.rows(val),
        "test": Arrays(*_read(name, lambda: part(False)), classes),
    }


@lru_cache(maxsize=1)
def _stl10(root: Path) -> Mapping[Split, SplitData]:
    from torchvision.datasets import STL10

    def part(split: str) -> Arrays:
        raw = STL10(str(root), split=split)
        return Arrays(torch.from_numpy(raw.data).contiguous(), torch.from_numpy(raw.labels).long(), 10)

    whole = _read("stl10", lambda: part("train"))
    kept, held = hold_out(whole.labels, len(whole) // 10, "stl10")
    return {"train": whole.rows(kept), "val": whole.rows(held), "test": _read("stl10", lambda: part("test"))}


@lru_cache(maxsize=1)
def _unlabelled(root: Path) -> Tensor:
    from torchvision.datasets import STL10

    return _read("stl10-unlabelled", lambda: torch.from_numpy(STL10(str(root), split="unlabeled").data).contiguous())


def _read(name: str, work: Callable[[], T]) -> T:
    """What torchvision reads. Raises BenchError where it finds the data set damaged (it compares checksums)."""
    try:
        return work()
    except Exception as error:  # torchvision raises RuntimeError, and whatever a damaged list leads to
        raise BenchError(
            f"data set {name!r} cannot be read by torchvision ({one_line(error)[:200]}): {entry(name).hint}."
        ) from error
