"""What is drawn for the views of a batch: crops, flips, colours, policies, from one generator."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from bench.data.views import policies
from bench.spec import Augment

TRIES = 10  # of torchvision's RandomResizedCrop


@dataclass(frozen=True)
class Draw:
    """Parameters of one view of B images; every tensor has B rows."""

    # crop: T tries of its share of the image's area (TensorFlow's: from 0 to 1, where its height lies in what may be),
    area_BT: Tensor
    ratio_BT: Tensor  # and of its width / height;
    corner_B2: Tensor  # top and left corner as shares of the room that the crop leaves
    angle_B: Tensor  # radians
    flip_B: Tensor  # bool, as the four below
    jitter_B: Tensor
    order_B4: Tensor  # which of brightness 0, contrast 1, saturation 2, hue 3 comes at each place
    factor_B4: Tensor  # of brightness (tf.image's: what is added), contrast, saturation, hue
    gray_B: Tensor
    blur_B: Tensor
    sigma_B: Tensor  # pixels
    solarize_B: Tensor
    policy_BP4: Tensor  # what a policy does in each of P places (0 without one): see policies.draw

    def rows(self, index: slice) -> Draw:
        """The parameters of some of the images."""
        return Draw(*(getattr(self, f.name)[index] for f in fields(self)))

    def images(self) -> list[OneDraw]:
        """The same as Python numbers, image by image; without the angle."""
        columns = (
            self.area_BT,
            self.ratio_BT,
            self.corner_B2,
            self.flip_B,
            self.jitter_B,
            self.order_B4,
            self.factor_B4,
        )
        more = (self.gray_B, self.blur_B, self.sigma_B, self.solarize_B, self.policy_BP4)
        return [OneDraw(*values) for values in zip(*(column.tolist() for column in (*columns, *more)), strict=True)]


class OneDraw(NamedTuple):
    """What is drawn for one image: a row of each tensor of `Draw`."""

    areas: list[float]
    ratios: list[float]
    corner: list[float]
    flip: bool
    jitter: bool
    order: list[int]
    factors: list[float]
    gray: bool
    blur: bool
    sigma: float
    solarize: bool
    policy: list[list[float]]


def draw(spec: Augment, count: int, rng: torch.Generator) -> Draw:
    """Parameters for `count` square images, drawn on the CPU."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=rng) * (high - low) + low

    def chance(probability: float) -> Tensor:
        return torch.rand(count, generator=rng) < probability

    # Drawn in the order written here: the policy comes last, so that everything else is the same with one and without.
    added = spec.colour == "tensorflow"
    factors = [
        uniform(-spec.brightness, spec.brightness)
        if added
        else uniform(max(0.0, 1 - spec.brightness), 1 + spec.brightness),
        *(uniform(max(0.0, 1 - x), 1 + x) for x in (spec.contrast, spec.saturation)),
    ]
    area_BT, ratio_BT = _crops(spec, count, rng)
    return Draw(
        area_BT=area_BT,
        ratio_BT=ratio_BT,
        corner_B2=torch.rand(count, 2, generator=rng),
        angle_B=uniform(-spec.rotation, spec.rotation) * (math.pi / 180),
        flip_B=chance(spec.flip),
        jitter_B=chance(spec.jitter),
        order_B4=torch.rand(count, 4, generator=rng).argsort(dim=1),
        factor_B4=torch.stack([*factors, uniform(-spec.hue, spec.hue)], dim=1),
        gray_B=chance(spec.gray),
        blur_B=chance(spec.blur),
        sigma_B=uniform(*spec.blur_sigma),
        solarize_B=chance(spec.solarize),
        policy_BP4=policies.draw(spec.policy, count, rng),
    )


def _crops(spec: Augment, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """What decides on the size of a crop, T tries of each: see crops.py."""
    area, ratio = (torch.rand(count, TRIES, generator=rng) for _ in range(2))
    low, high = spec.crop_ratio
    if spec.crop == "tensorflow":
        return area, ratio * (high - low) + low
    area = area * (spec.crop_scale[1] - spec.crop_scale[0]) + spec.crop_scale[0]
    return area, torch.exp(ratio * math.log(high / low) + math.log(low))
