from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torch import Tensor, nn

from bench import ROOT
from bench.errors import BenchError
from bench.networks import encoders
from bench.spec import Backbone, Optim
from bench.training import optim
from methods.truncated_triplet import RECIPES

FACTORS = (0.0, 0.5, 1.0, 0.7, 0.2)  # the two forms of LARS differ only while the rate changes


class Net(nn.Module):
    """A matrix, a convolution, a bias, a norm, and a parameter that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.matrix = nn.Linear(3, 4)
            self.conv = nn.Conv2d(2, 3, 3, bias=False)
            self.norm = nn.BatchNorm1d(4)
            self.fixed = nn.Parameter(torch.ones(2, 2), requires_grad=False)
        self.double()


def gradients(net: Net, step: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(step)
    return {
        name: torch.randn(p.shape, generator=rng, dtype=torch.float64)
        for name, p in net.named_parameters()
        if p.requires_grad
    }


def trained(spec: Optim) -> dict[str, Tensor]:
    """Weights after some steps with given gradients and a changing rate."""
    net = Net()
    optimizer = optim.build(spec, net)
    for step, factor in enumerate(FACTORS):
        optim.set_lr(optimizer, factor)
        for name, gradient in gradients(net, step).items():
            net.get_parameter(name).grad = gradient.clone()
        optimizer.step()
    return {name: p.detach() for name, p in net.named_parameters()}


def lars_by_hand(spec: Optim) -> dict[str, Tensor]:
    """google-research/simclr's and facebookresearch/barlowtwins's updates, one parameter and step at a time."""
    net = Net()
    weights = {name: p.detach().clone() for name, p in net.named_parameters()}
    buffers = {name: torch.zeros_like(w) for name, w in weights.items()}
    for step, factor in enumerate(FACTORS):
        for name, gradient in gradients(net, step).items():
            w, vector = weights[name], weights[name].ndim == 1
            special = vector and not spec.vector_weight_decay
            lr = factor * (spec.vector_lr if vector and spec.vector_lr is not None else spec.lr)
            update = gradient
            if not special:
                update = update + spec.weight_decay * w
                w_norm, u_norm = math.sqrt(float((w * w).sum())), math.sqrt(float((update * update).sum()))
                if w_norm > 0 and u_norm > 0:
                    update = update * (spec.trust * w_norm / u_norm)
            if spec.lars_momentum == "classic":
                buffers[name] = spec.momentum * buffers[name] + lr * update
                weights[name] = w - buffers[name]
            else:
                buffers[name] = spec.momentum * buffers[name] + update
                weights[name] = w - lr * buffers[name]
    return weights


@pytest.mark.parametrize("vector_weight_decay", [False, True])
@pytest.mark.parametrize("vector_lr", [None, 0.3])
@pytest.mark.parametrize("form", ["classic", "popular"])
def test_lars_equals_the_formula(form: Any, vector_lr: float | None, vector_weight_decay: bool) -> None:
    spec = Optim(
        name="lars",
        lr=2.0,
        weight_decay=0.1,
        warmup_epochs=0,
        lars_momentum=form,
        trust=0.01,
        vector_lr=vector_lr,
        vector_weight_decay=vector_weight_decay,
    )
    torch.testing.assert_close(trained(spec), lars_by_hand(spec), rtol=1e-12, atol=1e-12)


def test_classic_and_popular_lars_are_told_apart() -> None:
    specs = [
        Optim(name="lars", lr=2.0, weight_decay=0.1, warmup_epochs=0, lars_momentum=form)
        for form in ("classic", "popular")
    ]
    first, second = (trained(spec)["matrix.weight"] for spec in specs)
    assert not torch.allclose(first, second)


def one_matrix(start: Tensor, **choices: Any) -> tuple[Tensor, torch.optim.Optimizer]:
    """A network of one matrix and its LARS at full rate."""
    network = nn.Linear(2, 2, bias=False)
    network.weight.data.copy_(start)
    optimizer = optim.build(
        Optim(**{"name": "lars", "lr": 0.5, "weight_decay": 0.0, "warmup_epochs": 0, "trust": 0.1, **choices}), network
    )
    optim.set_lr(optimizer, 1.0)
    return network.weight, optimizer


def test_lars_moves_a_matrix_of_zeros_by_its_plain_gradient() -> None:
    weight, optimizer = one_matrix(torch.zeros(2, 2))
    weight.grad = torch.ones(2, 2)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((2, 2), -0.5))


def test_lars_leaves_a_parameter_without_gradient_alone() -> None:
    weight, optimizer = one_matrix(torch.ones(2, 2), weight_decay=1.0)
    optimizer.step()
    assert bool((weight == 1).all())


def test_lars_goes_on_from_its_saved_state() -> None:
    def step(optimizer: torch.optim.Optimizer, weight: Tensor, seed: int) -> None:
        weight.grad = torch.randn(2, 2, generator=torch.Generator().manual_seed(seed))
        optimizer.step()

    through, whole = one_matrix(torch.eye(2))
    stopped, first = one_matrix(torch.eye(2))
    for seed in range(3):
        step(whole, through, seed)
    step(first, stopped, 0)
    resumed, second = one_matrix(stopped.detach())
    second.load_state_dict(first.state_dict())
    for seed in (1, 2):
        step(second, resumed, seed)
    assert torch.equal(through, resumed)


def named_groups(spec: Optim) -> list[tuple[set[str], dict[str, Any]]]:
    net = Net()
    names = {id(p): name for name, p in net.named_parameters()}
    return [({names[id(p)] for p in group["params"]}, group) for group in optim.build(spec, net).param_groups]


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_biases_and_norms_have_a_group_without_decay(name: Any) -> None:
    (matrices, first), (vectors, second) = named_groups(Optim(name=name, lr=0.4, weight_decay=0.1, warmup_epochs=0))
    assert matrices == {"matrix.weight", "conv.weight"}
    assert vectors == {"matrix.bias", "norm.weight", "norm.bias"}
    assert (first["weight_decay"], first["peak_lr"]) == (0.1, 0.4)
    assert (second["weight_decay"], second["peak_lr"]) == (0.0, 0.4)
    assert (first["lr"], second["lr"]) == (0.0, 0.0)


def test_vectors_get_the_rate_and_the_decay_that_are_asked_for() -> None:
    _, (_, vectors) = named_groups(
        Optim(name="sgd", lr=0.4, weight_decay=0.1, warmup_epochs=0, vector_lr=0.01, vector_weight_decay=True)
    )
    assert (vectors["weight_decay"], vectors["peak_lr"]) == (0.1, 0.01)
    _, (_, still) = named_groups(Optim(name="sgd", lr=0.4, weight_decay=0.1, warmup_epochs=0, vector_lr=0.0))
    assert still["peak_lr"] == 0.0


def test_set_lr_scales_each_groups_own_peak() -> None:
    net = Net()
    optimizer = optim.build(Optim(name="adamw", lr=0.4, weight_decay=0.1, warmup_epochs=0, vector_lr=0.01), net)
    optim.set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.0025]


def test_sgd_and_adamw_are_torchs_with_the_values_of_the_spec() -> None:
    sgd = optim.build(Optim(name="sgd", lr=0.4, weight_decay=0.1, warmup_epochs=0, momentum=0.8), Net())
    assert isinstance(sgd, torch.optim.SGD)
    assert all(
        (group["momentum"], group["nesterov"], group["dampening"]) == (0.8, False, 0) for group in sgd.param_groups
    )
    adamw = optim.build(Optim(name="adamw", lr=0.4, weight_decay=0.1, warmup_epochs=0, betas=(0.8, 0.95)), Net())
    assert isinstance(adamw, torch.optim.AdamW)
    assert all(group["betas"] == (0.8, 0.95) for group in adamw.param_groups)


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(BenchError, match="unknown optimizer 'adam'"):
        optim.build(Optim(name="adam", lr=1, weight_decay=0, warmup_epochs=0), Net())  # type: ignore[arg-type]


@pytest.mark.parametrize(("total", "warmup", "final"), [(100, 10, 0.0), (37, 0, 0.001), (50, 20, 0.25), (10, 9, 0.0)])
def test_schedule_equals_the_formula_at_every_step(total: int, warmup: int, final: float) -> None:
    for step in range(warmup):
        assert optim.schedule(step, total, warmup, final) == pytest.approx(step / warmup, abs=1e-12)
    for step in range(warmup, total + 1):
        cosine = (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
        assert optim.schedule(step, total, warmup, final) == pytest.approx(final + (1 - final) * cosine, abs=1e-12)


def test_schedule_starts_at_zero_peaks_after_the_warm_up_and_ends_at_the_final_rate() -> None:
    assert optim.schedule(0, 100, 10, 0.001) == 0
    assert optim.schedule(10, 100, 10, 0.001) == 1
    assert optim.schedule(100, 100, 10, 0.001) == pytest.approx(0.001)
    assert optim.schedule(0, 100, 0, 0.0) == 1
    assert optim.schedule(4, 5, 10, 0.0) == 0.4  # a run shorter than its warm-up never reaches the peak


@pytest.mark.parametrize("final", [0.0, 0.25])
def test_a_cosine_by_epoch_stands_still_within_one(final: float) -> None:
    """main_moco.py and main_simsiam.py: lr * 0.5 * (1 + cos(pi * epoch / epochs)), set before each epoch."""
    epochs, per_epoch = 5, 7
    for step in range(epochs * per_epoch):
        expected = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (step // per_epoch) / epochs))
        found = optim.schedule(step, epochs * per_epoch, 0, final, hold=per_epoch)
        assert found == pytest.approx(expected, abs=1e-15)


def test_mmcvs_warm_up_multiplies_a_cosine_by_epoch() -> None:
    """mmcv's LrUpdaterHook: regular rate of the epoch x (1 - (1 - step / warm-up) (1 - ratio)) while step < warm-up."""
    epochs, per_epoch, ratio = 6, 4, 1e-4
    warmup = 2 * per_epoch
    for step in range(epochs * per_epoch):
        expected = 0.5 * (1 + math.cos(math.pi * (step // per_epoch) / epochs))
        if step < warmup:
            expected *= 1 - (1 - step / warmup) * (1 - ratio)
        found = optim.schedule(step, epochs * per_epoch, warmup, 0.0, hold=per_epoch, warmup_from=ratio)
        assert found == pytest.approx(expected, abs=1e-15)


def test_a_cosine_by_epoch_behind_a_warm_up_begins_where_that_ends() -> None:
    factors = [optim.schedule(step, 12, 3, 0.0, hold=4) for step in range(12)]
    assert factors[:5] == pytest.approx([0, 1 / 3, 2 / 3, 1, 0.5 * (1 + math.cos(math.pi / 9))])
    assert factors[4:8] == [factors[4]] * 4


# wanggrun/triplet's configuration, paramwise_options: whatever matches is neither decayed nor adapted
OPENSELFSUP = (r"(bn|gn)(\d+)?.(weight|bias)", "bias")


def test_triplets_recipe_adapts_what_openselfsups_patterns_miss() -> None:
    spec = RECIPES["paper"].optim
    network = nn.ModuleDict({"encoder": encoders.build(Backbone(name="resnet50", base_channels=2), seed=0)})
    names = {id(p): name for name, p in network.named_parameters()}
    adapted, left_out = (
        {
            names[id(p)]
            for group in optim.build(spec, network).param_groups
            if group["adapt"] is adapt
            for p in group["params"]
        }
        for adapt in (True, False)
    )
    assert left_out == {name for name in names.values() if any(re.search(pattern, name) for pattern in OPENSELFSUP)}
    assert {name for name in adapted if name.endswith("downsample.1.weight")} == {
        f"encoder.layer{stage}.0.downsample.1.weight" for stage in (1, 2, 3, 4)
    }


def test_an_adapted_vector_moves_by_its_length_and_is_decayed() -> None:
    """OpenSelfSup's LARS: v = m v + rate x trust |w| / (|g| + d |w|) x (g + d w), w -= v."""
    spec = Optim(
        name="lars", lr=2.0, weight_decay=0.1, warmup_epochs=0, lars_norm="separate", adapted_vectors="norm.weight"
    )
    weight, velocity = Net().norm.weight.detach().clone(), torch.zeros(4, dtype=torch.float64)
    for step, factor in enumerate(FACTORS):
        gradient = gradients(Net(), step)["norm.weight"]
        length = math.sqrt(float(weight.square().sum()))
        ratio = 0.001 * length / (math.sqrt(float(gradient.square().sum())) + 0.1 * length)
        velocity = 0.9 * velocity + factor * 2.0 * ratio * (gradient + 0.1 * weight)
        weight = weight - velocity
    torch.testing.assert_close(trained(spec)["norm.weight"], weight, rtol=1e-12, atol=1e-12)


def test_adapted_vectors_must_exist() -> None:
    spec = Optim(name="lars", lr=1.0, weight_decay=0, warmup_epochs=0, adapted_vectors="downsample.1.weight")
    with pytest.raises(BenchError, match="no trained tensor's name ends so"):
        optim.build(spec, Net())


@pytest.mark.slow
def test_a_worker_that_trains_lacks_the_compiler_with_every_optimizer(tmp_path: Path) -> None:
    """Importing torch._dynamo takes a second of every job; here with every module that a fork server has imported."""
    program = """
import sys
from dataclasses import replace
from pathlib import Path
from bench.execution import worker
from bench.execution.local.fork_server import preloading
from bench.planning.graph import plan
from bench.runs.folder import Runs
from bench.spec import Resources
from tests.conftest import tiny_pretrain

list(preloading())
spec = tiny_pretrain(epochs=0.1)
for name in sys.argv[1:]:
    job, = plan([(name, replace(spec, optim=replace(spec.optim, name=name)))])
    run = Runs(Path.cwd() / "runs")[job.id]
    run.create(job, Resources())
    assert worker.main(str(run.path)) == 0, name
assert "torch.optim" in sys.modules
sys.exit("imported" if "torch._dynamo" in sys.modules else 0)
"""
    names = get_args(get_type_hints(Optim)["name"])
    found = subprocess.run(
        [sys.executable, "-c", program, *names],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert len(names) > 1
    assert found.returncode == 0, found.stdout + found.stderr
