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

    area_BT: Tensor  # crop: T tries of its share of the image's area,
    ratio_BT: Tensor  # and of its width / height;
    corner_B2: Tensor  # top and left corner as shares of the room that the crop leaves
    angle_B: Tensor  # radians
    flip_B: Tensor  # bool, as the four below
    jitter_B: Tensor
    order_B4: Tensor  # which of brightness 0, contrast 1, saturation 2, hue 3 comes at each place
    factor_B4: Tensor  # of brightness, contrast, saturation, hue
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
    factors = [uniform(max(0.0, 1 - x), 1 + x) for x in (spec.brightness, spec.contrast, spec.saturation)]
    return Draw(
        area_BT=torch.rand(count, TRIES, generator=rng) * (spec.crop_scale[1] - spec.crop_scale[0])
        + spec.crop_scale[0],
        ratio_BT=torch.exp(
            torch.rand(count, TRIES, generator=rng) * math.log(spec.crop_ratio[1] / spec.crop_ratio[0])
            + math.log(spec.crop_ratio[0])
        ),
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
