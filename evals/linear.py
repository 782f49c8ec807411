"""Linear evaluation on frozen features: many heads (learning rate x weight decay) trained in one pass.

The harness's own protocol, the same for every method: features are computed once without augmentation and
standardised with the training split's mean and deviation; every head sees the same batches; the head is chosen on the
`val` split, which no head trains on; the LAST epoch is reported, on `test`, which chooses nothing. `label_fraction`
below 1 trains on a class-balanced share of the training labels (the choice still uses the whole `val` split).
It is not SimCLR's own protocol (arXiv:2002.05709, appendix B.6: crops and flips, one fixed rate).
DIFFERENCES is empty: the protocol is this project's own, so there is no released code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.contracts import Amount, Context, Given, Metric, Outcome, Sizes, Subject, Work
from bench.data.share import labelled_share, published_for, seeded_share
from bench.errors import BenchError
from bench.files import Json
from bench.seeding import generator, seed_of
from bench.training.checkpoint import Keeper
from bench.training.pace import Pace
from bench.wording import counted
from evals.parts.accuracy import single_label, top_k
from evals.parts.features import classes_of, features_of
from evals.parts.pieces import in_pieces

_ROW = 800  # values: what a core takes for the softmax of one head and image, however few its classes
FEATURES = ("train", "val", "test")  # splits of which the features are read
METRICS = {
    "top1": Metric("%", higher_is_better=True),
    "top5": Metric("%", higher_is_better=True),
    "val_top1": Metric("%", higher_is_better=True),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """SGD with momentum and cosine decay; the grid is crossed."""

    learning_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    weight_decays: tuple[float, ...] = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)
    epochs: int = 100
    batch_size: int = 256
    momentum: float = 0.9
    label_fraction: float = 1.0
    minimum_steps: int = 300  # with few labels, epochs are added until so many steps are taken
    VERSION: int = field(default=1, init=False)

    def work(self, given: Given) -> Work:
        """For the cost of a job: all heads side by side, whose weights, gradients and velocities a step passes over."""
        images = max(1.0, given.train * self.label_fraction)
        batch = min(self.batch_size, images)
        heads = len(self.learning_rates) * len(self.weight_decays)
        columns = heads * given.classes
        steps = max(self.epochs * (images // batch), self.minimum_steps)
        moved = batch * (3 * given.width + 8 * columns + _ROW * heads) + 9 * given.width * columns
        step = Amount(4 * batch * given.width * columns, moved, 20)
        scored = Amount(2 * given.val * given.width * columns)
        return Work(heads=step * steps + scored)

    def memory(self, sizes: Sizes) -> float:
        """For a plan: the training features, weights and velocities of all heads, and four times a batch's logits."""
        heads = len(self.learning_rates) * len(self.weight_decays) * sizes.classes
        images = sizes.train_images * self.label_fraction
        return (
            4.0 * (images * sizes.feature_dim + heads * (2 * sizes.feature_dim + 4 * self.batch_size)) + sizes.weights
        )

    def describe(self) -> str:
        """The protocol in one sentence, for column headings."""
        labels = (
            "all training labels" if self.label_fraction == 1 else f"{self.label_fraction:.0%} of the training labels"
        )
        grid = len(self.learning_rates) * len(self.weight_decays)
        return (
            f"linear classifier on frozen features, {labels}, {counted(self.epochs, 'epoch')}, best of {grid} heads "
            "on the held-out split, last epoch"
        )


# 40 epochs choose as well as 100 on the digits (within 0.3 points of 1,000 images) in 0.4 of the time.
RECIPES = {"embedded": Config(epochs=40), "cifar": Config(), "paper": Config(batch_size=4096, epochs=90)}


def evaluate(config: Config, subject: Subject, context: Context) -> Outcome:
    """Top-1 and top-5 on the test split, in percent."""
    splits = features_of(subject, context)
    train_x, train_y = splits["train"]
    single_label(train_y, context)
    classes = classes_of(context)
    if published_for(context.data.name, config.label_fraction):
        share = labelled_share(context.data, config.label_fraction, context.seed, context.site, split="train")
    else:
        share = seeded_share(train_y, classes, config.label_fraction, context.seed)
    if len(share.indices) < len(train_y):
        train_x, train_y = train_x[share.indices], train_y[share.indices]
    mean, std = train_x.mean(dim=0), train_x.std(dim=0)
    alive = std > 1e-6  # a constant pixel or a dead channel would be 0 everywhere and its weights would stay 0

    def standardised(x: Tensor) -> Tensor:
        return in_pieces(x, lambda rows: (rows[:, alive] - mean[alive]) / std[alive], context.device)

    train = (standardised(train_x), train_y.to(context.device))
    weights, biases = train_heads(config, train, classes, seed_of(context.seed, "linear"), context)
    val_x, val_y = standardised(splits["val"][0]), splits["val"][1].to(context.device)
    table: list[Json] = []
    scores: list[float] = []
    grid = [(lr, wd) for lr in config.learning_rates for wd in config.weight_decays]
    for head, (lr, wd) in enumerate(grid):
        logits = val_x @ weights[head] + biases[head]
        # a head that diverged is never chosen
        scores.append(top_k(logits, val_y, 1) if logits.isfinite().all() else -1.0)
        table.append({"learning_rate": lr, "weight_decay": wd, "val_top1": scores[-1]})
    # ties go to the first: least rate, least decay
    best = max(range(len(grid)), key=lambda head: (scores[head], -head))
    if scores[best] < 0:
        raise BenchError("every head of the linear evaluation diverged.")
    logits = standardised(splits["test"][0]) @ weights[best] + biases[best]
    test_y = splits["test"][1].to(context.device)
    return Outcome(
        metrics={"top1": top_k(logits, test_y, 1), "top5": top_k(logits, test_y, 5), "val_top1": scores[best]},
        details={
            "labels": share.source,
            "chosen": table[best],
            "sweep": table,
            "train_images": len(train_y),
            "val_images": len(val_y),
            "test_images": len(test_y),
        },
    )


def train_heads(
    config: Config, train: tuple[Tensor, Tensor], classes: int, seed: int, context: Context | None = None
) -> tuple[Tensor, Tensor]:
    """All heads at once: weights (H, D, C) and biases (H, 1, C) after the last epoch, in the order of the grid.

    Each head follows exactly the updates that it would follow alone: SGD with momentum, decay on the weights only. In
    the folder of a `context` they say each minute where they stand.
    """
    x_ND, y_N = train
    device = x_ND.device
    rates = torch.tensor([lr for lr in config.learning_rates for _ in config.weight_decays], device=device)
    decays = torch.tensor([wd for _ in config.learning_rates for wd in config.weight_decays], device=device)
    heads, images, width = len(rates), len(x_ND), x_ND.shape[1]
    batch = min(config.batch_size, images)
    per_epoch = images // batch
    steps = max(config.epochs * per_epoch, config.minimum_steps)
    # All heads side by side as columns of one matrix (D, H x C): one product a step instead of H.
    rate, decay = rates.repeat_interleave(classes), decays.repeat_interleave(classes)
    weight, bias = torch.zeros(width, heads * classes, device=device), torch.zeros(heads * classes, device=device)
    velocity_w, velocity_b = torch.zeros_like(weight), torch.zeros_like(bias)
    numbers_C = torch.arange(classes, device=device)
    order = torch.arange(images)
    folder, attempt = (None, None) if context is None else (context.folder, context.attempt)
    keeper = Keeper(folder, steps, attempt=attempt)
    keeper.load()
    pace = Pace(device, steps=steps, batch_size=batch, begun=0)
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            order = torch.randperm(images, generator=generator(seed, "order", epoch))
        rows = order[place * batch : (place + 1) * batch].to(device)
        x = x_ND[rows]
        # Gradient of the mean cross entropy, written out: softmax minus target, once for all heads.
        logits = torch.addmm(bias, x, weight).view(batch, heads, classes)
        # A batch's: of all images it would be 5 GB for ImageNet.
        one_hot = (y_N[rows][:, None] == numbers_C).to(x.dtype)
        error = ((torch.softmax(logits, dim=2) - one_hot[:, None]) / batch).view(batch, heads * classes)
        factor = 0.5 * (1 + math.cos(math.pi * step / steps))
        velocity_w.mul_(config.momentum).addmm_(x.T, error).addcmul_(weight, decay)
        velocity_b.mul_(config.momentum).add_(error.sum(dim=0))
        weight.addcmul_(velocity_w, rate, value=-factor)
        bias.addcmul_(velocity_b, rate, value=-factor)
        if pace.overdue():
            keeper.show(pace.line(step + 1, {"epoch": (step + 1) / per_epoch, "seconds": keeper.seconds()}))
    return weight.view(width, heads, classes).transpose(0, 1), bias.view(heads, 1, classes)


DIFFERENCES = ()
