"""Random transformations of whole batches on their device: no Python loop over images.

Two steps, so that they can be tested and timed apart: `draw` picks the parameters of every image on the CPU from a
generator (so every device, rank and resumed run sees the same), `apply` computes the view. The colour operations
follow torchvision's ColorJitter: brightness, contrast, saturation and hue in an order drawn per image, clipped to
[0, 1] after each. Whole policies of operations are in policies.py.

Photographs on disk are cut and resized by the loader's workers, as 8-bit images; `finish` does the rest on the device,
with Pillow's rounding: each blend of its 8-bit images cuts off the fraction, which over a whole jitter makes a view 1.4
levels of 255 darker. What `finish` computes for a batch, photo.py computes for one image on a CPU, and exact.py is
Pillow itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.data.views import policies
from bench.data.views.to_device import sent
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


def check_view(spec: Augment) -> None:
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


def apply(images_BCHW: Tensor, spec: Augment, drawn: Draw) -> Tensor:
    """uint8 images (B, 3, H, W), or gray (B, 1, H, W) -> float views (B, 3, size, size) in [0, 1], on their device."""
    return _colour(crop(images_BCHW, spec, drawn), spec, drawn, eight_bit=False)


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
    flipped = _where(drawn.flip_B, crops_BCHW.flip(3), crops_BCHW)
    return _colour(flipped.float().div_(255), spec, drawn, eight_bit=True)


def colour(views_BCHW: Tensor, spec: Augment, drawn: Draw, *, eight_bit: bool = False) -> Tensor:
    """The policy, jitter, gray, blur and solarize on float views in [0, 1].

    `eight_bit`: the jitter as of 8-bit images.
    """
    return _colour(views_BCHW.clone(), spec, drawn, eight_bit=eight_bit)


def _colour(views: Tensor, spec: Augment, drawn: Draw, *, eight_bit: bool) -> Tensor:
    """The same, but the memory of `views` is used."""
    if spec.policy != "none":
        views = policies.apply(views, drawn.policy_BP4)
    if jitters(spec):
        _jitter(views, spec, drawn, eight_bit=eight_bit)
    if spec.gray:
        index = sent(drawn.gray_B.nonzero().squeeze(1), views.device)  # found on the CPU: no sync
        gray = _luma(views.index_select(0, index)).expand(-1, 3, -1, -1)
        views.index_copy_(0, index, gray)
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
    kernel_BK = sent(kernel_BK / kernel_BK.sum(dim=1, keepdim=True), views_BCHW.device)
    kernel = kernel_BK.repeat_interleave(channels, dim=0)  # one row per image and channel
    x = F.pad(views_BCHW.reshape(1, batch * channels, height, width), (radius,) * 4, mode="reflect")
    x = F.conv2d(x, kernel[:, None, :, None], groups=batch * channels)
    return F.conv2d(x, kernel[:, None, None, :], groups=batch * channels).view(batch, channels, height, width)


def adjust_hue(views_BCHW: Tensor, turn_B: Tensor, out: Tensor | None = None) -> Tensor:
    """Turn the hue by a share of the colour circle per image, through HSV as PIL and torchvision do.

    `out` may be the views themselves.
    """
    red, green, blue = views_BCHW.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    safe = chroma.clamp_min(1e-12)
    # The sixth of the circle is counted from the largest channel, the first of them in a tie. On a CPU `where` takes
    # twenty times as long as `lerp`, which selects exactly where its weight is 0 or 1.
    chosen = torch.empty_like(value)
    hue = (red - green).div_(safe).add_(4)
    hue.lerp_((blue - red).div_(safe).add_(2), torch.eq(value, green, out=chosen))
    hue.lerp_((green - blue).div_(safe), torch.eq(value, red, out=chosen))
    hue.div_(6).add_(turn_B.to(views_BCHW.device)[:, None, None])
    hue.sub_(hue.floor()).mul_(6)
    # Each channel is value - chroma * clamp(min(k, 4 - k), 0, 1) with k = (n + hue) mod 6 and n = 5, 3, 1. The share is
    # 1 around n + hue = 8 for red and 0 around 5 for the others; taken as distances from there, the remainder is not
    # needed.
    out = torch.empty_like(views_BCHW) if out is None else out
    for channel, n in enumerate((5, 3, 1)):
        share = hue + n
        share = 2 - share.sub_(8).abs_() if channel == 0 else share.sub_(5).abs_().sub_(1)
        torch.sub(value, share.clamp_(0, 1).mul_(chroma), out=out[:, channel])
    return out


def _jitter(views: Tensor, spec: Augment, drawn: Draw, *, eight_bit: bool) -> None:
    """The operations that are asked for, in place and in each image's own order: four an image in sixteen calls.

    In every turn the images change places, so that those with the same operation lie side by side.
    """
    image_N = drawn.jitter_B.nonzero().squeeze(1)  # as all that decides on calls, on the CPU: no sync
    active = torch.tensor([spec.brightness, spec.contrast, spec.saturation, spec.hue]).bool()
    order_N4 = drawn.order_B4[image_N]
    turn_TN = order_N4[active[order_N4]].view(len(image_N), int(active.sum())).T
    from_TN = turn_TN.argsort(dim=1)  # which of the images lies where
    place_TN = from_TN.argsort(dim=1)  # where an image lies
    image_TN = image_N[from_TN]
    move_TN = sent(torch.cat([image_TN[:1], place_TN[:-1].gather(1, from_TN[1:]), image_TN[-1:]]), views.device)
    factor_TN4 = sent(drawn.factor_B4[image_TN], views.device)

    jittered = views * 255 if eight_bit else views
    for turn_N, move_N, factor_N4 in zip(turn_TN, move_TN, factor_TN4, strict=False):
        jittered = jittered.index_select(0, move_N)
        counts = turn_N.bincount(minlength=4).tolist()
        for operation, (part, factor_B4) in enumerate(
            zip(torch.split(jittered, counts), torch.split(factor_N4, counts), strict=True)
        ):
            if len(part):
                _adjust(part, operation, factor_B4[:, operation], eight_bit=eight_bit)
    views.index_copy_(0, move_TN[-1], jittered.div_(255) if eight_bit else jittered)


def _adjust(views: Tensor, operation: int, factor_B: Tensor, *, eight_bit: bool) -> None:
    """One operation in place.

    `eight_bit`: on levels from 0 to 255, as Pillow: whole numbers, cut off after a blend and rounded after hue.
    """
    factor = factor_B[:, None, None, None]
    if operation == 0:
        views.mul_(factor)
    elif operation == 3:
        adjust_hue(views, factor_B, out=views)
    else:
        gray = _luma(views)
        if operation == 1:
            gray.copy_(
                gray.mean(dim=(2, 3), keepdim=True)
            )  # a plane, because a lerp from one number an image takes five times as long
        if eight_bit:
            gray.add_(0.5).floor_()
        torch.lerp(gray.expand_as(views), views, factor, out=views)
    if eight_bit:
        views.add_(0.5 if operation == 3 else NUDGE).clamp_(0, 255).floor_()
    else:
        views.clamp_(0, 1)


def _luma(views: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W)."""
    red, green, blue = views.chunk(3, dim=1)
    gray, share = red * GRAY_WEIGHTS[0], green * GRAY_WEIGHTS[1]
    return gray.add_(share).add_(torch.mul(blue, GRAY_WEIGHTS[2], out=share))


def _where(mask_B: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(sent(mask_B, no.device)[:, None, None, None], yes, no)


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


def pixel_box(spec: Augment, row: OneDraw, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of an image's crop in whole pixels, exactly as torchvision's RandomResizedCrop."""
    for area, ratio in zip(row.areas, row.ratios, strict=True):
        w, h = round(math.sqrt(area * height * width * ratio)), round(math.sqrt(area * height * width / ratio))
        if 0 < w <= width and 0 < h <= height:
            # A float32 just below 1 must not lie outside.
            return (
                min(int(row.corner[0] * (height - h + 1)), height - h),
                min(int(row.corner[1] * (width - w + 1)), width - w),
                h,
                w,
            )
    low, high = spec.crop_ratio
    h, w = height, width
    if width / height < low:
        h = round(width / low)
    elif width / height > high:
        w = round(height * high)
    return (height - h) // 2, (width - w) // 2, h, w
