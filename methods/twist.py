"""TWIST: self-supervised learning by estimating twin class distributions (arXiv:2110.07402, v4).

A softmax over C classes ends the projector. The distributions of two views of an image shall agree (consistency), each
shall be sharp, and their mean over the GLOBAL batch flat (diversity). No stop-gradient, predictor or momentum encoder
for ResNets. The released code (bytedance/TWIST) made the printed numbers, and this file has what the paper leaves out:
- batch norm without affine before the softmax, over bunches of 256 images with all their crops, not the global batch;
- 1e-5 inside every logarithm (the paper has none) and linear layers with bias; alpha = 1 + lam1 and beta = lam2;
- multi-crop: each of the two global crops with every later view, so two local crops never meet;
- ViT: an EMA teacher sees the global crops, KL(teacher || student) over different views, entropies of the student only;
- after multi-crop pretraining a self-labelling stage, here a second pretraining that starts from the first.
The code's logged terms are sums over ranks; here they are means, as in the paper; the gradients are the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import Batch, Facts, Recipe
from bench.errors import BenchError
from bench.spec import Optim, Pretrain
from methods.parts import differences
from methods.parts.clock import Progress
from methods.parts.heads import BunchNorm, logits_of
from methods.parts.momentum import cosine_momentum, move_towards, slow_copy
from methods.parts.twist_recipes import variants
from methods.parts.views import byol_pair, cifar, digits


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's symbols in words, with the code's defaults."""

    classes: int = 4096  # C
    hidden: int = 4096
    alpha: float = 1.0  # of the sharpness; 1 + lam1 in the code
    beta: float = 1.0  # of the diversity; lam2 in the code
    temperature: float = 1.0  # tau; of the two entropies, with a teacher of the consistency too
    epsilon: float = 1e-5  # inside logarithms
    bunch: int | None = 256  # consecutive images of the global batch that share the last norm's statistics; None: all
    activation: Literal["relu", "gelu"] = "relu"  # of the projector
    small_init: bool = False  # projector weights from a truncated normal of 0.02, biases 0: the code's choice for ViT
    teacher: float | None = None  # momentum at the start of an EMA teacher, cosine to 1; None: no teacher
    stage: Literal["cluster", "self_label"] = "cluster"
    # self-labelling: share of images that get a label, cosine from first to last
    keep: tuple[float, float] = (
        0.5,
        0.6,
    )
    # Self-labelling: consecutive images of the global batch among which the most confident are kept. The code has the
    # images of one GPU (128 for ResNet-50, 60 for ResNet-50 2x); None: the global batch.
    keep_among: int | None = None
    VERSION: int = field(default=1, init=False)

    def check(self, pretrain: Pretrain) -> None:
        """Enough views and classes, groups that divide the batch, and for self-labelling a first stage that fits."""
        if len(pretrain.views) < 2:
            raise BenchError(
                f"twist needs at least 2 views, the first two of them global crops, found {len(pretrain.views)}."
            )
        if self.classes < 2:
            raise BenchError(f"twist: classes is {self.classes}, expected at least 2.")
        if self.temperature <= 0 or self.epsilon <= 0:
            raise BenchError(
                f"twist: temperature is {self.temperature} and epsilon {self.epsilon}, expected more than 0."
            )
        for name, size in (("bunch", self.bunch), ("keep_among", self.keep_among)):
            if size is not None and (size < 2 or pretrain.batch_size % size):
                raise BenchError(
                    f"twist: {name} is {size}, expected None or 2 and more images that divide the batch of "
                    f"{pretrain.batch_size}."
                )
        if self.teacher is not None and not 0 <= self.teacher <= 1:
            raise BenchError(f"twist: teacher is {self.teacher}, expected None or a momentum from 0 to 1.")
        if not all(0 < share <= 1 for share in self.keep):
            raise BenchError(f"twist: keep is {self.keep}, expected shares above 0 and up to 1.")
        if self.stage == "self_label":
            self._check_start(pretrain.start)

    def _check_start(self, start: Pretrain | None) -> None:
        first = None if start is None else start.method
        if self.teacher is not None:
            raise BenchError(
                "twist: the self-labelling stage has no teacher (the released code cannot run it with one)."
            )
        if not isinstance(first, Config) or first.stage != "cluster":
            raise BenchError("twist: the self-labelling stage needs a start: a twist pretraining with stage 'cluster'.")
        if (first.classes, first.hidden, first.teacher) != (self.classes, self.hidden, None):
            raise BenchError(
                "twist: the self-labelling stage needs the classes and hidden of its start, which must have no teacher."
            )


# -- Projector, losses and the norm before the softmax. V: views, B: global batch, C: classes.


def projector(feature_dim: int, hidden: int, classes: int, *, gelu: bool, small_init: bool) -> nn.Sequential:
    """Three linear layers with bias, batch norm and activation after the first two.

    The norm after the third is BunchNorm.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((feature_dim, hidden, hidden)):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.GELU() if gelu else nn.ReLU(inplace=True)]
    layers.append(nn.Linear(hidden, classes))
    for layer in layers:
        if small_init and isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def twin_loss(z_VBC: Tensor, *, alpha: float, beta: float, temperature: float, epsilon: float) -> dict[str, Tensor]:
    """Mean over pairs of views of KL both ways / 2 + alpha * mean entropy - beta * entropy of the mean (section 3).

    Pairs: each of the views 0 and 1 with every later one. The consistency has no temperature. Raises ValueError for
    anything but (V, B, C) logits of two or more views.
    """
    _expect_views(z_VBC)
    p, log_p = _distributions(z_VBC, 1.0, epsilon)
    sharp, log_sharp = (p, log_p) if temperature == 1 else _distributions(z_VBC, temperature, epsilon)
    pairs = [(i, j) for i in (0, 1) for j in range(i + 1, len(z_VBC))]
    consistency = _mean(
        [(_divergence(p[i], log_p[i], log_p[j]) + _divergence(p[j], log_p[j], log_p[i])) / 2 for i, j in pairs]
    )
    entropy = [_entropy(*view) for view in zip(sharp, log_sharp, strict=True)]
    entropy_of_mean = [_entropy_of_mean(view, epsilon) for view in sharp]
    members = [view for pair in pairs for view in pair]
    return _total(
        consistency, _mean([entropy[v] for v in members]), _mean([entropy_of_mean[v] for v in members]), alpha, beta
    )


def teacher_loss(
    t_TBC: Tensor, z_VBC: Tensor, *, alpha: float, beta: float, temperature: float, epsilon: float
) -> dict[str, Tensor]:
    """Mean of KL(teacher's view t || student's view v) over t != v, and entropies of the student's views (engine.py).

    T: the two global views. Raises ValueError as `twin_loss`.
    """
    _expect_views(z_VBC)
    _expect_views(t_TBC)
    t, log_t = _distributions(t_TBC, temperature, epsilon)
    p, log_p = _distributions(z_VBC, temperature, epsilon)
    pairs = [(i, j) for i in range(len(t)) for j in range(len(p)) if i != j]
    consistency = _mean([_divergence(t[i], log_t[i], log_p[j]) for i, j in pairs])
    sharpness = _mean([_entropy(*view) for view in zip(p, log_p, strict=True)])
    return _total(consistency, sharpness, _mean([_entropy_of_mean(view, epsilon) for view in p]), alpha, beta)


def self_label_loss(z_VBC: Tensor, *, keep: float, among: int | None) -> dict[str, Tensor]:
    """Cross entropy of every other view with the class of the more confident of the views 0 and 1.

    Of `among` consecutive images (None: all) those count whose confidence is above the one at place int(keep * among);
    the mean over them, over the groups and over the V - 1 views is returned. Raises ValueError as `twin_loss`.
    """
    _expect_views(z_VBC)
    groups = len(z_VBC[0]) // (among or len(z_VBC[0]))
    with torch.no_grad():
        confidence_2B, class_2B = z_VBC[:2].softmax(dim=-1).max(dim=-1)
        first_B = confidence_2B[0] > confidence_2B[1]
        target_B = torch.where(first_B, class_2B[0], class_2B[1])
        confidence_GA = confidence_2B.amax(dim=0).view(groups, -1)
        place = min(int(keep * confidence_GA.shape[1]), confidence_GA.shape[1] - 1)
        threshold_G1 = confidence_GA.sort(dim=1, descending=True).values[:, place : place + 1]
        chosen_GA = (confidence_GA > threshold_G1).to(z_VBC.dtype)
        weight_B = (chosen_GA / chosen_GA.sum(dim=1, keepdim=True).clamp_min(1)).flatten() / groups
    other_BC = torch.where(first_B[:, None], z_VBC[1], z_VBC[0])
    loss = _mean(
        [(F.cross_entropy(view, target_B, reduction="none") * weight_B).sum() for view in (other_BC, *z_VBC[2:])]
    )
    return {"loss": loss, "kept": chosen_GA.mean(), "threshold": threshold_G1.mean()}


def keep_share(first: float, last: float, progress: float) -> float:
    """Share of labelled images: half a cosine from first to last."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))


def _distributions(z_VBC: Tensor, temperature: float, epsilon: float) -> tuple[list[Tensor], list[Tensor]]:
    p = [(z / temperature).softmax(dim=1) for z in z_VBC]
    return p, [(view + epsilon).log() for view in p]


def _divergence(p_BC: Tensor, log_p_BC: Tensor, log_q_BC: Tensor) -> Tensor:
    return (p_BC * (log_p_BC - log_q_BC)).sum(dim=1).mean()


def _entropy(p_BC: Tensor, log_p_BC: Tensor) -> Tensor:
    return -(p_BC * log_p_BC).sum(dim=1).mean()


def _entropy_of_mean(p_BC: Tensor, epsilon: float) -> Tensor:
    mean_C = p_BC.mean(dim=0)
    return -(mean_C * (mean_C + epsilon).log()).sum()


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


def _total(consistency: Tensor, sharpness: Tensor, diversity: Tensor, alpha: float, beta: float) -> dict[str, Tensor]:
    loss = consistency + alpha * sharpness - beta * diversity
    return {"loss": loss, "consistency": consistency, "sharpness": sharpness, "diversity": diversity}


def _expect_views(z_VBC: Tensor) -> None:
    if z_VBC.ndim != 3 or len(z_VBC) < 2:
        raise ValueError(f"expected (V, B, C) logits of 2 or more views, got {tuple(z_VBC.shape)}")


class Method(nn.Module):
    """Encoder, projector and the norm before the softmax; for ViT a teacher of the first two."""

    progress: Tensor

    def __init__(self, config: Config, encoder: nn.Module, facts: Facts) -> None:
        super().__init__()
        self.config, self.steps = config, facts.steps
        self.encoder = encoder
        self.projector = projector(
            facts.feature_dim,
            config.hidden,
            config.classes,
            gelu=config.activation == "gelu",
            small_init=config.small_init,
        )
        self.norm = BunchNorm(config.classes, config.bunch)
        self.teacher = (
            None if config.teacher is None else nn.ModuleList([slow_copy(self.encoder), slow_copy(self.projector)])
        )
        self.teacher_norm = None if config.teacher is None else BunchNorm(config.classes, config.bunch)
        # Share of the self-labelling stage that is done; a buffer, so that a checkpoint holds it. The first stage
        # leaves it at 0.
        self.clock = Progress(self)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Logits before the norm: z0, z1 of the global crops, z2 ... of local ones, and t0, t1 of the teacher."""
        logits = {f"z{number}": z for number, z in enumerate(logits_of(self.encoder, self.projector, batch.views))}
        if self.teacher is not None:
            logits |= {
                f"t{number}": t for number, t in enumerate(logits_of(self.teacher[0], self.teacher[1], batch.views[:2]))
            }
        return logits

    def loss(self, embeddings: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """The three terms, or the cross entropy of the self-labelling stage."""
        c = self.config
        z_VBC = self.norm(torch.stack([z for name, z in embeddings.items() if name.startswith("z")]))
        if c.stage == "self_label":
            return self_label_loss(z_VBC, keep=keep_share(*c.keep, self.clock.value(self.progress)), among=c.keep_among)
        if self.teacher_norm is None:
            return twin_loss(z_VBC, alpha=c.alpha, beta=c.beta, temperature=c.temperature, epsilon=c.epsilon)
        t_TBC = self.teacher_norm(torch.stack([embeddings["t0"], embeddings["t1"]]))
        return teacher_loss(t_TBC, z_VBC, alpha=c.alpha, beta=c.beta, temperature=c.temperature, epsilon=c.epsilon)

    def after_step(self, progress: float) -> None:
        """Move the teacher; the code's steps start at 0, so its momentum is that of the progress before the step."""
        if self.config.stage == "self_label":
            self.clock.move(self.progress, progress)
        if self.teacher is not None and self.config.teacher is not None:
            momentum = cosine_momentum(self.config.teacher, progress - 1 / self.steps)
            for slow, fast in zip(self.teacher, (self.encoder, self.projector), strict=True):
                move_towards(slow, fast, momentum)


RECIPES = {
    # The best of 5 settings on the `val` split, seed 0, then made as long as the budget allows. Temperature 1 stays on
    # the plateau of near-uniform distributions for the few hundred steps there are; sharper entropies (0.4, 0.5, 0.6
    # tried) and small batches leave it.
    "embedded": Recipe(
        method=Config(classes=256, hidden=256, bunch=None, temperature=0.5),
        views=(digits(), digits()),
        optim=Optim(name="adamw", lr=8e-3, weight_decay=1e-4, warmup_epochs=3, betas=(0.9, 0.99)),
        batch_size=128,
        epochs=30,
        precision="bf16",
    ),
    "cifar": Recipe(  # untuned: the paper has no CIFAR; its rate 0.5 x B / 256, with fewer classes for fewer images
        method=Config(hidden=2048),
        views=(cifar(), cifar()),
        optim=Optim(
            name="lars", lr=1.0, weight_decay=1.5e-6, warmup_epochs=10, lars_norm="separate", final_lr_ratio=0.001
        ),
        batch_size=512,
        epochs=800,
        precision="bf16",
    ),
    # ResNet-50 without multi-crop and self-labelling (72.6 % in table 3; README, 8 GPUs x 256): rate 0.5 x B / 256 = 4.
    # The other published runs are VARIANTS.
    "paper": Recipe(
        method=Config(classes=32768),
        views=byol_pair(),
        optim=Optim(
            name="lars", lr=4.0, weight_decay=1.5e-6, warmup_epochs=10, lars_norm="separate", final_lr_ratio=0.001
        ),
        batch_size=2048,
        epochs=800,
        precision="fp16",  # README: mixed precision; main.py: GradScaler
        normalize="imagenet",
        zero_init_residual=False,  # as the released resnet.py
    ),
}

VARIANTS = variants(RECIPES, Config())
DIFFERENCES = differences.TWIST
