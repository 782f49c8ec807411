"""Features of a batch of any size in the memory of a part of it: a frozen network treats images one by one."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.contracts import Sizes, Subject

# Images whose activations are in memory at once: of a ResNet-50, 2048 features, 256 take 2.9 GB in float32 (one H100);
# the 4096 of a batch took 43. Wider networks take as much more an image.
_IMAGES, _WIDTH, _FEWEST = 256, 2048, 16


def slice_of(feature_dim: int) -> int:
    """Images of one pass through a network with so many features."""
    return min(_IMAGES, max(_FEWEST, _IMAGES * _WIDTH // feature_dim))


def memory_of_a_probe(sizes: Sizes, *, heads: int, batch_size: int, blocks: int = 1) -> float:
    """Bytes, for a plan: weights and heads; two batches of images while one is made, or one and a slice's pass."""
    width = sizes.feature_dim * blocks
    held = sizes.weights + 4.0 * heads * sizes.classes * (4 * width + 3 * batch_size)  # value, velocity, gradient, step
    passing = slice_of(sizes.feature_dim) * (sizes.forward - sizes.image) + 4.0 * batch_size * width
    return held + max(2.5 * batch_size * sizes.image, 1.25 * batch_size * sizes.image + passing)


def features_in_slices(subject: Subject, images_BCHW: Tensor) -> Tensor:
    """Features (B, D): those of one pass over the batch, but for the order in which kernels of another size add up."""
    parts = torch.split(images_BCHW, slice_of(subject.feature_dim))
    if len(parts) == 1:
        only: Tensor = subject.network(images_BCHW)
        return only
    return torch.cat([subject.network(part) for part in parts])
