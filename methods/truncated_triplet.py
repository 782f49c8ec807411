"""Truncated triplet: solving inefficiency of self-supervised representation learning (arXiv:2104.08760, ICCV 2021).

On BYOL's body: the prediction of a view is pulled to the target projection of the other view of its image, and pushed
from ONE deputy of all its negatives, max(gamma d(x, x+) - d(x, deputy), C). What printed the numbers is the released
code (wanggrun/triplet), and the defaults here are that code's:
- the deputy distance is the mean of the ranks 2 to 10 by distance; the printed smoothed rank k is 2 to 2k + 1, which
  no k makes 2 to 10; the median of the negatives is the first version of the paper (73.6 %);
- negatives are the other images of one GPU's mini-batch (196), not of the global batch of 6272: `negatives_pool`;
- the hinge is max(0, gap + 100), which is the printed max(gap, C) plus 100 with C = -100. The gap lies within
  2 (gamma + 1) = 6 of 0, so it NEVER bites: the loss is linear, 100 - 4 cos(positive) + 2 mean cos(deputies);
- d = -2 cos, the squared distance without its constant 2, which would only move the gap by 2 (gamma - 1);
- each rank resizes online views to a random side of 96 to 224 pixels, target views of 128 to 224.
The code accumulates 4 sub-batches of 8 x 196, and batch norm sees one of them: groups of 1568 images in the recipe. Its
rates are mmcv's, which the recipe has: a line from 1e-4 over ten epochs, step by step, times a cosine that began at
step 0 and moves once an epoch. Residuals are not zero-initialised, as the code's backbone has them
(openselfsup/models/backbones/resnet.py, zero_init_residual=False). LARS's patterns there leave out "bn" and "bias" and
so miss the norm of each shortcut, downsample.1.weight: four vectors are decayed and adapted, as in the recipe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import Batch, Difference, Facts, Recipe
from bench.errors import BenchError
from bench.networks import encoders
from bench.spec import Optim, Pretrain
from methods.parts.byol_body import Bootstrap, at_random_side, check_body, sides
from methods.parts.differences import APEX, PILLOW_BLUR, ZERO_WEIGHTS
from methods.parts.views import byol_pair, cifar, digits


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's symbols in words."""

    deputy: Literal["rank", "smoothed", "released", "median", "hardest", "averaged"] = (
        "released"  # the last two are printed with gamma 1
    )
    k: int = 5  # of "rank" and "smoothed"
    gamma: float = 2.0
    margin: float = 100.0  # -C
    hinge: Literal["code", "printed"] = "code"  # max(0, gap + margin), or printed max(gap, C): equal gradients
    negatives_pool: int | None = None  # images; the global batch is cut into consecutive pools. None: one pool
    random_resolution: bool = False
    projector: tuple[int, ...] = (4096, 256)
    predictor: tuple[int, ...] = (4096, 256)
    momentum: float = 0.99  # to 1 along half a cosine
    output_norm: bool = False  # as in methods/byol.py
    VERSION: int = field(default=1, init=False)

    def check(self, pretrain: Pretrain) -> None:
        """Pools must divide the batch and hold the deputy's ranks; a network must take every side it is given."""
        check_body(
            "truncated_triplet", pretrain, projector=self.projector, predictor=self.predictor, momentum=self.momentum
        )
        if self.gamma <= 0 or self.hinge not in ("code", "printed"):
            raise BenchError(
                f"truncated_triplet: gamma is {self.gamma}, hinge {self.hinge!r}; expected gamma above 0, hinge "
                "'code' or 'printed'."
            )
        if self.random_resolution:
            encoders.check_backbone(
                pretrain.backbone, [side for view in pretrain.views for side in sides(view.size, 96)]
            )
        pool_of(self, pretrain.batch_size)


def ranks_of(config: Config, negatives: int) -> tuple[int, int]:
    """First and last rank by distance (1 is the nearest) that make the deputy. Raises BenchError for an unknown one."""
    known = {
        "rank": (config.k, config.k),
        "smoothed": (2, 2 * config.k + 1),
        "released": (2, 10),
        "median": ((negatives + 1) // 2,) * 2,  # the lower one of an even number, as torch.median
        "hardest": (1, 1),
        "averaged": (1, negatives),
    }
    if config.deputy not in known:
        raise BenchError(f"truncated_triplet: deputy is {config.deputy!r}. Allowed: {', '.join(known)}.")
    return known[config.deputy]


def pool_of(config: Config, images: int) -> int:
    """Images in a pool. Raises BenchError when pools do not divide the batch or the deputy's ranks do not exist."""
    size = images if config.negatives_pool is None else config.negatives_pool
    if size < 2 or images % size:
        raise BenchError(
            f"truncated_triplet: a batch of {images} images does not divide into pools of {size}, at least 2."
        )
    first, last = ranks_of(config, size - 1)
    if not 1 <= first <= last < size:
        raise BenchError(
            f"truncated_triplet: {config.deputy!r} needs ranks {first} to {last}; a pool of {size} has {size - 1} "
            "negatives."
        )
    return size


def truncated_triplet_loss(p_BD: Tensor, t_BD: Tensor, config: Config) -> dict[str, Tensor]:
    """Mean hinge of gamma d(p_i, t_i) - d(p_i, deputy), the deputy chosen among t_j, j != i of the same pool.

    One direction.

    B: images in the global batch, in P pools of N. "averaged": the mean is over the hinges of all negatives, as
    printed. `truncated` is the share of gaps that the hinge cuts off. Raises ValueError for unequal shapes, and as
    `pool_of`.
    """
    if p_BD.ndim != 2 or p_BD.shape != t_BD.shape:
        raise ValueError(
            f"expected equal (B, D) predictions and targets, got {tuple(p_BD.shape)} and {tuple(t_BD.shape)}"
        )
    size = pool_of(config, len(p_BD))
    first, last = ranks_of(config, size - 1)
    p_PND, t_PND = (F.normalize(x, dim=1).view(-1, size, x.shape[1]) for x in (p_BD, t_BD.detach()))
    distance_PNN = -2 * p_PND @ t_PND.mT
    positive_PN = distance_PNN.diagonal(dim1=1, dim2=2)
    others_PNN = distance_PNN.masked_fill(torch.eye(size, dtype=torch.bool, device=p_BD.device), float("inf"))
    nearest = others_PNN.topk(last, dim=2, largest=False).values[..., first - 1 :]
    deputies = nearest if config.deputy == "averaged" else nearest.mean(dim=2, keepdim=True)
    gap = config.gamma * positive_PN[..., None] - deputies
    hinged = (gap + config.margin).clamp_min(0) if config.hinge == "code" else gap.clamp_min(-config.margin)
    truncated = (gap < -config.margin).to(gap.dtype).mean()
    return {"loss": hinged.mean(), "positive": positive_PN.mean(), "deputy": deputies.mean(), "truncated": truncated}


class Method(Bootstrap):
    """BYOL's networks; the last layers have a bias."""

    def __init__(self, config: Config, encoder: nn.Module, facts: Facts) -> None:
        heads = {"projector": config.projector, "predictor": config.predictor}
        super().__init__(
            encoder, facts, **heads, output_norm=config.output_norm, output_bias=True, momentum=config.momentum
        )
        self.config = config

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Both views through both networks, each pass at a side of its own where that is asked for."""
        if not self.config.random_resolution:
            return self.pairs(batch.views, batch.views)
        online, target = ([at_random_side(view, smallest) for view in batch.views] for smallest in (96, 128))
        return self.pairs(online, target)

    def loss(self, embeddings: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Sum of both directions; positive, deputy and truncated are their means."""
        ab = truncated_triplet_loss(embeddings["pa"], embeddings["tb"], self.config)
        ba = truncated_triplet_loss(embeddings["pb"], embeddings["ta"], self.config)
        return {name: (ab[name] + ba[name]) / (1 if name == "loss" else 2) for name in ab}


RECIPES = {
    # Best on the `val` split of 16 settings: gamma 2 or 1, margin 100 or 1, pools of 16, 32, 64, 128 or 256, the deputy
    # as released, smoothed or the median, momentum 0.8 or 0.9, a batch norm after the projector or none, rates from
    # 3e-3 to 8e-3, batch 128 or 256, predictor (256, 128) or (1024, 128). Pools of 64 because the ranks 2 to 10 of 196
    # digits are all of the anchor's class.
    "embedded": Recipe(
        method=Config(negatives_pool=64, projector=(256, 128), predictor=(256, 128), momentum=0.9, output_norm=True),
        views=(digits(), digits()),
        optim=Optim(name="adamw", lr=6e-3, weight_decay=1e-4, warmup_epochs=2.4, betas=(0.9, 0.99)),
        batch_size=128,
        epochs=24,
        precision="bf16",
    ),
    "cifar": Recipe(  # no published recipe: that of methods/byol.py with pools of 64; not tuned
        method=Config(negatives_pool=64, projector=(2048, 256), predictor=(2048, 256)),
        views=(cifar(), cifar()),
        optim=Optim(name="lars", lr=2.0, weight_decay=1e-6, warmup_epochs=10, lars_norm="separate"),
        batch_size=512,
        epochs=1000,
        precision="bf16",
    ),
    # configs/selfsup/triplet/r50_bs4096_accumulate4_ep1000_fp16_triplet_gpu3090.py: 8 GPUs x 196 x 4, lr as it stands
    "paper": Recipe(
        method=Config(negatives_pool=196, random_resolution=True),
        views=byol_pair(),
        optim=Optim(
            name="lars",
            lr=4.8,
            weight_decay=1e-6,
            warmup_epochs=10,
            lars_norm="separate",
            adapted_vectors="downsample.1.weight",
            steps="epoch",
            warmup_from=1e-4,
        ),
        batch_size=6272,
        epochs=1000,
        precision="fp16",  # the config: fp16 by apex
        normalize="imagenet",
        zero_init_residual=False,
        norm_group=1568,  # 8 GPUs x 196
    ),
}

DIFFERENCES = (
    APEX,
    PILLOW_BLUR,
    ZERO_WEIGHTS,
    Difference(
        "Running statistics of batch norm",
        "Moved by each of the 4 sub-batches of a step.",
        "Moved by the first.",
        "A step is one batch here, whose first group of batch norm stands for all.",
        "None expected.",
    ),
    Difference(
        "Momentum of the target",
        "A cosine over sub-batches: three quarters of a step later at each step.",
        "A cosine over steps; the target's weights differ by at most 6e-6.",
        "All methods with a slow encoder share one clock.",
        "None expected.",
    ),
    Difference(
        "Deputies in the paper's text",
        "The mean of the ranks 2 to 10.",
        "The same; the printed smoothed rank is not.",
        "The code made the printed numbers.",
        "None.",
    ),
)
