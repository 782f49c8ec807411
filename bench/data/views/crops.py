"""Where a crop lies in its image: from what was drawn, for a batch in shares of its images or for one image in pixels.

torchvision   RandomResizedCrop: the area and the logarithm of width / height are drawn evenly.
tensorflow    tf.image.sample_distorted_bounding_box as SimCLR's and FNC's data_util.py call it (kernel:
              sample_distorted_bounding_box_op.cc, GenerateRandomCrop): the ratio is drawn evenly, then the height
              evenly between what the least and the largest area allow. A try that shows less than a tenth of the image
              is not taken (min_object_covered, the image itself being the object); after the last the whole image is.
              There the last is the 100th, here the 10th.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.data.views.draws import Draw, OneDraw
from bench.spec import Augment

COVERED = 0.1  # min_object_covered


def boxes(spec: Augment, drawn: Draw, aspect_B: Tensor) -> Tensor:
    """Crop boxes (B, 4) as shares of images with a given width / height: top, left, height, width.

    As torchvision's RandomResizedCrop: the first of 10 tries that fits, else the largest centred box whose ratio
    is allowed; or as TensorFlow's sampler.
    """
    aspect = aspect_B[:, None]
    if spec.crop == "tensorflow":
        return _tensorflow_boxes(spec, drawn, aspect)
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
    """Top, left, height and width of an image's crop in whole pixels, exactly as the code that is named by the spec."""
    if spec.crop == "tensorflow":
        return _tensorflow_box(spec, row, height, width)
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


def _tensorflow_boxes(spec: Augment, drawn: Draw, aspect: Tensor) -> Tensor:
    """The sampler without its pixels; heights are shares of the image's."""
    ratio, (least, most) = drawn.ratio_BT, spec.crop_scale
    high = torch.minimum((most * aspect / ratio).sqrt(), aspect / ratio).clamp(max=1)
    low = torch.minimum((least * aspect / ratio).sqrt(), high)
    height = low + (high - low) * drawn.area_BT
    width = height * ratio / aspect
    fits = height * width >= max(COVERED, least) - 1e-6
    first, found = fits.int().argmax(dim=1, keepdim=True), fits.any(dim=1, keepdim=True)
    height = torch.where(found, height.gather(1, first), torch.tensor(1.0))
    width = torch.where(found, width.gather(1, first), torch.tensor(1.0))
    return torch.cat(
        [drawn.corner_B2[:, :1] * (1 - height), drawn.corner_B2[:, 1:] * (1 - width), height, width], dim=1
    )


def _tensorflow_box(spec: Augment, row: OneDraw, height: int, width: int) -> tuple[int, int, int, int]:
    """The sampler pixel for pixel: a crop that is a rounding too small or too large is made a row larger or smaller."""
    least, most = (share * height * width for share in spec.crop_scale)
    for place, ratio in zip(row.areas, row.ratios, strict=True):
        low, high = round(math.sqrt(least / ratio)), round(math.sqrt(most / ratio))
        if round(high * ratio) > width:
            high = int((width + 0.5 - 1e-7) / ratio)
            high -= round(high * ratio) > width
        high = min(high, height)
        low = min(low, high)
        h = low + int(place * (high - low + 1))
        h += h * round(h * ratio) < least
        h -= h * round(h * ratio) > most
        w = round(h * ratio)
        if 0 < h <= height and 0 < w <= width and max(least, COVERED * height * width) <= h * w <= most:
            return int(row.corner[0] * (height - h)), int(row.corner[1] * (width - w)), h, w
    return 0, 0, height, width
