"""Vision transformers: DeiT-S/16 and ViT-B/16 (arXiv:2012.12877, arXiv:2010.11929), and small twins for 32 px.

Parameter names are those of timm and DeiT, so that released weights load by name once their classifier is left out.
Pre-norm blocks, GELU, LayerNorm with eps 1e-6; the feature is the class token after the last norm. Weights start as
DeiT's do: truncated normal of 0.02 for tokens and linear layers, PyTorch's own start for the patch convolution.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.errors import BenchError
from bench.networks.network import Network
from bench.spec import Backbone


@dataclass(frozen=True)
class Shape:
    """Sizes at width 1, and the image size for which the positions are stored."""

    dim: int
    depth: int
    heads: int
    patch: int
    size: int
    drop_path: float = 0.0  # of the last block; rises linearly from 0


VITS: Mapping[str, Shape] = {
    "vit_small16": Shape(384, 12, 6, 16, 224),
    # of MoCo v3 (arXiv:2104.02057): DeiT-S's shapes, other heads
    "vit_small16_12heads": Shape(384, 12, 12, 16, 224),
    # of TWIST (arXiv:2110.07402, README), the paper that trains it
    "vit_base16": Shape(768, 12, 12, 16, 224, drop_path=0.1),
    "vit_cifar": Shape(192, 9, 3, 4, 32),
    # patches of 4 in DeiT's proportions cost 7 times as much: minutes for one pretraining
    "vit_digits": Shape(48, 3, 3, 8, 32),
}


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        q, k, v = self.qkv(x_BND).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        # On a CPU the fused kernel's backward pass in bfloat16 takes up to five times as long as the plain products.
        with sdpa_kernel(SDPBackend.MATH) if x_BND.device.type == "cpu" else nullcontext():
            y_BHNE = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(y_BHNE.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to its input; `drop_path` silences a branch for single images."""

    def __init__(self, dim: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(OrderedDict(fc1=nn.Linear(dim, 4 * dim), act=nn.GELU(), fc2=nn.Linear(4 * dim, dim)))
        self.drop_path = drop_path

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x_BND = x_BND + self._thinned(self.attn(self.norm1(x_BND)))
        return x_BND + self._thinned(self.mlp(self.norm2(x_BND)))

    def _thinned(self, branch_BND: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return branch_BND
        keep = 1 - self.drop_path
        return branch_BND * (torch.rand(len(branch_BND), 1, 1, device=branch_BND.device) < keep) / keep


class VisionTransformer(Network):
    """Images (B, 3, H, W) in [0, 1] -> class token (B, feature_dim); H and W are multiples of the patch."""

    def __init__(self, spec: Backbone) -> None:
        super().__init__(spec.normalize)
        shape = VITS[spec.name]
        self.patch, self.side = shape.patch, shape.size // shape.patch
        self.by_factor = spec.positions == "factor"
        self.feature_dim = shape.dim * spec.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.feature_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.side**2, self.feature_dim))
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, self.feature_dim, self.patch, self.patch)))
        rates = [shape.drop_path * number / (shape.depth - 1) for number in range(shape.depth)]
        self.blocks = nn.Sequential(*(Block(self.feature_dim, shape.heads * spec.width, rate) for rate in rates))
        self.norm = nn.LayerNorm(self.feature_dim, eps=1e-6)
        linear = [module for module in self.modules() if isinstance(module, nn.Linear)]
        for values in (self.cls_token, self.pos_embed, *(layer.weight for layer in linear)):
            nn.init.trunc_normal_(values, std=0.02)
        for layer in linear:
            nn.init.zeros_(layer.bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, feature_dim). Raises ValueError for sizes that the patch does not divide."""
        height, width = x_BCHW.shape[2:]
        if height % self.patch or width % self.patch:
            raise ValueError(f"expected an image size that is a multiple of {self.patch}, got {height} x {width}")
        patches_BDhw = self.patch_embed(self.standardise(x_BCHW))
        tokens = torch.cat([self.cls_token.expand(len(x_BCHW), -1, -1), patches_BDhw.flatten(2).transpose(1, 2)], dim=1)
        x_BND = self.blocks(tokens + self.positions(height // self.patch, width // self.patch))
        out: Tensor = self.norm(x_BND[:, 0])
        return out

    def positions(self, rows: int, columns: int) -> Tensor:
        """A grid's positional embedding, (1, 1 + rows * columns, D), by bicubic interpolation of the stored one.

        By factor (dino/vision_transformer.py, interpolate_pos_encoding) cell i is read at (i + 0.5) / factor - 0.5 with
        a factor a little above rows / side: a grid of 6 of 14 is stretched by 1.7 %.
        """
        if rows == columns == self.side:
            return self.pos_embed
        # Interpolation is linear: a matrix, whose gradient has a fixed order of sums on a GPU. That of `interpolate`
        # has not.
        cells = torch.eye(self.side**2, device=self.pos_embed.device).view(-1, 1, self.side, self.side)
        if self.by_factor:
            factors = ((rows + 0.1) / self.side, (columns + 0.1) / self.side)
            weights = F.interpolate(cells, scale_factor=factors, mode="bicubic").flatten(1).T
        else:
            weights = F.interpolate(cells, size=(rows, columns), mode="bicubic").flatten(1).T
        with torch.autocast(weights.device.type, enabled=False):
            resampled = weights.to(self.pos_embed.dtype) @ self.pos_embed[0, 1:]
        return torch.cat([self.pos_embed[:, :1], resampled[None]], dim=1)


def assumptions(spec: Backbone) -> str:
    """What the shapes of a transformer's weights leave open, and the network here that has the same shapes."""
    shape = VITS[spec.name]
    heads = shape.heads * spec.width
    twins = [
        f"{name} has {other.heads * spec.width} at the same shapes"
        for name, other in VITS.items()
        if name != spec.name and replace(other, heads=0, drop_path=0) == replace(shape, heads=0, drop_path=0)
    ]
    known = f" ({'; '.join(twins)})" if twins else ""
    return f"{heads} heads of {shape.dim // shape.heads}{known}, the class token after the last norm, eps 1e-6"


def check_transformer(spec: Backbone, sizes: Iterable[int] = ()) -> None:
    """Raises BenchError for choices that a transformer does not have, or image sizes that its patch does not divide."""
    if spec != Backbone(name=spec.name, width=spec.width, normalize=spec.normalize, positions=spec.positions):
        raise BenchError(
            f"{spec.name}: base_channels, stem and zero_init_residual are choices of ResNets; leave them at their "
            "defaults."
        )
    patch = VITS[spec.name].patch
    for size in sizes:
        if size % patch:
            raise BenchError(f"{spec.name}: an image size of {size} is not a multiple of its patch, {patch}.")
