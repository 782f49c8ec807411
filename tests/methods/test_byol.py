from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from bench.contracts import Batch, Facts
from bench.errors import BenchError
from bench.planning.scales import scale_of
from bench.planning.translate import encoder
from bench.spec import Augment, Pretrain
from methods.byol import RECIPES, VARIANTS, Config, Method, regression_loss
from results.tables.triplet_linear import TABLE

SMALL = Config(projector=(20, 5), predictor=(18, 5), momentum=0.9)


def naive(p: Tensor, t: Tensor) -> Tensor:
    """Equation 2 of the paper, loop by loop: 2 - 2 <p, t> / (|p| |t|), mean over images."""
    terms = []
    for i in range(len(p)):
        dot, pp, tt = (
            torch.stack([a[i, d] * b[i, d] for d in range(p.shape[1])]).sum() for a, b in ((p, t), (p, p), (t, t))
        )
        terms.append(2 - 2 * dot / (pp.sqrt() * tt.sqrt()))
    return torch.stack(terms).sum() / len(terms)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("images", [1, 4])
def test_loss_and_gradient_equal_the_papers_equation(images: int) -> None:
    p, t = random(images, 6, seed=1).requires_grad_(), random(images, 6, seed=2)
    found, expected = regression_loss(p, t), naive(p, t)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(torch.autograd.grad(found, p), torch.autograd.grad(expected, p), rtol=0, atol=1e-10)


def test_loss_is_0_for_equal_2_for_orthogonal_4_for_opposite_directions() -> None:
    p = torch.tensor([[3.0, 0.0]], dtype=torch.float64)
    for t, expected in (([0.5, 0.0], 0.0), ([0.0, 7.0], 2.0), ([-2.0, 0.0], 4.0)):
        assert float(regression_loss(p, torch.tensor([t], dtype=torch.float64))) == pytest.approx(expected, abs=1e-12)


def test_the_target_gets_no_gradient() -> None:
    p, t = random(4, 3, seed=1).requires_grad_(), random(4, 3, seed=2).requires_grad_()
    regression_loss(p, t).backward()  # type: ignore[no-untyped-call]
    assert t.grad is None
    assert p.grad is not None


@pytest.mark.parametrize(("shape_p", "shape_t"), [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4,), (4,))])
def test_unequal_shapes_are_refused_by_name(shape_p: tuple[int, ...], shape_t: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected equal \(B, D\) predictions and targets") as caught:
        regression_loss(torch.zeros(shape_p), torch.zeros(shape_t))
    assert str(shape_p) in str(caught.value)
    assert str(shape_t) in str(caught.value)


class Normed(nn.Module):
    """An encoder with one layer and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, 12)
        self.norm = nn.BatchNorm1d(12)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.layer(x.flatten(1)))
        return out


def test_each_view_predicts_the_other_and_the_directions_add_up(facts: Facts) -> None:
    made = Method(SMALL, Normed(), facts)
    z = {name: random(4, 3, seed=seed) for seed, name in enumerate(("pa", "pb", "ta", "tb"))}
    expected = naive(z["pa"], z["tb"]) + naive(z["pb"], z["ta"])
    torch.testing.assert_close(made.loss(z, torch.zeros(4))["loss"], expected, rtol=0, atol=1e-10)


def test_embeddings_are_predictions_of_the_online_and_projections_of_the_target_network(
    facts: Facts, batch: Callable[[int, int], Batch]
) -> None:
    made = Method(SMALL, Normed(), facts)
    with torch.no_grad():
        for parameter in made.target.parameters():
            parameter.mul_(1.5)
    images = batch(8, 2)
    found = made.embed(images)
    for view, p, t in zip(images.views, ("pa", "pb"), ("ta", "tb"), strict=True):
        torch.testing.assert_close(found[p], made.predictor(made.projector(made.encoder(view))))
        torch.testing.assert_close(found[t], made.target(view))
        assert not found[t].requires_grad
        assert not torch.allclose(found[t], made.projector(made.encoder(view)))


def test_gradient_reaches_the_online_network_and_never_the_target(
    facts: Facts, batch: Callable[[int, int], Batch]
) -> None:
    made = Method(SMALL, Normed(), facts)
    images = batch(8, 2)
    made.loss(made.embed(images), images.labels)["loss"].backward()  # type: ignore[no-untyped-call]
    for name, parameter in made.named_parameters():
        if name.startswith("target."):
            assert parameter.grad is None, name
            assert not parameter.requires_grad, name
        else:
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().max()) > 0, name


def test_heads_have_one_hidden_layer_with_batch_norm_and_a_bare_output(facts: Facts) -> None:
    made = Method(SMALL, Normed(), facts)
    for head, widths in ((made.projector, (12, 20, 5)), (made.predictor, (5, 18, 5))):
        assert [type(layer) for layer in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
        shapes = {name: tuple(parameter.shape) for name, parameter in head.named_parameters() if parameter.ndim == 2}
        assert shapes == {"0.weight": (widths[1], widths[0]), "3.weight": (widths[2], widths[1])}
        assert "3.bias" not in head.state_dict()  # as in the released code
    normed = Method(replace(SMALL, output_norm=True), Normed(), facts)
    assert isinstance(normed.projector[-1], nn.BatchNorm1d)
    assert isinstance(normed.predictor[-1], nn.Linear)


def test_target_starts_as_the_online_network_and_shares_nothing_with_it(facts: Facts) -> None:
    made = Method(SMALL, Normed(), facts)
    online = nn.Sequential(made.encoder, made.projector)
    for slow, fast in zip(made.target.parameters(), online.parameters(), strict=True):
        assert torch.equal(slow, fast)
        assert slow.data_ptr() != fast.data_ptr()


def test_momentum_is_that_of_a_step_counted_from_0(facts: Facts) -> None:
    made = Method(SMALL, Normed(), facts)  # 10 steps
    weight = made.encoder.get_parameter("layer.weight")
    expected = weight.detach().clone()
    for k in range(10):
        with torch.no_grad():
            weight.add_(1.0)
        made.after_step((k + 1) / 10)
        tau = 1 - (1 - 0.9) * (math.cos(math.pi * k / 10) + 1) / 2
        expected = tau * expected + (1 - tau) * weight.detach()
        torch.testing.assert_close(made.target.get_parameter("0.layer.weight"), expected)
    assert not torch.allclose(expected, weight)


def test_running_statistics_of_the_target_come_from_its_own_passes(
    facts: Facts, batch: Callable[[int, int], Batch]
) -> None:
    made = Method(SMALL, Normed(), facts).train()
    with torch.no_grad():
        made.target.get_parameter("0.layer.bias").add_(3.0)
    made.embed(batch(8, 2))
    before = made.target.get_buffer("0.norm.running_mean").clone()
    made.after_step(0.1)
    assert torch.equal(before, made.target.get_buffer("0.norm.running_mean"))
    difference = before - made.encoder.get_buffer("norm.running_mean")
    # two passes, each moves it by a tenth
    torch.testing.assert_close(difference, torch.full_like(difference, 3 * (1 - 0.9**2)))


def test_each_view_has_a_batch_norm_pass_of_its_own(facts: Facts, batch: Callable[[int, int], Batch]) -> None:
    made = Method(SMALL, Normed(), facts)
    images = batch(8, 2)
    found, other = made.embed(images), made.embed(replace(images, views=[images.views[0], images.views[1] * 0.3]))
    for name in ("pa", "ta"):
        torch.testing.assert_close(found[name], other[name])


def _paper_spec() -> Pretrain:
    spec = encoder(scale_of("paper"), "byol", network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0)
    assert isinstance(spec, Pretrain)
    return spec


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            Config(projector=(4096, 256), predictor=(4096, 128)),
            r"byol: projector \(4096, 256\) and predictor \(4096, 128\)",
        ),
        (Config(projector=()), r"byol: projector \(\)"),
        (Config(predictor=(0, 256)), r"predictor \(0, 256\) must be positive widths"),
        (Config(momentum=1.1), "byol: momentum is 1.1, expected 0 to 1"),
    ],
)
def test_wrong_settings_are_refused_when_a_plan_is_made(config: Config, message: str) -> None:
    spec = _paper_spec()
    Config().check(spec)
    with pytest.raises(BenchError, match=message) as caught:
        config.check(spec)
    assert "\n" not in str(caught.value)


def test_two_views_are_needed() -> None:
    spec = _paper_spec()
    with pytest.raises(BenchError, match="byol needs 2 views, found 1"):
        Config().check(replace(spec, views=spec.views[:1]))


def test_paper_recipe_is_the_published_one() -> None:
    recipe, spec = RECIPES["paper"], _paper_spec()
    assert (recipe.batch_size, recipe.epochs, recipe.precision) == (4096, 1000, "tf32")
    assert recipe.method == Config(projector=(4096, 256), predictor=(4096, 256), momentum=0.996, output_norm=False)
    assert spec.backbone.normalize == "imagenet"
    assert spec.backbone.zero_init_residual
    optim = recipe.optim
    assert (optim.name, optim.lars_momentum, optim.lars_norm) == ("lars", "popular", "update")
    assert (optim.lr, optim.vector_lr, optim.weight_decay) == (3.2, None, 1.5e-6)  # 0.2 x 4096 / 256
    assert (optim.momentum, optim.trust, optim.warmup_epochs, optim.final_lr_ratio) == (0.9, 0.001, 10, 0)
    assert not optim.vector_weight_decay
    first = Augment(
        size=224,
        crop_scale=(0.08, 1.0),
        crop_ratio=(3 / 4, 4 / 3),
        flip=0.5,
        jitter=0.8,
        brightness=0.4,
        contrast=0.4,
        saturation=0.2,
        hue=0.1,
        gray=0.2,
        blur=1.0,
        blur_sigma=(0.1, 2.0),
        solarize=0.0,
        colour="tensorflow",
    )
    assert recipe.views == (first, replace(first, blur=0.1, solarize=0.2))
    assert first.solarize_threshold == 0.5


@pytest.mark.parametrize(("variant", "epochs", "rate"), [("short", 100, 0.45), ("middle", 300, 0.3)])
def test_presets_of_shorter_runs_are_the_codes(variant: str, epochs: int, rate: float) -> None:
    """configs/byol.py: _LR_PRESETS, _WD_PRESETS, _EMA_PRESETS."""
    recipe, full = VARIANTS[variant]["paper"], RECIPES["paper"]
    assert recipe.optim.lr == pytest.approx(rate * 4096 / 256)
    assert (recipe.epochs, recipe.optim.weight_decay) == (epochs, 1e-6)
    assert recipe.method == Config(momentum=0.99)
    assert replace(recipe, epochs=1000, method=full.method, optim=full.optim) == full
    assert {scale: VARIANTS[variant][scale] for scale in ("embedded", "cifar")} == {
        scale: RECIPES[scale] for scale in ("embedded", "cifar")
    }


def test_rows_of_200_and_300_epochs_name_the_preset_of_300() -> None:
    rows = {row.architecture: row for row in TABLE.rows if row.label == "BYOL"}
    assert {name: row.recipe for name, row in rows.items()} == {
        "200 epochs": "middle",
        "300 epochs": "middle",
        "1000 epochs": "",
    }
