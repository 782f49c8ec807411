"""What a precision changes in training: TF32 for the job alone, the loss scale of fp16, and steps that it skips."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from bench.errors import BenchError, Stopped
from bench.spec import Optim, Precision, Pretrain
from bench.training import health, loop, optim
from bench.training.health import TrainingFailedError
from bench.training.loop import Place
from bench.training.precision import LossScale, autocast, products, substituted
from methods.simclr import Method
from tests.bench.test_train import LARS, SGD, after, equal, interrupted, weights
from tests.bench.two_ranks import METHODS, STEP_METHODS, spec_of

Places = Callable[..., Place]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
ADAMW = Optim(name="adamw", lr=0.1, weight_decay=0.1, warmup_epochs=0)


def switches() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(autouse=True)
def _float32_is_float32() -> None:
    """As a worker has it."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def begin_at(scale: float, monkeypatch: pytest.MonkeyPatch, growth_interval: int = 2000) -> None:
    """Gradient scalers that begin at this scale: the usual 65536 overflows here in the second step, by itself."""
    made = torch.amp.GradScaler

    def scaler(device: str, *, enabled: bool) -> torch.amp.GradScaler:
        return made(device, init_scale=scale, growth_interval=growth_interval, enabled=enabled)

    monkeypatch.setattr(torch.amp, "GradScaler", scaler)


@pytest.mark.parametrize("stops", [[3], [2, 3, 5]])
def test_a_resumed_fp16_run_ends_with_the_digits_of_an_uninterrupted_one(
    small: Pretrain, place: Places, stops: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_at(2.0**20, monkeypatch, growth_interval=2)  # so that it moves within six steps
    spec, whole = replace(small, precision="fp16"), place("whole")
    loop.pretrain(spec, whole)
    resumed = interrupted(spec, place, "resumed", stops)
    assert equal(weights(whole), weights(resumed))
    scales = [[line["loss_scale"] for line in there.run.curves()] for there in (whole, resumed)]
    assert scales[0] == scales[1]
    assert len(set(scales[0])) > 1


def test_the_scale_is_in_the_checkpoint_of_fp16_alone(
    small: Pretrain, place: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_at(1024.0, monkeypatch)
    for precision in get_args(Precision):
        there = place(precision, after(3))
        with pytest.raises(Stopped):
            loop.pretrain(replace(small, precision=precision), there)
        state = torch.load(there.run.checkpoint, weights_only=True)
        assert ("loss_scale" in state) == (precision == "fp16")
    scaler = torch.load(place("fp16").run.checkpoint, weights_only=True)["loss_scale"]["scaler"]
    assert (scaler["scale"], scaler["_growth_tracker"]) == (1024.0, 3)


@pytest.mark.parametrize("rule", [LARS, SGD, ADAMW], ids=["lars", "sgd", "adamw"])
def test_a_skipped_step_leaves_weights_and_buffers_and_halves_the_scale(rule: Optim) -> None:
    torch.manual_seed(0)
    network, plain = nn.Linear(3, 2), nn.Linear(3, 2)
    plain.load_state_dict(network.state_dict())
    scale, optimizer, reference = LossScale("fp16", CPU), optim.build(rule, network), optim.build(rule, plain)
    for factor in (1.0, math.inf, 2.0):
        for made in (optimizer, reference):
            optim.set_lr(made, 1.0)
            made.zero_grad()
        scale.scaled((network.weight.square().sum() + network.bias.sum()) * factor).backward()  # type: ignore[no-untyped-call]
        scale.unscale(optimizer)
        scale.step(optimizer)
        assert bool(scale.skips) == (not math.isfinite(factor)) == scale.excuses()
        if math.isfinite(factor):  # the reference never saw the other step
            ((plain.weight.square().sum() + plain.bias.sum()) * factor).backward()  # type: ignore[no-untyped-call]
            reference.step()
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), plain.parameters(), strict=True))
    assert scale.line() == {"loss_scale": 32768.0, "skipped_steps": 1.0}


def with_losses(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int], bool]) -> None:
    """SimCLR whose loss is infinite in some steps, counted from 0."""
    steps, loss = iter(range(1000)), Method.loss

    def broken(method: Method, embeddings: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        found = loss(method, embeddings, labels)
        return found | {"loss": found["loss"] * (math.inf if bad(next(steps)) else 1.0)}

    monkeypatch.setattr(Method, "loss", broken)


@pytest.mark.parametrize("step", [2, 5])
def test_an_infinite_loss_in_a_skipped_step_is_no_divergence(
    small: Pretrain, place: Places, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_at(1024.0, monkeypatch)
    with_losses(monkeypatch, lambda number: number == step)
    there = place("fp16")
    trained = loop.pretrain(replace(small, precision="fp16"), there)
    lines = there.run.curves()
    assert ["loss" in line for line in lines] == [number != step for number in range(6)]
    assert [line["skipped_steps"] for line in lines] == [float(number >= step) for number in range(6)]
    assert [line["loss_scale"] for line in lines] == [512.0 if number >= step else 1024.0 for number in range(6)]
    assert math.isfinite(trained.metrics["loss"])
    with_losses(monkeypatch, lambda number: number == step)
    with pytest.raises(TrainingFailedError, match=f"diverged: loss not finite at step {step + 1}"):
        loop.pretrain(small, place("fp32"))


def test_a_loss_that_stays_infinite_is_divergence(
    small: Pretrain, place: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_losses(monkeypatch, lambda number: True)
    with pytest.raises(TrainingFailedError, match="diverged: loss not finite at step 17 of 20"):  # 65536 is 2^16
        loop.pretrain(replace(small, precision="fp16", epochs=small.epochs * 20 / 6), place("long"))
    with pytest.raises(TrainingFailedError, match="diverged: loss not finite at step 6 of 6"):
        loop.pretrain(replace(small, precision="fp16"), place("short"))


def test_momentum_encoders_and_gradients_that_are_clipped_see_the_loss_without_its_scale(
    small: Pretrain, place: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_at(1024.0, monkeypatch)
    norms: dict[str, list[float]] = {"fp32": [], "fp16": []}
    clip = nn.utils.clip_grad_norm_
    for precision in ("fp32", "fp16"):
        found = norms[precision]

        def noted(parameters: Any, norm: float, found: list[float] = found) -> Tensor:
            total = clip(parameters, norm)
            found.append(float(total))
            return total

        monkeypatch.setattr(nn.utils, "clip_grad_norm_", noted)
        spec = replace(small, precision=precision, optim=replace(small.optim, clip_norm=1.0))
        loop.pretrain(spec, place(precision))
    assert norms["fp16"] == pytest.approx(norms["fp32"], rel=0.2)


@pytest.mark.parametrize("chunks", [1, 2])
def test_fp16_changes_the_digits_but_not_the_outcome(small: Pretrain, place: Places, chunks: int) -> None:
    fine, coarse = place("fp32"), place("fp16")
    loop.pretrain(replace(small, chunks=chunks), fine)
    loop.pretrain(replace(small, chunks=chunks, precision="fp16"), coarse)
    a, b = ([line["loss"] for line in there.run.curves()] for there in (fine, coarse))
    assert a != b
    assert a == pytest.approx(b, rel=0.05)
    assert all(value.dtype in (torch.float32, torch.int64) for value in weights(coarse).values())


@pytest.mark.parametrize("name", [*METHODS, *STEP_METHODS])
def test_every_method_takes_its_first_steps_in_fp16_as_in_fp32(
    name: str, place: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_at(16.0, monkeypatch)
    # At others the second step magnifies the rounding of the first: a neighbour changes, or the side of a ReLU.
    spec = replace(spec_of((METHODS | STEP_METHODS)[name]), seed=0)
    losses = []
    for precision in ("fp32", "fp16"):
        there = place(precision)
        loop.pretrain(replace(spec, precision=precision), there)
        losses.append([line["loss"] for line in there.run.curves()])
    assert losses[0] == pytest.approx(losses[1], rel=0.02, abs=0.02)


def test_tf32_is_on_in_the_steps_of_its_job_alone(
    small: Pretrain, place: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []
    backward, check = loop.Loop.backward, health.check_health

    def noted(self: loop.Loop, *rest: Any) -> Any:
        seen.append(switches())
        return backward(self, *rest)

    monkeypatch.setattr(loop.Loop, "backward", noted)

    def beside(terms: dict[str, float], step: int, total: int) -> None:
        seen.append(switches())
        check(terms, step, total)

    monkeypatch.setattr(loop, "check_health", beside)
    for precision, inside in (("tf32", True), ("fp32", False)):
        seen.clear()
        spec: Pretrain = replace(small, precision=precision)  # type: ignore[arg-type]
        loop.pretrain(spec, place(precision))
        assert seen == [(inside, inside), (False, False)] * 6  # in the step, and beside it
        assert switches() == (False, False)
    with pytest.raises(ValueError, match="a step that fails"), products("tf32"):
        raise ValueError("a step that fails")
    assert switches() == (False, False)


def test_on_a_cpu_tf32_is_fp32_and_that_is_said(
    small: Pretrain, place: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    fine, same = place("fp32"), place("tf32")
    assert loop.pretrain(small, fine).precision == ""
    trained = loop.pretrain(replace(small, precision="tf32"), same)
    assert trained.precision == "fp32 in the place of tf32, which a CPU does not have"
    assert capsys.readouterr().out.count(trained.precision) == 1
    assert equal(weights(fine), weights(same))


@pytest.mark.parametrize("precision", get_args(Precision))
def test_a_gpu_before_ampere_refuses_bf16_and_says_what_tf32_is(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100-SXM2-32GB")
    for capability in ((7, 0), (7, 5), (8, 0), (9, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        if precision == "bf16" and capability < (8, 0):
            with pytest.raises(
                BenchError, match=r"Tesla V100.* only emulates: expected 8.0 or more\. Allowed here: fp16"
            ):
                substituted(precision, GPU)
            continue
        said = "fp32 in the place of tf32, which this GPU does not have"
        assert substituted(precision, GPU) == (said if precision == "tf32" and capability < (8, 0) else "")


@pytest.mark.parametrize(
    ("precision", "kind"),
    [("fp32", torch.float32), ("tf32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)],
)
def test_convolutions_and_products_are_in_the_precision_and_weights_never(
    precision: Precision, kind: torch.dtype
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    with autocast(precision, CPU):
        out = network(torch.rand(2, 3, 4, 4))
    assert out.dtype == kind
    out.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())
