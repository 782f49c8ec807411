"""AutoAugment and RandAugment for whole batches: image operations of a policy, drawn per image, applied group by group.

autoaugment   the ImageNet policy in the appendix of arXiv:1805.09501: one of 25 pairs of operations an image, each
              operation with its own probability and one of ten levels. Pairs stand twice where the paper repeats them.
randaugment   arXiv:1909.13719, 2 operations of magnitude 7 of 10. The operations are those of FNC's code
              (google-research/fnc, data_util.py), not of the paper: 16 of them, no Identity, but Invert, Cutout and
              SolarizeAdd. Each acts half of the time: the mean of the probability that is drawn from (0.2, 0.8).
randaugment_released  as FNC's code runs it: both operations act on every view, because the file that it imports
              (tensorflow/tpu, efficientnet/autoaugment.py, distort_image_with_randaugment) drops the probability that
              it draws; and contrast is around pixels / 256 (196 at 224 px) for the mean of the gray image, because that
              file divides the sum of a histogram by its 256 bins. That code has the policy between jitter and
              grayscale; here every policy comes before the jitter.

Operations work on 8-bit images, as in the papers' code, and are torchvision's with nearest-neighbour resampling. What a
turned or moved image leaves empty becomes gray (128), as in the released code. Distances are shares of the side, which
at 224 px are the published pixels.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from bench.data.views.to_device import sent

FILL = 128.0
PLACES = 2  # operations in turn, of both policies
POLICIES = ("none", "autoaugment", "randaugment", "randaugment_released")

OPERATIONS = (
    "Identity",  # 0: what does not act
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "SolarizeAdd",
    "AutoContrast",
    "Equalize",
    "Invert",
    "Cutout",
    "PixelContrast",  # around pixels / 256, at most 255
)

# Operation, probability, level from 0 to 9 (0 where the operation has none).
_Choice = tuple[str, float, int]
AUTOAUGMENT: tuple[tuple[_Choice, _Choice], ...] = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 0), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 0)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, 0)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 0), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 0)),
    (("Equalize", 0.0, 0), ("Equalize", 0.8, 0)),
    (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 0)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 0)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 0)),
    (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
    (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
)

# Operation, amount at magnitude 7 of 10, whether half of the images get the opposite sign. At 224 px the code moves
# by 70 px and cuts a square of 56 px; its colour factors are 0.7 x 1.8 + 0.1, never below 1.
RANDAUGMENT: tuple[tuple[str, float, bool], ...] = (
    ("AutoContrast", 0.0, False),
    ("Equalize", 0.0, False),
    ("Invert", 0.0, False),
    ("Rotate", 21.0, True),
    ("Posterize", 2.0, False),
    ("Solarize", 179.0, False),
    ("Color", 1.36, False),
    ("Contrast", 1.36, False),
    ("Brightness", 1.36, False),
    ("Sharpness", 1.36, False),
    ("ShearX", 0.21, True),
    ("ShearY", 0.21, True),
    ("TranslateX", 70 / 224, True),
    ("TranslateY", 70 / 224, True),
    ("Cutout", 56 / 224, False),
    ("SolarizeAdd", 77.0, False),
)
ACTS = 0.5  # mean of the probability that is drawn from (0.2, 0.8) for each operation anew
_GEOMETRY = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}
_FACTORS = {"Brightness", "Color", "Contrast", "Sharpness"}


def amount_of(operation: str, level: int) -> float:
    """AutoAugment's ten levels: the amount in the operation's own unit, with the positive sign."""
    share = level / 9
    match operation:
        case "ShearX" | "ShearY":
            return 0.3 * share
        case "TranslateX" | "TranslateY":
            return 150 / 331 * share
        case "Rotate":
            return 30 * share
        case "Brightness" | "Color" | "Contrast" | "Sharpness":
            return 1 + 0.9 * share
        case "Posterize":
            return float(round(8 - 4 * share))
        case "Solarize":
            return 255 * (1 - share)
        case _:
            return 0.0


def draw(policy: str, count: int, rng: torch.Generator) -> Tensor:
    """What happens to `count` images in P places (B, P, 4), drawn on the CPU.

    Without a policy nothing is drawn and P is 0.

    The four are the index into OPERATIONS, the amount in the operation's own unit, and the row and column of Cutout's
    centre as shares of the side.
    """
    if policy == "none":
        return torch.empty(count, 0, 4, dtype=torch.float64)
    if policy == "autoaugment":
        table = [
            [(name, chance, amount_of(name, level), name in _GEOMETRY | _FACTORS) for name, chance, level in pair]
            for pair in AUTOAUGMENT
        ]
        # both places follow one sub-policy
        row_BP = torch.randint(len(table), (count, 1), generator=rng).expand(-1, PLACES)
    else:
        released = policy == "randaugment_released"
        table = [
            [("PixelContrast" if released and name == "Contrast" else name, 1.0 if released else ACTS, amount, signed)]
            * PLACES
            for name, amount, signed in RANDAUGMENT
        ]
        row_BP = torch.randint(len(table), (count, PLACES), generator=rng)
    columns = [
        [(OPERATIONS.index(name), chance, amount, signed, name in _FACTORS) for name, chance, amount, signed in row]
        for row in table
    ]
    choice_BP5 = torch.tensor(columns, dtype=torch.float64)[row_BP, torch.arange(PLACES)]
    operation_BP, chance_BP, amount_BP, signed_BP, factor_BP = choice_BP5.unbind(2)
    acts_BP = torch.rand(count, PLACES, generator=rng) < chance_BP
    turned_BP = (torch.rand(count, PLACES, generator=rng) < 0.5) & signed_BP.bool()
    centre_BP2 = torch.rand(count, PLACES, 2, generator=rng).double()
    # a factor turns around 1, the rest around 0
    amount_BP = torch.where(turned_BP, 2 * factor_BP - amount_BP, amount_BP)
    return torch.cat([torch.stack([operation_BP, amount_BP], dim=2) * acts_BP[:, :, None], centre_BP2], dim=2)


def apply(views_BCHW: Tensor, policy_BP4: Tensor) -> Tensor:
    """Float views in [0, 1], rounded to 8 bits, through what was drawn for each, on the views' device.

    One call of an operation for all images that share it and its amount: a policy has a few dozen such groups.
    """
    device = views_BCHW.device
    images = (views_BCHW * 255).round_().clamp_(0, 255).to(torch.uint8)
    for drawn_B4 in policy_BP4.unbind(1):
        groups, group_B = torch.unique(drawn_B4[:, :2], dim=0, return_inverse=True)
        for number, (operation, amount) in enumerate(groups.tolist()):
            name = OPERATIONS[int(operation)]
            if name == "Identity":
                continue
            index = (group_B == number).nonzero().squeeze(1)  # on the CPU: no sync
            centre_B2 = sent(drawn_B4[index, 2:].float(), device)
            index = sent(index, device)
            images[index] = apply_one(images[index], name, amount, centre_B2)
    return images.float().div_(255)


def apply_one(images_BCHW: Tensor, operation: str, amount: float, centre_B2: Tensor) -> Tensor:
    """One operation with one amount on uint8 images.

    Amounts: tangent of the shear, share of the side, degrees, factor (1 changes nothing), bits kept, threshold of 255,
    added value of 255, side of the square as a share.
    """
    # imported when used: slow to import, and plans check views too
    from torchvision.transforms.v2 import (
        functional as T,
    )

    if operation in _GEOMETRY:
        return _moved(images_BCHW, operation, amount)
    match operation:
        case "Brightness" | "Color" | "Contrast" | "Sharpness":
            adjust = {
                "Brightness": T.adjust_brightness,
                "Color": T.adjust_saturation,
                "Contrast": T.adjust_contrast,
                "Sharpness": T.adjust_sharpness,
            }
            result = adjust[operation](images_BCHW, amount)
        case "Posterize":
            result = T.posterize(images_BCHW, int(amount))
        case "Solarize":
            result = T.solarize(images_BCHW, amount)
        case "SolarizeAdd":
            result = torch.where(
                images_BCHW < 128, (images_BCHW.int() + int(amount)).clamp_(0, 255).to(torch.uint8), images_BCHW
            )
        case "AutoContrast":
            result = T.autocontrast(images_BCHW)
        case "Equalize":
            result = T.equalize(images_BCHW)
        case "Invert":
            result = T.invert(images_BCHW)
        case "PixelContrast":
            result = _contrast_around(images_BCHW, amount, min(images_BCHW.shape[2] * images_BCHW.shape[3] // 256, 255))
        case "Cutout":
            result = _cutout(images_BCHW, amount, centre_B2)
        case _:
            raise ValueError(f"no operation {operation!r}")
    changed: Tensor = result
    return changed


def _moved(images: Tensor, operation: str, amount: float) -> Tensor:
    from torchvision.transforms.v2 import functional as T

    height, width = images.shape[2:]
    affine = partial(T.affine, images, angle=0.0, scale=1.0, fill=FILL)
    degrees = math.degrees(math.atan(amount))  # torchvision takes the angle of a shear
    match operation:
        case "ShearX":
            result = affine(translate=[0, 0], shear=[degrees, 0.0], center=[0, 0])
        case "ShearY":
            result = affine(translate=[0, 0], shear=[0.0, degrees], center=[0, 0])
        case "TranslateX":
            result = affine(translate=[int(amount * width), 0], shear=[0.0, 0.0])
        case "TranslateY":
            result = affine(translate=[0, int(amount * height)], shear=[0.0, 0.0])
        case _:
            result = T.rotate(images, amount, fill=FILL)
    moved: Tensor = result
    return moved


def _contrast_around(images: Tensor, factor: float, level: int) -> Tensor:
    """Away from (factor above 1) or towards one level, cut off to whole ones as that code's `blend` does."""
    return (level + factor * (images.float() - level)).clamp_(0, 255).to(torch.uint8)


def _cutout(images: Tensor, share: float, centre_B2: Tensor) -> Tensor:
    """A gray square, `share` of the side wide, around a point of the image; what lies outside is lost."""
    height, width = images.shape[2:]
    half = share * height / 2
    row = torch.arange(height, device=images.device) - (centre_B2[:, :1] * height).floor()
    column = torch.arange(width, device=images.device) - (centre_B2[:, 1:] * width).floor()
    inside = ((row >= -half) & (row < half))[:, None, :, None] & ((column >= -half) & (column < half))[:, None, None, :]
    return torch.where(inside, torch.tensor(int(FILL), dtype=torch.uint8, device=images.device), images)
