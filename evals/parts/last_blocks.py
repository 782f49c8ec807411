"""Class tokens of a vision transformer's last blocks, each after the final norm, side by side: DINO's linear features.

TWIST evaluates its transformers so, with four blocks (arXiv:2110.07402; bytedance/TWIST, evaluate_vitlinear.py).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from bench.contracts import Subject
from bench.errors import BenchError
from bench.networks.vit import VisionTransformer


class LastBlocks(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> tokens (B, blocks x D), the last block's at the end."""

    def __init__(self, network: VisionTransformer, blocks: int) -> None:
        super().__init__()
        self.network, self.blocks = network, blocks

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """One pass; what the blocks give is read on the way."""
        tokens: list[Tensor] = []
        chosen = list(self.network.blocks)[-self.blocks :]
        handles = [
            block.register_forward_hook(lambda module, inputs, out: tokens.append(out[:, 0])) for block in chosen
        ]
        try:
            self.network(x_BCHW)
        finally:
            for handle in handles:
                handle.remove()
        return torch.cat([self.network.norm(token) for token in tokens], dim=1)


def last_blocks(subject: Subject, blocks: int) -> Subject:
    """The subject with the longer features, under a key of its own.

    Raises BenchError for a network without so many blocks.
    """
    network = subject.network
    if not isinstance(network, VisionTransformer) or len(network.blocks) < blocks:
        found = (
            f"a transformer of {len(network.blocks)}"
            if isinstance(network, VisionTransformer)
            else type(network).__name__
        )
        raise BenchError(
            f"class tokens of the last {blocks} blocks need a vision transformer with as many, found {found}: set "
            "last_blocks to 1."
        )
    return replace(
        subject,
        key=f"{subject.key}-last{blocks}",
        network=LastBlocks(network, blocks).eval(),
        feature_dim=blocks * network.feature_dim,
    )
