"""Fine-tuning of a whole network under a new linear classifier: the loop, its schedules and its state.

One process. A batch that does not fit into memory is cut into `chunks`: the gradient is still that of the mean over
the whole batch, but batch norm in training mode sees one chunk at a time, as it would on as many devices without
synchronised norms. Batches and crops are functions of (seed, step), so a resumed run ends bit-identical.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.contracts import Batch, Context, Sizes, Subject
from bench.data.datasets import open_split
from bench.data.loader import Plan, eval_batches, pass_takes, train_batches, training_takes
from bench.data.shared_memory import fitting
from bench.data.splits import Files, SplitData
from bench.data.views import augment
from bench.errors import BenchError, unknown_name
from bench.runs.metrics import is_early
from bench.seeding import seed_of
from bench.spec import Augment, Optim, Precision
from bench.training import optim
from bench.training.checkpoint import Keeper
from bench.training.health import TrainingFailedError
from bench.training.pace import Pace
from bench.training.precision import LossScale, autocast, products, substituted
from bench.training.recompute import recompute_blocks
from bench.training.stopwatch import Stopwatch
from bench.wording import counted
from evals.parts.accuracy import top_k
from evals.parts.classifier import Classifier, start
from evals.parts.features import BATCH

Schedule = Literal["cosine_step", "cosine_epoch", "milestones"]
LOGGED_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """What the papers differ in. Rates are peaks; an epoch is `images / batch_size` steps, a fraction included."""

    optimizer: Literal["sgd", "lars"] = "sgd"  # lars: SimCLR's, which leaves the new classifier to plain momentum
    lr_backbone: float = 0.01
    lr_head: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False  # sgd
    weight_decay: float = 0.0  # of weights; biases and norms are not decayed
    batch_size: int = 256  # cut to the number of images
    chunks: int = 1  # parts of a batch; batch norm sees one at a time
    epochs: int = 20
    minimum_steps: int = 0  # with few images the schedule is stretched to so many steps
    schedule: Schedule = (
        "cosine_step"  # cosine to 0, a new rate every step or every epoch, or `factor` after each milestone
    )
    milestones: tuple[int, ...] = ()  # epochs
    factor: float = 0.1
    warmup_epochs: float = 0.0  # linear from 0
    crop_scale: tuple[float, float] = (0.08, 1.0)  # share of the area
    # How a crop is drawn: as Augment.crop of bench/spec.py.
    crop_sampler: Literal["torchvision", "tensorflow"] = field(
        default="torchvision", metadata={"omit_when": "torchvision"}
    )
    flip: float = 0.5  # probability
    rotation: float = 0.0  # degrees; small images in memory only
    norm: Literal["train", "frozen"] = (
        "train"  # frozen: running statistics of the pretraining, not updated; gain and shift still learn
    )
    head: Literal["normal", "zero"] = "normal"  # N(0, 0.01) with bias 0, or all 0
    projector_layers: int = 0  # first layers of the projector that are kept below the classifier and fine-tuned
    precision: Precision = "fp32"  # of training; testing is in float32
    tests: int = 1  # passes over the test split, evenly spread over the run, the last after the last step

    def __post_init__(self) -> None:
        for name, allowed in (
            ("optimizer", ("sgd", "lars")),
            ("precision", get_args(Precision)),
            ("schedule", get_args(Schedule)),
            ("norm", ("train", "frozen")),
            ("head", ("normal", "zero")),
        ):
            if getattr(self, name) not in allowed:
                raise unknown_name(f"fine-tuning {name}", getattr(self, name), allowed)
        for name, least in (
            ("batch_size", 1),
            ("chunks", 1),
            ("epochs", 1),
            ("tests", 1),
            ("minimum_steps", 0),
            ("projector_layers", 0),
        ):
            if getattr(self, name) < least:
                raise BenchError(f"fine-tuning: {name} is {getattr(self, name)}, expected at least {least}.")
        if (self.schedule == "milestones") != bool(self.milestones):
            raise BenchError(
                f"fine-tuning: schedule is {self.schedule!r} and milestones are {self.milestones}: one needs the other."
            )
        if self.nesterov and self.optimizer == "lars":
            raise BenchError("fine-tuning: nesterov is for sgd; lars has plain momentum.")
        augment.check_view(self.view(1))

    def view(self, size: int) -> Augment:
        """The training crop."""
        return Augment(
            size=size,
            crop_scale=self.crop_scale,
            crop=self.crop_sampler,
            flip=self.flip,
            rotation=self.rotation,
            jitter=0.0,
        )

    def memory(self, sizes: Sizes) -> float:
        """For a plan: weights, gradients, momentum and halves of weights, the activations of a chunk; or a test."""
        batch = min(self.batch_size, max(1, sizes.train_images))
        training = 4 * sizes.weights + 2 * batch * sizes.image + batch / self.chunks * (sizes.training - sizes.image)
        return max(training, 4 * sizes.weights + BATCH * sizes.forward)

    def steps(self, images: int) -> int:
        """Steps of the run on so many labelled images."""
        return max(1, self.minimum_steps, round(self.epochs * images / min(self.batch_size, images)))

    def lr_factor(self, step: int, total: int) -> float:
        """Share of the peak rates at a step."""
        warmup = round(self.warmup_epochs / self.epochs * total)
        if self.schedule == "cosine_step" or step < warmup:
            return optim.schedule(step, total, warmup, 0.0)
        epoch = step * self.epochs // total  # whole epochs that are done
        if self.schedule == "cosine_epoch":
            return 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        return float(self.factor ** sum(epoch >= milestone for milestone in self.milestones))

    def summary(self) -> str:
        """The settings in a few words, for column headings."""
        name = ("Nesterov " if self.nesterov else "") + {"sgd": "SGD", "lars": "LARS"}[self.optimizer]
        decay = f", weight decay {self.weight_decay:g}" if self.weight_decay else ""
        fewest = f" or, where these are fewer, {self.minimum_steps} steps" if self.minimum_steps else ""
        length = counted(self.epochs, "epoch") + fewest
        course = {
            "cosine_step": "cosine",
            "cosine_epoch": "cosine by epoch",
            "milestones": f"times {self.factor:g} after epochs {', '.join(map(str, self.milestones))}",
        }[self.schedule]
        norm = ", batch norm frozen" if self.norm == "frozen" else ""
        crops = "random crops" + (" and mirrors" if self.flip else "") + (" and turns" if self.rotation else "")
        kept = f", first {self.projector_layers} projector layers kept" if self.projector_layers else ""
        return (
            f"{name}, rates {self.lr_backbone:g} (network) and {self.lr_head:g} (classifier){decay}, "
            f"batch {self.batch_size}, {length}, {course}, {crops}{norm}{kept}, in {self.precision}"
        )


class Score(NamedTuple):
    """One pass over the test split: after how many epochs, and the accuracies in percent."""

    epoch: float
    top1: float
    top5: float


@dataclass(frozen=True)
class Tuned:
    """A finished fine-tuning; the score of its end comes last."""

    model: Classifier
    scores: tuple[Score, ...]
    steps: int
    batch_size: int
    precision: str = ""  # what was computed in the place of the precision asked for, if anything was


def fine_tune(config: FineTuning, subject: Subject, context: Context, images: SplitData) -> Tuned:
    """Fine-tune a copy of the subject's network on labelled images; test on the test split, which chooses nothing.

    Raises Stopped with the state saved when asked to stop, TrainingFailedError when the loss is not finite, BenchError
    for labels of another kind or an encoder without weights or without so many projector layers.
    """
    if images.labels.ndim != 1:
        raise BenchError(f"fine-tuning needs one label an image; {context.data.name} has several.")
    device, seed = context.device, seed_of(context.seed, "fine-tuning")
    if instead := substituted(config.precision, device):
        print(instead, flush=True)
    workers = context.site.loader_workers(device.type)
    plan = Plan(images=len(images), batch_size=min(config.batch_size, len(images)), seed=seed)
    total = config.steps(len(images))
    test = open_split(context.data, "test", context.site)
    keeper = Keeper(context.folder, total, attempt=context.attempt)
    # What draws from the global generator (a new layer, dropout) is seeded, and the generator left as it was.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model = start(config, subject, images.classes, seed).to(device)
        if context.site.checkpoint_activations is True:
            recompute_blocks(model)
        optimizer = _optimizer(config, model)
        loss_scale = LossScale(config.precision, device)
        before = keeper.load(device, lambda state: _restore(model, optimizer, loss_scale, state))
        first, scores = (
            (0, []) if before is None else (int(before["step"]), [Score(*each) for each in before["scores"]])
        )

        def state() -> dict[str, Any]:
            kept = [list(score) for score in scores]
            held = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scores": kept}
            return held | loss_scale.state()

        steps, views = range(first, total), (config.view(context.data.size),)
        # both loaders are there while it tests, which is after hours
        takes = training_takes(images, views, plan, len(steps)), pass_takes(test, context.data.size, BATCH)
        workers = fitting(workers, *takes)
        batches = train_batches(images, views, plan, steps, device, workers=workers)
        pace = Pace(device, steps=total, batch_size=plan.batch_size, begun=first)
        _train_mode(model, config)
        for step, batch in zip(steps, batches, strict=True):
            pace.watch.end("wait")
            torch.manual_seed(seed_of(seed, "step", step))
            factor = config.lr_factor(step, total)
            optim.set_lr(optimizer, factor)
            loss = _update(model, optimizer, loss_scale, batch, config, pace.watch)
            done, epoch = step + 1, (step + 1) * plan.batch_size / len(images)
            logged = _falls(step, total, LOGGED_STEPS) or is_early(done, total // LOGGED_STEPS)
            if logged or pace.overdue():
                about = {"epoch": epoch, "lr": config.lr_backbone * factor, "seconds": keeper.seconds()}
                about |= {"loss": value} if math.isfinite(value := float(loss)) else {}
                fine = "loss" in about or not logged or loss_scale.excuses()
                _check(fine, "the loss", done, total)
                line = pace.line(done, about | loss_scale.line(), from_files=isinstance(images, Files))
                keeper.log_line(line) if logged else keeper.show(line)
            if _falls(step, total, config.tests):
                logits, labels = _logits(model, test, context, workers)
                _check(bool(logits.isfinite().all()), "the logits of the test split", done, total)
                scores.append(Score(epoch, top_k(logits, labels, 1), top_k(logits, labels, 5)))
                _train_mode(model, config)
            keeper.keep(done, state, stop=context.should_stop())
            pace.watch.start()
    return Tuned(model=model, scores=tuple(scores), steps=total, batch_size=plan.batch_size, precision=instead)


def _optimizer(config: FineTuning, model: Classifier) -> Optimizer:
    """Groups for weights and for biases and norms, of the network and of the classifier."""
    spec = Optim(
        name=config.optimizer,
        lr=config.lr_backbone,
        weight_decay=config.weight_decay,
        warmup_epochs=0,
        momentum=config.momentum,
    )
    optimizer = optim.build(spec, model.backbone)
    for parameter, decay in ((model.head.weight, config.weight_decay), (model.head.bias, 0.0)):
        optimizer.add_param_group(
            {"params": [parameter], "weight_decay": decay, "peak_lr": config.lr_head, "adapt": False}
        )
    if config.optimizer == "sgd":
        for group in optimizer.param_groups:
            group["nesterov"] = config.nesterov
    return optimizer


def _restore(model: Classifier, optimizer: Optimizer, loss_scale: LossScale, state: Mapping[str, Any]) -> None:
    """Take over the saved state."""
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    loss_scale.restore(state)


def _train_mode(model: Classifier, config: FineTuning) -> None:
    model.train()
    for module in model.modules():
        if config.norm == "frozen" and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _update(
    model: Classifier,
    optimizer: Optimizer,
    loss_scale: LossScale,
    batch: Batch,
    config: FineTuning,
    watch: Stopwatch,
) -> Tensor:
    """One step; returns the mean cross entropy of the batch, still on the device."""
    optimizer.zero_grad(set_to_none=True)
    images, parts = len(batch.labels), min(config.chunks, len(batch.labels))
    mean = torch.zeros((), device=batch.labels.device)
    with products(config.precision):
        for views, labels in zip(batch.views[0].tensor_split(parts), batch.labels.tensor_split(parts), strict=True):
            with autocast(config.precision, labels.device):
                logits = model(views)
            loss = F.cross_entropy(logits.float(), labels, reduction="sum") / images
            watch.end("forward")
            loss_scale.scaled(loss).backward()  # type: ignore[no-untyped-call]
            watch.end("backward")
            mean += loss.detach()
    loss_scale.unscale(optimizer)
    loss_scale.step(optimizer)
    watch.end("optimizer")
    return mean


def _logits(model: Classifier, test: SplitData, context: Context, workers: int) -> tuple[Tensor, Tensor]:
    """Logits (N, classes) and labels (N,) of a split, in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        found = [
            (model(images), labels)
            for images, labels in eval_batches(test, context.data.size, BATCH, context.device, workers)
        ]
    return torch.cat([logits for logits, _ in found]), torch.cat([labels for _, labels in found])


def _falls(step: int, total: int, times: int) -> bool:
    """Whether one of so many evenly spread moments, the last at the end, falls on this step."""
    return (step + 1) * times // total > step * times // total


def _check(fine: bool, what: str, done: int, total: int) -> None:
    if not fine:
        raise TrainingFailedError(
            "diverged",
            f"fine-tuning diverged: {what} is not finite at step {done} of {total}. Lower lr_backbone or lr_head.",
        )
