"""SimSiam: exploring simple siamese representation learning (arXiv:2011.10566, CVPR 2021).

The prediction of one view is pulled to the projection of the other, through which no gradient flows (equations 1 to 4).
No negatives, no momentum encoder, no large batch. As in the released code (facebookresearch/simsiam), which the paper's
section 3 describes: a projector of three layers with batch norm on each, the last without scale and shift; a predictor
with a bottleneck; SGD at 0.05 x B / 256 without warm-up; the predictor's rate stays constant (appendix B, "fixed lr").
The cosine moves once an epoch, as main_simsiam.py sets it (the paper does not say).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import Batch, Difference, Facts, Recipe
from bench.errors import BenchError
from bench.spec import Augment, Optim, Pretrain
from methods.parts.differences import BILINEAR, FLOAT32, PILLOW_BLUR
from methods.parts.heads import mlp
from methods.parts.views import cifar, mild_digits


@dataclass(frozen=True, kw_only=True)
class Config:
    """Widths of the heads (section 3, baseline settings)."""

    hidden: int = 2048  # of the projector, and its output
    bottleneck: int = 512  # of the predictor
    VERSION: int = field(default=1, init=False)

    def check(self, pretrain: Pretrain) -> None:
        """Two views, positive widths."""
        if len(pretrain.views) != 2:
            raise BenchError(f"simsiam needs 2 views, found {len(pretrain.views)}.")
        if min(self.hidden, self.bottleneck) < 1:
            raise BenchError(f"simsiam: hidden is {self.hidden} and bottleneck {self.bottleneck}, expected at least 1.")


def negative_cosine(p_BD: Tensor, z_BD: Tensor) -> Tensor:
    """Mean of -cos(p, z) with z taken as constant (equations 1 and 3). Raises ValueError for unequal shapes."""
    if p_BD.ndim != 2 or p_BD.shape != z_BD.shape:
        raise ValueError(
            f"expected equal (B, D) predictions and projections, got {tuple(p_BD.shape)} and {tuple(z_BD.shape)}"
        )
    return -F.cosine_similarity(p_BD, z_BD.detach(), dim=1).mean()


class Method(nn.Module):
    """Encoder, projector, predictor; each view in a pass of its own."""

    def __init__(self, config: Config, encoder: nn.Module, facts: Facts) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = mlp((facts.feature_dim, config.hidden, config.hidden, config.hidden), last_norm=True)
        last = self.projector[-1]
        for parameter in last.parameters():  # "without affine": its scale is 1 and its shift 0
            parameter.requires_grad_(False)
        self.predictor = mlp((config.hidden, config.bottleneck, config.hidden), last_norm=False)
        output = self.predictor[-1]
        if isinstance(output, nn.Linear):
            output.bias = nn.Parameter(output.weight.new_zeros(config.hidden))

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Projections za, zb (checked for collapse) and predictions pa, pb."""
        za, zb = (self.projector(self.encoder(view)) for view in batch.views)
        return {"za": za, "zb": zb, "pa": self.predictor(za), "pb": self.predictor(zb)}

    def loss(self, embeddings: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Equation 4: half of both directions."""
        z = embeddings
        return {"loss": (negative_cosine(z["pa"], z["zb"]) + negative_cosine(z["pb"], z["za"])) / 2}

    def after_step(self, progress: float) -> None:
        """Nothing moves outside the gradient."""


# MoCo v2's pipeline (section 3): strength 0.4, hue 0.1, blur half of the time.
_PAPER_VIEW = Augment(
    size=224, crop_scale=(0.2, 1.0), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, gray=0.2, blur=0.5
)

RECIPES = {
    # of 3 settings on `val`: these views (the stronger ones cost 7 points) and the stronger ones, rate 2e-3 or 4e-3
    "embedded": Recipe(
        method=Config(hidden=256, bottleneck=64),
        views=(mild_digits(), mild_digits()),
        optim=Optim(
            name="adamw", lr=4e-3, weight_decay=1e-4, warmup_epochs=2.6, betas=(0.9, 0.99), constant="predictor"
        ),
        batch_size=128,
        epochs=26,
        precision="bf16",
    ),
    # appendix D: lr 0.03, weight decay 5e-4, batch 512, 800 epochs, two layers in the projector (here three)
    "cifar": Recipe(
        method=Config(),
        views=(cifar(), cifar()),
        optim=Optim(
            name="sgd", lr=0.03, weight_decay=5e-4, warmup_epochs=0, vector_weight_decay=True, constant="predictor"
        ),
        batch_size=512,
        epochs=800,
        precision="bf16",
    ),
    "paper": Recipe(  # section 3: lr 0.05 x 512 / 256, 100 epochs in the ablations, 800 in table 4
        method=Config(),
        views=(_PAPER_VIEW, _PAPER_VIEW),
        optim=Optim(
            name="sgd",
            lr=0.1,
            weight_decay=1e-4,
            warmup_epochs=0,
            vector_weight_decay=True,
            constant="predictor",
            steps="epoch",
        ),
        batch_size=512,
        epochs=800,
        precision="tf32",  # see DIFFERENCES
        normalize="imagenet",
    ),
}

DIFFERENCES = (
    BILINEAR,
    PILLOW_BLUR,
    FLOAT32,
    Difference(
        "First biases of the predictor",
        "torch's uniform.",
        "0.",
        "All heads here share one start.",
        "None expected.",
    ),
)
