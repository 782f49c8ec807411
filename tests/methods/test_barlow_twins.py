from __future__ import annotations

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
from methods.barlow_twins import RECIPES, Config, Method, barlow_twins_loss, standardise

EPS = 1e-5  # of the released code's batch norm


def naive(za: Tensor, zb: Tensor, lambda_: float) -> tuple[Tensor, Tensor, Tensor]:
    """Equation 1 of the paper, loop by loop, with batch norm's biased variance: loss, invariance, redundancy."""
    images, width = za.shape

    def normed(z: Tensor) -> list[list[Tensor]]:
        columns = []
        for i in range(width):
            mean = torch.stack([z[b, i] for b in range(images)]).sum() / images
            variance = torch.stack([(z[b, i] - mean) ** 2 for b in range(images)]).sum() / images
            columns.append([(z[b, i] - mean) / torch.sqrt(variance + EPS) for b in range(images)])
        return columns

    a, b = normed(za), normed(zb)
    invariance, redundancy = torch.zeros((), dtype=za.dtype), torch.zeros((), dtype=za.dtype)
    for i in range(width):
        for j in range(width):
            c = torch.stack([a[i][n] * b[j][n] for n in range(images)]).sum() / images
            if i == j:
                invariance = invariance + (1 - c) ** 2
            else:
                redundancy = redundancy + c**2
    return invariance + lambda_ * redundancy, invariance, redundancy


@pytest.mark.parametrize("lambda_", [0.0051, 0.5])
@pytest.mark.parametrize("images", [3, 8])
def test_loss_and_gradient_equal_the_papers_equation(images: int, lambda_: float) -> None:
    rng = torch.Generator().manual_seed(images)
    za, zb = ((torch.randn(images, 4, generator=rng, dtype=torch.float64) * 2 + 1).requires_grad_() for _ in range(2))
    found = barlow_twins_loss(za, zb, lambda_=lambda_)
    expected = naive(za, zb, lambda_)
    torch.testing.assert_close((found["loss"], found["invariance"], found["redundancy"]), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        torch.autograd.grad(found["loss"], (za, zb)), torch.autograd.grad(expected[0], (za, zb)), rtol=0, atol=1e-10
    )


def test_equal_views_of_independent_features_have_no_loss() -> None:
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64) * 1000
    found = barlow_twins_loss(signs, signs, lambda_=1.0)
    assert float(found["loss"]) == pytest.approx(0, abs=1e-12)


def test_opposite_views_and_copied_features_have_the_loss_of_the_equation() -> None:
    column = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64) * 1000
    found = barlow_twins_loss(column, -column, lambda_=1.0)
    assert float(found["invariance"]) == pytest.approx(4)  # C_ii = -1
    twice = column.expand(-1, 3)
    assert float(barlow_twins_loss(twice, twice, lambda_=1.0)["redundancy"]) == pytest.approx(6)  # six C_ij = 1


@pytest.mark.parametrize(("shape_a", "shape_b"), [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4,), (4,))])
def test_unequal_shapes_are_refused_by_name(shape_a: tuple[int, ...], shape_b: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected two equal \(B, D\) views") as caught:
        barlow_twins_loss(torch.zeros(shape_a), torch.zeros(shape_b), lambda_=0.1)
    assert str(shape_a) in str(caught.value)
    assert str(shape_b) in str(caught.value)


def test_projector_has_the_keys_of_the_released_checkpoint(facts: Facts) -> None:
    made = Method(Config(hidden=20, output=5), nn.Identity(), facts)
    shapes = {name: tuple(p.shape) for name, p in made.projector.named_parameters()}
    assert shapes == {
        "0.weight": (20, 12),
        "1.weight": (20,),
        "1.bias": (20,),
        "3.weight": (20, 20),
        "4.weight": (20,),
        "4.bias": (20,),
        "6.weight": (5, 20),
    }
    assert all(p.requires_grad for p in made.projector.parameters())
    assert isinstance(made.projector[2], nn.ReLU)
    assert isinstance(made.projector[5], nn.ReLU)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_projector_has_as_many_layers_as_asked(layers: int, facts: Facts) -> None:
    made = Method(Config(hidden=20, output=5, layers=layers), nn.Identity(), facts)
    assert sum(isinstance(m, nn.Linear) for m in made.projector) == layers
    assert made.projector(torch.zeros(4, 12)).shape == (4, 5)


class Normed(nn.Module):
    """An encoder with one layer and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, 12)
        self.norm = nn.BatchNorm1d(12)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.layer(x.flatten(1)))
        return out


def test_gradient_reaches_encoder_and_projector(facts: Facts, batch: Callable[[int, int], Batch]) -> None:
    made = Method(Config(hidden=20, output=5), Normed(), facts)
    images = batch(8, 2)
    loss = made.loss(made.embed(images), images.labels)["loss"]
    for gradient in torch.autograd.grad(loss, list(made.parameters())):
        assert float(gradient.abs().max()) > 0


def test_each_view_has_a_batch_norm_pass_of_its_own(facts: Facts, batch: Callable[[int, int], Batch]) -> None:
    made = Method(Config(hidden=20, output=5), Normed(), facts)
    images = batch(8, 2)
    other = replace(images, views=[images.views[0], images.views[1] * 0.3])
    torch.testing.assert_close(made.embed(images)["za"], made.embed(other)["za"])


def _paper_spec() -> Pretrain:
    spec = encoder(
        scale_of("paper"), "barlow_twins", network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0
    )
    assert isinstance(spec, Pretrain)
    return spec


def test_wrong_settings_are_refused_when_a_plan_is_made() -> None:
    spec = _paper_spec()
    Config().check(spec)
    with pytest.raises(BenchError, match="needs 2 views, found 3"):
        Config().check(replace(spec, views=(*spec.views, spec.views[0])))
    with pytest.raises(BenchError, match="layers is 0"):
        Config(layers=0).check(spec)


def test_paper_recipe_is_the_published_one() -> None:
    recipe, spec = RECIPES["paper"], _paper_spec()
    assert (recipe.batch_size, recipe.epochs) == (2048, 1000)
    assert recipe.method == Config(lambda_=0.0051, hidden=8192, output=8192, layers=3)
    assert spec.backbone.normalize == "imagenet"
    assert spec.backbone.zero_init_residual
    optim = recipe.optim
    assert (optim.name, optim.lars_momentum, optim.lr, optim.vector_lr) == ("lars", "popular", 1.6, 0.0012)
    assert (optim.weight_decay, optim.momentum, optim.trust) == (1e-6, 0.9, 0.001)
    assert (optim.warmup_epochs, optim.final_lr_ratio, optim.vector_weight_decay) == (10, 0.001, False)
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
    )
    assert recipe.views == (first, replace(first, blur=0.1, solarize=0.2))


def test_biases_move_as_far_a_step_as_with_the_codes_gradients_on_32_gpus() -> None:
    """The code: each rank's gradient of C comes from its own images alone, and DDP divides the sum by the ranks."""
    ranks, images, lambda_ = 32, 64, 0.0051
    rng = torch.Generator().manual_seed(0)
    inputs = [torch.randn(images, 6, generator=rng, dtype=torch.float64) for _ in range(2)]
    bias = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 5, generator=rng, dtype=torch.float64)

    def projected(x: Tensor) -> Tensor:
        return torch.tanh(x + bias) @ weight

    whole = barlow_twins_loss(projected(inputs[0]), projected(inputs[1]), lambda_=lambda_)["loss"]
    (true,) = torch.autograd.grad(whole, bias)
    za, zb = (standardise(projected(x)) for x in inputs)
    parts = [a.T @ b / images for a, b in zip(za.chunk(ranks), zb.chunk(ranks), strict=True)]
    summed = torch.zeros(6, dtype=torch.float64)
    for own in parts:  # all_reduce: the other ranks' sums arrive as constants
        matrix = own + sum(part.detach() for part in parts if part is not own)
        gap = (matrix - torch.eye(5, dtype=torch.float64)).square()
        loss = gap.diagonal().sum() + lambda_ * (gap.sum() - gap.diagonal().sum())
        summed += torch.autograd.grad(loss, bias, retain_graph=True)[0]
    paper = RECIPES["paper"].optim.vector_lr
    assert paper is not None
    torch.testing.assert_close(paper * true, 0.0384 * summed / ranks, rtol=1e-10, atol=0)
