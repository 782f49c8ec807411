from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from bench.contracts import Batch
from bench.errors import BenchError
from bench.planning.refusals import check_pretrain
from bench.planning.scales import scale_of
from bench.planning.translate import encoder as encoder_of
from bench.spec import Pretrain
from bench.training import methods, optim
from methods.moco import RECIPES, VARIANTS, Config, Method, moco_loss
from tests.conftest import TINY


def spec(variant: str = "") -> Pretrain:
    made = encoder_of(
        scale_of("embedded"),
        "moco",
        variant=variant,
        network="resnet50",
        width=1,
        epochs=None,
        dataset="imagenet",
        seed=0,
    )
    assert isinstance(made, Pretrain)
    return made


def naive(q: torch.Tensor, k: torch.Tensor, queue: torch.Tensor, temperature: float) -> torch.Tensor:
    """Equation 1, query by query."""
    total = torch.zeros((), dtype=q.dtype)
    for i in range(len(q)):
        unit = q[i] / q[i].norm()
        positive = torch.exp(unit @ (k[i].detach() / k[i].detach().norm()) / temperature)
        negatives = sum(torch.exp(unit @ old / temperature) for old in queue)
        total = total - torch.log(positive / (positive + negatives))
    return total / len(q)


def test_loss_equals_naive_loops_with_its_gradient() -> None:
    rng = torch.Generator().manual_seed(0)
    q, k = (torch.randn(5, 4, generator=rng, dtype=torch.float64, requires_grad=True) for _ in range(2))
    queue = F.normalize(torch.randn(7, 4, generator=rng, dtype=torch.float64), dim=1)
    ours, theirs = moco_loss(q, k, queue, temperature=0.2), naive(q, k, queue, 0.2)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    torch.testing.assert_close(torch.autograd.grad(ours, q)[0], torch.autograd.grad(theirs, q)[0], rtol=0, atol=1e-12)
    assert torch.autograd.grad(moco_loss(q, k, queue, temperature=0.2), k, allow_unused=True)[0] is None


def test_known_answers() -> None:
    q = torch.eye(2)
    assert float(moco_loss(q, q, torch.tensor([[-1.0, 0.0]]), temperature=0.01)) < 0.01  # nothing in the queue is near
    # The queue's only key is as near as the positive: one bit of doubt.
    assert float(moco_loss(q[:1], q[:1], q[:1], temperature=0.2)) == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="queue"):
        moco_loss(q, q, torch.ones(3, 5), temperature=0.2)


@pytest.fixture
def made() -> Method:
    network = methods.build_method(
        replace(spec(), backbone=TINY, method=Config(queue=16, hidden=8, output=4, momentum=0.9)), 10
    )
    assert isinstance(network, Method)
    return network


def batch(seed: int) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    views = [torch.rand(8, 3, 32, 32, generator=rng) for _ in range(2)]
    return Batch(views=views, labels=torch.zeros(8), indices=torch.arange(8))


def test_keys_meet_the_queue_only_after_their_own_step_newest_first(made: Method) -> None:
    before = made.queue.clone()
    z = made.embed(batch(0))
    loss = made.loss(z, torch.zeros(8))["loss"]
    assert torch.equal(loss, moco_loss(z["queries"], z["keys"], before, temperature=0.2))
    torch.testing.assert_close(made.queue[:8], F.normalize(z["keys"], dim=1))
    assert torch.equal(made.queue[8:], before[:8])
    second = made.embed(batch(1))
    made.loss(second, torch.zeros(8))
    torch.testing.assert_close(made.queue[8:], F.normalize(z["keys"], dim=1))


def test_no_gradient_reaches_the_slow_encoder_which_follows_by_its_momentum(made: Method) -> None:
    slow = [p.clone() for p in made.slow.parameters()]
    with torch.no_grad():
        for p in made.encoder.parameters():
            p.add_(1.0)
    made.after_step(0.5)
    fast = [*made.encoder.parameters(), *made.projector.parameters()]
    for old, new, target in zip(slow, made.slow.parameters(), fast, strict=True):
        assert not new.requires_grad
        torch.testing.assert_close(new, 0.9 * old + 0.1 * target)


def test_v1_has_one_linear_layer(made: Method) -> None:
    v1 = VARIANTS["v1"]["paper"].method
    network = methods.build_method(replace(spec("v1"), backbone=TINY, method=replace(v1, queue=128)), 10)  # type: ignore[type-var]
    assert isinstance(network, Method)
    assert [type(layer).__name__ for layer in network.projector] == ["Linear"]
    assert [type(layer).__name__ for layer in made.projector] == ["Linear", "ReLU", "Linear"]


def test_the_paper_recipes_are_the_published_ones() -> None:
    for recipe, temperature, hidden, epochs, milestones in (
        (RECIPES["paper"], 0.2, 2048, 800, ()),
        (VARIANTS["v1"]["paper"], 0.07, None, 200, (0.6, 0.8)),
    ):
        assert recipe.method == Config(
            temperature=temperature, queue=65536, momentum=0.999, hidden=hidden, output=128, shuffle=True
        )
        o = recipe.optim
        assert (o.name, o.lr, o.weight_decay, o.momentum, o.warmup_epochs, o.milestones) == (
            "sgd",
            0.03,
            1e-4,
            0.9,
            0,
            milestones,
        )
        assert (recipe.batch_size, recipe.epochs, recipe.zero_init_residual) == (256, epochs, False)
        assert recipe.norm_group == 256 // 8  # GPUs
    assert (RECIPES["paper"].optim.steps, VARIANTS["v1"]["paper"].optim.steps) == ("epoch", "step")
    assert (RECIPES["paper"].views[0].blur, VARIANTS["v1"]["paper"].views[0].blur) == (0.5, 0.0)


def test_the_rate_falls_in_steps_where_a_recipe_has_milestones() -> None:
    factors = [optim.schedule(step, 200, 0, 0.0, (0.6, 0.8)) for step in (0, 119, 120, 159, 160, 199)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_mistakes_are_one_line() -> None:
    with pytest.raises(BenchError, match="queue is 100, expected a multiple of the batch of 128"):
        check_pretrain(replace(spec(), method=Config(queue=100)))
    with pytest.raises(BenchError, match="needs 2 views"):
        check_pretrain(replace(spec(), views=spec().views * 2))
    with pytest.raises(BenchError, match=r"momentum is 1\.0"):
        check_pretrain(replace(spec(), method=Config(momentum=1.0, queue=2048)))
