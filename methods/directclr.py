"""DirectCLR: understanding dimensional collapse in contrastive self-supervised learning (arXiv:2110.09348, ICLR 2022).

InfoNCE on the first d0 channels of the representation, without a trainable projector (section 6.2). Every row of the
paper's tables 1 and 2 is a choice of `Config.projector`; all rows share this one loss, the "SimCLR" rows too.
What the printed numbers were made with (facebookresearch/directclr), and this file has, where the paper is silent:
- the loss as printed in section 6.2 lacks sign and temperature; the code's is cross entropy at temperature 0.1, the
  mean of both directions, with negatives from the OTHER view only: B - 1 of them, not SimCLR's 2B - 2;
- d0 is 360; each view passes the backbone alone; the pipeline is BYOL's asymmetric one, not SimCLR's;
- the 2-layer projector ends in batch norm with shift; the linear one maps to 128 and has no bias.
The code also trains an online classifier on detached features; it does not touch the encoder and is left out. The
code for the orthogonal, diagonal and low-rank rows of table 2 was not released: they follow the paper's text, and their
initial values (a random rotation, ones) are chosen here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import Batch, Difference, Facts, Recipe
from bench.errors import BenchError
from bench.networks.size import feature_dim
from bench.spec import Optim, Pretrain
from methods.parts.differences import FP16_LOSS, PARTIAL_BATCH, PILLOW_BLUR
from methods.parts.heads import mlp
from methods.parts.views import byol_pair, cifar, digits


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's symbols in words."""

    # "direct" is DirectCLR, the fixed low-rank diagonal projector of table 2; see `projector_of` for the others.
    projector: Literal["direct", "none", "linear", "two_layer", "orthogonal", "diagonal", "low_rank"] = "direct"
    d0: float = (
        360  # channels that the loss sees (direct, low_rank): a number, or below 1 a share of the representation
    )
    temperature: float = 0.1
    hidden: int = 2048  # two_layer: 2048 -> 2048 -> 128
    output: int = 128  # two_layer, linear
    VERSION: int = field(default=1, init=False)

    def check(self, pretrain: Pretrain) -> None:
        """Two views, a positive temperature, no more channels than there are."""
        if len(pretrain.views) != 2:
            raise BenchError(f"directclr needs 2 views, found {len(pretrain.views)}.")
        if self.temperature <= 0:
            raise BenchError(f"directclr: temperature is {self.temperature}, expected more than 0.")
        if self.projector in ("direct", "low_rank"):
            channels(self.d0, feature_dim(pretrain.backbone))


def channels(d0: float, width: int) -> int:
    """Number of channels that `d0` means for a representation of `width`.

    Raises BenchError unless it is in 1..width.
    """
    if d0 >= 1 and d0 != round(d0):
        raise BenchError(f"directclr: d0 is {d0}, expected a whole number of channels, or a share below 1.")
    found = round(d0 * width) if d0 < 1 else round(d0)
    if not 1 <= found <= width:
        raise BenchError(
            f"directclr: d0 is {d0:g}, which asks for {found} channels of a representation of {width}: expected 1 to "
            f"{width}."
        )
    return found


def info_nce(za_BD: Tensor, zb_BD: Tensor, *, temperature: float) -> Tensor:
    """Cross entropy of each embedding's cosine similarities to the other view's B embeddings, over both directions.

    B: images in the global batch. The positive of row i is row i of the other view; nothing of its own view takes part.
    Section 6.2, with the sign and the temperature of the released code. Raises ValueError for unequal shapes.
    """
    if za_BD.ndim != 2 or za_BD.shape != zb_BD.shape:
        raise ValueError(f"expected two equal (B, D) views, got {tuple(za_BD.shape)} and {tuple(zb_BD.shape)}")
    similarity_BB = F.normalize(za_BD, dim=1) @ F.normalize(zb_BD, dim=1).T / temperature
    positive_B = torch.arange(len(za_BD), device=za_BD.device)
    return (F.cross_entropy(similarity_BB, positive_B) + F.cross_entropy(similarity_BB.T, positive_B)) / 2


def projector_of(config: Config, width: int) -> nn.Module:
    """From representation to embedding, the rows of tables 1 and 2."""
    match config.projector:
        case "two_layer":
            return mlp((width, config.hidden, config.output), last_norm=True)
        case "linear":
            return nn.Linear(width, config.output, bias=False)
        case "none":
            return nn.Identity()
        case "orthogonal":
            return Orthogonal(width)
        case "diagonal":
            return trainable_diagonal(width)
        case "low_rank":
            return fixed_low_rank(width, channels(config.d0, width))
        case "direct":
            return FirstChannels(channels(config.d0, width))


# -- The projectors of table 2 that have a fixed spectrum or a fixed form.


class FirstChannels(nn.Module):
    """The first channels of the representation: the fixed low-rank diagonal projector, without its zeros."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, r_BD: Tensor) -> Tensor:
        """(B, D) -> (B, count)."""
        return r_BD[:, : self.count]


class Orthogonal(nn.Module):
    """A trainable rotation exp(A - A^T): every singular value stays 1.

    Cosine similarities do not change under a rotation of both views, so in exact arithmetic this row of table 2 is the
    row without a projector and the gradient of A is 0.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.free = nn.Parameter(torch.randn(width, width) / width**0.5)

    def rotation(self) -> Tensor:
        """(D, D), in float32 also under autocast: rounded to bf16 within the exponential it would be no rotation."""
        with torch.autocast(self.free.device.type, enabled=False):
            made: Tensor = torch.linalg.matrix_exp(self.free - self.free.T)
        return made

    def forward(self, r_BD: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return F.linear(r_BD, self.rotation())


class _Fixed(nn.Module):
    """A matrix that is saved and never trained."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight: Tensor
        self.register_buffer("weight", weight)

    def forward(self, r_BD: Tensor) -> Tensor:
        return F.linear(r_BD, self.weight)


class _Diagonal(nn.Module):
    """One trainable factor a channel. A vector: the optimizer treats it as it treats biases and norms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, r_BD: Tensor) -> Tensor:
        return r_BD * self.weight


def trainable_diagonal(width: int) -> nn.Module:
    """Starts at the identity."""
    return _Diagonal(width)


def fixed_low_rank(width: int, rank: int) -> nn.Module:
    """U S V^T with `rank` singular values 1 and the others 0, U and V random orthogonal."""
    u, v = (torch.linalg.qr(torch.randn(width, width))[0] for _ in range(2))
    return _Fixed(u[:, :rank] @ v[:, :rank].T)


class Method(nn.Module):
    """Encoder and projector; both views pass separately, each with its own batch statistics."""

    def __init__(self, config: Config, encoder: nn.Module, facts: Facts) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.projector = projector_of(config, facts.feature_dim)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Two passes, as in the released code."""
        za, zb = (self.projector(self.encoder(view)) for view in batch.views)
        return {"za": za, "zb": zb}

    def loss(self, embeddings: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """InfoNCE."""
        return {"loss": info_nce(embeddings["za"], embeddings["zb"], temperature=self.config.temperature)}

    def after_step(self, progress: float) -> None:
        """Nothing moves outside the gradient."""


RECIPES = {
    # Best linear, 10 % and 1 % accuracy on the `val` split among 5 settings of the direct projector: d0 (a half, a
    # quarter), temperature (0.2, 0.5), rate (4e-3, 8e-3), 24 or 36 epochs. The other projectors were not tuned.
    "embedded": Recipe(
        method=Config(d0=0.5, temperature=0.5, hidden=256),
        views=(digits(), digits()),
        optim=Optim(name="adamw", lr=8e-3, weight_decay=1e-4, warmup_epochs=3.6, betas=(0.9, 0.99)),
        batch_size=256,
        epochs=36,
        precision="bf16",
    ),
    # ours: the paper has no CIFAR; SimCLR's settings there (arXiv:2002.05709, appendix B.9), the paper's share of
    # channels
    "cifar": Recipe(
        method=Config(d0=360 / 2048, temperature=0.5, hidden=512),
        views=(cifar(), cifar()),
        optim=Optim(
            name="lars", lr=2.0, weight_decay=1e-6, warmup_epochs=10, lars_momentum="popular", final_lr_ratio=0.001
        ),
        batch_size=512,
        epochs=1000,
        precision="bf16",
    ),
    # Appendix D.3: LARS, batch 4096, rate 4.8 (the code does not scale it), 100 epochs, 10 of warm-up, cosine. From the
    # code's utils.py: weight decay 1e-6, momentum 0.9, eta 0.001, biases and norms excluded, cosine to a thousandth.
    "paper": Recipe(
        method=Config(),
        views=byol_pair(),
        optim=Optim(
            name="lars", lr=4.8, weight_decay=1e-6, warmup_epochs=10, lars_momentum="popular", final_lr_ratio=0.001
        ),
        batch_size=4096,
        epochs=100,
        precision="fp16",  # main.py: autocast and GradScaler
        normalize="imagenet",
    ),
}

DIFFERENCES = (
    FP16_LOSS,
    PILLOW_BLUR,
    PARTIAL_BATCH,
    Difference(
        "Online classifier",
        "Trained on detached features.",
        "Left out.",
        "No gradient of it reaches the encoder.",
        "None.",
    ),
    Difference(
        "Orthogonal, diagonal and low-rank projectors",
        "Not released.",
        "The paper's text; they start from a random rotation or from ones.",
        "Table 2 has rows for them.",
        "Not known for these rows.",
    ),
)
