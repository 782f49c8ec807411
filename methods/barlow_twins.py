"""Barlow Twins: self-supervised learning via redundancy reduction (arXiv:2103.03230, ICML 2021).

The cross-correlation matrix of two views over the GLOBAL batch is pulled towards the identity (equation 1).
Paper and released code (facebookresearch/barlowtwins) differ: lambda 5e-3 against 0.0051, weight decay 1.5e-6 against
1e-6; the recipe below has the code's, which made the released checkpoint. The code's all-reduce of the matrix carries
no gradient and DDP then averages, so its gradients are 1/ranks of the true ones (measured with two ranks: half); here
they are the true ones. LARS does not see the difference on weights; biases and norms are not adapted, and their rate
(0.0048 x B / 256 = 0.0384) was found with the small gradients of the paper's 32 GPUs (README's command: 16). So the
recipe divides it by 32: a step of theirs is then as long as the step that made the printed numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import Batch, Difference, Facts, Recipe
from bench.errors import BenchError
from bench.spec import Backbone, Optim, Pretrain
from bench.training.ranks import product_over_batch
from methods.parts.branches import check_second, second_branch
from methods.parts.differences import FP16_LOSS, PARTIAL_BATCH, PILLOW_BLUR
from methods.parts.heads import mlp
from methods.parts.views import byol_pair, cifar, digits


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's symbols in words."""

    lambda_: float = 0.0051  # the code's; the paper prints 5e-3
    hidden: int = 8192  # section 2.2: 8192-8192-8192
    output: int = 8192
    layers: int = 3
    # VICReg's table 5: encoder of the second branch, with a projector of its own; None shares both.
    second: Backbone | None = field(default=None, metadata={"omit_when": None})
    VERSION: int = field(default=1, init=False)

    def check(self, pretrain: Pretrain) -> None:
        """Two views, at least one layer."""
        if len(pretrain.views) != 2:
            raise BenchError(f"barlow_twins needs 2 views, found {len(pretrain.views)}.")
        if self.layers < 1:
            raise BenchError(f"barlow_twins: layers is {self.layers}, expected at least 1.")
        check_second(self.second, pretrain)


def barlow_twins_loss(za_BD: Tensor, zb_BD: Tensor, *, lambda_: float) -> dict[str, Tensor]:
    """Sum over the diagonal of (1 - C_ii)^2 plus lambda times the sum of C_ij^2 off it (equation 1).

    B: images in the global batch, D: projection width. C is the correlation of the batch-normalised views (biased
    variance, eps 1e-5, as in the code). Raises ValueError for unequal shapes.
    """
    if za_BD.ndim != 2 or za_BD.shape != zb_BD.shape:
        raise ValueError(f"expected two equal (B, D) views, got {tuple(za_BD.shape)} and {tuple(zb_BD.shape)}")
    c_DD = product_over_batch(standardise(za_BD), standardise(zb_BD)) / len(za_BD)
    gap_DD = (c_DD - torch.eye(len(c_DD), device=c_DD.device, dtype=c_DD.dtype)).square()
    invariance = gap_DD.diagonal().sum()
    redundancy = gap_DD.sum() - invariance
    return {"loss": invariance + lambda_ * redundancy, "invariance": invariance, "redundancy": redundancy}


def standardise(z_BD: Tensor) -> Tensor:
    """Zero mean and unit biased variance per feature: batch norm without parameters."""
    return F.batch_norm(z_BD, None, None, training=True)


class Method(nn.Module):
    """Encoder and projector; both views pass separately, each with its own batch statistics."""

    def __init__(self, config: Config, encoder: nn.Module, facts: Facts) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        tail = (*(config.hidden,) * (config.layers - 1), config.output)
        self.projector = mlp((facts.feature_dim, *tail), last_norm=False)
        if config.second is not None:
            self.second = second_branch(config.second, facts, tail, last_norm=False)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Two passes, as in the released code."""
        first, second = batch.views
        za = self.projector(self.encoder(first))
        return {
            "za": za,
            "zb": self.projector(self.encoder(second)) if self.config.second is None else self.second(second),
        }

    def loss(self, embeddings: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Equation 1, with its two terms."""
        return barlow_twins_loss(embeddings["za"], embeddings["zb"], lambda_=self.config.lambda_)

    def after_step(self, progress: float) -> None:
        """Nothing moves outside the gradient."""


RECIPES = {
    # of 11 settings on `val`: lambda from 0.005 to 0.02, rate 4e-3 or 8e-3, batch 128 or 256, 24 to 36 epochs
    "embedded": Recipe(
        method=Config(lambda_=0.005, hidden=256, output=512),
        views=(digits(), digits()),
        optim=Optim(name="adamw", lr=4e-3, weight_decay=1e-4, warmup_epochs=2.9, betas=(0.9, 0.99)),
        batch_size=128,
        epochs=29,
        precision="bf16",
    ),
    "cifar": Recipe(
        method=Config(hidden=2048, output=2048),
        views=(cifar(), cifar()),
        optim=Optim(
            name="lars",
            lr=0.3,
            vector_lr=0.0072,
            weight_decay=1e-6,
            warmup_epochs=10,
            lars_momentum="popular",
            final_lr_ratio=0.001,
        ),
        batch_size=256,
        epochs=1000,
        precision="bf16",
    ),
    "paper": Recipe(  # section 2.2: batch 2048, rates 0.2 and (as printed) 0.0048 x B / 256, cosine to a thousandth
        method=Config(),
        views=byol_pair(),
        optim=Optim(
            name="lars",
            lr=1.6,
            vector_lr=0.0384 / 32,  # see above: the code's gradients on 32 GPUs are a 32nd of these
            weight_decay=1e-6,
            warmup_epochs=10,
            lars_momentum="popular",
            final_lr_ratio=0.001,
        ),
        batch_size=2048,
        epochs=1000,
        precision="fp16",  # main.py: autocast and GradScaler
        normalize="imagenet",
    ),
}

DIFFERENCES = (
    FP16_LOSS,
    PILLOW_BLUR,
    PARTIAL_BATCH,
    Difference(
        "Gradient of the loss",
        "1/ranks of the true one, because the all-reduce of the matrix carries none.",
        "The true one, and the rate of biases and norms divided by 32.",
        "A gradient should not depend on the number of GPUs; 32 are those of the paper.",
        "None on 32 GPUs; the README's command has 16, where a step there is twice as long.",
    ),
    Difference(
        "lambda and weight decay",
        "0.0051 and 1e-6; the paper prints 5e-3 and 1.5e-6.",
        "0.0051 and 1e-6.",
        "The code made the released checkpoint.",
        "None.",
    ),
)
