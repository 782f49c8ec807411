"""What an opened data set is: small ones `Arrays` (all images in memory), large ones `Files` (decoded when needed)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor

from bench.errors import BenchError
from bench.seeding import generator

Split: TypeAlias = Literal["train", "val", "trainval", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")  # "trainval" is the first two together


@dataclass(frozen=True)
class Arrays:
    """One split in memory: uint8 images (N, 3, H, W) and labels.

    Labels are (N,) in 0..classes-1 or, where an image has several, int8 (N, classes): 1 present, 0 absent, -1 not
    counted.
    """

    images: Tensor
    labels: Tensor
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: Tensor) -> Arrays:
        """Some of the images, by their positions (n,)."""
        return Arrays(self.images[index], self.labels[index], self.classes)


class Paths(Sequence[Path]):
    """Many paths in two buffers.

    Places205 has 2.4 million: as Path objects a gigabyte, which every forked loader process would come to copy,
    because reading an object writes its reference count.
    """

    def __init__(self, paths: Iterable[str | Path]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self._text = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Paths: ...
    def __getitem__(self, index: int | slice) -> Path | Paths:
        if isinstance(index, slice):
            return Paths(map(self.name, range(*index.indices(len(self)))))
        return Path(self.name(range(len(self))[index]))

    def names(self) -> Iterator[str]:
        """The paths as strings, faster than as Path objects."""
        return map(self.name, range(len(self)))

    def name(self, index: int) -> str:
        """One path as a string; `index` from 0."""
        return os.fsdecode(self._text[self._ends[index] : self._ends[index + 1]])


def compact(paths: Sequence[Path]) -> Paths:
    """The same paths in two buffers."""
    return paths if isinstance(paths, Paths) else Paths(paths)


@dataclass(frozen=True)
class Files:
    """One split on disk: paths, and labels as in `Arrays`.

    `left_out` says in sentences what its folders or lists have beside it that is no image.
    """

    paths: Sequence[Path]
    labels: Tensor
    classes: int
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def rows(self, index: Tensor) -> Files:
        """Some of the images, by their positions (n,)."""
        paths = compact(self.paths)
        return Files(Paths(map(paths.name, index.tolist())), self.labels[index], self.classes, self.left_out)


SplitData: TypeAlias = Arrays | Files


def joined(first: SplitData, second: SplitData) -> SplitData:
    """The images of both, in this order."""
    labels = torch.cat([first.labels, second.labels])
    if isinstance(first, Arrays) and isinstance(second, Arrays):
        return Arrays(torch.cat([first.images, second.images]), labels, first.classes)
    if isinstance(first, Files) and isinstance(second, Files):
        return Files(Paths(chain(compact(first.paths).names(), compact(second.paths).names())), labels, first.classes)
    raise TypeError("the parts of a data set must be of one kind")


def check_size(name: str, size: int, expected: int) -> None:
    """Raises BenchError when a spec asks for another size than the images in memory have."""
    if size != expected:
        raise BenchError(f"{name} has images of {expected} px, the spec asks for {size}.")


def hold_out(labels: Tensor, count: int, name: str) -> tuple[Tensor, Tensor]:
    """Sorted positions (n,) of what stays and of `count` held-out images, nearly the same share of each class.

    Fixed for a data set, not a seed of a job: every job sees the same `val`.
    """
    share = torch.empty(len(labels), dtype=torch.float64)
    for label in sorted(set(labels.tolist())):
        members = (labels == label).nonzero().squeeze(1)
        places = torch.randperm(len(members), generator=generator(0, name, "held out", label)).double()
        share[members] = (
            places + torch.rand(1, generator=generator(0, name, "offset", label), dtype=torch.float64)
        ) / len(members)
    order = share.argsort(stable=True)
    return order[count:].sort().values, order[:count].sort().values


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
        raise BenchError(
            f"{fraction:.2%} of {len(labels)} images are {total}, fewer than one for each of {classes} classes."
        )
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
