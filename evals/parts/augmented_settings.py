"""The settings of linear heads on the features of augmented images, in the terms in which the papers differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from bench.contracts import Given, Work
from bench.errors import BenchError, unknown_name
from bench.plugins import name_of
from bench.spec import Augment, Precision
from bench.wording import counted
from evals.parts.heads import side_by_side


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
