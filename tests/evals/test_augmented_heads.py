from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.contracts import Context, Subject
from bench.data import datasets
from bench.errors import BenchError
from bench.networks import encoders
from bench.spec import Backbone, Optim
from bench.training import optim
from evals.parts.accuracy import mean_class_top1
from evals.parts.augmented_heads import accuracies
from evals.parts.augmented_settings import Training
from evals.parts.features import features_of
from evals.parts.heads import Heads, Rule
from evals.parts.last_blocks import last_blocks
from tests.evals.known_answers import small, splits

D, C, B = 5, 4, 12
RATES, DECAYS = (0.05, 0.4), (0.0, 1e-2, 0.1)
FACTORS = (0.3, 1.0, 0.7, 0.1, 0.5)
CPU = torch.device("cpu")


def batches() -> list[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(3)
    return [
        (torch.randn(B, D, generator=rng, dtype=torch.float64) * 3 + 1, torch.randint(0, C, (B,), generator=rng))
        for _ in FACTORS
    ]


def heads_of(rule: Rule, seed: int = 1) -> Heads:
    """Six heads in float64."""
    rates, decays = torch.tensor(list(product(RATES, DECAYS)), dtype=torch.float64).unbind(1)
    return Heads(rule, rates, decays, D, C, torch.Generator().manual_seed(seed), device=CPU)


def network_of(heads: Heads, head: int) -> nn.Sequential:
    """One head as PyTorch's modules: batch norm or nothing, then a linear layer."""
    linear = nn.Linear(D, C, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(heads.weight.value[:, head].T)
        linear.bias.copy_(heads.bias.value[head])
    return nn.Sequential(nn.BatchNorm1d(D, dtype=torch.float64) if heads.rule.batch_norm else nn.Identity(), linear)


def groups_of(network: nn.Sequential, rate: float, decay: float, *, decay_bias: bool) -> list[dict[str, Any]]:
    linear = network[1]
    assert isinstance(linear, nn.Linear)
    free = [*network[0].parameters(), *([] if decay_bias else [linear.bias])]
    decayed = [linear.weight, *([linear.bias] if decay_bias else [])]
    return [
        {"params": decayed, "weight_decay": decay, "peak_lr": rate},
        *([{"params": free, "weight_decay": 0.0, "peak_lr": rate}] if free else []),
    ]


def assert_equal_to_alone(rule: Rule, make: Callable[[nn.Sequential, float, float], torch.optim.Optimizer]) -> None:
    together = heads_of(rule)
    alone = [network_of(together, head) for head in range(6)]
    optimizers = [
        make(network, rate, decay) for network, (rate, decay) in zip(alone, product(RATES, DECAYS), strict=True)
    ]
    for (x, y), factor in zip(batches(), FACTORS, strict=True):
        losses = together.step(x, y, factor)
        for head, (network, optimizer) in enumerate(zip(alone, optimizers, strict=True)):
            optim.set_lr(optimizer, factor)
            optimizer.zero_grad()
            loss = F.cross_entropy(network(x), y)
            torch.autograd.backward(loss)
            optimizer.step()
            torch.testing.assert_close(losses[head], loss.detach(), rtol=1e-10, atol=1e-12)
    probe = batches()[0][0] + 0.5
    for head, network in enumerate(alone):
        linear = network[1]
        assert isinstance(linear, nn.Linear)
        torch.testing.assert_close(together.weight.value[:, head].T, linear.weight.detach(), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(together.bias.value[head], linear.bias.detach(), rtol=1e-10, atol=1e-12)
        expected = network.eval()(probe).detach()  # scale, shift and running statistics of a batch norm are in it
        torch.testing.assert_close(together.logits(probe)[:, head], expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(together.logits(probe, head)[:, 0], expected, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(together.weight.value[:, 0], together.weight.value[:, 5])


@pytest.mark.parametrize(("nesterov", "decay_bias", "batch_norm"), list(product((False, True), repeat=3)))
def test_each_head_follows_the_updates_of_torch_sgd_alone(nesterov: bool, decay_bias: bool, batch_norm: bool) -> None:
    rule = Rule(nesterov=nesterov, decay_bias=decay_bias, batch_norm=batch_norm, start="uniform")

    def make(network: nn.Sequential, rate: float, decay: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            groups_of(network, rate, decay, decay_bias=decay_bias), lr=0.0, momentum=0.9, nesterov=nesterov
        )

    assert_equal_to_alone(rule, make)


@pytest.mark.parametrize(
    ("decay_bias", "batch_norm", "start"), [(False, False, "normal"), (True, False, "zero"), (False, True, "uniform")]
)
def test_each_head_follows_the_updates_of_lars_alone(decay_bias: bool, batch_norm: bool, start: Any) -> None:
    rule = Rule(optimizer="lars", trust=0.02, decay_bias=decay_bias, batch_norm=batch_norm, start=start)

    def make(network: nn.Sequential, rate: float, decay: float) -> torch.optim.Optimizer:
        spec = Optim(
            name="lars", lr=rate, weight_decay=decay, warmup_epochs=0, trust=0.02, vector_weight_decay=decay_bias
        )
        return optim.build(spec, network)

    assert_equal_to_alone(rule, make)


def test_all_heads_start_from_the_same_weights() -> None:
    for start in ("normal", "zero", "uniform"):
        heads = heads_of(Rule(start=start))
        assert bool((heads.weight.value == heads.weight.value[:, :1]).all())
        assert bool((heads.bias.value == heads.bias.value[:1]).all())
    wide = torch.ones(1)
    normal, zero, uniform = (
        Heads(Rule(start=start), wide, wide, 400, 300, torch.Generator().manual_seed(0), device=CPU)
        for start in ("normal", "zero", "uniform")
    )
    assert float(normal.weight.value.std()) == pytest.approx(0.01, rel=0.02)
    assert float(normal.weight.value.mean()) == pytest.approx(0, abs=2e-4)
    assert not normal.bias.value.any()
    assert not zero.weight.value.any()
    assert not zero.bias.value.any()
    layer = nn.Linear(400, 300)  # bounds of PyTorch's own start
    for ours, theirs in ((uniform.weight.value, layer.weight), (uniform.bias.value, layer.bias)):
        assert float(ours.abs().max()) == pytest.approx(1 / 20, rel=0.05)
        assert float(theirs.detach().abs().max()) == pytest.approx(1 / 20, rel=0.05)
        assert float(ours.std()) == pytest.approx(0.05 / 3**0.5, rel=0.1)


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_a_step_waits_for_nothing_on_a_gpu(optimizer: Any) -> None:
    heads = heads_of(Rule(optimizer=optimizer, batch_norm=True))
    x, y = batches()[0]
    with _Calls() as calls:
        heads.step(x, y, 0.5)
        float(x.sum())
    waits = {
        name
        for name in calls.names
        if any(word in name for word in ("_local_scalar_dense", "nonzero", "equal.default", "masked_select"))
    }
    assert waits == {"aten._local_scalar_dense.default"}  # of the float(...), so that the check is known to see it
    with _Calls() as calls:
        heads.step(x, y, 0.5)
    assert "aten.addmm.default" in calls.names
    assert not any("_local_scalar_dense" in name for name in calls.names)


def test_rates_follow_the_schedulers_of_torch() -> None:
    epochs, per_epoch = 7, 3
    parameter = nn.Parameter(torch.zeros(1))
    cosine, steps = (torch.optim.SGD([parameter], lr=1.0) for _ in range(2))
    schedulers = [
        (Training(epochs=epochs), cosine, torch.optim.lr_scheduler.CosineAnnealingLR(cosine, epochs)),
        (
            Training(epochs=epochs, schedule="milestones", milestones=(2, 5), factor=0.2),
            steps,
            torch.optim.lr_scheduler.MultiStepLR(steps, [2, 5], gamma=0.2),
        ),
    ]
    for config, optimizer, scheduler in schedulers:
        for epoch in range(epochs):
            for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
                assert config.rate_factor(step, per_epoch) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
            optimizer.step()
            scheduler.step()
    held = Training(epochs=epochs, schedule="constant")
    assert [held.rate_factor(step, 7) for step in range(7 * epochs)] == [1.0] * 7 * epochs
    assert "constant rate" in held.describe()
    smooth = Training(epochs=2, schedule="cosine_step")
    assert [smooth.rate_factor(step, 2) for step in range(4)] == pytest.approx([1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])
    thirds = Training(epochs=14, schedule="milestones", milestones=(14 / 3, 28 / 3))
    assert [thirds.rate_factor(step, 3) for step in (0, 13, 14, 27, 28, 41)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


def test_warm_up_multiplies_the_cosine_by_a_line() -> None:
    config, plain = Training(epochs=8, warmup_epochs=2, warmup_start=0.1), Training(epochs=8)
    shares = [config.rate_factor(step, 5) / plain.rate_factor(step, 5) for step in range(12)]
    assert shares == pytest.approx([0.1 + 0.09 * step for step in range(10)] + [1, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adam"}, r"unknown optimizer of .*'adam'.*Allowed: lars, sgd"),
        ({"schedule": "cosine"}, r"unknown schedule .*Did you mean 'cosine_"),
        ({"learning_rates": ()}, "the grid is empty"),
        ({"epochs": 0}, "at least 1 epoch"),
        ({"milestones": (3, 5)}, "with the schedule 'milestones', none otherwise"),
        ({"schedule": "milestones", "milestones": (5, 3)}, "expected growing epochs"),
        ({"learning_rates": (0.1, 0.2), "split": "trainval"}, "cannot train on it"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        Training(**changes)


def test_the_grid_is_crossed_and_scaled_with_the_batch() -> None:
    config = Training(learning_rates=(0.1, 0.2), weight_decays=(0.0, 1e-4), batch_size=1024)
    assert config.grid == ((0.1, 0.0), (0.1, 1e-4), (0.2, 0.0), (0.2, 1e-4))
    assert replace(config, rate_scaling="linear").grid[3] == pytest.approx((0.8, 1e-4))
    assert replace(config, rate_scaling="sqrt").grid[0] == pytest.approx((3.2, 0.0))
    assert config.trained_on == "train"
    assert Training().trained_on == "trainval"
    assert Training(split="train").trained_on == "train"


def test_accuracies_are_those_of_naive_counting_and_tell_diverged_heads() -> None:
    heads = heads_of(Rule(start="zero"))
    rng = torch.Generator().manual_seed(0)
    heads.weight.value.normal_(generator=rng)
    heads.weight.value[0, 2] = float("inf")
    x, y = torch.randn(2500, D, generator=rng), torch.randint(0, C, (2500,), generator=rng)
    found = accuracies(heads, x, y, CPU)
    for head in range(6):
        guesses = [
            max(range(C), key=list(x[n].double() @ heads.weight.value[:, head]).__getitem__) for n in range(0, 2500, 25)
        ]
        right = (heads.logits(x, head)[:, 0].argmax(dim=1) == y).double().mean()
        assert float(found[head]) == pytest.approx(-1 if head == 2 else 100 * float(right))
        assert head == 2 or guesses == heads.logits(x[::25], head)[:, 0].argmax(dim=1).tolist()


def test_mean_per_class_accuracy_counts_classes_alike_and_skips_absent_ones() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 50 + [1] * 5 + [2] * 2 + [4])  # class 3 does not occur
    scores = torch.randn(len(labels), 5, generator=rng)
    scores[torch.arange(len(labels)), labels] += 1.5
    shares = [
        [int(row.argmax()) == c for row, label in zip(scores, labels.tolist(), strict=True) if label == c]
        for c in (0, 1, 2, 4)
    ]
    assert mean_class_top1(scores, labels) == pytest.approx(100 * sum(sum(right) / len(right) for right in shares) / 4)
    assert mean_class_top1(scores, labels) != pytest.approx(
        100 * float((scores.argmax(dim=1) == labels).double().mean())
    )
    with pytest.raises(ValueError, match="NaN"):
        mean_class_top1(scores * float("nan"), labels)


def test_features_of_the_last_blocks_are_their_class_tokens_after_the_norm(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(datasets.LOADERS, "mnist5k", lambda site, size: splits())
    context = small(context)
    network = encoders.build(Backbone(name="vit_digits"), seed=0).eval().requires_grad_(False)
    plain = Subject(key="vit", network=network, feature_dim=network.feature_dim)
    longer = last_blocks(plain, 2)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = longer.network(images)
    assert found.shape == (3, longer.feature_dim) == (3, 2 * network.feature_dim)
    assert torch.equal(found[:, network.feature_dim :], network(images))  # the last block alone is the usual feature
    last: Any = network.blocks
    kept, last[-1] = last[-1], nn.Identity()
    assert torch.equal(found[:, : network.feature_dim], network(images))
    last[-1] = kept
    assert torch.equal(longer.network(images), found)  # nothing was left behind by the first pass
    assert features_of(plain, context, splits=("val",))["val"][0].shape[1] == network.feature_dim
    # another cache entry
    assert features_of(longer, context, splits=("val",))["val"][0].shape[1] == 2 * network.feature_dim
    with pytest.raises(
        BenchError, match="last 4 blocks need a vision transformer with as many, found a transformer of 3"
    ):
        last_blocks(plain, 4)


def test_a_resnet_has_no_last_blocks(subject: Subject) -> None:
    with pytest.raises(BenchError, match="found ResNet: set last_blocks to 1"):
        last_blocks(subject, 4)
