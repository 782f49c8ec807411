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
from methods import simclr
from methods.simclr import RECIPES, Config, Method, nt_xent


def naive(za: Tensor, zb: Tensor, temperature: float) -> Tensor:
    """Equation 1 of the paper, loop by loop; views 2k and 2k+1 belong to image k."""
    views = [z for pair in zip(za, zb, strict=True) for z in pair]

    def similarity(i: int, j: int) -> Tensor:
        u, v = views[i], views[j]
        cosine: Tensor = (u * v).sum() / ((u * u).sum().sqrt() * (v * v).sum().sqrt())
        return cosine

    def term(i: int, j: int) -> Tensor:
        others = [torch.exp(similarity(i, k) / temperature) for k in range(len(views)) if k != i]
        return -torch.log(torch.exp(similarity(i, j) / temperature) / torch.stack(others).sum())

    terms = [term(2 * k, 2 * k + 1) + term(2 * k + 1, 2 * k) for k in range(len(za))]
    return torch.stack(terms).sum() / (2 * len(za))


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("images", [2, 5])
def test_loss_and_gradient_equal_the_papers_equation(images: int, temperature: float) -> None:
    rng = torch.Generator().manual_seed(images)
    za, zb = (torch.randn(images, 7, generator=rng, dtype=torch.float64).requires_grad_() for _ in range(2))
    found, expected = nt_xent(za, zb, temperature=temperature), naive(za, zb, temperature)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        torch.autograd.grad(found, (za, zb)), torch.autograd.grad(expected, (za, zb)), rtol=0, atol=1e-10
    )


def test_loss_of_a_collapsed_embedding_is_the_log_of_the_other_views() -> None:
    z = torch.ones(6, 4, dtype=torch.float64)
    assert float(nt_xent(z, z, temperature=0.1)) == pytest.approx(math.log(2 * 6 - 1))


def test_loss_ignores_the_length_of_the_embeddings() -> None:
    za, zb = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    stretched = za * torch.tensor([[1.0], [2.0], [30.0], [0.1]])
    torch.testing.assert_close(nt_xent(stretched, zb, temperature=0.5), nt_xent(za, zb, temperature=0.5))


@pytest.mark.parametrize(
    ("shape_a", "shape_b"), [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4,), (4,)), ((4, 3, 1), (4, 3, 1))]
)
def test_unequal_shapes_are_refused_by_name(shape_a: tuple[int, ...], shape_b: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected two equal \(B, D\) views") as caught:
        nt_xent(torch.zeros(shape_a), torch.zeros(shape_b), temperature=0.1)
    assert str(shape_a) in str(caught.value)
    assert str(shape_b) in str(caught.value)


def test_projector_has_the_layers_of_the_released_code(facts: Facts) -> None:
    made = Method(Config(hidden=20, output=5), nn.Identity(), facts)
    shapes = {name: (tuple(p.shape), p.requires_grad) for name, p in made.projector.named_parameters()}
    assert shapes == {
        "0.weight": ((20, 12), True),
        "1.weight": ((20,), True),
        "1.bias": ((20,), True),
        "3.weight": ((5, 20), True),
        "4.weight": ((5,), True),
        "4.bias": ((5,), False),  # batch norm after the output, without shift
    }
    assert isinstance(made.projector[2], nn.ReLU)
    assert bool((made.projector.get_parameter("4.bias") == 0).all())


class Flat(nn.Module):
    """An encoder with one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, 12)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.flatten(1))
        return out


def test_gradient_reaches_encoder_and_projector(facts: Facts, batch: Callable[[int, int], Batch]) -> None:
    made = Method(Config(hidden=20, output=5), Flat(), facts)
    images = batch(8, 2)
    loss = made.loss(made.embed(images), images.labels)["loss"]
    trainable = [p for p in made.parameters() if p.requires_grad]
    for gradient in torch.autograd.grad(loss, trainable):
        assert float(gradient.abs().max()) > 0


def test_the_paper_recipe_adds_both_directions_as_the_code_does(facts: Facts) -> None:
    """google-research/simclr, objective.py: loss_a + loss_b, each the mean over N anchors: twice equation 1's mean."""
    config = RECIPES["paper"].method
    assert isinstance(config, Config)
    made = Method(replace(config, hidden=20, output=7), Flat(), facts)
    rng = torch.Generator().manual_seed(1)
    za, zb = (torch.randn(5, 7, generator=rng, dtype=torch.float64) for _ in range(2))
    found = made.loss({"za": za, "zb": zb}, torch.zeros(5))["loss"]
    torch.testing.assert_close(found, 2 * naive(za, zb, 0.1), rtol=0, atol=1e-10)


def test_both_views_share_one_batch_norm_pass(facts: Facts, batch: Callable[[int, int], Batch]) -> None:
    made = Method(Config(hidden=20, output=5), Flat(), facts)
    images = batch(8, 2)
    other = replace(images, views=[images.views[0], images.views[1] * 0.3])
    assert not torch.allclose(made.embed(images)["za"], made.embed(other)["za"])


def test_embeddings_keep_the_views_apart(facts: Facts, batch: Callable[[int, int], Batch]) -> None:
    made = Method(Config(hidden=20, output=5), Flat(), facts).eval()
    images = batch(8, 2)
    found = made.embed(images)
    torch.testing.assert_close(found["za"], made.projector(made.encoder(images.views[0])))
    torch.testing.assert_close(found["zb"], made.projector(made.encoder(images.views[1])))


def _paper_spec() -> Pretrain:
    spec = encoder(scale_of("paper"), "simclr", network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0)
    assert isinstance(spec, Pretrain)
    return spec


def test_wrong_settings_are_refused_when_a_plan_is_made() -> None:
    spec = _paper_spec()
    Config().check(spec)
    with pytest.raises(BenchError, match="needs 2 views, found 1"):
        Config().check(replace(spec, views=spec.views[:1]))
    for wrong, name in ((Config(temperature=0), "temperature"), (Config(loss_factor=0), "loss_factor")):
        with pytest.raises(BenchError, match=f"{name} is 0, expected more than 0"):
            wrong.check(spec)


def test_paper_recipe_is_the_published_one() -> None:
    recipe, spec = RECIPES["paper"], _paper_spec()
    assert recipe.batch_size == 4096
    assert recipe.epochs == 1000
    assert recipe.normalize == "none"
    assert spec.backbone.normalize == "none"
    assert spec.backbone.zero_init_residual
    optim = recipe.optim
    assert (optim.name, optim.lars_momentum, optim.lr, optim.weight_decay) == ("lars", "classic", 4.8, 1e-6)
    assert (optim.momentum, optim.trust, optim.warmup_epochs, optim.final_lr_ratio) == (0.9, 0.001, 10, 0)
    assert not optim.vector_weight_decay
    assert optim.vector_lr is None
    assert recipe.method == Config(temperature=0.1, hidden=2048, output=128, loss_factor=2.0)
    view = Augment(
        size=224,
        crop_scale=(0.08, 1.0),
        crop_ratio=(3 / 4, 4 / 3),
        rotation=0.0,
        flip=0.5,
        jitter=0.8,
        brightness=0.8,
        contrast=0.8,
        saturation=0.8,
        hue=0.2,
        gray=0.2,
        blur=0.5,
        blur_sigma=(0.1, 2.0),
        solarize=0.0,
        colour="tensorflow",
        crop="tensorflow",
    )
    assert recipe.views == (view, view)


def test_cifar_recipe_follows_appendix_b9() -> None:
    recipe = RECIPES["cifar"]
    assert recipe.method == Config(temperature=0.5, hidden=512)
    assert (recipe.batch_size, recipe.epochs, recipe.optim.lr) == (512, 1000, 2.0)
    for view in recipe.views:  # strength 0.5, no blur
        assert (view.brightness, view.contrast, view.saturation, view.hue, view.blur) == (0.4, 0.4, 0.4, 0.1, 0.0)


def test_module_names_its_paper() -> None:
    assert "2002.05709" in (simclr.__doc__ or "")
