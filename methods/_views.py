"""Augmentation pipelines that several papers share, as data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bench.spec import Augment


def digits(*, strength: float = 0.5) -> Augment:
    """The `embedded` scale: 32 px gray digits, never mirrored (a mirrored digit is no digit).

    Pixels are gray, so saturation, hue and grayscale would change nothing and are left out; blur is left out because it
    hides strokes two pixels wide. Crop and rotation were chosen for SimCLR on the `val` split: (0.25, 1) with 25 degrees
    against (0.4, 1) with 15 and (0.25, 1) with 15.
    """
    return Augment(size=32, crop_scale=(0.25, 1.0), rotation=25.0, flip=0.0, jitter=0.8, brightness=0.8 * strength, contrast=0.8 * strength)


def mild_digits() -> Augment:
    """Weaker views of digits, for methods that predict a network no better than themselves: BYOL, SimSiam, DINO, MoCo."""
    return replace(digits(), crop_scale=(0.4, 1.0), rotation=15.0)


def colour_distortion(strength: float, *, blur: float = 0.0) -> dict[str, Any]:
    """Fields of a view: SimCLR's colour distortion of a strength and the chance of a blur (arXiv:2002.05709, appendix A).

    Only the jitter grows with the strength; the chances of jitter and grayscale stay.
    """
    each = 0.8 * strength
    return {"jitter": 0.8, "brightness": each, "contrast": each, "saturation": each, "hue": 0.2 * strength, "gray": 0.2, "blur": blur}


def autoaugment() -> dict[str, Any]:
    """Fields of a view: AutoAugment's ImageNet policy in place of the whole colour distortion (SimCLR, table 1)."""
    return colour_distortion(0) | {"gray": 0.0, "policy": "autoaugment"}


def cifar() -> Augment:
    """SimCLR's CIFAR-10 pipeline (arXiv:2002.05709, appendix B.9): strength 0.5, no blur."""
    return Augment(size=32, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, gray=0.2)
