"""Draw docs/embedded_twins.png: samples of the stand-ins at one size, with their labels.

python docs/make_twins_picture.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from bench.data.sets.digits import mnist5k
from bench.data.sets.twins import digit_pairs, digit_scenes, digits1797, draw_scenes
from bench.data.splits import Arrays
from bench.seeding import generator

TARGET = Path(__file__).with_name("embedded_twins.png")
COLUMNS = 10


def label_of(label: Tensor, classes: int) -> str:
    """A class number, or the classes of a scene with those that do not count in brackets."""
    if label.ndim == 0:
        return f"{int(label):02}" if classes == 100 else str(int(label))
    names = {1: "{}", -1: "({})"}
    return " ".join(names[int(value)].format(digit) for digit, value in enumerate(label) if value)


def draw(axes: Axes, image_HW: Tensor, label: str) -> None:
    """One image with its label under it."""
    axes.imshow(image_HW.numpy(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(label, fontsize=9, labelpad=2)


def main() -> None:
    """Four rows: the digits of the pretraining, and the three stand-ins."""
    scenes, drawn = digit_scenes()["train"], draw_scenes("train")
    # two cut, two hidden
    odd = torch.cat([some.any(dim=1).nonzero().squeeze(1)[:2] for some in (drawn.cut_N4, drawn.side_N4 >= 0)])
    rest = torch.randperm(len(scenes), generator=generator(0, "picture"))[: COLUMNS - len(odd)]
    rows: list[tuple[str, Arrays]] = [
        ("mnist5k, for ImageNet: 32 px", _sample(mnist5k()["train"])),
        ("digits1797, for Places205: 32 px", _sample(digits1797()["train"])),
        ("digit_scenes, for VOC07: 64 px; (classes in brackets do not count)", scenes.rows(torch.cat([odd, rest]))),
        ("digit_pairs, for iNat18: 32 px, drawn as frequent as they are", _sample(digit_pairs()["train"])),
    ]
    figure = Figure(figsize=(10, 5.6), dpi=80)
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, (title, sample) in zip(parts, rows, strict=True):
        part.suptitle(title, fontsize=10, x=0.02, ha="left")
        grid = part.subplots(1, COLUMNS, squeeze=False)[0]
        part.subplots_adjust(left=0.02, right=0.98, top=0.8, bottom=0.16, wspace=0.08)
        for axes, image, label in zip(grid, sample.images[:, 0], sample.labels, strict=True):
            draw(axes, image, label_of(label, sample.classes))
    figure.savefig(TARGET, metadata={"Software": None})  # the same bytes from every version


def _sample(part: Arrays) -> Arrays:
    return part.rows(torch.randperm(len(part), generator=generator(0, "picture"))[:COLUMNS])


if __name__ == "__main__":
    main()
