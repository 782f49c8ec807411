from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench.contracts import Batch
from bench.errors import BenchError
from bench.planning.refusals import check_pretrain
from bench.planning.scales import scale_of
from bench.planning.translate import encoder as encoder_of
from bench.spec import Pretrain
from bench.training import methods, optim
from methods.simsiam import RECIPES, Config, Method, negative_cosine
from tests.conftest import TINY


def spec(scale: str = "embedded") -> Pretrain:
    made = encoder_of(scale_of(scale), "simsiam", network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0)
    assert isinstance(made, Pretrain)
    return made


def naive(p: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Equation 1, image by image."""
    total = torch.zeros((), dtype=p.dtype)
    for i in range(len(p)):
        length = torch.sqrt(sum(v * v for v in p[i])) * torch.sqrt(sum(v * v for v in z[i].detach()))
        total = total - sum(a * b for a, b in zip(p[i], z[i].detach(), strict=True)) / length
    return total / len(p)


def test_loss_equals_naive_loops_with_its_gradient_and_none_reaches_the_projection() -> None:
    rng = torch.Generator().manual_seed(0)
    p, z = (torch.randn(6, 5, generator=rng, dtype=torch.float64, requires_grad=True) for _ in range(2))
    ours, theirs = negative_cosine(p, z), naive(p, z)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    torch.testing.assert_close(torch.autograd.grad(ours, p)[0], torch.autograd.grad(theirs, p)[0], rtol=0, atol=1e-12)
    assert torch.autograd.grad(negative_cosine(p, z), z, allow_unused=True)[0] is None


def test_known_answers() -> None:
    x = torch.eye(3)
    assert float(negative_cosine(x, 5 * x)) == -1
    assert float(negative_cosine(x, x.roll(1, dims=0))) == 0
    with pytest.raises(ValueError, match="expected equal"):
        negative_cosine(x, x[:2])


@pytest.fixture
def made() -> Method:
    network = methods.build_method(replace(spec(), backbone=TINY), 10)
    assert isinstance(network, Method)
    return network


def test_both_directions_count_half_and_views_have_batch_statistics_of_their_own(made: Method) -> None:
    views = [torch.rand(8, 3, 32, 32), torch.rand(8, 3, 32, 32)]
    z = made.embed(Batch(views=views, labels=torch.zeros(8), indices=torch.arange(8)))
    expected = (negative_cosine(z["pa"], z["zb"]) + negative_cosine(z["pb"], z["za"])) / 2
    assert torch.equal(made.loss(z, torch.zeros(8))["loss"], expected)
    # normed alone, not with the other view
    torch.testing.assert_close(z["za"].mean(dim=0), torch.zeros(256), rtol=0, atol=1e-5)


def test_the_projector_ends_without_affine_and_the_predictor_with_a_bias(made: Method) -> None:
    assert not any(p.requires_grad for p in made.projector[-1].parameters())
    assert isinstance(made.predictor[-1], torch.nn.Linear)
    assert made.predictor[-1].bias is not None


def test_the_predictors_rate_stays_and_the_others_falls(made: Method) -> None:
    optimizer = optim.build(spec().optim, made)
    optim.set_lr(optimizer, 0.25)
    predictor = {id(p) for p in made.predictor.parameters()}
    seen = set()
    for group in optimizer.param_groups:
        for p in group["params"]:
            held = id(p) in predictor
            seen.add(held)
            assert group["lr"] == pytest.approx(spec().optim.lr * (1.0 if held else 0.25))
    assert seen == {True, False}


def test_the_paper_recipe_is_the_published_one() -> None:
    paper = RECIPES["paper"]
    assert paper.method == Config(hidden=2048, bottleneck=512)
    o = paper.optim
    assert (o.name, o.lr, o.weight_decay, o.momentum, o.warmup_epochs, o.constant) == (
        "sgd",
        0.1,
        1e-4,
        0.9,
        0,
        "predictor",
    )
    assert (o.steps, o.warmup_from) == ("epoch", None)
    assert (paper.batch_size, paper.epochs, paper.normalize) == (512, 800, "imagenet")
    view = paper.views[0]
    assert (view.crop_scale, view.brightness, view.contrast, view.saturation, view.hue) == (
        (0.2, 1.0),
        0.4,
        0.4,
        0.4,
        0.1,
    )
    assert (view.jitter, view.gray, view.blur, view.solarize) == (0.8, 0.2, 0.5, 0.0)


def test_mistakes_are_one_line() -> None:
    with pytest.raises(BenchError, match="simsiam needs 2 views, found 1"):
        check_pretrain(replace(spec(), views=spec().views[:1]))
    with pytest.raises(BenchError, match="bottleneck 0"):
        check_pretrain(replace(spec(), method=Config(bottleneck=0)))
    with pytest.raises(BenchError, match="no such module"):
        optim.build(replace(spec().optim, constant="predictr"), torch.nn.Linear(2, 2))
