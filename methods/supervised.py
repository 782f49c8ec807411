"""Supervised training with cross entropy: the upper reference that the tables compare with.

The `paper` recipe is SimCLR's supervised baseline (arXiv:2002.05709, section B.3): 90 epochs of crop and flip.
DIFFERENCES is empty: no released code has a command for this baseline, so the recipe is the paper's text.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import Batch, Facts, Recipe
from bench.errors import BenchError
from bench.spec import Augment, Optim, Pretrain
from methods.parts.views import cifar, digits


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to choose."""

    VERSION: int = field(default=1, init=False)

    def check(self, pretrain: Pretrain) -> None:
        """One view."""
        if len(pretrain.views) != 1:
            raise BenchError(f"supervised needs 1 view, found {len(pretrain.views)}.")


class Method(nn.Module):
    """Encoder and a linear classifier."""

    def __init__(self, config: Config, encoder: nn.Module, facts: Facts) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = nn.Linear(facts.feature_dim, facts.classes)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Logits (b, classes)."""
        return {"logits": self.classifier(self.encoder(batch.views[0]))}

    def loss(self, embeddings: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy, and the training accuracy in percent."""
        logits = embeddings["logits"]
        accuracy = (logits.argmax(dim=1) == labels).float().mean() * 100
        return {"loss": F.cross_entropy(logits, labels), "train_top1": accuracy}

    def after_step(self, progress: float) -> None:
        """Nothing moves outside the gradient."""


RECIPES = {
    "embedded": Recipe(
        method=Config(),
        views=(digits(),),
        optim=Optim(name="adamw", lr=4e-3, weight_decay=1e-4, warmup_epochs=3.6, betas=(0.9, 0.99)),
        batch_size=256,
        epochs=36,
        precision="bf16",
    ),
    "cifar": Recipe(
        method=Config(),
        views=(cifar(),),
        optim=Optim(name="sgd", lr=0.1, weight_decay=5e-4, warmup_epochs=5, vector_weight_decay=True),
        batch_size=128,
        epochs=200,
        precision="bf16",
    ),
    "paper": Recipe(
        method=Config(),
        views=(Augment(size=224),),
        optim=Optim(name="sgd", lr=1.6, weight_decay=1e-4, warmup_epochs=5),
        batch_size=4096,
        epochs=90,
        precision="tf32",  # SimCLR's, on TPUs
        normalize="imagenet",
    ),
}

DIFFERENCES = ()
