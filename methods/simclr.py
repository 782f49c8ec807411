"""SimCLR: a simple framework for contrastive learning (arXiv:2002.05709, ICML 2020).

Two views of each image attract each other and repel all other 2N - 2 views of the global batch (NT-Xent, equation 1).
What the printed numbers were made with, and this file has (google-research/simclr, first release):
- the projector has batch norm after EVERY layer, the output included (there without shift); the paper shows none;
- inputs are in [0, 1], without mean and standard deviation;
- brightness is ADDED, up to 0.8 of the whole range (data_util.py, also the paper's pseudo code; `simclrv2` of the later
  code multiplies), and saturation and contrast are tf.image's: the colours "tensorflow" of bench/data/views/colour.py;
- crops are those of tf.image.sample_distorted_bounding_box: 0.42 of a square image on average, torchvision's 0.48
  (bench/data/views/crops.py);
- LARS with the learning rate inside the momentum buffer ("classic"), weight decay 1e-6 (the later code has 1e-4).
- the loss is twice the paper's mean over 2N, as the code adds the two directions (`loss_factor=2` in the paper recipe).
  LARS leaves biases and norms unadapted, so they train at twice the rate, and decay counts half against the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import Batch, Difference, Facts, Recipe
from bench.errors import BenchError
from bench.spec import Backbone, Optim, Pretrain
from methods.parts.branches import check_second, second_branch
from methods.parts.differences import ONE_SIGMA, SAME_BLUR, TF_STEPS, TPU
from methods.parts.heads import mlp
from methods.parts.views import cifar, digits, tensorflow_view


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's symbols in words."""

    temperature: float = 0.1  # section 5.1, table 5
    hidden: int = 2048  # section 4.2: 2048 -> 2048 -> 128
    output: int = 128
    loss_factor: float = field(default=1.0, metadata={"omit_when": 1.0})
    # VICReg's table 5: encoder of the second branch, with a projector of its own; None shares both.
    second: Backbone | None = field(default=None, metadata={"omit_when": None})
    VERSION: int = field(default=1, init=False)

    def check(self, pretrain: Pretrain) -> None:
        """Two views, a positive temperature."""
        if len(pretrain.views) != 2:
            raise BenchError(f"simclr needs 2 views, found {len(pretrain.views)}.")
        for name in ("temperature", "loss_factor"):
            if getattr(self, name) <= 0:
                raise BenchError(f"simclr: {name} is {getattr(self, name)}, expected more than 0.")
        check_second(self.second, pretrain)


def nt_xent(za_BD: Tensor, zb_BD: Tensor, *, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy over the 2B views of the global batch (equation 1).

    Row i of both tensors belongs to image i. Each of the 2B views is an anchor; its own similarity is left out, the
    positive stays in the denominator; the mean over the 2B anchors is returned. Raises ValueError for unequal shapes.
    """
    if za_BD.ndim != 2 or za_BD.shape != zb_BD.shape:
        raise ValueError(f"expected two equal (B, D) views, got {tuple(za_BD.shape)} and {tuple(zb_BD.shape)}")
    z = F.normalize(torch.cat([za_BD, zb_BD]), dim=1)
    similarity = z @ z.T / temperature
    similarity.fill_diagonal_(float("-inf"))
    count = len(za_BD)
    positive = torch.arange(2 * count, device=z.device).roll(count)
    return F.cross_entropy(similarity, positive)


class Method(nn.Module):
    """Encoder and projector."""

    def __init__(self, config: Config, encoder: nn.Module, facts: Facts) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        tail = (config.hidden, config.output)
        self.projector = mlp((facts.feature_dim, *tail), last_norm=True, last_shift=False)
        if config.second is not None:
            self.second = second_branch(config.second, facts, tail, last_norm=True, last_shift=False)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Both views in one pass, so that batch norm sees 2N views as in the released code.

        One pass each with two branches.
        """
        if self.config.second is not None:
            return {"za": self.projector(self.encoder(batch.views[0])), "zb": self.second(batch.views[1])}
        za, zb = self.projector(self.encoder(torch.cat(batch.views))).chunk(2)
        return {"za": za, "zb": zb}

    def loss(self, embeddings: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """NT-Xent times the factor."""
        loss = nt_xent(embeddings["za"], embeddings["zb"], temperature=self.config.temperature)
        return {"loss": self.config.loss_factor * loss}

    def after_step(self, progress: float) -> None:
        """Nothing moves outside the gradient."""


RECIPES = {
    "embedded": Recipe(
        method=Config(temperature=0.5, hidden=256),
        views=(digits(), digits()),
        optim=Optim(name="adamw", lr=8e-3, weight_decay=1e-4, warmup_epochs=3.6, betas=(0.9, 0.99)),
        batch_size=256,
        epochs=36,
        precision="bf16",
    ),
    "cifar": Recipe(  # appendix B.9
        method=Config(temperature=0.5, hidden=512),
        views=(cifar(), cifar()),
        optim=Optim(name="lars", lr=2.0, weight_decay=1e-6, warmup_epochs=10),  # 1.0 x 512 / 256
        batch_size=512,
        epochs=1000,
        precision="bf16",
    ),
    "paper": Recipe(  # sections 2.3 and 6: batch 4096, lr 0.3 x B / 256 = 4.8, 1000 epochs
        method=Config(loss_factor=2.0),
        views=(tensorflow_view("tensorflow"),) * 2,
        optim=Optim(name="lars", lr=4.8, weight_decay=1e-6, warmup_epochs=10),
        batch_size=4096,
        epochs=1000,
        precision="tf32",  # a TPU's; see DIFFERENCES
    ),
}

DIFFERENCES = (
    TPU,
    SAME_BLUR,
    ONE_SIGMA,
    TF_STEPS,
    Difference(
        "Weight decay and depth of the projector",
        "1e-4 and three layers in today's code.",
        "1e-6 and two layers, as in the first release and the paper.",
        "The printed numbers were made before the change.",
        "None for the printed numbers.",
    ),
    Difference(
        "Row with AutoAugment",
        "Not released.",
        "AutoAugment as its own paper has it.",
        "The row is in the paper's table of pipelines.",
        "Not known for this row.",
    ),
)
