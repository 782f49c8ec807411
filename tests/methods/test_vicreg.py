from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from bench.contracts import Batch, Facts
from bench.errors import BenchError
from bench.networks import encoders
from bench.planning.refusals import check_pretrain
from bench.planning.scales import scale_of
from bench.planning.translate import encoder
from bench.spec import Augment, Backbone, Pretrain
from bench.training import methods
from methods.vicreg import RECIPES, Config, Method, covariance_term, variance_term, vicreg_loss

SMALL = Backbone(name="resnet10", base_channels=4, stem="small", zero_init_residual=False)
DEEPER = replace(SMALL, name="resnet18")
PAPER = {"invariance": 25.0, "variance": 25.0, "covariance": 1.0}


def naive(za: Tensor, zb: Tensor, lambda_: float, mu: float, nu: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Equations 1 to 6, loop by loop, distance averaged over dimensions as in algorithm 1: loss, s, v + v', c + c'."""
    images, width = za.shape
    zero = torch.zeros((), dtype=za.dtype)

    def total(values: list[Tensor]) -> Tensor:
        return torch.stack(values).sum() if values else zero

    def mean(z: Tensor, j: int) -> Tensor:
        return total([z[i, j] for i in range(images)]) / images

    def covariance(z: Tensor, j: int, k: int) -> Tensor:
        return total([(z[i, j] - mean(z, j)) * (z[i, k] - mean(z, k)) for i in range(images)]) / (images - 1)

    def v(z: Tensor) -> Tensor:
        return total([torch.maximum(zero, 1 - torch.sqrt(covariance(z, j, j) + 1e-4)) for j in range(width)]) / width

    def c(z: Tensor) -> Tensor:
        return total([covariance(z, j, k) ** 2 for j in range(width) for k in range(width) if j != k]) / width

    s = total([(za[i, j] - zb[i, j]) ** 2 for i in range(images) for j in range(width)]) / (images * width)
    both_v, both_c = v(za) + v(zb), c(za) + c(zb)
    return lambda_ * s + mu * both_v + nu * both_c, s, both_v, both_c


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 0.5, 3.0)])
@pytest.mark.parametrize(("images", "width"), [(2, 3), (6, 4), (5, 1)])
def test_loss_and_gradient_equal_the_papers_equation(
    images: int, width: int, weights: tuple[float, float, float]
) -> None:
    rng = torch.Generator().manual_seed(images)
    spread = torch.linspace(0.2, 2.0, width, dtype=torch.float64)  # dimensions on both sides of the hinge
    za, zb = (
        (torch.randn(images, width, generator=rng, dtype=torch.float64) * spread + 3).requires_grad_() for _ in range(2)
    )
    found = vicreg_loss(za, zb, invariance=weights[0], variance=weights[1], covariance=weights[2], halve_variance=False)
    expected = naive(za, zb, *weights)
    terms = tuple(found[name] for name in ("loss", "invariance", "variance", "covariance"))
    torch.testing.assert_close(terms, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        torch.autograd.grad(found["loss"], (za, zb)), torch.autograd.grad(expected[0], (za, zb)), rtol=0, atol=1e-10
    )


def test_the_codes_variance_is_half_the_papers_and_nothing_else_changes() -> None:
    za, zb = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    paper = vicreg_loss(za, zb, **PAPER, halve_variance=False)
    code = vicreg_loss(za, zb, **PAPER, halve_variance=True)
    assert float(paper["variance"]) > 0.1
    assert float(code["variance"]) == pytest.approx(float(paper["variance"]) / 2)
    assert float(paper["loss"] - code["loss"]) == pytest.approx(25 * float(paper["variance"]) / 2)
    assert (code["invariance"], code["covariance"]) == (paper["invariance"], paper["covariance"])


def test_a_collapsed_embedding_pays_the_whole_variance_term() -> None:
    z = torch.full((6, 4), 3.0, dtype=torch.float64, requires_grad=True)
    found = vicreg_loss(z, z, **PAPER, halve_variance=False)
    assert float(found["loss"].detach()) == pytest.approx(25 * 2 * (1 - 0.01))  # sqrt(eps) = 0.01
    (gradient,) = torch.autograd.grad(found["loss"], z)
    assert bool(gradient.isfinite().all())  # what eps is for


def test_wide_independent_equal_views_have_no_loss() -> None:
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    assert float(vicreg_loss(signs, signs, **PAPER, halve_variance=False)["loss"]) == 0


def test_variance_and_covariance_divide_by_one_less_than_the_batch() -> None:
    column = torch.tensor([[0.5], [-0.5]], dtype=torch.float64)  # variance 0.5 over n - 1, 0.25 over n
    assert float(variance_term(column)) == pytest.approx(1 - (0.5 + 1e-4) ** 0.5)
    copies = column.expand(-1, 3)
    assert float(covariance_term(copies)) == pytest.approx(6 * 0.5**2 / 3)  # six pairs, three dimensions


def test_the_distance_is_averaged_over_dimensions() -> None:
    za, zb = torch.zeros(4, 10), torch.full((4, 10), 2.0)
    assert float(vicreg_loss(za, zb, **PAPER, halve_variance=False)["invariance"]) == pytest.approx(4)


@pytest.mark.parametrize(("shape_a", "shape_b"), [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4,), (4,))])
def test_unequal_shapes_are_refused_by_name(shape_a: tuple[int, ...], shape_b: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected two equal \(B, D\) views") as caught:
        vicreg_loss(torch.zeros(shape_a), torch.zeros(shape_b), **PAPER, halve_variance=False)
    assert str(shape_a) in str(caught.value)
    assert str(shape_b) in str(caught.value)


def test_one_image_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 images"):
        vicreg_loss(torch.zeros(1, 3), torch.zeros(1, 3), **PAPER, halve_variance=False)


def test_expander_has_the_layers_of_the_released_code(facts: Facts) -> None:
    made = Method(Config(hidden=20, output=5), nn.Identity(), facts)
    kinds = [type(module) for module in made.projector]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]
    assert [tuple(made.projector.get_parameter(f"{i}.weight").shape) for i in (0, 3, 6)] == [
        (20, 12),
        (20, 20),
        (5, 20),
    ]


def _method(second: Backbone | None, seed: int = 0) -> Method:
    network = encoders.build(SMALL, seed)
    known = Facts(
        backbone=SMALL, feature_dim=network.feature_dim, classes=10, images=3500, batch_size=16, steps=10, seed=seed
    )
    return Method(Config(hidden=16, output=8, layers=2, second=second), network, known)


def test_shared_branches_have_one_encoder_and_a_pass_for_each_view(batch: Callable[[int, int], Batch]) -> None:
    made, images = _method(None), batch(8, 2)
    assert {name.partition(".")[0] for name, _ in made.named_parameters()} == {"encoder", "projector"}
    found = made.embed(images)
    torch.testing.assert_close(found["zb"], made.projector(made.encoder(images.views[1])))
    other = replace(images, views=[images.views[0], images.views[1] * 0.3])
    torch.testing.assert_close(found["za"], made.embed(other)["za"])  # batch norm sees one view at a time


@pytest.mark.parametrize("second", [SMALL, DEEPER, Backbone(name="vit_digits")])
def test_branches_of_their_own_see_one_view_each(second: Backbone, batch: Callable[[int, int], Batch]) -> None:
    made, images = _method(second), batch(8, 2)
    found = made.embed(images)
    assert found["za"].shape == found["zb"].shape == (8, 8)
    torch.testing.assert_close(found["za"], made.projector(made.encoder(images.views[0])))
    torch.testing.assert_close(found["zb"], made.second(images.views[1]))
    loss = made.loss(found, images.labels)["loss"]
    for (name, _), gradient in zip(
        made.named_parameters(), torch.autograd.grad(loss, list(made.parameters())), strict=True
    ):
        assert float(gradient.abs().max()) > 0, name
    assert isinstance(made.encoder, encoders.ResNet)  # the evaluated encoder stays that of the first branch
    assert encoders.parameters(made.encoder) == encoders.parameters(encoders.build(SMALL, 0))


def test_a_second_branch_of_the_same_architecture_starts_elsewhere_and_follows_the_seed() -> None:
    made, again, other = _method(SMALL), _method(SMALL), _method(SMALL, seed=1)
    own, second = made.encoder.state_dict(), made.second[0].state_dict()
    assert list(own) == list(second)
    assert not torch.equal(own["conv1.weight"], second["conv1.weight"])
    assert torch.equal(second["conv1.weight"], again.second[0].state_dict()["conv1.weight"])
    assert not torch.equal(second["conv1.weight"], other.second[0].state_dict()["conv1.weight"])


def test_terms_are_visible_and_the_coefficients_are_the_configs() -> None:
    made = _method(None)
    made.config = Config(invariance=2.0, variance=3.0, covariance=5.0, halve_variance=True)
    za, zb = torch.rand(2, 6, 4, generator=torch.Generator().manual_seed(0))
    found = made.loss({"za": za, "zb": zb}, torch.zeros(6))
    assert set(found) == {"loss", "invariance", "variance", "covariance"}
    expected = naive(za, zb, 2.0, 1.5, 5.0)[0]
    torch.testing.assert_close(found["loss"], expected)


def _spec(scale: str, method: Config | None = None) -> Pretrain:
    spec = encoder(scale_of(scale), "vicreg", network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0)
    assert isinstance(spec, Pretrain)
    return spec if method is None else replace(spec, method=method)


@pytest.mark.parametrize("network", ["resnet50", "resnet101", "deit_small"])
@pytest.mark.parametrize("scale", ["embedded", "smoke", "cifar", "paper"])
def test_the_columns_of_table_5_are_planned_at_every_scale(scale: str, network: str) -> None:
    spec = _spec(scale)
    second = replace(scale_of(scale).networks[network], normalize=spec.backbone.normalize)
    check_pretrain(_spec(scale, Config(second=second)))


def test_wrong_settings_are_refused_when_a_plan_is_made() -> None:
    spec = _spec("paper")
    Config().check(spec)
    with pytest.raises(BenchError, match="needs 2 views, found 3"):
        Config().check(replace(spec, views=(*spec.views, spec.views[0])))
    with pytest.raises(BenchError, match="covariance is -1"):
        Config(covariance=-1).check(spec)
    with pytest.raises(BenchError, match="layers is 0"):
        Config(layers=0).check(spec)
    with pytest.raises(BenchError, match="unknown architecture 'resnet51'"):
        Config(second=Backbone(name="resnet51", normalize="imagenet")).check(spec)
    with pytest.raises(BenchError, match="second branch normalises its input by 'none', the first by 'imagenet'"):
        Config(second=Backbone(name="resnet101")).check(spec)
    odd = replace(spec, views=tuple(replace(view, size=225) for view in spec.views))
    with pytest.raises(BenchError, match="image size of 225 is not a multiple of its patch, 16"):
        Config(second=Backbone(name="vit_small16", normalize="imagenet")).check(odd)


def test_a_method_with_two_architectures_is_built_from_its_spec() -> None:
    spec = replace(_spec("embedded", Config(hidden=16, output=8, second=Backbone(name="vit_digits"))), backbone=SMALL)
    made = methods.build_method(spec, 10)
    assert isinstance(made, Method)
    assert made.second.get_parameter("1.0.weight").shape == (16, 48)  # class token of the small transformer


def test_paper_recipe_is_the_published_one() -> None:
    recipe, spec = RECIPES["paper"], _spec("paper")
    assert (recipe.batch_size, recipe.epochs) == (2048, 1000)
    assert recipe.method == Config(
        invariance=25.0,
        variance=25.0,
        covariance=1.0,
        halve_variance=True,
        hidden=8192,
        output=8192,
        layers=3,
        second=None,
    )
    assert not Config().halve_variance  # algorithm 1
    assert spec.backbone == Backbone(name="resnet50", normalize="imagenet", zero_init_residual=True)
    optim = recipe.optim
    assert (optim.name, optim.lars_momentum, optim.lr, optim.vector_lr) == ("lars", "popular", 1.6, None)
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


def test_embedded_and_cifar_recipes_are_plain_algorithm_1() -> None:
    for name in ("embedded", "cifar"):
        method = RECIPES[name].method
        assert isinstance(method, Config)
        assert (method.invariance, method.variance, method.covariance, method.halve_variance, method.second) == (
            25.0,
            25.0,
            1.0,
            False,
            None,
        )
