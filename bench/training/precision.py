"""Precisions of a job: autocast, TF32 for this job alone, and the loss scale without which fp16 loses gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from bench.errors import BenchError
from bench.spec import Precision

_HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_AMPERE = (8, 0)  # compute capability of the first GPUs with TF32 and bf16; V100 has 7.0, T4 7.5


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """For a forward pass: half precision where torch takes it to be safe, nothing for fp32 and tf32."""
    return torch.autocast(device.type, _HALVES.get(precision, torch.bfloat16), enabled=precision in _HALVES)


@contextmanager
def products(precision: Precision) -> Iterator[None]:
    """For forward and backward: with tf32, products of float32 tensors round their factors to 11 bits of mantissa.

    Inside alone: everything else of the process stays float32. Done by the switches that torch has had since 1.7: the
    newer `fp32_precision` (2.9) makes their readers, torch.compile among them, raise an error about mixed switches.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    if precision == "tf32":
        matmul.allow_tf32 = cudnn.allow_tf32 = True
    try:
        yield
    finally:
        if precision == "tf32":
            matmul.allow_tf32, cudnn.allow_tf32 = before


def substituted(precision: Precision, device: torch.device) -> str:
    """What the device computes in the place of this precision, for the log and the result; "" where it has it.

    Raises BenchError for bf16 on a GPU that only emulates it, several times as slow as float32.
    """
    old = device.type == "cuda" and torch.cuda.get_device_capability(device) < _AMPERE
    if precision == "bf16" and old:
        major, minor = torch.cuda.get_device_capability(device)
        raise BenchError(
            f"precision is bf16, which {torch.cuda.get_device_name(device)} (compute capability {major}.{minor}) only "
            'emulates: expected 8.0 or more. Allowed here: fp16 or fp32; set `precision = "fp16"` under [recipe] of '
            "bench.toml."
        )
    if precision == "tf32" and (old or device.type != "cuda"):
        return f"fp32 in the place of tf32, which {'this GPU' if old else f'a {device.type.upper()}'} does not have"
    return ""


class LossScale:
    """The gradient scaler of fp16; for every other precision it changes nothing.

    A step whose gradients overflow is skipped: weights and the optimizer's buffers stay, and the scale is halved. The
    learning rate, momentum encoders and queues go on by step, as in the released codes (DINO's main_dino.py moves its
    teacher after `fp16_scaler.step` whatever that did; those of Barlow Twins and VICReg set the rate by step).
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self.enabled = precision == "fp16"
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.enabled)
        self.one = torch.ones((), device=device)
        self.skipped = torch.zeros((), device=device)  # steps so far; on the device, so that no step waits for it
        self.skips = torch.zeros((), dtype=torch.bool, device=device)  # the last one

    def scaled(self, loss: Tensor) -> Tensor:
        """What backward is called on."""
        scaled: Tensor = self.scaler.scale(loss)
        return scaled

    def unscale(self, optimizer: Optimizer) -> None:
        """After backward and before anything looks at gradients: makes them those of the loss."""
        self.scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """The optimizer's step, or none if a gradient is not finite."""
        if not self.enabled:
            optimizer.step()
            return
        before = self.scaler.scale(self.one)
        self.scaler.step(optimizer)
        self.scaler.update()
        self.skips = self.scaler.scale(self.one) < before
        self.skipped += self.skips

    def excuses(self) -> bool:
        """Whether a loss that is not finite says nothing: the step was skipped, and the scale is still at least 1.

        Below 1 the scale is not what is wrong: the run has diverged.
        """
        return self.enabled and bool(self.skips) and self.scaler.get_scale() >= 1

    def line(self) -> dict[str, float]:
        """For the metrics."""
        if not self.enabled:
            return {}
        return {"loss_scale": self.scaler.get_scale(), "skipped_steps": float(self.skipped)}

    def state(self) -> dict[str, Any]:
        """For the checkpoint: nothing unless it scales, so that checkpoints of other precisions stay as they were."""
        if not self.enabled:
            return {}
        return {"loss_scale": {"scaler": self.scaler.state_dict(), "skipped": float(self.skipped)}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        if self.enabled:
            self.scaler.load_state_dict(state["loss_scale"]["scaler"])
            self.skipped.fill_(state["loss_scale"]["skipped"])
