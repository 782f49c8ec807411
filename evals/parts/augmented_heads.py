"""Training linear heads on the features of augmented images: the backbone sees each batch once, for all heads together.

Shared by linear_augmented.py and linear_transfer.py. The backbone is frozen and in evaluation mode; images are cropped
and flipped at random as pretraining's are (bench/data/loader.py); each head follows the updates that it would follow
alone (evals/parts/heads.py). After every epoch the heads are tried on the cached features of the test images.
What differs from the papers' codes whatever the settings: the last partial batch of an epoch is dropped, files are
resized with bicubic antialiased interpolation (PyTorch codes: bilinear), and one process trains all heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.contracts import Batch, Context, Subject
from bench.data.loader import Plan
from bench.data.splits import Files, SplitData
from bench.data.stream import Steps, Stream, Wanted, shared_split
from bench.errors import BenchError
from bench.files import Json
from bench.runs.metrics import is_logged
from bench.seeding import generator, seed_of
from bench.spec import Crop
from bench.training.checkpoint import Keeper
from bench.training.pace import Pace
from bench.training.precision import autocast, products, substituted
from evals.parts.augmented_settings import Training
from evals.parts.features import features_of
from evals.parts.heads import Heads, Rule
from evals.parts.slices import features_in_slices

CHUNK = 1000  # images whose logits are in memory at once


@dataclass(frozen=True)
class Trained:
    """The chosen head after the last epoch."""

    scores: Tensor  # logits (N, C) of the test images, float32, on the CPU
    labels: Tensor  # of the test images
    classes: int
    test_top1: tuple[float, ...]  # percent after each epoch, of the chosen head
    details: Mapping[str, Json]


def train(config: Training, subject: Subject, context: Context) -> Steps[Trained]:
    """Train all heads of the grid in one pass; choose on `val` where there are several; score the test split.

    In steps, so that several encoders can see one decoding of the images. Raises BenchError for multi-label data and
    when every head diverged, Stopped when asked to stop.
    """
    if config.last_blocks > 1:
        from evals.parts.last_blocks import last_blocks  # knows transformers; not needed for other networks

        subject = last_blocks(subject, config.last_blocks)
    data = shared_split(context, config.trained_on)
    if data.labels.ndim != 1:
        raise BenchError(
            f"{context.data.name} has several labels an image; this evaluation expects one: choose one for several "
            "labels."
        )
    crop = Crop(resize=config.test_resize)
    tried = features_of(subject, context, splits=("test",) if len(config.grid) == 1 else ("test", "val"), crop=crop)
    heads, history = yield from _train_heads(config, subject, context, data, tried["test"])
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
def _step(
    config: Training, subject: Subject, heads: Heads, batch: Batch, device: torch.device, factor: float, pace: Pace
) -> Tensor:
    """The losses of the heads before an update of them on one batch, (H,).

    Here and not around the generator: what torch makes of one keeps the batch that it was sent until the next comes.
    """
    with products(config.precision), autocast(config.precision, device):
        features = features_in_slices(subject, batch.views[0])
    pace.watch.end("forward")
    losses = heads.step(features, batch.labels, factor)
    pace.watch.end("optimizer")
    return losses


def _train_heads(
    config: Training, subject: Subject, context: Context, data: SplitData, test: tuple[Tensor, Tensor]
) -> Steps[tuple[Heads, Tensor]]:
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

    stream = Stream(
        images=data,
        data=context.data,
        split=config.trained_on,
        fingerprint=context.fingerprint,
        views=(config.view(context.data.size),),
        plan=plan,
        steps=total,
        device=device,
        workers=context.site.loader_workers(device.type),
    )
    pace = Pace(device, steps=total, batch_size=plan.batch_size, begun=begin)
    shared = context.attempt.together > 1  # what other encoders take between two batches is no waiting for images
    for step in range(begin, total):
        batch = yield Wanted(stream, step)
        pace.watch.start() if shared else pace.watch.end("wait")
        factor = config.rate_factor(step, plan.steps_per_epoch)
        losses = _step(config, subject, heads, batch, device, factor, pace)
        del batch  # not to be kept while the next batch, or another encoder, needs the memory
        done = step + 1
        logged = is_logged(done, total)
        if logged or pace.overdue():  # the only places, but for the end of an epoch, that wait for a GPU
            finite = losses[losses.isfinite()]
            if logged and not len(finite):
                raise BenchError(
                    f"every head of the linear evaluation diverged by step {done} of {total}: expected smaller "
                    "learning rates."
                )
            about = {"epoch": done / plan.steps_per_epoch, "seconds": keeper.seconds()}
            about |= {"loss": float(finite.min())} if len(finite) else {}
            line = pace.line(done, about, from_files=isinstance(data, Files) and not shared)
            keeper.log_line(line) if logged else keeper.show(line)
        if done % plan.steps_per_epoch == 0:
            with torch.no_grad():
                history[step // plan.steps_per_epoch] = accuracies(heads, *test, device)
        keeper.keep(done, state, stop=context.should_stop())
        pace.watch.start()
    return heads, history


def best_epoch(trained: Trained) -> tuple[int, float]:
    """(epoch counted from 1, top-1) of the chosen head's best epoch on the test images; the first of equals."""
    top1 = max(trained.test_top1)
    return trained.test_top1.index(top1) + 1, top1
