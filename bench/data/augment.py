"""Random transformations of whole batches on their device: no Python loop over images.

Two steps, so that they can be tested and timed apart: `draw` picks the parameters of every image on the CPU from a
generator (so every device, rank and resumed run sees the same), `apply` computes the view. The colour operations
follow torchvision's ColorJitter: brightness, contrast, saturation and hue in an order drawn per image, clipped to
[0, 1] after each. Whole policies of operations are in policies.py.

Photographs on disk are cut and resized by the loader's workers, as 8-bit images; `finish` does the rest on the device, with
Pillow's rounding: each blend of its 8-bit images cuts off the fraction, which over a whole jitter makes a view 1.4
levels of 255 darker. What `finish` computes for a batch, photo.py computes for one image on a CPU, and exact.py is Pillow itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.data import policies
from bench.errors import BenchError, unknown_name
from bench.spec import Augment

TRIES = 10  # of torchvision's RandomResizedCrop
GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL's "L"
NUDGE = 2e-3  # of a level, before a fraction is cut off: what is whole but for float32's rounding stays


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

    def images(self) -> list[Row]:
        """The same as Python numbers, image by image; without the angle."""
        columns = (self.area_BT, self.ratio_BT, self.corner_B2, self.flip_B, self.jitter_B, self.order_B4, self.factor_B4)
        more = (self.gray_B, self.blur_B, self.sigma_B, self.solarize_B, self.policy_BP4)
        return [Row(*values) for values in zip(*(column.tolist() for column in (*columns, *more)), strict=True)]


class Row(NamedTuple):
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


def check(spec: Augment) -> None:
    """Raises BenchError for a probability outside [0, 1], an empty range or an unknown policy."""
    if spec.policy not in policies.POLICIES:
        raise unknown_name("augmentation policy", spec.policy, policies.POLICIES)
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


def draw(spec: Augment, count: int, rng: torch.Generator) -> Draw:
    """Parameters for `count` square images, drawn on the CPU."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=rng) * (high - low) + low

    def chance(probability: float) -> Tensor:
        return torch.rand(count, generator=rng) < probability

    # Drawn in the order written here: the policy comes last, so that everything else is the same with one and without.
    factors = [uniform(max(0.0, 1 - x), 1 + x) for x in (spec.brightness, spec.contrast, spec.saturation)]
    return Draw(
        area_BT=torch.rand(count, TRIES, generator=rng) * (spec.crop_scale[1] - spec.crop_scale[0]) + spec.crop_scale[0],
        ratio_BT=torch.exp(
            torch.rand(count, TRIES, generator=rng) * math.log(spec.crop_ratio[1] / spec.crop_ratio[0]) + math.log(spec.crop_ratio[0])
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


def apply(images_BCHW: Tensor, spec: Augment, drawn: Draw) -> Tensor:
    """uint8 images (B, 3, H, W) -> float views (B, 3, size, size) in [0, 1], on the images' device."""
    return colour(crop(images_BCHW, spec, drawn), spec, drawn)


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
    shape = [len(images_BCHW), 3, spec.size, spec.size]
    grid = F.affine_grid(theta.to(device, non_blocking=True), shape, align_corners=False)
    # A turned view has black corners; without a turn the rim repeats the last pixel, or enlarged crops would have dark rims.
    padding = "zeros" if spec.rotation else "border"
    return F.grid_sample(images_BCHW.float().div_(255), grid, mode="bilinear", padding_mode=padding, align_corners=False)


def finish(crops_BCHW: Tensor, spec: Augment, drawn: Draw) -> Tensor:
    """uint8 crops (B, 3, size, size) -> float views in [0, 1]: flip and colour, on the crops' device."""
    flipped = _where(drawn.flip_B, crops_BCHW.flip(3), crops_BCHW)
    return colour(flipped.float().div_(255), spec, drawn, eight_bit=True)


def colour(views_BCHW: Tensor, spec: Augment, drawn: Draw, *, eight_bit: bool = False) -> Tensor:
    """The policy, jitter, gray, blur and solarize on float views in [0, 1]; `eight_bit`: the jitter as of 8-bit images."""
    views = views_BCHW
    if spec.policy != "none":
        views = policies.apply(views, drawn.policy_BP4)
    if jitters(spec):
        views = _jitter_levels(views, spec, drawn) if eight_bit else _jitter(views, spec, drawn)
    if spec.gray:
        views = _where(drawn.gray_B, _luma(views).expand_as(views), views)
    if spec.blur:
        views = _where(drawn.blur_B, gaussian_blur(views, drawn.sigma_B), views)
    if spec.solarize:
        inverted = torch.where(views >= spec.solarize_threshold, 1 - views, views)
        views = _where(drawn.solarize_B, inverted, views)
    return views


def jitters(spec: Augment) -> bool:
    """Whether the view has a colour jitter that can do something."""
    return bool(spec.jitter and (spec.brightness or spec.contrast or spec.saturation or spec.hue))


def gaussian_blur(views_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
    """Separable Gaussian blur with one sigma (pixels) per image; the kernel spans a tenth of the side, as SimCLR's."""
    batch, channels, height, width = views_BCHW.shape
    radius = max(1, (height // 10) // 2)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel_BK = torch.exp(-offsets.square() / (2 * sigma_B[:, None].square()))
    kernel_BK = (kernel_BK / kernel_BK.sum(dim=1, keepdim=True)).to(views_BCHW.device, non_blocking=True)
    kernel = kernel_BK.repeat_interleave(channels, dim=0)  # one row per image and channel
    x = F.pad(views_BCHW.reshape(1, batch * channels, height, width), (radius,) * 4, mode="reflect")
    x = F.conv2d(x, kernel[:, None, :, None], groups=batch * channels)
    return F.conv2d(x, kernel[:, None, None, :], groups=batch * channels).view(batch, channels, height, width)


def adjust_hue(views_BCHW: Tensor, turn_B: Tensor) -> Tensor:
    """Turn the hue by a share of the colour circle per image, through HSV as PIL and torchvision do."""
    red, green, blue = views_BCHW.unbind(1)
    value = views_BCHW.amax(dim=1)
    chroma = value - views_BCHW.amin(dim=1)
    safe = chroma.clamp_min(1e-12)
    sector = torch.where(value == red, (green - blue) / safe, torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4))
    hue6 = torch.remainder(sector / 6 + turn_B.to(views_BCHW.device)[:, None, None], 1.0) * 6
    # Each channel is value - chroma * clamp(min(k, 4 - k), 0, 1) with k = (n + hue6) mod 6 and n = 5, 3, 1.
    k = torch.remainder(torch.stack([5 + hue6, 3 + hue6, 1 + hue6], dim=1), 6)
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def _jitter(views: Tensor, spec: Augment, drawn: Draw) -> Tensor:
    """The four operations in each image's own order: sixteen sub-batches, four operations an image in all."""
    views = views.clone()
    for operation, index, factor in _turns(spec, drawn, views.device):
        views[index] = _adjust(views[index], operation, factor).clamp_(0, 1)
    return views


def _jitter_levels(views: Tensor, spec: Augment, drawn: Draw) -> Tensor:
    """The same on levels from 0 to 255, as Pillow: whole numbers after each operation, cut off after a blend and rounded after hue."""
    views = views * 255
    for operation, index, factor in _turns(spec, drawn, views.device):
        chosen = views[index]
        if operation == 1:
            mean = _luma(chosen).mean(dim=(2, 3), keepdim=True).add_(0.5).floor_()
            adjusted = torch.lerp(mean, chosen, factor[:, None, None, None])
        elif operation == 2:
            adjusted = torch.lerp(_luma(chosen).add_(0.5).floor_().expand_as(chosen), chosen, factor[:, None, None, None])
        else:
            adjusted = _adjust(chosen, operation, factor)
        views[index] = adjusted.add_(0.5 if operation == 3 else NUDGE).clamp_(0, 255).floor_()
    return views.div_(255)


def _turns(spec: Augment, drawn: Draw, device: torch.device) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The operations in turn, with the images (n,) that each is for and their factors (n,), on the device."""
    active = (spec.brightness, spec.contrast, spec.saturation, spec.hue)
    for place in range(4):
        for operation in range(4):
            if not active[operation]:
                continue
            index = (drawn.jitter_B & (drawn.order_B4[:, place] == operation)).nonzero().squeeze(1)  # on the CPU: no sync
            if len(index):
                factor = drawn.factor_B4[index, operation].to(device, non_blocking=True)
                yield operation, index.to(device, non_blocking=True), factor


def _adjust(views: Tensor, operation: int, factor_B: Tensor) -> Tensor:
    factor = factor_B[:, None, None, None]
    if operation == 0:
        return views * factor
    if operation == 1:
        return torch.lerp(_luma(views).mean(dim=(2, 3), keepdim=True), views, factor)
    if operation == 2:
        return torch.lerp(_luma(views).expand_as(views), views, factor)
    return adjust_hue(views, factor_B)


def _luma(views: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W)."""
    return (views * views.new_tensor(GRAY_WEIGHTS).view(3, 1, 1)).sum(dim=1, keepdim=True)


def _where(mask_B: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(mask_B.to(no.device, non_blocking=True)[:, None, None, None], yes, no)


def boxes(spec: Augment, drawn: Draw, aspect_B: Tensor) -> Tensor:
    """Crop boxes (B, 4) as shares of images with a given width / height: top, left, height, width.

    As torchvision's RandomResizedCrop: the first of 10 tries that fits, else the largest centred box whose ratio
    is allowed.
    """
    aspect = aspect_B[:, None]
    width, height = (drawn.area_BT * drawn.ratio_BT / aspect).sqrt(), (drawn.area_BT / drawn.ratio_BT * aspect).sqrt()
    fits = (width <= 1) & (height <= 1)
    first = fits.int().argmax(dim=1, keepdim=True)
    found = fits.any(dim=1, keepdim=True)
    ratio = aspect.clamp(*spec.crop_ratio)
    width = torch.where(found, width.gather(1, first), (ratio / aspect).clamp(max=1))
    height = torch.where(found, height.gather(1, first), (aspect / ratio).clamp(max=1))
    corner = torch.where(found, drawn.corner_B2, torch.tensor(0.5))
    return torch.cat([corner[:, :1] * (1 - height), corner[:, 1:] * (1 - width), height, width], dim=1)


def pixel_box(spec: Augment, row: Row, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of an image's crop in whole pixels, digit for digit as torchvision's RandomResizedCrop."""
    for area, ratio in zip(row.areas, row.ratios, strict=True):
        w, h = round(math.sqrt(area * height * width * ratio)), round(math.sqrt(area * height * width / ratio))
        if 0 < w <= width and 0 < h <= height:
            # A float32 just below 1 must not lie outside.
            return min(int(row.corner[0] * (height - h + 1)), height - h), min(int(row.corner[1] * (width - w + 1)), width - w), h, w
    low, high = spec.crop_ratio
    h, w = height, width
    if width / height < low:
        h = round(width / low)
    elif width / height > high:
        w = round(height * high)
    return (height - h) // 2, (width - w) // 2, h, w
