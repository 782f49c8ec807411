"""Raw pixels as features, and where there are too many of them to be kept."""

from __future__ import annotations

from bench import plugins
from bench.data.catalogue import entry
from bench.spec import Evaluate, Pixels, Spec
from bench.wording import size

MOST_BYTES = 64e9  # of the training split in float32: ImageNet at 224 px would be 764 GB in memory and on disk


def too_large(spec: Spec) -> str:
    """Why an evaluation of pixels cannot run at the size of its data, "" when it can and for all others."""
    if not isinstance(spec, Evaluate) or not isinstance(spec.encoder, Pixels):
        return ""
    if plugins.evaluation_of(spec.protocol).features == ():  # it reads none: its subject is a toy of its own
        return ""
    images = entry(spec.data.name).train_images
    needed = images * 3 * spec.data.size**2 * 4
    if needed <= MOST_BYTES:
        return ""
    return f"the pixels of {images:,} images of {spec.data.size} px are {size(needed)}"
