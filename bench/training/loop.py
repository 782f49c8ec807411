"""The only training loop: one process or many ranks, any precision, checkpoint and bit-identical resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench import plugins
from bench.contracts import Batch, Method
from bench.data.datasets import open_split
from bench.data.loader import Plan, train_batches
from bench.data.location import fetch_folder
from bench.data.splits import Files
from bench.data.unreadable import Unreadable
from bench.networks import encoders
from bench.networks.layout import lay_out
from bench.runs.folder import RunFolder
from bench.runs.metrics import is_logged
from bench.seeding import seed_of
from bench.settings.site import Site
from bench.spec import Pretrain
from bench.training import optim
from bench.training.checkpoint import Keeper, TrainingState, load_start, save_weights
from bench.training.chunks import cached_backward
from bench.training.compiling import compile_encoder
from bench.training.health import check_health, effective_rank, embedding_std
from bench.training.methods import build_method
from bench.training.norm_groups import group_norms
from bench.training.norms import synchronise_norms
from bench.training.pace import Pace
from bench.training.precision import LossScale, autocast, products, substituted
from bench.training.ranks import Ranks, any_rank, gather
from bench.training.recompute import recompute_blocks


@dataclass(frozen=True)
class Trained:
    """What a finished pretraining reports."""

    metrics: dict[str, float]
    weights_sha256: str
    resumed: int
    seconds: float  # of earlier attempts
    cpu_seconds: float
    precision: str = ""  # what was computed in the place of the precision asked for, if anything was


@dataclass(frozen=True)
class Place:
    """Where a pretraining runs and how it is asked to stop."""

    run: RunFolder
    site: Site
    ranks: Ranks
    device: torch.device
    should_stop: Callable[[], bool] = bool  # bool() is False: never
    workers: int = 0  # that decode images; data in memory need none


class _Embed(nn.Module):
    """Gives DDP a forward: the method's `embed`."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.method.embed(batch)


def pretrain(spec: Pretrain, place: Place) -> Trained:
    """Train to the end, or raise Stopped with the state saved. The first rank leaves `weights.pt` in the run folder.

    Raises TrainingFailedError when the loss is not finite or the embedding has collapsed.
    """
    loop = Loop(spec, place)
    for step, batch in loop.batches():
        loop.watch.end("wait")
        losses, embeddings = loop.update(step, batch)
        loop.log(step, losses, embeddings)
        loop.save_or_stop(step)
        loop.watch.start()
    return loop.finish()


class Loop:
    """One pretraining on one rank."""

    def __init__(self, spec: Pretrain, place: Place) -> None:
        self.spec, self.place, self.file = spec, place, plugins.method_of(spec.method)
        self.clock, self.cpu_clock = time.monotonic(), time.process_time()
        run, ranks, device = place.run, place.ranks, place.device
        self.precision = substituted(spec.precision, device)
        if self.precision and ranks.first:
            print(self.precision, flush=True)
        self.split = open_split(spec.data, "train", place.site)
        self.plan = Plan(
            images=len(self.split),
            batch_size=spec.batch_size,
            seed=seed_of(spec.seed, "data"),
            rank=ranks.rank,
            world=ranks.world,
        )
        self.total = max(1, round(spec.epochs * self.plan.steps_per_epoch))
        self.warmup = round(spec.optim.warmup_epochs * self.plan.steps_per_epoch)
        self.network = build_method(spec, self.total)
        if spec.start is not None:
            load_start(self.network, spec.start, run)
        lay_out(self.network.to(device), device, spec.precision)
        recomputes = place.site.checkpoint_activations is True  # a worker has the choice that its job was given
        if spec.compile:
            compile_encoder(self.network.get_submodule("encoder"), by_block=recomputes)
        if spec.norm_group is not None:
            group_norms(self.network, spec.norm_group, spec.batch_size // ranks.world // spec.chunks, ranks)
        elif ranks.world > 1:
            synchronise_norms(self.network)
        if recomputes:
            recompute_blocks(self.network)
        self.method = cast(Method, self.network)
        self.optimizer = optim.build(spec.optim, self.network)
        self.loss_scale = LossScale(spec.precision, device)
        self.before = TrainingState()
        self.keeper = Keeper(run.path, self.total, ranks=ranks)
        self.keeper.load(device, self.restore)
        self.embed: nn.Module = _Embed(self.method)
        if ranks.world > 1:
            self.embed = DistributedDataParallel(
                self.embed, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False
            )
        self.unreadable = Unreadable(
            run.path,
            ranks.rank,
            data=spec.data.name,
            root=fetch_folder(spec.data.name, place.site),
            images=len(self.split),
            batch_size=spec.batch_size,
            done=self.before.step,
        )
        self.terms: dict[str, float] = {}
        self.pace = Pace(device, steps=self.total, batch_size=spec.batch_size, begun=self.before.step)
        self.watch = self.pace.watch

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: it has all that a bit-identical resume needs, as draws are functions of the step."""
        before = TrainingState(**state["progress"])
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:  # a state from a GPU asks for fused kernels, which are for GPUs only
            group |= {key: self.optimizer.defaults[key] for key in ("fused", "foreach") if key in group}
        self.loss_scale.restore(state)
        self.before = replace(before, resumed=before.resumed + 1)

    def batches(self) -> Iterator[tuple[int, Batch]]:
        """The steps that are left, with their batches."""
        self.network.train()
        steps, place = range(self.before.step, self.total), self.place
        batches = train_batches(
            self.split, self.spec.views, self.plan, steps, place.device, workers=place.workers, replace_unreadable=True
        )
        for step, batch in zip(steps, batches, strict=True):
            if isinstance(self.split, Files):
                if batch.unreadable:
                    place.run.check_claim()
                self.unreadable.add(step, [self.split.paths[index] for index in batch.unreadable])
            yield step, batch

    def update(self, step: int, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Forward, backward, optimizer step; returns the losses and the embeddings of the global batch."""
        # for what draws from the global generator
        torch.manual_seed(seed_of(self.spec.seed, "step", step, self.place.ranks.rank))
        optim.set_lr(self.optimizer, self.lr_factor(step))
        if self.spec.optim.final_weight_decay is not None:
            optim.set_weight_decay(self.optimizer, self.spec.optim, step / self.total)
        self.optimizer.zero_grad(set_to_none=True)
        with products(self.spec.precision):
            losses, embeddings = self.backward(step, batch)
            self.loss_scale.unscale(self.optimizer)
            if self.spec.optim.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.network.parameters(), self.spec.optim.clip_norm)
            self.file.before_step(self.method, step / self.total)
            self.loss_scale.step(self.optimizer)
            self.method.after_step((step + 1) / self.total)
        self.watch.end("optimizer")
        return losses, embeddings

    def backward(self, step: int, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Forward and backward: the gradients are those of the scaled loss."""
        if self.spec.chunks > 1:
            losses, embeddings = cached_backward(
                self.embed,
                self.autocast_embed,
                self.method.loss,
                batch,
                chunks=self.spec.chunks,
                seed=seed_of(self.spec.seed, "chunks", step, self.place.ranks.rank),
                scaled=self.loss_scale.scaled,
                watch=self.watch,
            )
        else:
            embeddings = {name: gather(tensor.float()) for name, tensor in self.autocast_embed(batch).items()}
            losses = self.method.loss(embeddings, gather(batch.labels))
            self.watch.end("forward")
            self.loss_scale.scaled(losses["loss"]).backward()  # type: ignore[no-untyped-call]
        self.watch.end("backward")
        return losses, embeddings

    def autocast_embed(self, batch: Batch) -> dict[str, Tensor]:
        """Forward of this rank's images in the spec's precision."""
        with autocast(self.spec.precision, self.place.device):
            embeddings: dict[str, Tensor] = self.embed(batch)
        return embeddings

    def lr_factor(self, step: int) -> float:
        """Share of the peak learning rate."""
        rule = self.spec.optim
        return optim.schedule(
            step,
            self.total,
            self.warmup,
            rule.final_lr_ratio,
            rule.milestones,
            hold=self.plan.steps_per_epoch if rule.steps == "epoch" else 1,
            warmup_from=rule.warmup_from,
        )

    def log(self, step: int, losses: dict[str, Tensor], embeddings: dict[str, Tensor]) -> None:
        """Every so many steps check the health of the run and write a line; in between, by the clock, show one.

        What the clock decides is done by the first rank alone, and nothing of it is kept.
        """
        first = self.place.ranks.first
        if is_logged(step + 1, self.total):
            terms = _terms(losses, embeddings)
            if self.loss_scale.excuses() and (step + 1 < self.total or "loss" in self.terms):
                terms = {name: value for name, value in terms.items() if math.isfinite(value)}
            check_health(terms, step, self.total)
            self.terms |= terms
            if isinstance(self.split, Files):
                self.unreadable.merge(_of_all_ranks(self.unreadable.known, self.place.ranks))
            if first:
                self.keeper.log_line(self.line(step + 1) | self.loss_scale.line() | terms)
        elif first and self.pace.overdue():
            terms = {name: value for name, value in _terms(losses, embeddings).items() if math.isfinite(value)}
            self.keeper.show(self.line(step + 1) | terms)

    def line(self, done: int) -> dict[str, float]:
        """Where the run stands and how fast it went since the last line."""
        about = {
            "epoch": done / self.plan.steps_per_epoch,
            "lr": self.spec.optim.lr * self.lr_factor(done - 1),
            "seconds": round(self.progress(done).seconds, 2),
        }
        if isinstance(self.split, Files):
            about["unreadable_images"] = self.unreadable.count
        return self.pace.line(done, about)

    def save_or_stop(self, step: int) -> None:
        """A checkpoint now and then, and when asked to stop. Raises Stopped."""
        if step + 1 == self.total:
            return
        place, ranks = self.place, self.place.ranks
        stop = (ranks.world == 1 or (step + 1) % 10 == 0) and any_rank(place.should_stop(), ranks, place.device)
        self.keeper.keep(step + 1, lambda: self.state(step + 1), stop=stop)

    def state(self, step: int) -> dict[str, Any]:
        """What `restore` takes."""
        progress = vars(self.progress(step))
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "progress": progress}
        return state | self.loss_scale.state()

    def finish(self) -> Trained:
        """Write the weights."""
        encoder = self.method.encoder
        metrics = self.terms | {"parameters_million": encoders.parameters(encoder) / 1e6, "steps": float(self.total)}
        if self.unreadable.count:
            metrics["unreadable_images"] = float(self.unreadable.count)
        sha = save_weights(self.place.run.weights, self.network, encoder) if self.place.ranks.first else ""
        before = self.before
        return Trained(
            metrics=metrics,
            weights_sha256=sha,
            resumed=before.resumed,
            seconds=before.seconds,
            cpu_seconds=before.cpu_seconds,
            precision=self.precision,
        )

    def progress(self, step: int) -> TrainingState:
        """Where the run stands, for the checkpoint."""
        seconds, cpu = time.monotonic() - self.clock, time.process_time() - self.cpu_clock
        return replace(
            self.before, step=step, seconds=self.before.seconds + seconds, cpu_seconds=self.before.cpu_seconds + cpu
        )


def _terms(losses: dict[str, Tensor], embeddings: dict[str, Tensor]) -> dict[str, float]:
    first = next(iter(embeddings.values()))
    terms = {name: float(value.detach()) for name, value in losses.items()}
    return terms | {"embedding_std": embedding_std(first), "effective_rank": effective_rank(first)}


def _of_all_ranks(known: set[str], ranks: Ranks) -> list[set[str]]:
    if ranks.world == 1:
        return [known]
    found: list[set[str]] = [set()] * ranks.world
    dist.all_gather_object(found, known)
    return found
