"""BYOL: bootstrap your own latent (arXiv:2006.07733, NeurIPS 2020).

An online network predicts, from one view, what a slow copy of itself makes of the other view; no negatives (equation 2,
both directions summed). Paper and released code (google-deepmind/deepmind-research, byol/) agree on the loss and the
recipe but for the colours, where the paper recipe has the code's (utils/augmentations.py), which made the printed
numbers: brightness is added, up to 0.4 of the whole range, saturation is that of HSV, contrast is around each channel's
mean, as in tf.image. The papers that took BYOL's views over have torchvision's. The code also trains a linear
classifier behind a stopped gradient, which changes no number here and is left out, and draws the target's first weights
anew where this file copies the online ones (its authors saw no difference).
Linear layers start from torch's distribution, not haiku's; LARS and the normalised output make their scale irrelevant.
The recipe below is the code's preset of 1000 epochs (configs/byol.py); those of 300 and 100 are variants.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import Batch, Difference, Facts, Recipe
from bench.spec import Optim, Pretrain
from methods.parts.byol_body import Bootstrap, check_body
from methods.parts.differences import SAME_BLUR, TPU
from methods.parts.views import byol_pair, cifar, mild_digits


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's symbols in words."""

    projector: tuple[int, ...] = (4096, 256)  # section 3.3; other depths are in Barlow Twins' table 7
    predictor: tuple[int, ...] = (4096, 256)
    momentum: float = 0.996  # tau_base, to 1 along half a cosine (section 3.2)
    output_norm: bool = False  # batch norm after the projector: not in the paper, for runs of a few hundred steps
    VERSION: int = field(default=1, init=False)

    def check(self, pretrain: Pretrain) -> None:
        """Two views, heads that fit, a momentum between 0 and 1."""
        check_body("byol", pretrain, projector=self.projector, predictor=self.predictor, momentum=self.momentum)


def regression_loss(p_BD: Tensor, t_BD: Tensor) -> Tensor:
    """Mean squared distance of the l2-normalised prediction and target, 2 - 2 cos (equation 2), one direction.

    B: images in the global batch. The target gets no gradient. Raises ValueError for unequal shapes.
    """
    if p_BD.ndim != 2 or p_BD.shape != t_BD.shape:
        raise ValueError(
            f"expected equal (B, D) predictions and targets, got {tuple(p_BD.shape)} and {tuple(t_BD.shape)}"
        )
    return (F.normalize(p_BD, dim=1) - F.normalize(t_BD.detach(), dim=1)).square().sum(dim=1).mean()


class Method(Bootstrap):
    """Online network, predictor and target."""

    def __init__(self, config: Config, encoder: nn.Module, facts: Facts) -> None:
        super().__init__(
            encoder,
            facts,
            projector=config.projector,
            predictor=config.predictor,
            output_norm=config.output_norm,
            output_bias=False,
            momentum=config.momentum,
        )

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Both views through both networks."""
        return self.pairs(batch.views, batch.views)

    def loss(self, embeddings: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Equation 2, each view predicting the other."""
        ab = regression_loss(embeddings["pa"], embeddings["tb"])
        ba = regression_loss(embeddings["pb"], embeddings["ta"])
        return {"loss": ab + ba}


_DIGITS = mild_digits()  # the others' stronger views cost 9 points of linear accuracy on `val`

RECIPES = {
    # Best on the `val` split of 6 settings: momentum 0.8, 0.97 or 0.99, rate 2e-3, 4e-3 or 6e-3, predictor (256, 128)
    # or (1024, 128), batch 128 or 256, the views of the other methods or these.
    "embedded": Recipe(
        method=Config(projector=(256, 128), predictor=(256, 128), momentum=0.8, output_norm=True),
        views=(_DIGITS, _DIGITS),
        optim=Optim(name="adamw", lr=6e-3, weight_decay=1e-4, warmup_epochs=2.4, betas=(0.9, 0.99)),
        batch_size=128,
        epochs=24,
        precision="bf16",
    ),
    # the paper has none: SimCLR's batch and rate for CIFAR-10, the momentum of BYOL's shorter runs; not tuned
    "cifar": Recipe(
        method=Config(projector=(2048, 256), predictor=(2048, 256), momentum=0.99),
        views=(cifar(), cifar()),
        optim=Optim(name="lars", lr=2.0, weight_decay=1e-6, warmup_epochs=10, lars_momentum="popular"),
        batch_size=512,
        epochs=1000,
        precision="bf16",
    ),
    "paper": Recipe(  # section 3.3: batch 4096, lr 0.2 x B / 256; code: configs/byol.py and utils/optimizers.py
        method=Config(),
        views=tuple(replace(view, colour="tensorflow") for view in byol_pair()),
        optim=Optim(name="lars", lr=3.2, weight_decay=1.5e-6, warmup_epochs=10, lars_momentum="popular"),
        batch_size=4096,
        epochs=1000,
        precision="tf32",  # a TPU's; see DIFFERENCES
        normalize="imagenet",
    ),
}


def _preset(epochs: int, rate: float) -> dict[str, Recipe]:
    """The code's preset of so many epochs, its rate that of 256 images; elsewhere RECIPES."""
    paper = RECIPES["paper"]
    optim = replace(paper.optim, lr=rate * paper.batch_size / 256, weight_decay=1e-6)
    return RECIPES | {"paper": replace(paper, method=Config(momentum=0.99), optim=optim, epochs=epochs)}


VARIANTS = {
    "short": _preset(100, 0.45),  # with it VICReg's authors ran BYOL (arXiv:2105.04906, appendix C.4)
    "middle": _preset(300, 0.3),  # made the printed 72.5 %
}

DIFFERENCES = (
    TPU,
    SAME_BLUR,
    Difference(
        "Padding of strided convolutions",
        'One-sided ("SAME" of haiku).',
        "On both sides, as in torchvision's ResNet.",
        "All methods share one network, and its checkpoints stay readable elsewhere.",
        "None expected.",
    ),
    Difference(
        "First weights of the target",
        "Drawn anew.",
        "A copy of the online weights.",
        "Its authors saw no difference, and a copy needs no second draw.",
        "None expected.",
    ),
    Difference(
        "First weights of linear layers",
        "haiku's truncated normal.",
        "torch's uniform.",
        "LARS and the normalised output make their scale irrelevant.",
        "None expected.",
    ),
    Difference(
        "Online classifier",
        "Trained behind a stopped gradient.",
        "Left out.",
        "No gradient of it reaches the encoder.",
        "None.",
    ),
)
