"""Augmentation pipelines that several papers share, as data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from bench.spec import Augment


def digits(*, strength: float = 0.5) -> Augment:
    """The `embedded` scale: 32 px gray digits, never mirrored (a mirrored digit is no digit).

    Pixels are gray, so saturation, hue and grayscale would change nothing and are left out; blur is left out because it
    hides strokes two pixels wide. Crop and rotation were chosen for SimCLR on the `val` split: (0.25, 1) with 25
    degrees against (0.4, 1) with 15 and (0.25, 1) with 15.
    """
    return Augment(
        size=32,
        crop_scale=(0.25, 1.0),
        rotation=25.0,
        flip=0.0,
        jitter=0.8,
        brightness=0.8 * strength,
        contrast=0.8 * strength,
    )


def mild_digits() -> Augment:
    """Weaker views of digits, for methods predicting a network no better than themselves: BYOL, SimSiam, DINO, MoCo."""
    return replace(digits(), crop_scale=(0.4, 1.0), rotation=15.0)


def colour_distortion(strength: float, *, blur: float = 0.0) -> dict[str, Any]:
    """Fields of a view: SimCLR's colour distortion of a strength and a blur's chance (arXiv:2002.05709, appendix A).

    Only the jitter grows with the strength; the chances of jitter and grayscale stay.
    """
    each = 0.8 * strength
    return {
        "jitter": 0.8,
        "brightness": each,
        "contrast": each,
        "saturation": each,
        "hue": 0.2 * strength,
        "gray": 0.2,
        "blur": blur,
    }


def autoaugment() -> dict[str, Any]:
    """Fields of a view: AutoAugment's ImageNet policy in place of the whole colour distortion (SimCLR, table 1)."""
    return colour_distortion(0) | {"gray": 0.0, "policy": "autoaugment"}


def simclr_view(*, size: int = 224, crop_scale: tuple[float, float] = (0.08, 1.0)) -> Augment:
    """SimCLR's ImageNet pipeline at full strength (arXiv:2002.05709, appendix A); SwAV's and FNC's code have it too."""
    return Augment(size=size, crop_scale=crop_scale, **colour_distortion(1.0, blur=0.5))


def tensorflow_view(colour: Literal["tensorflow", "tensorflow_multiplied"]) -> Augment:
    """The same as tf.image makes it: brightness added (SimCLR's first release) or multiplied (SimCLR v2, FNC)."""
    return replace(simclr_view(), colour=colour, crop="tensorflow")


def byol_view(
    blur: float, solarize: float = 0.0, *, size: int = 224, crop_scale: tuple[float, float] = (0.08, 1.0)
) -> Augment:
    """BYOL's ImageNet pipeline (arXiv:2006.07733, appendix B).

    Barlow Twins, VICReg, DirectCLR, TWIST, triplet and DINO took it over.
    """
    return Augment(
        size=size,
        crop_scale=crop_scale,
        brightness=0.4,
        contrast=0.4,
        saturation=0.2,
        hue=0.1,
        gray=0.2,
        blur=blur,
        solarize=solarize,
    )


def byol_pair(*, crop_scale: tuple[float, float] = (0.08, 1.0)) -> tuple[Augment, Augment]:
    """Its two asymmetric views (table 6 there)."""
    return byol_view(1.0, crop_scale=crop_scale), byol_view(0.1, 0.2, crop_scale=crop_scale)


def byol_crops(local: int, *, large: tuple[float, float], small: tuple[float, float]) -> tuple[Augment, ...]:
    """Multi-crop of DINO and TWIST: the pair, and `local` crops of 96 px that are blurred half of the time."""
    return (*byol_pair(crop_scale=large), *(byol_view(0.5, size=96, crop_scale=small),) * local)


def small_crops(views: tuple[Augment, ...]) -> tuple[Augment, ...]:
    """Multi-crop where nothing is published: two global crops and four local ones of a quarter of the area; untuned."""
    local = replace(views[0], size=views[0].size // 2, crop_scale=(0.1, 0.4))
    return (*(replace(view, crop_scale=(0.3, 1.0)) for view in views), *(local,) * 4)


def cifar() -> Augment:
    """SimCLR's CIFAR-10 pipeline (arXiv:2002.05709, appendix B.9): strength 0.5, no blur."""
    return Augment(size=32, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, gray=0.2)
