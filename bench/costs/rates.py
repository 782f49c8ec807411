"""Training rates not from results here: what papers print of their runs, measurements of this project, what follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from bench.authors import Hours, hours
from bench.spec import Backbone

Kind = Literal["measured", "measured elsewhere", "published", "guessed"]
_IMAGENET = 1_281_167  # images of an epoch as papers count it


@dataclass(frozen=True)
class Rate:
    """How fast one device trains."""

    images_per_second: float  # with two views of full size
    device: str  # what its hours are counted as: "GPU" or "core"
    kind: Kind
    source: str
    scaled: tuple[str, ...] = ()  # with what, where the source is about another network or size

    @property
    def why(self) -> str:
        """The source, and what was done to its number."""
        return f"{self.source}, scaled with {' and '.join(self.scaled)}" if self.scaled else self.source


@dataclass(frozen=True)
class Anchor:
    """A rate to start from: one network, at one size of its images."""

    rate: Rate
    detail: int  # side in pixels, that of a network with the 7x7/2 stem and max-pool: a finer stem sees more


def _published(told: Hours) -> Anchor:
    """A ResNet-50's training on ImageNet at 224 px."""
    return Anchor(
        Rate(told.epochs * _IMAGENET / (told.hours * 3600 * told.devices), "GPU", "published", told.source), 224
    )


def _here(images_per_second: float, detail: int) -> Anchor:
    return Anchor(
        Rate(images_per_second, "core", "measured elsewhere", "this project on one core with AVX512-BF16, bf16"), detail
    )


USUAL = "barlow_twins"  # a method without published hours is like this one


@cache
def own() -> Mapping[str, Anchor]:
    """A ResNet-50 with two views of 224 px under the method that the source is about."""
    return {method: _published(told) for method, told in hours().items()}


@cache
def anchors() -> Mapping[tuple[str, int], Anchor]:
    """By architecture and channels of the first stage; transformers have no base channels: 64 stands for width 1."""
    usual = own()[USUAL]
    return {
        ("resnet50", 64): usual,
        ("resnet10", 8): _here(2900.0, 64),  # the stem of the digits, 3x3/2 without a pool, at 32 px
        ("resnet10", 16): _here(1850.0, 64),
        ("resnet10", 32): _here(760.0, 64),
        ("resnet18", 8): _here(2000.0, 64),
        ("resnet18", 64): Anchor(Rate(640.0, "GPU", "guessed", usual.rate.source, ("multiply-adds",)), 128),
        ("vit_digits", 64): _here(2100.0, 32),
    }


# Multiply-adds of an image relative to ResNet-50 at 224 px with 64 channels (4.1 G), and the size for which that is so:
# R101 7.8, R200 15, DeiT-S 4.6, ViT-B 17.6, vit_cifar 0.27 G.
RELATIVE = {
    "resnet101": (1.9, 224),
    "resnet200": (3.7, 224),
    "vit_small16": (1.1, 224),
    "vit_small16_12heads": (1.1, 224),
    "vit_base16": (4.3, 224),
    "vit_cifar": (0.07, 32),
}
# times as many pixels a side behind the stem as behind 7x7/2 and the pool
_FINER = {
    "imagenet": 1,
    "small": 2,
    "cifar": 4,
}


def listed(backbone: Backbone, size: int, method: str = "") -> Rate:
    """The rate of a network at `size` pixels, of the method's own source where there is one.

    Scaled where nothing fits, and then a guess.
    """
    channels = backbone.base_channels * backbone.width
    detail = size * _FINER[backbone.stem]
    anchor, cost, scaled = _nearest(backbone.name, channels, method)
    if detail != anchor.detail:
        cost *= (detail / anchor.detail) ** 2
        scaled = (*scaled, "pixels")
    if not scaled:
        return anchor.rate
    return replace(
        anchor.rate,
        images_per_second=anchor.rate.images_per_second / cost,
        kind="guessed",
        scaled=(*anchor.rate.scaled, *scaled),
    )


def _nearest(name: str, channels: int, method: str) -> tuple[Anchor, float, tuple[str, ...]]:
    """An anchor, what the network costs relative to it at an equal size of images, and what that rests on."""
    if (name, channels) == ("resnet50", 64) and method in own():
        return own()[method], 1.0, ()
    near = [(other, anchor) for (known, other), anchor in anchors().items() if known == name]
    if near:
        other, anchor = min(near, key=lambda pair: abs(pair[0] - channels))
        if method and anchor.rate.kind == "published":
            anchor = replace(
                anchor,
                rate=replace(anchor.rate, kind="guessed", source=f"{anchor.rate.source}, which is another method"),
            )
        return anchor, (channels / other) ** 2, () if channels == other else ("channels squared",)
    relative, size = RELATIVE[name]
    # Its multiply-adds hold at its own size, so that is where it is like the anchor.
    like = Anchor(own()[USUAL].rate, size)
    return like, relative * (channels / 64) ** 2, ("multiply-adds",)
