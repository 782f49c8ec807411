"""A view of one photograph by Pillow through torchvision, as the papers' PyTorch code makes it: `Augment(exact=True)`.

For whoever wants torchvision's digits: the same drawn parameters as the fast way, every operation on 8-bit Pillow
images in the order RandomResizedCrop, flip, (policy,) ColorJitter, grayscale, blur, solarize. The blur is Pillow's
GaussianBlur with the drawn sigma as its radius, as Barlow Twins, VICReg, TWIST and MoCo v2 have it. Colours of
tf.image, which neither library has, are computed on floats and rounded once. Slow: a view costs about 3 ms of a core.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from bench.data.views import colour, policies
from bench.data.views.crops import pixel_box
from bench.data.views.draws import OneDraw
from bench.spec import Augment


def view(image_CHW: Tensor, spec: Augment, row: OneDraw) -> Tensor:
    """uint8 image (3, H, W) -> the finished uint8 view (3, size, size)."""
    from torchvision.transforms import functional as T  # imported when used: slow to import

    box = pixel_box(spec, row, *image_CHW.shape[1:])
    picture = T.resized_crop(_picture(image_CHW), *box, [spec.size, spec.size], T.InterpolationMode.BICUBIC)
    if row.flip:
        picture = T.hflip(picture)
    if spec.policy != "none":  # torchvision's operations on 8-bit tensors
        drawn = torch.tensor(row.policy, dtype=torch.float64)[None]
        picture = _picture(
            (policies.apply(_pixels(picture)[None].float().div_(255), drawn)[0] * 255).round_().to(torch.uint8)
        )
    if row.jitter and colour.jitters(spec) and spec.colour != "torchvision":
        pixels = _pixels(picture).contiguous()
        colour.jitter_as_tensorflow(pixels, spec, row)
        picture = _picture(pixels)
    elif row.jitter and colour.jitters(spec):
        operations = (T.adjust_brightness, T.adjust_contrast, T.adjust_saturation, T.adjust_hue)
        active = (spec.brightness, spec.contrast, spec.saturation, spec.hue)
        for operation in row.order:
            if active[operation]:
                picture = operations[operation](picture, row.factors[operation])
    if row.gray and spec.gray:
        picture = T.to_grayscale(picture, 3)
    if row.blur and spec.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(row.sigma))
    if row.solarize and spec.solarize:
        picture = T.solarize(picture, spec.solarize_threshold * 255)
    return _pixels(picture)


def _picture(image_CHW: Tensor) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image_CHW.permute(1, 2, 0).numpy()))


def _pixels(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
