"""Training linear heads on the features of augmented images: the backbone sees each batch once, for all heads together.

Shared by linear_augmented.py and linear_transfer.py. The backbone is frozen and in evaluation mode; images are cropped
and flipped at random as pretraining's are (bench/data/loader.py); each head follows the updates that it would follow
alone (evals/parts/heads.py). After every epoch the heads are tried on the cached features of the test images.
What differs from the papers' codes whatever the settings: the last partial batch of an epoch is dropped, files are
resized with bicubic antialiased interpolation (PyTorch codes: bilinear), and one process trains all heads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from bench.contracts import Context, Given, Subject, Work
from bench.data.datasets import open_split
from bench.data.loader import Plan, train_batches
from bench.data.splits import SplitData
from bench.errors import BenchError, unknown_name
from bench.files import Json
from bench.plugins import name_of
from bench.runs.metrics import is_logged
from bench.seeding import generator, seed_of
from bench.spec import Augment, Crop, Precision
from bench.training.checkpoint import Keeper
from bench.training.precision import autocast, products, substituted
from bench.wording import counted
from evals.parts.features import features_of
from evals.parts.heads import Heads, Rule, side_by_side
from evals.parts.slices import features_in_slices

CHUNK = 1000  # images whose logits are in memory at once


@cache
def _hints(config: Any) -> Mapping[str, Any]:
    """Types of the fields. Evaluating them anew for each of a plan's thousands of protocols takes half a second."""
    return get_type_hints(config)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How heads are trained, in the terms in which the papers differ. The grid of rates and decays is crossed."""

    optimizer: Literal["sgd", "lars"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    trust: float = 0.001  # lars: eta
    learning_rates: tuple[float, ...] = (0.1,)  # peak, before `rate_scaling`
    rate_scaling: Literal["none", "linear", "sqrt"] = "none"  # x batch / 256, x sqrt(batch)
    weight_decays: tuple[float, ...] = (0.0,)
    decay_bias: bool = True  # PyTorch's SGD decays all that it is given
    batch_size: int = 256
    epochs: int = 100
    schedule: Literal["cosine_step", "cosine_epoch", "milestones", "constant"] = (
        "cosine_epoch"  # cosines end at 0; all count from the first step
    )
    milestones: tuple[float, ...] = ()  # epochs after which the rate is multiplied by `factor`
    factor: float = 0.1
    warmup_epochs: float = 0.0  # the schedule is multiplied by a line from `warmup_start` to 1, step by step
    warmup_start: float = 0.0
    crop_scale: tuple[float, float] = (0.08, 1.0)  # share of the area, in training
    # How a crop is drawn: as Augment.crop of bench/spec.py.
    crop_sampler: Literal["torchvision", "tensorflow"] = field(
        default="torchvision", metadata={"omit_when": "torchvision"}
    )
    flip: float = 0.5  # probability
    test_resize: float = 256 / 224  # shorter side of test images before the central crop, as a multiple of the crop's
    head: Literal["linear", "batchnorm_linear"] = "linear"
    start: Literal["normal", "zero", "uniform"] = "normal"  # see evals/parts/heads.py
    last_blocks: int = 1  # of a vision transformer: class tokens of so many last blocks side by side are the features
    split: Literal["train", "trainval", None] = (
        None  # trained on; None: trainval, or train where heads are chosen on val
    )
    precision: Precision = "fp32"  # of the backbone on training images; heads are float32
    best_epoch_reported: bool = False  # whether the paper prints the best epoch on the images that it reports

    def __post_init__(self) -> None:
        name = name_of(self)
        kind: Any = type(self)
        for key, hint in _hints(kind).items():
            if get_origin(hint) is Literal and getattr(self, key) not in get_args(hint):
                raise unknown_name(f"{key} of {name}", str(getattr(self, key)), map(str, get_args(hint)))
        if not self.learning_rates or not self.weight_decays:
            raise BenchError(f"{name}: the grid is empty; expected at least one learning rate and one weight decay.")
        if self.epochs < 1 or self.batch_size < 2:
            raise BenchError(
                f"{name}: {self.epochs} epochs of batches of {self.batch_size}; expected at least 1 epoch and 2 images."
            )
        if bool(self.milestones) != (self.schedule == "milestones") or list(self.milestones) != sorted(
            set(self.milestones)
        ):
            raise BenchError(
                f"{name}: milestones are {self.milestones}; expected growing epochs with the schedule 'milestones', "
                "none otherwise."
            )
        if len(self.grid) > 1 and self.split == "trainval":
            raise BenchError(
                f"{name}: {len(self.grid)} heads are chosen on val, so they cannot train on it: expected split "
                "'train', or one head."
            )

    def view(self, size: int) -> Augment:
        """The training crop."""
        return Augment(size=size, crop_scale=self.crop_scale, crop=self.crop_sampler, flip=self.flip, jitter=0.0)

    def passes(self) -> tuple[float, float]:
        """For the cost of a job: epochs of forward passes through the backbone, and of training it."""
        return self.epochs + 1.0, 0.0

    def work(self, given: Given) -> Work:
        """For the cost of a job: every epoch passes the backbone anew."""
        images = given.train if self.trained_on == "train" else given.train + given.val
        return side_by_side(self.epochs * images, self.batch_size, len(self.grid), given, self.precision)

    @property
    def grid(self) -> tuple[tuple[float, float], ...]:
        """(peak learning rate after scaling, weight decay) of each head."""
        scale = {"none": 1.0, "linear": self.batch_size / 256, "sqrt": math.sqrt(self.batch_size)}[self.rate_scaling]
        return tuple((rate * scale, decay) for rate in self.learning_rates for decay in self.weight_decays)

    @property
    def trained_on(self) -> Literal["train", "trainval"]:
        """The split."""
        return self.split or ("train" if len(self.grid) > 1 else "trainval")

    def rate_factor(self, step: int, per_epoch: int) -> float:
        """Share of the peak learning rate at a step."""
        epoch = step // per_epoch
        match self.schedule:
            case "cosine_step":
                share = 0.5 * (1 + math.cos(math.pi * step / (self.epochs * per_epoch)))
            case "cosine_epoch":
                share = 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
            case "milestones":
                share = self.factor ** sum(step >= milestone * per_epoch for milestone in self.milestones)
            case "constant":
                share = 1.0
        warmup = self.warmup_epochs * per_epoch
        return share if step >= warmup else share * (self.warmup_start + (1 - self.warmup_start) * step / warmup)

    def describe(self) -> str:
        """The protocol in one sentence, for column headings."""
        grid = self.grid
        optimizer = (
            ("SGD with Nesterov's momentum" if self.nesterov else "SGD with momentum")
            if self.optimizer == "sgd"
            else "LARS"
        )
        rates = (
            f"rate {grid[0][0]:g} and decay {grid[0][1]:g}"
            if len(grid) == 1
            else f"best of {len(grid)} rates and decays on the held-out split"
        )
        schedule = {
            "cosine_step": "cosine per step",
            "cosine_epoch": "cosine per epoch",
            "constant": "constant rate",
            "milestones": f"rate x {self.factor:g} at epochs {', '.join(f'{m:g}' for m in self.milestones)}",
        }[self.schedule]
        parts = [
            (
                f"{'linear classifier' if self.head == 'linear' else 'batch norm and linear classifier'} on frozen "
                "features of augmented images"
            ),
            (
                f"crops of {self.crop_scale[0]:.0%} to {self.crop_scale[1]:.0%} of the "
                f"area{' drawn as TensorFlow does' if self.crop_sampler == 'tensorflow' else ''}"
                f"{' and flips' if self.flip else ''}"
            ),
            f"{optimizer}, {rates}, batch {self.batch_size}, {counted(self.epochs, 'epoch')}, {schedule}",
            *([f"{counted(self.warmup_epochs, 'epoch')} of warm-up"] if self.warmup_epochs else []),
            *([f"class tokens of the last {self.last_blocks} blocks"] if self.last_blocks > 1 else []),
            "trained on all training images"
            if self.trained_on == "trainval"
            else "trained on all but the held-out images",
            f"backbone in {self.precision}",
            "last epoch (the paper prints the best epoch on the test images: best_epoch_top1)"
            if self.best_epoch_reported
            else "last epoch",
        ]
        return ", ".join(parts)


@dataclass(frozen=True)
class Trained:
    """The chosen head after the last epoch."""

    scores: Tensor  # logits (N, C) of the test images, float32, on the CPU
    labels: Tensor  # of the test images
    classes: int
    test_top1: tuple[float, ...]  # percent after each epoch, of the chosen head
    details: Mapping[str, Json]


def train(config: Training, subject: Subject, context: Context) -> Trained:
    """Train all heads of the grid in one pass; choose on `val` where there are several; score the test split.

    Raises BenchError for multi-label data and when every head diverged, Stopped when asked to stop.
    """
    if config.last_blocks > 1:
        from evals.parts.last_blocks import last_blocks  # knows transformers; not needed for other networks

        subject = last_blocks(subject, config.last_blocks)
    data = open_split(context.data, config.trained_on, context.site)
    if data.labels.ndim != 1:
        raise BenchError(
            f"{context.data.name} has several labels an image; this evaluation expects one: choose one for several "
            "labels."
        )
    crop = Crop(resize=config.test_resize)
    tried = features_of(subject, context, splits=("test",) if len(config.grid) == 1 else ("test", "val"), crop=crop)
    heads, history = _train_heads(config, subject, context, data, tried["test"])
    table: list[dict[str, Json]] = [{"learning_rate": rate, "weight_decay": decay} for rate, decay in config.grid]
    best = 0
    if len(table) > 1:
        scores = accuracies(heads, *tried["val"], context.device).tolist()
        for row, score in zip(table, scores, strict=True):
            row["val_top1"] = score if score >= 0 else None  # diverged
        # ties go to the first: least rate, least decay
        best = max(range(len(table)), key=lambda head: (scores[head], -head))
    test_x, test_y = tried["test"]
    test_scores = torch.cat(
        [heads.logits(x.to(context.device), best)[:, 0].float().cpu() for x in torch.split(test_x, CHUNK)]
    )
    if not test_scores.isfinite().all():
        raise BenchError(
            f"every head of the linear evaluation diverged, the best with learning rate {table[best]['learning_rate']}."
        )
    details: dict[str, Json] = {
        "chosen": table[best] | {"by": "the held-out split" if len(table) > 1 else "nothing: one head"},
        "trained_on": config.trained_on,
        "train_images": len(data),
        "test_images": len(test_y),
        "feature_dim": heads.width,
        "test_top1_by_epoch": history[:, best].tolist(),
    }
    if instead := substituted(config.precision, context.device):
        details["precision"] = instead
    if len(table) > 1:
        details |= {"sweep": list(table), "val_images": len(tried["val"][1])}
    return Trained(test_scores, test_y, data.classes, tuple(history[:, best].tolist()), details)


def accuracies(heads: Heads, features: Tensor, labels: Tensor, device: torch.device) -> Tensor:
    """Top-1 of each head in percent, (H,) on the CPU in float64; -1 for a head that diverged."""
    right = torch.zeros(heads.heads, dtype=torch.long, device=device)
    finite = torch.ones(heads.heads, dtype=torch.bool, device=device)
    for x, y in zip(torch.split(features, CHUNK), torch.split(labels, CHUNK), strict=True):
        logits_BHC = heads.logits(x.to(device))
        right += (logits_BHC.argmax(dim=2) == y.to(device)[:, None]).sum(dim=0)
        finite &= logits_BHC.isfinite().all(dim=2).all(dim=0)
    return torch.where(finite, 100 * right.double() / len(labels), -1.0).cpu()


@torch.no_grad()
def _train_heads(
    config: Training, subject: Subject, context: Context, data: SplitData, test: tuple[Tensor, Tensor]
) -> tuple[Heads, Tensor]:
    """The heads after the last epoch and their test accuracies after every epoch, (epochs, H) in percent."""
    device, seed = context.device, seed_of(context.seed, "augmented heads")
    if instead := substituted(config.precision, device):
        print(instead, flush=True)
    plan = Plan(images=len(data), batch_size=min(config.batch_size, len(data)), seed=seed)
    total = config.epochs * plan.steps_per_epoch
    rates, decays = torch.tensor(config.grid, dtype=torch.float32).unbind(1)
    rule = Rule(
        optimizer=config.optimizer,
        momentum=config.momentum,
        nesterov=config.nesterov,
        trust=config.trust,
        decay_bias=config.decay_bias,
        batch_norm=config.head == "batchnorm_linear",
        start=config.start,
    )
    heads = Heads(rule, rates, decays, test[0].shape[1], data.classes, generator(seed, "start"), device=device)
    history = torch.zeros(config.epochs, heads.heads, dtype=torch.float64)
    keeper = Keeper(context.folder, total, attempt=context.attempt)
    saved = keeper.load(device, lambda state: heads.load(state["heads"]))
    begin = 0
    if saved is not None:
        begin, history = int(saved["step"]), saved["history"].clone()  # not the file's own memory

    def state() -> dict[str, Any]:
        return {"heads": heads.state(), "history": history}

    view = config.view(context.data.size)
    workers = context.site.loader_workers(device.type)
    batches = train_batches(data, (view,), plan, range(begin, total), device, workers=workers)
    logged = (begin, time.monotonic())
    for step, batch in zip(range(begin, total), batches, strict=True):
        with products(config.precision), autocast(config.precision, device):
            features = features_in_slices(subject, batch.views[0])
        losses = heads.step(features, batch.labels, config.rate_factor(step, plan.steps_per_epoch))
        done = step + 1
        if is_logged(done, total):  # the only place, but for the end of an epoch, that waits for a GPU
            finite = losses[losses.isfinite()]
            if not len(finite):
                raise BenchError(
                    f"every head of the linear evaluation diverged by step {done} of {total}: expected smaller "
                    "learning rates."
                )
            rate = (done - logged[0]) * plan.batch_size / max(1e-9, time.monotonic() - logged[1])
            logged = (done, time.monotonic())
            keeper.log_line(
                {
                    "step": done,
                    "steps": total,
                    "epoch": done / plan.steps_per_epoch,
                    "loss": float(finite.min()),
                    "img_s": round(rate, 1),
                }
            )
        if done % plan.steps_per_epoch == 0:
            history[step // plan.steps_per_epoch] = accuracies(heads, *test, device)
        keeper.keep(done, state, stop=context.should_stop())
    return heads, history


def best_epoch(trained: Trained) -> tuple[int, float]:
    """(epoch counted from 1, top-1) of the chosen head's best epoch on the test images; the first of equals."""
    top1 = max(trained.test_top1)
    return trained.test_top1.index(top1) + 1, top1
