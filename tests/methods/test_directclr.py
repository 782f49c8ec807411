from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.contracts import Batch, Facts
from bench.errors import BenchError
from bench.planning.refusals import check_pretrain
from bench.planning.scales import scale_of
from bench.planning.translate import encoder
from bench.spec import Augment, Pretrain
from methods.directclr import RECIPES, Config, FirstChannels, Method, Orthogonal, channels, info_nce, projector_of


def naive(za: Tensor, zb: Tensor, temperature: float) -> Tensor:
    """Section 6.2 with the code's sign, temperature and both directions, loop by loop."""

    def similarity(u: Tensor, v: Tensor) -> Tensor:
        cosine: Tensor = (u * v).sum() / ((u * u).sum().sqrt() * (v * v).sum().sqrt())
        return cosine

    def one_direction(z: Tensor, other: Tensor) -> Tensor:
        terms = []
        for i in range(len(z)):
            candidates = [torch.exp(similarity(z[i], other[j]) / temperature) for j in range(len(other))]
            terms.append(-torch.log(candidates[i] / torch.stack(candidates).sum()))
        return torch.stack(terms).sum() / len(terms)

    return 0.5 * one_direction(za, zb) + 0.5 * one_direction(zb, za)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("images", [2, 5])
def test_loss_and_gradient_equal_the_papers_equation(images: int, temperature: float) -> None:
    rng = torch.Generator().manual_seed(images)
    za, zb = (torch.randn(images, 7, generator=rng, dtype=torch.float64).requires_grad_() for _ in range(2))
    found, expected = info_nce(za, zb, temperature=temperature), naive(za, zb, temperature)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        torch.autograd.grad(found, (za, zb)), torch.autograd.grad(expected, (za, zb)), rtol=0, atol=1e-10
    )


def test_a_collapsed_embedding_has_as_many_candidates_as_images() -> None:
    z = torch.ones(6, 4, dtype=torch.float64)  # SimCLR would have 2 x 6 - 1
    assert float(info_nce(z, z, temperature=0.1)) == pytest.approx(math.log(6))


def test_negatives_come_from_the_other_view_only() -> None:
    za = torch.eye(4, dtype=torch.float64)
    near = torch.cat([za[:2], za[:2]])  # two rows of the own view are equal; the other view tells them apart
    apart = info_nce(za, za, temperature=0.1)
    own = (torch.log_softmax(near @ za.T / 0.1, dim=1).diagonal() * -1).mean()
    other = (torch.log_softmax(za @ near.T / 0.1, dim=1).diagonal() * -1).mean()
    torch.testing.assert_close(info_nce(near, za, temperature=0.1), (own + other) / 2)
    assert float(apart) == pytest.approx(math.log(1 + 3 * math.exp(-10)))


def test_loss_weighs_both_directions_alike_and_ignores_lengths() -> None:
    rng = torch.Generator().manual_seed(0)
    za, zb = (torch.randn(5, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    found = info_nce(za, zb, temperature=0.1)
    torch.testing.assert_close(info_nce(zb, za, temperature=0.1), found)
    torch.testing.assert_close(
        info_nce(za * torch.tensor([[1.0], [2.0], [30.0], [0.1], [5.0]]), zb, temperature=0.1), found
    )


@pytest.mark.parametrize(("shape_a", "shape_b"), [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4,), (4,))])
def test_unequal_shapes_are_refused_by_name(shape_a: tuple[int, ...], shape_b: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected two equal \(B, D\) views") as caught:
        info_nce(torch.zeros(shape_a), torch.zeros(shape_b), temperature=0.1)
    assert str(shape_a) in str(caught.value)
    assert str(shape_b) in str(caught.value)


def matrix_of(projector: nn.Module, width: int) -> Tensor:
    """The matrix of a linear projector: embedding = matrix @ representation."""
    found: Tensor = projector(torch.eye(width)).detach().T
    return found


def made(choice: str, width: int = 12, **options: Any) -> nn.Module:
    return projector_of(Config(projector=choice, **options), width)  # type: ignore[arg-type]


def test_directclr_sees_the_first_channels_and_trains_nothing_beside_the_encoder() -> None:
    r = torch.randn(5, 12)
    assert torch.equal(made("direct", d0=4)(r), r[:, :4])
    assert list(made("direct", d0=4).parameters()) == []
    assert torch.equal(made("none")(r), r)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("orthogonal", [1.0] * 12),
        ("low_rank", [1.0] * 4 + [0.0] * 8),
        ("diagonal", [1.0] * 12),
        ("direct", [1.0] * 4),
        ("none", [1.0] * 12),
    ],
)
def test_singular_values_of_table_2(choice: str, expected: list[float]) -> None:
    values = torch.linalg.svdvals(matrix_of(made(choice, d0=4), 12))
    torch.testing.assert_close(values, torch.tensor(expected), rtol=0, atol=1e-5)


def test_what_table_2_calls_fixed_has_no_parameters_and_what_it_calls_diagonal_is() -> None:
    fixed = {choice for choice in ("direct", "none", "low_rank") if not list(made(choice, d0=4).parameters())}
    assert fixed == {"direct", "none", "low_rank"}
    # a vector: the optimizer neither decays nor adapts it
    assert [tuple(p.shape) for p in made("diagonal").parameters()] == [(12,)]
    weight = made("diagonal")
    with torch.no_grad():
        next(weight.parameters()).copy_(torch.arange(12))
    torch.testing.assert_close(matrix_of(weight, 12), torch.arange(12.0).diag())


def test_low_rank_is_rotated_saved_and_drawn_from_the_seed() -> None:
    torch.manual_seed(1)
    first = made("low_rank", d0=4)
    assert set(first.state_dict()) == {"weight"}
    matrix = matrix_of(first, 12)
    assert float((matrix - matrix.diagonal().diag()).abs().max()) > 0.05
    assert not torch.allclose(matrix, matrix.T, atol=0.05)  # U and V differ
    torch.manual_seed(1)
    assert torch.equal(matrix_of(made("low_rank", d0=4), 12), matrix)
    torch.manual_seed(2)
    assert not torch.allclose(matrix_of(made("low_rank", d0=4), 12), matrix, atol=0.05)


def test_orthogonal_stays_orthogonal_while_it_trains_also_under_autocast() -> None:
    projector = made("orthogonal")
    optimizer = torch.optim.SGD(projector.parameters(), lr=0.5)
    start = matrix_of(projector, 12)
    assert float((start - torch.eye(12)).abs().max()) > 0.1
    assert isinstance(projector, Orthogonal)
    for _ in range(5):
        with torch.autocast("cpu", torch.bfloat16):
            rotation = projector.rotation()
            loss = (projector(torch.ones(3, 12)).float() - torch.arange(12.0)).square().mean()  # anything that turns it
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(12), rtol=0, atol=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float((matrix_of(projector, 12) - start).abs().max()) > 0.1


def test_a_rotation_of_both_views_changes_nothing_so_orthogonal_is_no_projector() -> None:
    rng = torch.Generator().manual_seed(3)
    ra, rb = (torch.randn(6, 12, generator=rng, dtype=torch.float64) for _ in range(2))
    projector = made("orthogonal").double()
    found = info_nce(projector(ra), projector(rb), temperature=0.1)
    torch.testing.assert_close(found, info_nce(ra, rb, temperature=0.1), rtol=0, atol=1e-10)
    assert float(torch.autograd.grad(found, next(projector.parameters()))[0].abs().max()) < 1e-12


def test_projectors_of_table_1_have_the_layers_of_the_released_code() -> None:
    shapes = {name: tuple(p.shape) for name, p in made("two_layer", hidden=20, output=5).named_parameters()}
    assert shapes == {
        "0.weight": (20, 12),
        "1.weight": (20,),
        "1.bias": (20,),
        "3.weight": (5, 20),
        "4.weight": (5,),
        "4.bias": (5,),
    }
    assert all(p.requires_grad for p in made("two_layer", hidden=20, output=5).parameters())  # the last norm shifts too
    assert {name: tuple(p.shape) for name, p in made("linear", output=5).named_parameters()} == {"weight": (5, 12)}


class Normed(nn.Module):
    """An encoder with one layer and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, 12)
        self.norm = nn.BatchNorm1d(12)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.layer(x.flatten(1)))
        return out


@pytest.mark.parametrize("choice", ["direct", "none", "linear", "two_layer", "diagonal", "low_rank"])
def test_gradient_reaches_encoder_and_trainable_projector(
    choice: str, facts: Facts, batch: Callable[[int, int], Batch]
) -> None:
    method = Method(Config(projector=choice, d0=4, hidden=20, output=5), Normed(), facts)  # type: ignore[arg-type]
    images = batch(8, 2)
    loss = method.loss(method.embed(images), images.labels)["loss"]
    for gradient in torch.autograd.grad(loss, list(method.parameters())):
        assert float(gradient.abs().max()) > 0


def test_channels_beyond_d0_get_no_direct_gradient(facts: Facts, batch: Callable[[int, int], Batch]) -> None:
    method = Method(Config(d0=4), Normed(), facts)
    images = batch(8, 2)
    loss = method.loss(method.embed(images), images.labels)["loss"]
    layer = method.encoder.get_submodule("layer")
    assert isinstance(layer, nn.Linear)
    gradient = torch.autograd.grad(loss, layer.weight)[0].abs().amax(dim=1)
    assert bool((gradient[:4] > 0).all())
    assert bool((gradient[4:] == 0).all())  # here no layer mixes channels; in a ResNet the last block does


def test_each_view_passes_the_encoder_alone_and_keeps_its_name(
    facts: Facts, batch: Callable[[int, int], Batch]
) -> None:
    method = Method(Config(d0=4), Normed(), facts)
    images = batch(8, 2)
    other = replace(images, views=[images.views[0], images.views[1] * 0.3])
    torch.testing.assert_close(method.embed(images)["za"], method.embed(other)["za"])
    torch.testing.assert_close(method.embed(images)["zb"], method.encoder(images.views[1])[:, :4])


def _spec(scale: str) -> Pretrain:
    spec = encoder(scale_of(scale), "directclr", network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0)
    assert isinstance(spec, Pretrain)
    return spec


@pytest.mark.parametrize(
    ("d0", "width", "expected"), [(360, 2048, 360), (360 / 2048, 512, 90), (0.5, 64, 32), (64, 64, 64), (1, 64, 1)]
)
def test_d0_is_a_number_or_a_share(d0: float, width: int, expected: int) -> None:
    assert channels(d0, width) == expected


@pytest.mark.parametrize(
    ("d0", "message"),
    [
        (2049, "d0 is 2049, which asks for 2049 channels of a representation of 2048: expected 1 to 2048"),
        (0, "which asks for 0 channels"),
        (-3, "which asks for"),
        (1e-4, "which asks for 0 channels"),
        (12.5, "d0 is 12.5, expected a whole number"),
    ],
)
@pytest.mark.parametrize("projector", ["direct", "low_rank"])
def test_d0_beyond_the_representation_is_refused_when_a_plan_is_made(projector: str, d0: float, message: str) -> None:
    spec = _spec("paper")
    with pytest.raises(BenchError, match=message) as caught:
        check_pretrain(replace(spec, method=Config(projector=projector, d0=d0)))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_d0_is_held_against_the_width_of_the_network_at_hand() -> None:
    spec = _spec("embedded")
    with pytest.raises(BenchError, match="360 channels of a representation of 64"):
        check_pretrain(replace(spec, method=Config(d0=360)))
    check_pretrain(replace(spec, method=Config(projector="two_layer", d0=360)))  # there d0 has no part
    check_pretrain(replace(spec, method=Config(d0=64)))


def test_other_wrong_settings_are_refused_when_a_plan_is_made() -> None:
    spec = _spec("paper")
    Config().check(spec)
    with pytest.raises(BenchError, match="needs 2 views, found 1"):
        Config().check(replace(spec, views=spec.views[:1]))
    with pytest.raises(BenchError, match="temperature is 0"):
        Config(temperature=0).check(spec)


def test_paper_recipe_is_the_published_one() -> None:
    recipe, spec = RECIPES["paper"], _spec("paper")
    assert recipe.method == Config(projector="direct", d0=360, temperature=0.1, hidden=2048, output=128)
    assert (recipe.batch_size, recipe.epochs, recipe.precision) == (4096, 100, "fp16")
    assert spec.backbone.normalize == "imagenet"
    assert spec.backbone.zero_init_residual
    optim = recipe.optim
    assert (optim.name, optim.lars_momentum, optim.lr, optim.vector_lr) == ("lars", "popular", 4.8, None)
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


def test_the_projector_is_kept_under_its_name(facts: Facts) -> None:
    method = Method(Config(d0=4), nn.Identity(), facts)
    assert isinstance(method.projector, FirstChannels)
    assert method.projector(torch.zeros(2, 12)).shape == (2, 4)
