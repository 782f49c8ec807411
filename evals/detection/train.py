"""Fine-tuning a detector: Detectron2's model, optimizer and schedule in a loop of our own, which resumes bit-identical.

Detectron2's DefaultTrainer of v0.6 forgets the optimizer when it resumes, and its random numbers depend on what was
drawn before. Here each iteration draws from (seed, iteration, rank), and the state holds weights, momenta and the
schedule.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.contracts import Context
from bench.runs.metrics import is_early
from bench.seeding import seed_of
from bench.training.checkpoint import Keeper
from bench.training.health import TrainingFailedError
from bench.training.norms import synchronise_norms
from bench.training.ranks import Ranks, any_rank
from evals.detection.data import Scenes, train_batches

LOGGED_STEPS = 100
STOP_EVERY = 10  # iterations after which ranks ask each other whether to stop


def fine_tune(cfg: Any, model: nn.Module, scenes: Scenes, context: Context, ranks: Ranks) -> nn.Module:
    """Train `model` to the last iteration; returns the detector with plain norms, ready for testing.

    Raises Stopped with the state saved when asked to stop, TrainingFailedError when a loss is not finite.
    """
    from detectron2.solver import build_lr_scheduler, build_optimizer

    seed, total, device = seed_of(context.seed, "detection"), int(cfg.SOLVER.MAX_ITER), context.device
    workers = context.site.loader_workers(device.type)
    keeper = Keeper(context.folder, total, ranks=ranks, attempt=context.attempt)
    optimizer = build_optimizer(cfg, model)  # before the norms change: it decays weights by their layer's type
    schedule = build_lr_scheduler(cfg, optimizer)
    if ranks.world > 1:
        synchronise_norms(model)

    def restore(state: Mapping[str, Any]) -> None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])

    before = keeper.load(device, restore)
    first = int(before["step"]) if before is not None else 0
    trained: nn.Module = model
    if ranks.world > 1:
        trained = DistributedDataParallel(
            model, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False
        )
    begun, earlier = time.monotonic(), float(before["seconds"]) if before else 0.0

    def seconds() -> float:
        return earlier + time.monotonic() - begun

    model.train()
    logged_at, logged_step = begun, first
    steps = range(first, total)
    for step, batch in zip(steps, train_batches(cfg, scenes, seed, steps, ranks, workers), strict=True):
        torch.manual_seed(seed_of(seed, "step", step, ranks.rank))
        losses = _losses(trained, batch, step)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.zero_grad(set_to_none=True)
        sum(losses.values(), torch.zeros((), device=device)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        done = step + 1
        evenly = done * LOGGED_STEPS // total > step * LOGGED_STEPS // total
        if evenly or is_early(done, total // LOGGED_STEPS):
            terms = {name: float(value.detach()) for name, value in losses.items()}
            _check(sum(terms.values()), done, total)
            now = time.monotonic()
            line = {
                "step": done,
                "steps": total,
                "lr": rate,
                "loss": sum(terms.values()),
                "seconds": round(seconds(), 2),
            }
            line["img_s"] = round((done - logged_step) * int(cfg.SOLVER.IMS_PER_BATCH) / max(1e-9, now - logged_at), 1)
            keeper.log_line(line | terms)
            logged_at, logged_step = now, done
        if ranks.world == 1 or done % STOP_EVERY == 0 or done == total:
            keeper.keep(
                done,
                lambda: {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "seconds": seconds(),
                },
                stop=any_rank(context.should_stop(), ranks, device),
            )
    return _plain(cfg, model, ranks)


def _losses(model: nn.Module, batch: list[Any], step: int) -> dict[str, Tensor]:
    from detectron2.utils.events import EventStorage

    with EventStorage(step):  # where Detectron2's layers leave their statistics, unused here
        losses: dict[str, Tensor] = model(batch)
    return losses


def precise_norms(cfg: Any, model: nn.Module, scenes: Scenes, context: Context, ranks: Ranks, iterations: int) -> None:
    """Batch norm's statistics anew with the final weights: `iterations` batches over all ranks (TEST.PRECISE_BN)."""
    from fvcore.nn.precise_bn import update_bn_stats

    seed = seed_of(context.seed, "detection", "precise")
    workers = context.site.loader_workers(context.device.type)
    batches = train_batches(cfg, scenes, seed, range(iterations), ranks, workers)

    def seeded() -> Iterator[Any]:
        for step, batch in enumerate(batches):
            torch.manual_seed(seed_of(seed, "step", step, ranks.rank))
            yield batch

    from detectron2.utils.events import EventStorage

    model.train()
    with EventStorage(0):
        update_bn_stats(model, seeded(), iterations)
    for module in model.modules() if ranks.world > 1 else ():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            moments = torch.stack([module.running_mean, module.running_var + module.running_mean.square()])
            dist.all_reduce(moments)
            moments /= ranks.world
            module.running_mean.copy_(moments[0])
            module.running_var.copy_(moments[1] - moments[0].square())


def _plain(cfg: Any, model: nn.Module, ranks: Ranks) -> nn.Module:
    """The same weights in a model without synchronised norms."""
    if ranks.world == 1:
        return model
    from detectron2.modeling import build_model

    plain: nn.Module = build_model(cfg)
    plain.load_state_dict(model.state_dict())
    return plain


def _check(loss: float, done: int, total: int) -> None:
    if not math.isfinite(loss):
        raise TrainingFailedError(
            "diverged", f"the detector diverged: its loss is not finite at iteration {done} of {total}. Lower the rate."
        )
