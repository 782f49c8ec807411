"""DINO: emerging properties in self-supervised vision transformers (arXiv:2104.14294, ICCV 2021).

The student's views have to match the class distribution that a slow copy of it, the teacher, gives to other views of
the image (equations 1 to 3); the teacher sees the global crops only, its logits are centred by a running mean and
sharpened by a low temperature. RECIPES are ResNet-50's, the variants DeiT-S/16's and ViT-B/16's, all with the arguments
that the authors published beside the weights (facebookresearch/dino, args.txt), not with the defaults of main_dino.py:
- ResNet-50: LARS, batch norm in the head, 60000 classes, six local crops; ViT: AdamW, weight decay 0.04 to 0.4, ten;
- DeiT-S without clipping, ViT-B at 0.3, of each tensor by itself (the paper's code clips so; its default would be 3);
- DeiT-S learns the lengths of the last layer's rows, the others keep them at 1;
- the teacher is evaluated: after the last step the encoder takes its weights.
The code decays a ViT's class token and positions, here they are not; its crops are bicubic; schedules start at exactly
0. Each rank takes the loss of its own images, which depends on the others' only through the center, so that no rank has
to hold the logits of all; that of the center is exact too, because the last layer is linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import Batch, Facts, Recipe
from bench.errors import BenchError
from bench.networks.encoders import RESNETS
from bench.networks.vit import Block
from bench.spec import Optim, Pretrain
from methods.parts import differences
from methods.parts.clock import Progress
from methods.parts.dino_recipes import variants
from methods.parts.heads import logits_of
from methods.parts.momentum import cosine_momentum, move_towards, slow_copy
from methods.parts.views import byol_crops, cifar, mild_digits

_GLOBAL = 2  # views that the teacher sees: the first ones


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's symbols in words; the defaults are those of a ViT."""

    classes: int = 65536  # K
    hidden: int = 2048
    bottleneck: int = 256
    norm: bool = False  # batch norm in the head
    learn_gain: bool = False  # whether the lengths of the last layer's rows learn
    student_temperature: float = 0.1
    teacher_temperature: tuple[float, float] = (0.04, 0.07)  # at the start, and after the warm-up
    temperature_epochs: int = 30  # of that warm-up
    momentum: float = 0.996  # lambda, at the start; cosine to 1
    center_momentum: float = 0.9  # m
    frozen_epochs: int = 1  # at the start, in which the last layer does not learn
    clip: float | None = None  # largest norm of each tensor's gradient
    drop_path: float = 0.0  # stochastic depth of the student's last block
    VERSION: int = field(default=1, init=False)

    def check(self, pretrain: Pretrain) -> None:
        """Enough views and classes, values in their ranges."""
        if len(pretrain.views) < _GLOBAL:
            raise BenchError(
                f"dino needs at least {_GLOBAL} views, the first two of them global crops, found {len(pretrain.views)}."
            )
        if self.classes < 2:
            raise BenchError(f"dino: classes is {self.classes}, expected at least 2.")
        if min(self.student_temperature, *self.teacher_temperature) <= 0:
            raise BenchError(
                f"dino: temperatures are {self.student_temperature} (student) and {self.teacher_temperature} "
                "(teacher), expected more than 0."
            )
        if not (0 <= self.momentum <= 1 and 0 <= self.center_momentum < 1):
            raise BenchError(
                f"dino: momentum is {self.momentum} and center_momentum {self.center_momentum}, expected 0 to 1, the "
                "second below 1."
            )
        if min(self.temperature_epochs, self.frozen_epochs) < 0:
            raise BenchError(
                f"dino: temperature_epochs is {self.temperature_epochs} and frozen_epochs {self.frozen_epochs}, "
                "expected at least 0."
            )
        if self.clip is not None and self.clip <= 0:
            raise BenchError(f"dino: clip is {self.clip}, expected None or more than 0.")
        if not 0 <= self.drop_path < 1 or (self.drop_path and pretrain.backbone.name in RESNETS):
            raise BenchError(
                f"dino: drop_path is {self.drop_path}, expected 0 to below 1, and 0 for a ResNet "
                f"({pretrain.backbone.name})."
            )


# -- Head, loss and schedules. V: student's views, T: teacher's views, B: images, K: classes.


def projector(feature_dim: int, hidden: int, bottleneck: int, *, norm: bool) -> nn.Sequential:
    """The head up to the bottleneck: three linear layers with GELU between, with batch norm where asked for."""
    layers: list[nn.Module] = []
    for inputs in (feature_dim, hidden):
        layers += [nn.Linear(inputs, hidden), *([nn.BatchNorm1d(hidden)] if norm else []), nn.GELU()]
    layers.append(nn.Linear(hidden, bottleneck))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


class LastLayer(nn.Module):
    """Linear layer without bias whose rows are unit vectors and, if asked for, a gain for each that learns from 1 on.

    As weight normalisation, of which it is a special case, it keeps the unnormalised rows as parameters, so the
    teacher's are averages of those.
    """

    def __init__(self, inputs: int, classes: int, *, learn_gain: bool) -> None:
        super().__init__()
        self.direction = nn.Parameter(nn.Linear(inputs, classes, bias=False).weight.detach())
        # A column, as in the released code: the optimizer decays it as any matrix.
        self.gain = nn.Parameter(torch.ones(classes, 1)) if learn_gain else None

    def forward(self, unit_BD: Tensor) -> Tensor:
        """(B, D) unit vectors -> (B, K), in full precision: cosines are divided by temperatures of 0.04."""
        with torch.autocast(unit_BD.device.type, enabled=False):
            weight_KD = self.direction / self.direction.norm(dim=1, keepdim=True)
            return F.linear(unit_BD, weight_KD if self.gain is None else self.gain * weight_KD)

    def unit(self, z_BD: Tensor) -> Tensor:
        """The bottleneck, normalised in full precision."""
        with torch.autocast(z_BD.device.type, enabled=False):
            return F.normalize(z_BD.to(self.direction.dtype), dim=1)


def dino_loss(
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    center_K: Tensor,
    *,
    teacher_temperature: float,
    student_temperature: float,
) -> tuple[Tensor, Tensor]:
    """Cross entropy and the teacher's entropy of each image, (B,) both.

    The mean of the first is the loss (equations 1 to 3).

    teacher, student: (B, K) logits a view. The teacher's are centred and sharpened, and no gradient reaches them; the
    cross entropy is the mean over the pairs of different views. Raises ValueError for shapes that do not fit.
    """
    shapes = {tuple(rows.shape) for rows in (*teacher, *student)}
    if (
        len(shapes) != 1
        or len(student) < 2
        or not 1 <= len(teacher) <= len(student)
        or teacher[0].shape[1:] != center_K.shape
    ):
        raise ValueError(
            f"expected equal (B, K) logits of 2 or more views and a (K,) center, got {sorted(shapes)} and "
            f"{tuple(center_K.shape)}"
        )
    log_p = [(view / student_temperature).log_softmax(dim=1) for view in student]
    log_q = [((view.detach() - center_K) / teacher_temperature).log_softmax(dim=1) for view in teacher]
    pairs = [(q.exp(), view) for own, q in enumerate(log_q) for other, view in enumerate(log_p) if other != own]
    cross_entropy_B = torch.stack([-(q * view).sum(dim=1) for q, view in pairs]).mean(dim=0)
    return cross_entropy_B, torch.stack([-(q.exp() * q).sum(dim=1) for q in log_q]).mean(dim=0)


def temperature_of(epoch: int, first: float, last: float, epochs: int) -> float:
    """The teacher's temperature: `epochs` equal steps from the first to the last value, one an epoch."""
    return last if epoch >= epochs else first + (last - first) * epoch / max(1, epochs - 1)


@torch.no_grad()
def clip_each(parameters: Sequence[nn.Parameter], largest: float) -> None:
    """Scale the gradient of each tensor by itself down to a largest norm, as the released utils.py.

    Not that of all together.
    """
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_((largest / (parameter.grad.norm() + 1e-6)).clamp(max=1))


def set_drop_path(encoder: nn.Module, rate: float) -> None:
    """Stochastic depth of a transformer's blocks, rising from 0 to the rate; a ResNet has none."""
    blocks = [module for module in encoder.modules() if isinstance(module, Block)]
    for number, block in enumerate(blocks):
        block.drop_path = rate * number / max(1, len(blocks) - 1)


class Method(nn.Module):
    """Student (encoder, projector, last layer), teacher, center."""

    center: Tensor  # (K,); a buffer as the progress, so that checkpoints hold them
    progress: Tensor

    def __init__(self, config: Config, encoder: nn.Module, facts: Facts) -> None:
        super().__init__()
        self.config, self.facts = config, facts
        self.encoder = encoder
        self.projector = projector(facts.feature_dim, config.hidden, config.bottleneck, norm=config.norm)
        self.last = LastLayer(config.bottleneck, config.classes, learn_gain=config.learn_gain)
        self.teacher = nn.ModuleList(slow_copy(part) for part in (self.encoder, self.projector, self.last))
        set_drop_path(self.encoder, config.drop_path)
        set_drop_path(self.teacher, 0.0)
        self.register_buffer("center", torch.zeros(config.classes))
        self.clock = Progress(self)
        self.batch_center: Tensor | None = None  # of the step under way

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Each image's loss and teacher's entropy; unit bottlenecks z (student's first view), t0 and t1 (teacher)."""
        c = self.config
        student = self.last.unit(torch.cat(logits_of(self.encoder, self.projector, batch.views)))
        with torch.no_grad():
            teacher = self.last.unit(torch.cat(logits_of(self.teacher[0], self.teacher[1], batch.views[:_GLOBAL])))
            targets = self.teacher[2](teacher)
        with torch.autocast(self.center.device.type, enabled=False):
            cross_entropy_B, entropy_B = dino_loss(
                targets.chunk(_GLOBAL),
                self.last(student).chunk(len(batch.views)),
                self.center,
                teacher_temperature=temperature_of(
                    self._epoch(self.clock.value(self.progress)), *c.teacher_temperature, c.temperature_epochs
                ),
                student_temperature=c.student_temperature,
            )
        t0, t1 = teacher.chunk(_GLOBAL)
        return {
            "z": student[: len(t0)].detach(),
            "cross_entropy": cross_entropy_B,
            "entropy": entropy_B,
            "t0": t0,
            "t1": t1,
        }

    def loss(self, embeddings: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """The mean over images; what is left of it above the entropy is the divergence of student and teacher."""
        with torch.no_grad():
            mean_1D = torch.cat([embeddings["t0"], embeddings["t1"]]).mean(dim=0, keepdim=True)
            self.batch_center = self.teacher[2](mean_1D.to(self.center.dtype))[0]
        return {"loss": embeddings["cross_entropy"].mean(), "teacher_entropy": embeddings["entropy"].mean()}

    def before_step(self, progress: float) -> None:
        """Clip, and keep the last layer as it is at first."""
        if self.config.clip is not None:
            clip_each(list(self.parameters()), self.config.clip)
        if self._epoch(progress) < self.config.frozen_epochs:
            for parameter in self.last.parameters():
                parameter.grad = None

    def after_step(self, progress: float) -> None:
        """Center (equation 4) and teacher follow.

        The code's step number starts at 0, so its momentum is that before the step.
        """
        if self.batch_center is not None:
            self.center.lerp_(self.batch_center, 1 - self.config.center_momentum)
            self.batch_center = None
        momentum = cosine_momentum(self.config.momentum, progress - 1 / self.facts.steps)
        for slow, fast in zip(self.teacher, (self.encoder, self.projector, self.last), strict=True):
            move_towards(slow, fast, momentum)
        self.clock.move(self.progress, progress)
        if progress >= 1:
            self.encoder.load_state_dict(self.teacher[0].state_dict())

    def _epoch(self, progress: float) -> int:
        """The epoch of the step that comes at a progress."""
        return round(progress * self.facts.steps) // (self.facts.images // self.facts.batch_size)


_DIGITS = mild_digits()  # BYOL's: weaker views for a teacher that is no better yet

RECIPES = {
    # The best of 5 settings on `val`, seed 0. 512 classes with a bottleneck of 64 at a rate of 8e-3 end near the
    # uniform distribution, for temperatures from 0.02 to 0.07; momentum 0.95 at temperature 0.03 keeps few classes;
    # batch 64 is no better.
    "embedded": Recipe(
        method=Config(
            classes=256,
            hidden=256,
            bottleneck=32,
            norm=True,
            teacher_temperature=(0.03, 0.04),
            temperature_epochs=6,
            momentum=0.98,
        ),
        views=(_DIGITS, _DIGITS),
        optim=Optim(name="adamw", lr=3e-3, weight_decay=1e-4, warmup_epochs=2.6, betas=(0.9, 0.99)),
        batch_size=128,
        epochs=26,
        precision="bf16",
    ),
    # solo-learn's CIFAR recipe (scripts/pretrain/cifar/dino.yaml), without its cap on the adapted rate.
    "cifar": Recipe(
        method=Config(classes=4096, temperature_epochs=50, momentum=0.9995),
        views=(cifar(), cifar()),
        optim=Optim(name="lars", lr=0.3, weight_decay=1e-6, warmup_epochs=10, trust=0.02, lars_momentum="popular"),
        batch_size=256,
        epochs=1000,
        precision="bf16",
    ),
    "paper": Recipe(  # dino_resnet50_pretrain/args.txt: 80 GPUs x 51 images, rate 0.3 x B / 256; 75.3 %
        method=Config(classes=60000, norm=True, temperature_epochs=50),
        views=byol_crops(6, large=(0.14, 1.0), small=(0.05, 0.14)),
        optim=Optim(
            name="lars",
            lr=4.78125,
            weight_decay=1e-6,
            warmup_epochs=10,
            lars_momentum="popular",
            final_lr_ratio=0.0048 / 4.78125,
        ),
        batch_size=4080,
        epochs=800,
        precision="fp32",  # args.txt, as others copied it: use_fp16 false, against the code's default
        normalize="imagenet",
        zero_init_residual=False,  # as torchvision's
    ),
}


VARIANTS = variants(RECIPES, Config())
DIFFERENCES = differences.DINO
