"""The only training loop: one process or many ranks, bf16 or float32, checkpoint and bit-identical resume."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import file_digest
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench import encoders, optim, plugins
from bench.contracts import Facts, Method
from bench.data.datasets import open_split
from bench.data.loader import Batch, Plan, train_batches
from bench.distributed import Ranks, gather, synchronise_norms
from bench.errors import BenchError, InputCorrupt, Stopped, one_line
from bench.files import atomic_path, write_atomic
from bench.runs import RunFolder
from bench.seeding import seed_of
from bench.site import Site
from bench.spec import Pretrain

CHECKPOINT_SECONDS = 20.0  # at least; saving never takes more than 2 % of the time
COLLAPSED_BELOW = 1e-3  # normalised standard deviation of the embedding; an isotropic one has 1
LOGGED_STEPS = 200


class TrainingFailedError(BenchError):
    """The run itself went wrong and would do so again: `kind` is "diverged" or "collapsed"."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Trained:
    """What a finished pretraining reports."""

    metrics: dict[str, float]
    weights_sha256: str
    resumed: int
    seconds: float  # of earlier attempts
    cpu_seconds: float


@dataclass(frozen=True)
class Place:
    """Where a pretraining runs and how it is asked to stop."""

    run: RunFolder
    site: Site
    ranks: Ranks
    device: torch.device
    should_stop: Callable[[], bool] = bool  # bool() is False: never
    workers: int = 0  # that decode images; data in memory need none


@dataclass(frozen=True)
class _Progress:
    """The part of a checkpoint that is plain data."""

    step: int = 0
    resumed: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


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
    loop = _Loop(spec, place)
    for step, batch in loop.batches():
        losses, embeddings = loop.update(step, batch)
        loop.log(step, losses, embeddings)
        loop.save_or_stop(step)
    return loop.finish()


class _Loop:
    """One pretraining on one rank."""

    def __init__(self, spec: Pretrain, place: Place) -> None:
        self.spec, self.place = spec, place
        self.clock, self.cpu_clock = time.monotonic(), time.process_time()
        run, ranks, device = place.run, place.ranks, place.device
        self.split = open_split(spec.data, "train", place.site)
        self.plan = Plan(images=len(self.split), batch_size=spec.batch_size, seed=seed_of(spec.seed, "data"), rank=ranks.rank, world=ranks.world)
        self.total = max(1, round(spec.epochs * self.plan.steps_per_epoch))
        self.warmup = round(spec.optim.warmup_epochs * self.plan.steps_per_epoch)
        self.network = build_method(spec, Facts(0, self.split.classes, len(self.split), spec.batch_size, self.total))
        self.network.to(device).to(memory_format=torch.channels_last)
        if ranks.world > 1:
            synchronise_norms(self.network, device)
        self.method = cast(Method, self.network)
        self.optimizer = optim.build(spec.optim, self.network)
        self.before = load_checkpoint(run, self.network, self.optimizer, device)
        self.embed: nn.Module = _Embed(self.method)
        if ranks.world > 1:
            _agree(self.before, device)
            self.embed = DistributedDataParallel(self.embed, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False)
        if ranks.first:
            _truncate(run.metrics, self.before.step)
        self.log_every = max(1, self.total // LOGGED_STEPS)
        self.saved_at, self.save_cost = time.monotonic(), 0.0
        self.logged_at, self.logged_step = time.monotonic(), self.before.step
        self.terms: dict[str, float] = {}

    def batches(self) -> Iterator[tuple[int, Batch]]:
        """The steps that are left, with their batches."""
        self.network.train()
        steps = range(self.before.step, self.total)
        return zip(steps, train_batches(self.split, self.spec.views, self.plan, steps, self.place.device, workers=self.place.workers), strict=True)

    def update(self, step: int, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Forward, backward, optimizer step; returns the losses and the embeddings of the global batch."""
        torch.manual_seed(seed_of(self.spec.seed, "step", step, self.place.ranks.rank))  # for what draws from the global generator
        optim.set_lr(self.optimizer, self.lr_factor(step))
        with torch.autocast(self.place.device.type, torch.bfloat16, enabled=self.spec.precision == "bf16"):
            local = self.embed(batch)
        embeddings = {name: gather(tensor.float()) for name, tensor in local.items()}
        losses = self.method.loss(embeddings, gather(batch.labels))
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.method.after_step((step + 1) / self.total)
        return losses, embeddings

    def lr_factor(self, step: int) -> float:
        """Share of the peak learning rate."""
        return optim.schedule(step, self.total, self.warmup, self.spec.optim.final_lr_ratio)

    def log(self, step: int, losses: dict[str, Tensor], embeddings: dict[str, Tensor]) -> None:
        """Every so many steps: check the health of the run, write a line of metrics."""
        if (step + 1) % self.log_every and step + 1 < self.total:
            return
        self.terms = {name: float(value.detach()) for name, value in losses.items()}
        self.terms["embedding_std"] = embedding_std(next(iter(embeddings.values())))
        _check_health(self.terms, step, self.total)
        if not self.place.ranks.first:
            return
        now = time.monotonic()
        rate = (step + 1 - self.logged_step) * self.spec.batch_size / max(1e-9, now - self.logged_at)
        self.logged_at, self.logged_step = now, step + 1
        line = {
            "step": step + 1,
            "steps": self.total,
            "epoch": (step + 1) / self.plan.steps_per_epoch,
            "lr": self.spec.optim.lr * self.lr_factor(step),
            "img_s": round(rate, 1),
            "seconds": round(self.progress(step + 1).seconds, 2),
        }
        with self.place.run.metrics.open("a") as file:
            file.write(json.dumps(line | self.terms) + "\n")

    def save_or_stop(self, step: int) -> None:
        """A checkpoint now and then, and when asked to stop. Raises Stopped."""
        if step + 1 == self.total:
            return
        ranks = self.place.ranks
        stop = (ranks.world == 1 or (step + 1) % 10 == 0) and _any(self.place.should_stop(), ranks, self.place.device)
        due = time.monotonic() - self.saved_at > max(CHECKPOINT_SECONDS, 50 * self.save_cost)
        if ranks.first and (stop or due):
            begun = time.monotonic()
            save_checkpoint(self.place.run, self.network, self.optimizer, self.progress(step + 1))
            self.saved_at, self.save_cost = time.monotonic(), time.monotonic() - begun
        if stop:
            raise Stopped(f"stopped after step {step + 1} of {self.total}; the checkpoint is saved")

    def finish(self) -> Trained:
        """Write the weights."""
        encoder = self.method.encoder
        metrics = self.terms | {"parameters_million": encoders.parameters(encoder) / 1e6, "steps": float(self.total)}
        sha = save_weights(self.place.run.weights, self.network, encoder) if self.place.ranks.first else ""
        before = self.before
        return Trained(metrics=metrics, weights_sha256=sha, resumed=before.resumed, seconds=before.seconds, cpu_seconds=before.cpu_seconds)

    def progress(self, step: int) -> _Progress:
        """Where the run stands, for the checkpoint."""
        seconds, cpu = time.monotonic() - self.clock, time.process_time() - self.cpu_clock
        return replace(self.before, step=step, seconds=self.before.seconds + seconds, cpu_seconds=self.before.cpu_seconds + cpu)


def build_method(spec: Pretrain, facts: Facts) -> nn.Module:
    """Encoder and method with the initial weights of the spec's seed."""
    encoder = encoders.build(spec.backbone, spec.seed)
    module = plugins.load("method", type(spec.method).__module__.rpartition(".")[2])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(spec.seed, "method"))
        made: nn.Module = module.Method(spec.method, encoder, replace(facts, feature_dim=encoder.feature_dim))
    return made


def embedding_std(z_BD: Tensor) -> float:
    """Mean standard deviation per dimension of the l2-normalised embedding, times sqrt(D).

    1 for an isotropic embedding, 0 for a collapsed one; the quantity of SimSiam's figure 2 (arXiv:2011.10566), scaled.
    """
    z = nn.functional.normalize(z_BD.detach().float(), dim=1)
    return float(z.std(dim=0).mean()) * math.sqrt(z.shape[1])


def _check_health(terms: dict[str, float], step: int, total: int) -> None:
    """Fail with the word instead of going on to print a number."""
    bad = [name for name, value in terms.items() if not math.isfinite(value)]
    if bad:
        raise TrainingFailedError("diverged", f"diverged: {', '.join(bad)} not finite at step {step + 1} of {total}.")
    if step + 1 > total // 4 and terms["embedding_std"] < COLLAPSED_BELOW:
        raise TrainingFailedError(
            "collapsed", f"collapsed: the embedding's standard deviation is {terms['embedding_std']:.1e} at step {step + 1} of {total}."
        )


def save_checkpoint(run: RunFolder, network: nn.Module, optimizer: torch.optim.Optimizer, progress: _Progress) -> None:
    """Everything that a bit-identical resume needs; random draws are functions of the step and need no state."""
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "progress": vars(progress)}
    with atomic_path(run.checkpoint) as temporary:
        torch.save(state, temporary)


def load_checkpoint(run: RunFolder, network: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> _Progress:
    """Restore and say where to go on; a damaged checkpoint is set aside and the run starts anew."""
    if not run.checkpoint.exists():
        return _Progress()
    try:
        state = torch.load(run.checkpoint, map_location=device, weights_only=True)
        progress = _Progress(**state["progress"])
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
    except Exception as error:  # torch raises many kinds for a damaged file
        aside = run.set_aside(run.checkpoint)
        print(f"checkpoint.pt is damaged ({one_line(error)[:200]}); set aside as {aside and aside.name}, starting anew", flush=True)
        raise InputCorrupt(f"{run.checkpoint} was damaged and is set aside") from error
    print(f"going on after step {progress.step}", flush=True)
    return replace(progress, resumed=progress.resumed + 1)


def save_weights(path: Path, method: nn.Module, encoder: nn.Module) -> str:
    """What evaluations read: the encoder, and the whole method for those that look at the embedding. Returns the sha256."""
    with atomic_path(path) as temporary:
        torch.save({"encoder": encoder.state_dict(), "method": method.state_dict()}, temporary)
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _truncate(metrics: Path, step: int) -> None:
    """Drop lines from after the checkpoint, so that each step stands once."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text(errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    write_atomic(metrics, "".join(kept))


def _any(flag: bool, ranks: Ranks, device: torch.device) -> bool:
    """Whether any rank was asked to stop; all ranks get the same answer."""
    if ranks.world == 1:
        return flag
    votes = torch.tensor(int(flag), device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return bool(votes.item())


def _agree(done: _Progress, device: torch.device) -> None:
    """All ranks must have read the same checkpoint."""
    steps = torch.tensor([done.step, -done.step], device=device)
    dist.all_reduce(steps, op=dist.ReduceOp.MAX)
    if steps[0] != -steps[1]:
        raise BenchError(f"ranks read different checkpoints (steps {-int(steps[1])} to {int(steps[0])}): is the run folder on a shared file system?")
