"""Random transformations of whole batches on their device: no Python loop over images.

Two steps, so that they can be tested and timed apart: `draw` picks the parameters of every image on the CPU from a
generator (so every device, rank and resumed run sees the same), `apply` computes the view. The colour operations
follow torchvision's ColorJitter or tf.image: brightness, contrast, saturation and hue in an order drawn per image,
clipped to [0, 1] after each. Whole policies of operations are in policies.py.

Photographs on disk are cut and resized by the loader's workers, as 8-bit images; `finish` does the rest on the device,
with Pillow's rounding: each blend of its 8-bit images cuts off the fraction, which over a whole jitter makes a view 1.4
levels of 255 darker. What `finish` computes for a batch, photo.py computes for one image on a CPU, and exact.py is
Pillow itself.
"""

from __future__ import annotations

from functools import lru_cache
from typing import get_args, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.data.views import policies
from bench.data.views.colour import colour_in_place, where
from bench.data.views.crops import boxes
from bench.data.views.draws import Draw
from bench.data.views.to_device import sent
from bench.errors import BenchError, unknown_name
from bench.spec import Augment


@lru_cache
def _allowed(name: str) -> tuple[str, ...]:
    """Values of a field of Augment that is a choice."""
    return get_args(get_type_hints(Augment)[name])


def check_view(spec: Augment) -> None:
    """Raises BenchError for a probability outside [0, 1], an empty range, or a choice that there is not."""
    if spec.policy not in policies.POLICIES:
        raise unknown_name("augmentation policy", spec.policy, policies.POLICIES)
    for name in ("colour", "crop"):
        allowed = _allowed(name)
        if getattr(spec, name) not in allowed:
            raise unknown_name(f"augmentation {name}", getattr(spec, name), allowed)
    for name in ("flip", "jitter", "gray", "blur", "solarize"):
        value = getattr(spec, name)
        if not 0 <= value <= 1:
            raise BenchError(f"augmentation: {name} is {value}, expected a probability from 0 to 1.")
    if not 0 < spec.crop_scale[0] <= spec.crop_scale[1] <= 1:
        raise BenchError(f"augmentation: crop_scale is {spec.crop_scale}, expected 0 < low <= high <= 1.")
    if not 0 < spec.crop_ratio[0] <= spec.crop_ratio[1]:
        raise BenchError(f"augmentation: crop_ratio is {spec.crop_ratio}, expected 0 < low <= high.")
    if not 0 <= spec.hue <= 0.5:
        raise BenchError(f"augmentation: hue is {spec.hue}, expected 0 to 0.5 turns.")


def apply(images_BCHW: Tensor, spec: Augment, drawn: Draw) -> Tensor:
    """uint8 images (B, 3, H, W), or (B, 1, H, W) of gray ones -> float views (B, 3, size, size) in [0, 1].

    They are on the images' device.
    """
    return colour_in_place(crop(images_BCHW, spec, drawn), spec, drawn, eight_bit=False)


def crop(images_BCHW: Tensor, spec: Augment, drawn: Draw) -> Tensor:
    """Random resized crop, rotation and flip in one bilinear resampling; uint8 in, float in [0, 1] out.

    Made for small images that are enlarged or kept in size: there is no antialiasing for strong reduction.
    """
    device = images_BCHW.device
    top, left, height, width = boxes(spec, drawn, torch.ones(len(images_BCHW))).unbind(1)
    cos, sin = drawn.angle_B.cos(), drawn.angle_B.sin()
    mirror = 1 - 2 * drawn.flip_B.float()
    # affine_grid's coordinates run from -1 to 1 over the image: the view's corner (1, 1) maps to the box's.
    theta = torch.stack(
        [
            torch.stack([width * cos * mirror, -width * sin, 2 * left + width - 1], dim=1),
            torch.stack([height * sin * mirror, height * cos, 2 * top + height - 1], dim=1),
        ],
        dim=1,
    )
    # As affine_grid, which copies its coordinates for every image; all x lie before all y, as grid_sample reads them.
    grid = (sent(theta, device) @ _coordinates(spec.size, device)).view(-1, 2, spec.size, spec.size).permute(0, 2, 3, 1)
    # A turned view has black corners; without a turn the rim repeats the last pixel, or enlarged crops would have dark
    # rims.
    padding = "zeros" if spec.rotation else "border"
    views = F.grid_sample(
        images_BCHW.float().div_(255), grid, mode="bilinear", padding_mode=padding, align_corners=False
    )
    return views.expand(-1, 3, -1, -1).contiguous()


@lru_cache(maxsize=8)
def _coordinates(size: int, device: torch.device) -> Tensor:
    """x, y and 1 of each pixel of a view, (3, size * size), in affine_grid's coordinates."""
    grid = F.affine_grid(torch.eye(2, 3, device=device)[None], [1, 3, size, size], align_corners=False)
    return F.pad(grid.view(-1, 2).T, (0, 0, 0, 1), value=1.0)


def finish(crops_BCHW: Tensor, spec: Augment, drawn: Draw) -> Tensor:
    """uint8 crops (B, 3, size, size) -> float views in [0, 1]: flip and colour, on the crops' device."""
    flipped = where(drawn.flip_B, crops_BCHW.flip(3), crops_BCHW)
    return colour_in_place(flipped.float().div_(255), spec, drawn, eight_bit=True)
