"""MoCo v1 and v2: momentum contrast (arXiv:1911.05722, CVPR 2020; arXiv:2003.04297).

A query meets the key of its image's other view, made by a slow encoder, and a queue of older keys (equation 1). RECIPES
are v2: a projector of two layers, temperature 0.2, SimCLR-like views with blur, a cosine. The variant `v1` has one
linear layer, temperature 0.07, weaker views and a rate that falls in steps. The released code (facebookresearch/moco)
keeps batch norm within each of 8 GPUs, 32 images, and shuffles the keys between GPUs (moco/builder.py), so that a query
cannot recognise its key by the batch's statistics (section 3.3). The paper recipes do so in groups of 32 images, on any
number of GPUs; those of small images use the global batch, where shuffling changes nothing. The code's v1 turns views
gray before the jitter, here after it. Residuals are not zero-initialised (torchvision's default, which the code takes).
v2's cosine moves once an epoch, as main_moco.py sets it (the papers do not say).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import Batch, Difference, Facts, Recipe
from bench.errors import BenchError
from bench.spec import Augment, Optim, Pretrain
from bench.training.norm_groups import shuffled
from methods.parts.clock import Progress
from methods.parts.differences import BILINEAR, FLOAT32, PILLOW_BLUR
from methods.parts.heads import mlp
from methods.parts.momentum import move_towards, slow_copy
from methods.parts.views import cifar, mild_digits


@dataclass(frozen=True, kw_only=True)
class Config:
    """The papers' symbols in words; the defaults are v2's."""

    temperature: float = 0.2
    queue: int = 65536  # K, keys
    momentum: float = 0.999  # m
    hidden: int | None = 2048  # of the projector; None: one linear layer (v1)
    output: int = 128
    # batch norm after every layer of the projector; neither paper nor code has it, short runs on digits need it
    norm: bool = False
    # keys pass the slow encoder in other groups of batch norm than their queries
    shuffle: bool = field(default=False, metadata={"omit_when": False})
    VERSION: int = field(default=1, init=False)

    def check(self, pretrain: Pretrain) -> None:
        """Two views, a queue of whole batches."""
        if len(pretrain.views) != 2:
            raise BenchError(f"moco needs 2 views, found {len(pretrain.views)}.")
        if self.temperature <= 0 or not 0 <= self.momentum < 1:
            raise BenchError(
                f"moco: temperature is {self.temperature}, expected more than 0; momentum is {self.momentum}, "
                "expected 0 to below 1."
            )
        if self.queue < pretrain.batch_size or self.queue % pretrain.batch_size:
            raise BenchError(f"moco: queue is {self.queue}, expected a multiple of the batch of {pretrain.batch_size}.")
        if self.shuffle and (pretrain.norm_group or pretrain.batch_size) == pretrain.batch_size:
            raise BenchError(
                f"moco: shuffle is True, which needs a norm_group below the batch of {pretrain.batch_size}, found "
                f"{pretrain.norm_group}."
            )


def moco_loss(q_BD: Tensor, k_BD: Tensor, queue_KD: Tensor, *, temperature: float) -> Tensor:
    """Mean over queries of -log(exp(q k+ / t) / (exp(q k+ / t) + sum over the queue of exp(q k / t))) (equation 1).

    Queries and keys are l2-normalised here, the queue holds normalised keys. No gradient reaches keys or queue. Raises
    ValueError for shapes that do not fit.
    """
    if q_BD.ndim != 2 or q_BD.shape != k_BD.shape or queue_KD.ndim != 2 or queue_KD.shape[1] != q_BD.shape[1]:
        raise ValueError(
            f"expected (B, D) queries and keys and a (K, D) queue, got {tuple(q_BD.shape)}, {tuple(k_BD.shape)}, "
            f"{tuple(queue_KD.shape)}"
        )
    q, k = F.normalize(q_BD, dim=1), F.normalize(k_BD.detach(), dim=1)
    positive_B1 = (q * k).sum(dim=1, keepdim=True)
    logits = torch.cat([positive_B1, q @ queue_KD.detach().T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))


class Method(nn.Module):
    """Encoder and projector, their slow copies, and the queue of keys."""

    queue: Tensor  # (K, D), newest first; a buffer as the progress, so that checkpoints hold them
    progress: Tensor  # only with shuffled keys

    def __init__(self, config: Config, encoder: nn.Module, facts: Facts) -> None:
        super().__init__()
        self.config, self.facts = config, facts
        self.encoder = encoder
        widths = (
            (facts.feature_dim, config.output)
            if config.hidden is None
            else (facts.feature_dim, config.hidden, config.output)
        )
        if config.norm:
            self.projector = mlp(widths, last_norm=True)
        elif config.hidden is None:
            self.projector = nn.Sequential(nn.Linear(*widths))
        else:
            self.projector = nn.Sequential(nn.Linear(*widths[:2]), nn.ReLU(inplace=True), nn.Linear(*widths[1:]))
        self.slow = slow_copy(nn.Sequential(self.encoder, self.projector))
        self.register_buffer("queue", F.normalize(torch.randn(config.queue, config.output), dim=1))
        self.clock = Progress(self) if config.shuffle else None

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Queries of the first view, keys of the second."""
        with torch.no_grad():
            keys = self.slow(batch.views[1]) if self.clock is None else self._shuffled_keys(self.clock, batch.views[1])
        return {"queries": self.projector(self.encoder(batch.views[0])), "keys": keys}

    def _shuffled_keys(self, clock: Progress, view_BCHW: Tensor) -> Tensor:
        step = round(clock.value(self.progress) * self.facts.steps)
        return shuffled(self.slow, view_BCHW, self.facts.seed, step)

    def loss(self, embeddings: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """InfoNCE against the queue as it was before this step's keys, which then enter it."""
        q, k = embeddings["queries"], embeddings["keys"]
        loss = moco_loss(q, k, self.queue, temperature=self.config.temperature)
        with torch.no_grad():  # a new tensor, not a write in place: backward still reads the old one
            self.queue = torch.cat([F.normalize(k, dim=1).to(self.queue.dtype), self.queue])[: len(self.queue)]
        return {"loss": loss}

    def after_step(self, progress: float) -> None:
        """Equation 2: the slow encoder follows."""
        move_towards(self.slow, nn.Sequential(self.encoder, self.projector), self.config.momentum)
        if self.clock is not None:
            self.clock.move(self.progress, progress)


_V2_VIEW = Augment(
    size=224, crop_scale=(0.2, 1.0), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, gray=0.2, blur=0.5
)
# main_moco.py without --aug-plus: gray first, then jitter on every image; here in the order of every other pipeline.
_V1_VIEW = replace(_V2_VIEW, jitter=1.0, hue=0.4, blur=0.0)

RECIPES = {
    # Of 5 settings on `val`: batch norm in the projector or none (12 points), these views or the stronger ones, rates
    # 3e-3 to 8e-3, 16 or 26 epochs.
    "embedded": Recipe(
        method=Config(queue=2048, momentum=0.97, hidden=256, norm=True),
        views=(mild_digits(), mild_digits()),
        optim=Optim(name="adamw", lr=4e-3, weight_decay=1e-4, warmup_epochs=2.6, betas=(0.9, 0.99)),
        batch_size=128,
        epochs=26,
        precision="bf16",
    ),
    # the authors' CIFAR demo: queue 4096, momentum 0.99, temperature 0.1, lr 0.06 at batch 512, 200 epochs
    "cifar": Recipe(
        method=Config(queue=4096, momentum=0.99, temperature=0.1, hidden=None),
        views=(cifar(), cifar()),
        optim=Optim(name="sgd", lr=0.06, weight_decay=5e-4, warmup_epochs=0, vector_weight_decay=True),
        batch_size=512,
        epochs=200,
        precision="bf16",
    ),
    "paper": Recipe(  # arXiv:2003.04297, table 2: 800 epochs (200 in the ablation), lr 0.03 at batch 256, cosine
        method=Config(shuffle=True),
        views=(_V2_VIEW, _V2_VIEW),
        optim=Optim(name="sgd", lr=0.03, weight_decay=1e-4, warmup_epochs=0, vector_weight_decay=True, steps="epoch"),
        batch_size=256,
        epochs=800,
        precision="tf32",  # see DIFFERENCES
        normalize="imagenet",
        zero_init_residual=False,
        norm_group=32,  # 8 GPUs
    ),
}


def _v1(recipe: Recipe) -> Recipe:
    """The same length of run at the scales where nothing is published, with v1's projector and temperature."""
    return replace(recipe, method=replace(recipe.method, hidden=None, temperature=0.07))  # type: ignore[type-var]


VARIANTS = {
    "v1": {
        "embedded": _v1(RECIPES["embedded"]),
        "cifar": _v1(RECIPES["cifar"]),
        "paper": replace(  # arXiv:1911.05722, section 3.3: 200 epochs, the rate falls to a tenth at 120 and 160
            _v1(RECIPES["paper"]),
            views=(_V1_VIEW, _V1_VIEW),
            optim=replace(
                RECIPES["paper"].optim, milestones=(0.6, 0.8), steps="step"
            ),  # they fall between epochs anyway
            epochs=200,
        ),
    }
}

DIFFERENCES = (
    BILINEAR,
    PILLOW_BLUR,
    FLOAT32,
    Difference(
        "Grayscale in v1",
        "Before the jitter.",
        "After the jitter.",
        "All views share one order.",
        "None expected.",
    ),
)
