"""What every network has in common: images in [0, 1] in, one feature vector out, input statistics inside."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Network(nn.Module):
    """Maps images (B, 3, H, W) in [0, 1] to features (B, feature_dim).

    Statistics are no weights: they are not saved.
    """

    feature_dim: int
    mean: Tensor
    std: Tensor

    def __init__(self, normalize: Literal["none", "imagenet"]) -> None:
        super().__init__()
        statistics = (IMAGENET_MEAN, IMAGENET_STD) if normalize == "imagenet" else ((0.0,) * 3, (1.0,) * 3)
        self.normalize = normalize == "imagenet"
        self.register_buffer("mean", torch.tensor(statistics[0]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(statistics[1]).view(3, 1, 1), persistent=False)

    def standardise(self, x_BCHW: Tensor) -> Tensor:
        """The images as the first layer expects them."""
        return (x_BCHW - self.mean) / self.std if self.normalize else x_BCHW
