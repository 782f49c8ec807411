"""Linear heads side by side as the columns of one matrix: one product a step instead of one for each head.

Every head starts from the same weights and follows exactly the updates that it would follow alone; heads differ in
learning rate and weight decay. Gradients are written out, so nothing is kept for a backward pass, and a step waits for
nothing on a GPU. B: images, D: features, H: heads, C: classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bench.contracts import Amount, Given, Work
from bench.spec import Precision

NORM_EPS = 1e-5  # of the batch norm in front of a head: PyTorch's and VISSL's default
NORM_MOMENTUM = 0.1  # the same


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How all heads are made and updated.

    `trust` and the form of LARS ("classic") are those of bench/training/optim.py.
    """

    optimizer: Literal["sgd", "lars"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    trust: float = 0.001
    decay_bias: bool = True  # PyTorch's SGD decays biases too; in LARS it also adapts them then
    batch_norm: bool = False  # one with scale and shift in front of each head; neither is decayed
    start: Literal["normal", "zero", "uniform"] = (
        "normal"  # N(0, 0.01) and bias 0; all 0; PyTorch's U(+-1 / sqrt(D)), bias too
    )


@dataclass
class _Parameter:
    """One tensor of all heads. `rate` and `decay` have a value a head and broadcast over the rest."""

    value: Tensor
    rate: Tensor
    decay: Tensor
    head_dim: int
    adapt: bool  # LARS scales the update by the norms
    velocity: Tensor


class Heads:
    """H linear classifiers from D features to C classes, optionally with a batch norm each."""

    def __init__(
        self,
        rule: Rule,
        rates: Tensor,
        decays: Tensor,
        width: int,
        classes: int,
        rng: torch.Generator,
        *,
        device: torch.device,
    ) -> None:
        """`rates` (H,) are peak learning rates, `decays` (H,) weight decays; their dtype is that of the heads."""
        self.rule, self.heads, self.width, self.classes = rule, len(rates), width, classes
        dtype = rates.dtype
        rates, decays = rates.to(device), decays.to(device)
        weight_DC, bias_C = torch.zeros(width, classes, dtype=dtype), torch.zeros(classes, dtype=dtype)
        if rule.start == "normal":
            weight_DC.normal_(0.0, 0.01, generator=rng)
        elif rule.start == "uniform":
            bound = width**-0.5
            weight_DC.uniform_(-bound, bound, generator=rng)
            bias_C.uniform_(-bound, bound, generator=rng)

        def parameter(value: Tensor, head_dim: int, *, decayed: bool, adapt: bool) -> _Parameter:
            value = value.unsqueeze(head_dim).repeat_interleave(self.heads, dim=head_dim).to(device)
            shape = [self.heads if dim == head_dim else 1 for dim in range(value.ndim)]
            decay = decays if decayed else torch.zeros_like(decays)
            return _Parameter(value, rates.view(shape), decay.view(shape), head_dim, adapt, torch.zeros_like(value))

        self.weight = parameter(weight_DC, 1, decayed=True, adapt=True)  # (D, H, C)
        self.bias = parameter(bias_C, 0, decayed=rule.decay_bias, adapt=rule.decay_bias)  # (H, C)
        self.scale = parameter(torch.ones(width, dtype=dtype), 1, decayed=False, adapt=False)  # (D, H)
        self.shift = parameter(torch.zeros(width, dtype=dtype), 1, decayed=False, adapt=False)  # (D, H)
        # The statistics are those of the features: the same for every head.
        self.mean, self.var = (
            torch.zeros(width, dtype=dtype, device=device),
            torch.ones(width, dtype=dtype, device=device),
        )
        self.numbers_C = torch.arange(classes, device=device)

    def step(self, x_BD: Tensor, y_B: Tensor, factor: float) -> Tensor:
        """One update of every head at `factor` times its rate; the mean cross entropy of each before it, (H,)."""
        batch, rule = len(x_BD), self.rule
        x_BD = x_BD.to(self.weight.value.dtype)
        if rule.batch_norm:
            x_BD = self._normalised(x_BD)
        logits_BHC = self._logits(x_BD, self.weight.value, self.bias.value)
        target_B1C = (y_B[:, None] == self.numbers_C)[:, None].to(x_BD.dtype)
        log_BHC = torch.log_softmax(logits_BHC, dim=2)
        losses_H = -log_BHC.gather(2, y_B.view(-1, 1, 1).expand(-1, self.heads, 1)).mean(dim=(0, 2))
        # Gradient of the mean cross entropy in the logits: softmax minus target, once for all heads.
        error_BHC = log_BHC.exp_().sub_(target_B1C).div_(batch)
        error_HC = error_BHC.sum(dim=0)
        gradient_DHC = (x_BD.T @ error_BHC.view(batch, -1)).view(self.width, self.heads, self.classes)
        if rule.batch_norm:
            weight = self.weight.value
            scale_gradient = (gradient_DHC * weight).sum(dim=2)
            shift_gradient = (weight * error_HC).sum(dim=2)
            gradient_DHC = gradient_DHC.mul_(self.scale.value[:, :, None]).add_(self.shift.value[:, :, None] * error_HC)
            self._update(self.scale, scale_gradient, factor)
            self._update(self.shift, shift_gradient, factor)
        self._update(self.weight, gradient_DHC, factor)
        self._update(self.bias, error_HC, factor)
        return losses_H

    def logits(self, x_BD: Tensor, head: int | None = None) -> Tensor:
        """Of all heads (B, H, C), or of one (B, 1, C), in evaluation: batch norm with its running statistics."""
        chosen = slice(None) if head is None else slice(head, head + 1)
        x_BD = x_BD.to(self.weight.value)
        if self.rule.batch_norm:
            x_BD = (x_BD - self.mean) * (self.var + NORM_EPS).rsqrt()
        return self._logits(x_BD, self.weight.value[:, chosen], self.bias.value[chosen], chosen)

    def state(self) -> dict[str, Tensor]:
        """Everything that changes from step to step."""
        tensors = {"mean": self.mean, "var": self.var}
        for name in ("weight", "bias", "scale", "shift"):
            tensors |= {name: getattr(self, name).value, f"{name}_velocity": getattr(self, name).velocity}
        return tensors

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over a `state`."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    def _logits(self, x_BD: Tensor, weight_DHC: Tensor, bias_HC: Tensor, chosen: slice = slice(None)) -> Tensor:
        if self.rule.batch_norm:  # scale and shift folded into the weights: x stays one matrix for all heads
            bias_HC = bias_HC + (self.shift.value[:, chosen, None] * weight_DHC).sum(dim=0)
            weight_DHC = self.scale.value[:, chosen, None] * weight_DHC
        return torch.addmm(bias_HC.reshape(-1), x_BD, weight_DHC.reshape(self.width, -1)).view(
            len(x_BD), -1, self.classes
        )

    def _normalised(self, x_BD: Tensor) -> Tensor:
        """By the batch's statistics, which move the running ones (unbiased variance, as PyTorch's)."""
        var_D, mean_D = torch.var_mean(x_BD, dim=0, correction=0)
        unbiased = var_D * (len(x_BD) / (len(x_BD) - 1))
        self.mean.lerp_(mean_D, NORM_MOMENTUM)
        self.var.lerp_(unbiased, NORM_MOMENTUM)
        return (x_BD - mean_D) * (var_D + NORM_EPS).rsqrt()

    def _update(self, p: _Parameter, gradient: Tensor, factor: float) -> None:
        rule = self.rule
        update = torch.addcmul(gradient, p.value, p.decay)
        if rule.optimizer == "lars":
            if p.adapt:
                update = update * self._trust(p, update)
            p.velocity.mul_(rule.momentum).addcmul_(update, p.rate, value=factor)
            p.value.sub_(p.velocity)
            return
        p.velocity.mul_(rule.momentum).add_(update)
        step = update.add_(p.velocity, alpha=rule.momentum) if rule.nesterov else p.velocity
        p.value.addcmul_(step, p.rate, value=-factor)

    def _trust(self, p: _Parameter, update: Tensor) -> Tensor:
        """Of each head: trust * |w| / |update|, 1 where a norm is 0."""
        others = [dim for dim in range(p.value.ndim) if dim != p.head_dim]
        weight_norm, update_norm = (torch.linalg.vector_norm(t, dim=others, keepdim=True) for t in (p.value, update))
        ratio = self.rule.trust * weight_norm / update_norm
        return torch.where((weight_norm > 0) & (update_norm > 0), ratio, torch.ones_like(ratio))


def side_by_side(images: float, batch: int, heads: int, given: Given, precision: Precision) -> Work:
    """For the cost of a job: so many images through the frozen backbone, and steps of all heads behind it."""
    steps, columns = max(1.0, images // batch), heads * given.classes
    moved = batch * (3 * given.width + 8 * columns) + 12 * given.width * columns
    step = Amount(4 * batch * given.width * columns, moved, 60)
    return Work(frozen=images, steps=steps, precision=precision, heads=step * steps)
