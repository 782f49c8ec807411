"""VICReg: variance-invariance-covariance regularization (arXiv:2105.04906, ICLR 2022).

Two views are pulled together (invariance); each embedding dimension keeps a standard deviation of at least 1
(variance), and no two dimensions of a view vary together (covariance), over the GLOBAL batch (equations 1 to 6).
Paper and released code (facebookresearch/vicreg, main_vicreg.py) differ:
- equation 5 sums the squared distance over the D dimensions; algorithm 1, to which the published coefficients belong,
  and the code average over them. Here it is the average;
- the paper adds the variance terms of both views, the code averages them (`halve_variance`) and adds the covariances;
- the paper's views are drawn alike (appendix C.1: blur 0.5, solarize 0.1), the code's are BYOL's unequal pair;
- the paper ends the learning rate at 0.002, the code at a thousandth of its peak of 1.6.
Which of the two printed the numbers is not published (issues 8 and 26 there have no answer). The `paper` recipe is the
code's in all of it, because the checkpoint of table 1 was released with it; `Config()` is algorithm 1.
The code's expander has biases before its batch norms, which these cancel; here there are none.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

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

_GAMMA, _EPS = 1.0, 1e-4  # section 4.2


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's symbols in words."""

    invariance: float = 25.0  # lambda, section 4.2
    variance: float = 25.0  # mu
    covariance: float = 1.0  # nu
    halve_variance: bool = False  # the code's mean of the two variance terms instead of the paper's sum
    hidden: int = 8192  # section 4.2: 8192-8192-8192
    output: int = 8192
    layers: int = 3
    second: Backbone | None = (
        None  # table 5: encoder of the second branch, with an expander of its own; None shares both
    )
    VERSION: int = field(default=1, init=False)

    def check(self, pretrain: Pretrain) -> None:
        """Two views, coefficients that are not negative, at least one layer, a second branch that fits."""
        if len(pretrain.views) != 2:
            raise BenchError(f"vicreg needs 2 views, found {len(pretrain.views)}.")
        for name in ("invariance", "variance", "covariance"):
            if getattr(self, name) < 0:
                raise BenchError(f"vicreg: {name} is {getattr(self, name)}, expected at least 0.")
        if self.layers < 1:
            raise BenchError(f"vicreg: layers is {self.layers}, expected at least 1.")
        check_second(self.second, pretrain)


def variance_term(z_BD: Tensor) -> Tensor:
    """Mean over dimensions of max(0, gamma - sqrt(Var + eps)), Var over B - 1 (equations 1 and 2)."""
    return F.relu(_GAMMA - (z_BD.var(dim=0) + _EPS).sqrt()).mean()


def covariance_term(z_BD: Tensor) -> Tensor:
    """Sum of the squared covariances (over B - 1) of unequal dimensions, divided by D (equations 3 and 4)."""
    centred_BD = z_BD - z_BD.mean(dim=0)
    squared_DD = (product_over_batch(centred_BD, centred_BD) / (len(z_BD) - 1)).square()
    return (squared_DD.sum() - squared_DD.diagonal().sum()) / z_BD.shape[1]


def vicreg_loss(
    za_BD: Tensor, zb_BD: Tensor, *, invariance: float, variance: float, covariance: float, halve_variance: bool
) -> dict[str, Tensor]:
    """Equation 6 in the averaged form of algorithm 1; the three terms come back without their coefficients.

    B: images in the global batch, D: embedding width. Raises ValueError for unequal shapes or fewer than 2 images.
    """
    if za_BD.ndim != 2 or za_BD.shape != zb_BD.shape:
        raise ValueError(f"expected two equal (B, D) views, got {tuple(za_BD.shape)} and {tuple(zb_BD.shape)}")
    if len(za_BD) < 2:
        raise ValueError("expected at least 2 images: one has no variance")
    terms = {
        "invariance": F.mse_loss(za_BD, zb_BD),
        "variance": (variance_term(za_BD) + variance_term(zb_BD)) * (0.5 if halve_variance else 1.0),
        "covariance": covariance_term(za_BD) + covariance_term(zb_BD),
    }
    loss = invariance * terms["invariance"] + variance * terms["variance"] + covariance * terms["covariance"]
    return {"loss": loss} | terms


class Method(nn.Module):
    """Encoder and expander, or two of each; the encoder of the first view is the one that is evaluated."""

    def __init__(self, config: Config, encoder: nn.Module, facts: Facts) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        tail = (*(config.hidden,) * (config.layers - 1), config.output)
        self.projector = mlp((facts.feature_dim, *tail), last_norm=False)
        if config.second is not None:
            self.second = second_branch(config.second, facts, tail, last_norm=False)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """A pass for each view, as in the released code: each has its own batch statistics."""
        first, second = batch.views
        zb = self.projector(self.encoder(second)) if self.config.second is None else self.second(second)
        return {"za": self.projector(self.encoder(first)), "zb": zb}

    def loss(self, embeddings: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Equation 6, with its three terms."""
        c = self.config
        return vicreg_loss(
            *(embeddings["za"], embeddings["zb"]),
            invariance=c.invariance,
            variance=c.variance,
            covariance=c.covariance,
            halve_variance=c.halve_variance,
        )

    def after_step(self, progress: float) -> None:
        """Nothing moves outside the gradient."""


RECIPES = {
    # 8 settings tried on `val`: rate 4e-3 or 8e-3 with output 128 or 256; 4e-3 with halved variance; batch 128
    "embedded": Recipe(
        method=Config(hidden=256, output=128, layers=2),
        views=(digits(), digits()),
        optim=Optim(name="adamw", lr=8e-3, weight_decay=1e-4, warmup_epochs=2.8, betas=(0.9, 0.99)),
        batch_size=128,
        epochs=28,
        precision="bf16",
    ),
    "cifar": Recipe(  # untuned: the paper has no CIFAR; base rate 0.3 of its short runs, x 256 / 256
        method=Config(hidden=2048, output=2048),
        views=(cifar(), cifar()),
        optim=Optim(
            name="lars", lr=0.3, weight_decay=1e-6, warmup_epochs=10, lars_momentum="popular", final_lr_ratio=0.001
        ),
        batch_size=256,
        epochs=1000,
        precision="bf16",
    ),
    "paper": Recipe(  # section 4.2: batch 2048, rate 0.2 x B / 256 for every parameter
        method=Config(halve_variance=True),
        views=byol_pair(),
        optim=Optim(
            name="lars", lr=1.6, weight_decay=1e-6, warmup_epochs=10, lars_momentum="popular", final_lr_ratio=0.001
        ),
        batch_size=2048,
        epochs=1000,
        precision="fp16",  # main_vicreg.py: autocast and GradScaler
        normalize="imagenet",
    ),
}

# The 100-epoch runs of tables 5 and 7 (appendix C.4): rate 0.3 x B / 256 = 2.4; elsewhere as RECIPES.
VARIANTS = {
    "short": RECIPES | {"paper": replace(RECIPES["paper"], optim=replace(RECIPES["paper"].optim, lr=2.4), epochs=100)}
}

DIFFERENCES = (
    FP16_LOSS,
    PILLOW_BLUR,
    PARTIAL_BATCH,
    Difference(
        "Biases of the expander",
        "Before its batch norms.",
        "None.",
        "The batch norms cancel them.",
        "None.",
    ),
    Difference(
        "Paper against code",
        "Variance terms halved, BYOL's unequal pair of views, a final rate of a thousandth.",
        "The code's in all of it.",
        "The checkpoint of table 1 was released with the code; the paper prints another variant.",
        "None if the code printed the numbers, which its authors did not say.",
    ),
)
