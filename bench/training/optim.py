"""Optimizers and the learning-rate schedule of the seven papers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.errors import BenchError
from bench.spec import Optim

Kind = TypeVar("Kind", bound=Optimizer)


def untraced(kind: type[Kind]) -> type[Kind]:
    """The same optimizer without the import of torch._dynamo, which takes a second of every process that trains.

    torch wraps these methods so that torch.compile leaves them out of its graphs. Here encoders alone are compiled.
    """
    plain = {
        name: inspect.unwrap(getattr(kind, name))
        for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    }
    return cast(type[Kind], type(kind.__name__, (kind,), plain | {"step": torch.no_grad()(inspect.unwrap(kind.step))}))


@untraced
class LARS(Optimizer):
    """Layer-wise adaptive rate scaling (arXiv:1708.03888) as the papers' codes have it.

    With gradient g, weight w, decay d: u = g + d w, scaled by trust * |w| / |u| where both norms are positive;
    `separate` (OpenSelfSup, TWIST) divides by |g| + d |w| instead of |u|.
    `classic` (google-research/simclr, lars_optimizer.py): v = m v + lr u;  w -= v.
    `popular` (facebookresearch/barlowtwins, main.py):     v = m v + u;     w -= lr v.
    The two differ when the learning rate changes. Groups with `adapt=False` skip the scaling (and have no decay).
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, spec: Optim) -> None:
        defaults = {"lr": 0.0, "momentum": spec.momentum, "trust": spec.trust, "weight_decay": 0.0, "adapt": True}
        super().__init__(
            groups, defaults | {"classic": spec.lars_momentum == "classic", "separate": spec.lars_norm == "separate"}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the gradients.

        All tensors of a group at once (torch._foreach_*): on a GPU a handful of kernels instead of ten a tensor.
        """
        for group in self.param_groups:
            weights: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            gradients = [cast(Tensor, p.grad) for p in weights]
            # Laid out as the gradients, so that norms sum in their order.
            updates = list(torch._foreach_add(gradients, list(torch._foreach_mul(weights, group["weight_decay"]))))
            if group["adapt"]:
                torch._foreach_mul_(updates, _ratios(weights, gradients, updates, group))
            if group["classic"]:
                torch._foreach_mul_(updates, group["lr"])
            for p in weights:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            velocities: list[Tensor] = [self.state[p]["momentum"] for p in weights]
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, updates)
            torch._foreach_sub_(
                weights, velocities if group["classic"] else torch._foreach_mul(velocities, group["lr"])
            )


def _ratios(
    weights: list[Tensor], gradients: list[Tensor], updates: list[Tensor], group: dict[str, Any]
) -> list[Tensor]:
    """The factor trust * |w| / |u| of each tensor, 1 where a norm is 0; the norms of all are compared in one tensor."""
    weight_norms = torch.stack(torch._foreach_norm(weights))
    if group["separate"]:
        update_norms = torch.stack(torch._foreach_norm(gradients)) + group["weight_decay"] * weight_norms
    else:
        update_norms = torch.stack(torch._foreach_norm(updates))
    ratios = group["trust"] * weight_norms / update_norms
    return list(torch.where((weight_norms > 0) & (update_norms > 0), ratios, torch.ones_like(ratios)).unbind())


def build(spec: Optim, network: nn.Module) -> Optimizer:
    """The optimizer with two groups: matrices, and vectors (biases and norms), each with its `peak_lr`."""
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    # A ViT's class token and positions are tables of vectors, whatever their shape (DeiT, TWIST: not decayed).
    vectors = [
        p
        for name, p in named
        if (p.ndim <= 1 or name.endswith(("cls_token", "pos_embed"))) and not _adapted(name, spec)
    ]
    if spec.adapted_vectors and not any(_adapted(name, spec) for name, _ in named):
        raise BenchError(
            f"optimizer: adapted_vectors is {spec.adapted_vectors!r}, but no trained tensor's name ends so; expected "
            "the end of such a name, or ''."
        )
    matrices = [p for _, p in named if not any(p is v for v in vectors)]
    decay_vectors = spec.weight_decay if spec.vector_weight_decay else 0.0
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": spec.weight_decay, "peak_lr": spec.lr},
        {
            "params": vectors,
            "weight_decay": decay_vectors,
            "peak_lr": spec.lr if spec.vector_lr is None else spec.vector_lr,
        },
    ]
    groups[0]["adapt"], groups[1]["adapt"] = True, spec.vector_weight_decay
    if spec.constant:
        held = {id(p) for name, p in named if name.startswith(f"{spec.constant}.")}
        if not held:
            raise BenchError(f"optimizer: constant is {spec.constant!r}, but the method has no such module.")
        groups = [
            {**group, "params": [p for p in group["params"] if (id(p) in held) is constant], "constant": constant}
            for group in groups
            for constant in (False, True)
        ]
    groups = [group for group in groups if group["params"]]
    match spec.name:
        case "lars":
            return LARS(groups, spec=spec)
        case "sgd":
            return untraced(torch.optim.SGD)(groups, lr=0.0, momentum=spec.momentum, fused=_fused(network))
        case "adamw":
            return untraced(torch.optim.AdamW)(groups, lr=0.0, betas=spec.betas, fused=_fused(network))
    raise BenchError(f"unknown optimizer {spec.name!r}. Allowed: adamw, lars, sgd.")


def _adapted(name: str, spec: Optim) -> bool:
    """Whether a vector is treated as a matrix."""
    return bool(spec.adapted_vectors) and name.endswith(spec.adapted_vectors)


def _fused(network: nn.Module) -> bool | None:
    """One kernel for all parameters where it saves hundreds of launches a step: on a GPU.

    Not on a CPU: torch 2.14 takes parameter and gradient there for equally laid out without looking, AdamW rounds
    differently in the last place, and it would save one step in a hundred.
    """
    return True if all(p.is_cuda for p in network.parameters()) else None


def schedule(
    step: int,
    total: int,
    warmup: int,
    final_ratio: float,
    milestones: Sequence[float] = (),
    *,
    hold: int = 1,
    warmup_from: float | None = None,
) -> float:
    """Factor on the peak rate at a step: linear from 0 over `warmup` steps, then half a cosine to `final_ratio`.

    With milestones, shares of `total`: a tenth of the rate from each of them on. The cosine stands still for `hold`
    steps, counted from step 0: an epoch, where a code sets the rate by epoch. With `warmup_from` the line begins there
    and multiplies a cosine (or milestones) that began at step 0.
    """
    line, begin = 1.0, warmup
    if warmup_from is not None:
        begin = 0
        if step < warmup:
            line = warmup_from + (1 - warmup_from) * step / warmup
    elif step < warmup:
        return step / warmup
    if milestones:
        return line * float(0.1 ** sum(step >= round(share * total) for share in milestones))
    progress = (max(begin, step // hold * hold) - begin) / max(1, total - begin)
    return line * (final_ratio + (1 - final_ratio) * 0.5 * (1 + math.cos(math.pi * progress)))


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Set every group's rate to its peak times the factor; a constant group keeps its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * (1.0 if group.get("constant") else factor)


def set_weight_decay(optimizer: Optimizer, spec: Optim, progress: float) -> None:
    """Half a cosine from `weight_decay` to `final_weight_decay`, on the groups that are decayed."""
    if spec.final_weight_decay is None:
        return
    share = 0.5 * (1 + math.cos(math.pi * progress))
    for group in optimizer.param_groups:
        if group["weight_decay"]:
            group["weight_decay"] = spec.final_weight_decay + (spec.weight_decay - spec.final_weight_decay) * share
