from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.contracts import Batch, Facts
from bench.errors import BenchError
from bench.planning.scales import scale_of
from bench.planning.translate import encoder
from bench.spec import Augment, Backbone, Pretrain
from methods.parts.byol_body import at_random_side, sides
from methods.truncated_triplet import RECIPES, Config, Method, pool_of, truncated_triplet_loss

SMALL = Config(projector=(20, 5), predictor=(18, 5))


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean_of(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum() / len(terms)


def naive(p: Tensor, t: Tensor, *, deputy: str, k: int, gamma: float, margin: float, hinge: str, pool: int) -> Tensor:
    """The slides' losses and the released code's, image by image, with d = -2 cos."""

    def distance(i: int, j: int) -> Tensor:
        dot: Tensor = (p[i] * t[j]).sum()
        return -2 * dot / ((p[i] * p[i]).sum().sqrt() * (t[j] * t[j]).sum().sqrt())

    def cut(gap: Tensor) -> Tensor:
        zero, floor = torch.zeros_like(gap), torch.full_like(gap, -margin)
        return torch.maximum(gap + margin, zero) if hinge == "code" else torch.maximum(gap, floor)

    losses = []
    for i in range(len(p)):
        mates = [j for j in range(len(p)) if j // pool == i // pool and j != i]
        near = sorted((distance(i, j) for j in mates), key=lambda d: float(d.detach()))
        if deputy == "averaged":
            losses.append(mean_of([cut(gamma * distance(i, i) - far) for far in near]))
            continue
        match deputy:
            case "rank":
                chosen = near[k - 1]
            case "smoothed":
                chosen = torch.stack([near[j - 1] for j in range(2, 2 * k + 2)]).sum() / (2 * k)
            case "released":
                chosen = mean_of(near[:10][1:])  # the ten smallest, the smallest of them dropped
            case "median":
                values = [float(d.detach()) for d in near]
                chosen = near[values.index(statistics.median_low(values))]
            case _:
                chosen = near[0]
        losses.append(cut(gamma * distance(i, i) - chosen))
    return mean_of(losses)


DEPUTIES = [
    *(("rank", 1, 6), ("rank", 3, 12), ("smoothed", 1, 6), ("smoothed", 5, 12), ("released", 1, 12)),
    *(("median", 1, 6), ("median", 1, 3), ("hardest", 1, 6), ("averaged", 1, 3), ("averaged", 1, 12)),
]


@pytest.mark.parametrize("hinge", ["code", "printed"])
@pytest.mark.parametrize("margin", [0.3, 100.0])
@pytest.mark.parametrize(
    ("deputy", "k", "pool"),
    DEPUTIES,
)
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_loss_and_gradient_equal_the_papers_equations(
    deputy: Any, k: int, pool: int, margin: float, hinge: Any, gamma: float
) -> None:
    p, t = random(12, 4, seed=1).requires_grad_(), random(12, 4, seed=2)
    config = Config(deputy=deputy, k=k, gamma=gamma, margin=margin, hinge=hinge, negatives_pool=pool)
    found = truncated_triplet_loss(p, t, config)["loss"]
    expected = naive(p, t, deputy=deputy, k=k, gamma=gamma, margin=margin, hinge=hinge, pool=pool)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(torch.autograd.grad(found, p), torch.autograd.grad(expected, p), rtol=0, atol=1e-10)


def test_printed_smoothed_rank_is_not_the_released_one_for_any_k() -> None:
    p, t = random(24, 6, seed=1), random(24, 6, seed=2)
    released = truncated_triplet_loss(p, t, Config())["deputy"]
    printed = torch.stack(
        [truncated_triplet_loss(p, t, Config(deputy="smoothed", k=k))["deputy"] for k in range(1, 12)]
    )
    assert float((printed - released).abs().min()) > 1e-3
    assert bool((printed.diff() > 0).all())  # a larger k reaches further away


def test_the_margin_of_the_released_code_never_bites() -> None:
    worst = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    for p, t in ((worst, worst), (worst, -worst), (random(24, 3, seed=1), random(24, 3, seed=2))):
        config = Config(deputy="hardest", hinge="code")
        found = truncated_triplet_loss(p, t, config)
        assert float(found["truncated"]) == 0
        linear = 100 + 2 * found["positive"] - found["deputy"]  # no hinge in it
        torch.testing.assert_close(found["loss"], linear, rtol=0, atol=1e-10)
        printed = truncated_triplet_loss(p, t, replace(config, hinge="printed"))["loss"]
        torch.testing.assert_close(printed, found["loss"] - 100, rtol=0, atol=1e-10)
    bound = 2 * (Config().gamma + 1)
    assert bound < Config().margin
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    farthest = truncated_triplet_loss(opposite, opposite, replace(config, hinge="printed"))
    assert float(farthest["loss"]) == pytest.approx(-bound)  # positive -2, deputy 2: the lower end is reached


def test_a_margin_that_bites_stops_the_gradient_of_images_far_enough_away() -> None:
    p = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([[1.0, 0.1], [-1.0, 0.3]], dtype=torch.float64)
    for hinge, value in (("code", 0.0), ("printed", -0.5)):
        found = truncated_triplet_loss(p, t, Config(deputy="hardest", gamma=1, margin=0.5, hinge=hinge))  # type: ignore[arg-type]
        assert float(found["loss"].detach()) == value
        assert float(found["truncated"]) == 1
        assert float(torch.autograd.grad(found["loss"], p)[0].abs().max()) == 0


def test_collapsed_embeddings_have_the_margin_as_loss_at_gamma_1() -> None:
    z = torch.ones(12, 3, dtype=torch.float64)
    assert float(truncated_triplet_loss(z, z, Config(gamma=1, margin=7))["loss"]) == pytest.approx(7)


def test_pools_of_the_global_batch_give_what_that_many_ranks_would() -> None:
    p, t = random(36, 5, seed=1).requires_grad_(), random(36, 5, seed=2)
    whole = truncated_triplet_loss(p, t, Config(negatives_pool=12))
    ranks = [
        truncated_triplet_loss(p[part], t[part], Config()) for part in (slice(0, 12), slice(12, 24), slice(24, 36))
    ]
    for name in ("loss", "positive", "deputy"):
        torch.testing.assert_close(whole[name], mean_of([rank[name] for rank in ranks]), rtol=0, atol=1e-10)
    gradient = torch.autograd.grad(mean_of([rank["loss"] for rank in ranks]), p)
    torch.testing.assert_close(torch.autograd.grad(whole["loss"], p), gradient, rtol=0, atol=1e-10)
    assert float((whole["loss"] - truncated_triplet_loss(p, t, Config())["loss"]).abs().detach()) > 1e-3


def test_a_large_embedding_is_no_nearer_than_a_small_one() -> None:
    p, t = random(12, 4, seed=1), random(12, 4, seed=2)
    stretched = t * torch.linspace(0.1, 30, 12, dtype=torch.float64)[:, None]
    torch.testing.assert_close(truncated_triplet_loss(p, stretched, Config()), truncated_triplet_loss(p, t, Config()))


def test_the_target_gets_no_gradient() -> None:
    p, t = random(12, 3, seed=1).requires_grad_(), random(12, 3, seed=2).requires_grad_()
    truncated_triplet_loss(p, t, Config())["loss"].backward()  # type: ignore[no-untyped-call]
    assert t.grad is None


@pytest.mark.parametrize(("shape_p", "shape_t"), [((12, 3), (11, 3)), ((12, 3), (12, 2)), ((12,), (12,))])
def test_unequal_shapes_are_refused_by_name(shape_p: tuple[int, ...], shape_t: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected equal \(B, D\) predictions and targets") as caught:
        truncated_triplet_loss(torch.zeros(shape_p), torch.zeros(shape_t), Config())
    assert str(shape_p) in str(caught.value)
    assert str(shape_t) in str(caught.value)


class Pooled(nn.Module):
    """An encoder for images of any side, which remembers the sides that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 12, 3)
        self.norm = nn.BatchNorm2d(12)
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.shape[-1])
        out: Tensor = self.norm(self.layer(x)).square().mean(dim=(2, 3))
        return out


def test_directions_add_up_and_the_other_terms_are_their_means(facts: Facts) -> None:
    made = Method(SMALL, Pooled(), facts)
    z = {name: random(12, 5, seed=seed) for seed, name in enumerate(("pa", "pb", "ta", "tb"))}
    found = made.loss(z, torch.zeros(12))
    ab, ba = truncated_triplet_loss(z["pa"], z["tb"], SMALL), truncated_triplet_loss(z["pb"], z["ta"], SMALL)
    torch.testing.assert_close(found["loss"], ab["loss"] + ba["loss"])
    for name in ("positive", "deputy", "truncated"):
        torch.testing.assert_close(found[name], (ab[name] + ba[name]) / 2)


def test_gradient_reaches_the_online_network_and_never_the_target(
    facts: Facts, batch: Callable[[int, int], Batch]
) -> None:
    made = Method(SMALL, Pooled(), facts)
    images = batch(12, 2)
    made.loss(made.embed(images), images.labels)["loss"].backward()  # type: ignore[no-untyped-call]
    for name, parameter in made.named_parameters():
        if name.startswith("target."):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize("output_norm", [False, True])
def test_last_layers_have_a_bias_that_starts_at_0(output_norm: bool, facts: Facts) -> None:
    made = Method(replace(SMALL, output_norm=output_norm), Pooled(), facts)
    assert isinstance(made.projector[-1], nn.BatchNorm1d if output_norm else nn.Linear)
    for head, name in ((made.projector, "3.bias"), (made.predictor, "3.bias"), (made.target, "1.3.bias")):
        assert torch.equal(head.get_parameter(name), torch.zeros(5))
        assert name.replace("3", "0") not in head.state_dict()  # batch norm follows
    assert made.projector.get_parameter("3.bias").requires_grad


def test_target_moves_by_the_momentum_of_the_config(facts: Facts) -> None:
    made = Method(replace(SMALL, momentum=0.75), Pooled(), facts)
    before = made.target.get_parameter("1.3.weight").clone()
    with torch.no_grad():
        made.projector.get_parameter("3.weight").add_(4.0)
    made.after_step(1 / facts.steps)  # step 0: the base
    torch.testing.assert_close(made.target.get_parameter("1.3.weight"), before + 1.0)


def test_sides_are_those_of_the_released_code_and_in_proportion_for_small_views() -> None:
    assert (sides(224, 96), sides(224, 128)) == (range(96, 225), range(128, 225))
    assert (sides(32, 96), sides(32, 128)) == (range(14, 33), range(18, 33))


def test_every_side_is_drawn_and_nothing_is_distorted() -> None:
    torch.manual_seed(3)
    x = torch.full((2, 3, 32, 32), 0.25)
    found = {at_random_side(x, 96).shape for _ in range(400)}
    assert found == {(2, 3, side, side) for side in range(14, 33)}
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    small = at_random_side(ramp, 112)
    torch.testing.assert_close(small, nn.functional.interpolate(ramp, size=small.shape[-2:], mode="bilinear"))


def test_each_pass_has_a_side_of_its_own_that_follows_the_seed_of_the_step(
    facts: Facts, batch: Callable[[int, int], Batch]
) -> None:
    made = Method(replace(SMALL, random_resolution=True), Pooled(), facts)
    online, target = made.encoder, made.target.get_submodule("0")
    assert isinstance(online, Pooled)
    assert isinstance(target, Pooled)
    online_sides, target_sides = [], []
    for seed in (*range(40), 0):
        torch.manual_seed(seed)
        made.embed(batch(12, 2))
        online_sides.append(tuple(online.seen[-2:]))
        target_sides.append(tuple(target.seen[-2:]))
    assert online_sides[0] == online_sides[-1]
    assert target_sides[0] == target_sides[-1]
    assert min(min(pair) for pair in online_sides) < 18 <= min(min(pair) for pair in target_sides)
    assert len({*online_sides}) > 20
    assert any(first != second for first, second in target_sides)


def test_views_keep_their_size_without_the_option(facts: Facts, batch: Callable[[int, int], Batch]) -> None:
    made = Method(SMALL, Pooled(), facts)
    made.embed(batch(12, 2))
    for network in (made.encoder, made.target.get_submodule("0")):
        assert isinstance(network, Pooled)
        assert network.seen == [32, 32]


def _paper_spec() -> Pretrain:
    spec = encoder(
        scale_of("paper"), "truncated_triplet", network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0
    )
    assert isinstance(spec, Pretrain)
    return spec


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(negatives_pool=200), "a batch of 6272 images does not divide into pools of 200"),
        (Config(negatives_pool=1), "does not divide into pools of 1, at least 2"),
        (Config(negatives_pool=0), "does not divide into pools of 0, at least 2"),
        (Config(negatives_pool=8), "'released' needs ranks 2 to 10; a pool of 8 has 7 negatives"),
        (
            Config(negatives_pool=64, deputy="smoothed", k=40),
            "'smoothed' needs ranks 2 to 81; a pool of 64 has 63 negatives",
        ),
        (Config(negatives_pool=64, deputy="rank", k=64), "'rank' needs ranks 64 to 64; a pool of 64 has 63 negatives"),
        (Config(deputy="rank", k=0), "'rank' needs ranks 0 to 0"),
        (Config(deputy="smoothed", k=0), "'smoothed' needs ranks 2 to 1"),
        (Config(deputy="nearest"), "deputy is 'nearest'. Allowed: rank, smoothed, released, median, hardest, averaged"),  # type: ignore[arg-type]
        (Config(hinge="soft"), "hinge 'soft'"),  # type: ignore[arg-type]
        (Config(gamma=0), "gamma is 0"),
        (Config(momentum=-0.1), "truncated_triplet: momentum is -0.1"),
        (Config(predictor=(4096, 128)), r"projector \(4096, 256\) and predictor \(4096, 128\)"),
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
    with pytest.raises(BenchError, match="truncated_triplet needs 2 views, found 3"):
        Config().check(replace(spec, views=(*spec.views, spec.views[0])))


def test_a_network_of_fixed_patches_cannot_have_random_sides() -> None:
    spec = replace(_paper_spec(), backbone=Backbone(name="vit_small16"))
    Config().check(spec)
    with pytest.raises(BenchError, match="an image size of 97 is not a multiple of its patch"):
        Config(random_resolution=True).check(spec)


def test_pools_default_to_the_whole_batch() -> None:
    assert pool_of(Config(), 30) == 30
    assert pool_of(Config(negatives_pool=15), 30) == 15


def test_paper_recipe_is_the_published_one() -> None:
    recipe, spec = RECIPES["paper"], _paper_spec()
    # 8 GPUs x 196 x 4 accumulated, whatever the file's name says
    assert (recipe.batch_size, recipe.epochs) == (
        6272,
        1000,
    )
    expected = Config(
        deputy="released",
        gamma=2,
        margin=100,
        hinge="code",
        negatives_pool=196,
        random_resolution=True,
        projector=(4096, 256),
        predictor=(4096, 256),
        momentum=0.99,
        output_norm=False,
    )
    assert recipe.method == expected
    assert spec.backbone.normalize == "imagenet"
    assert not spec.backbone.zero_init_residual
    optim = recipe.optim
    assert (optim.name, optim.lars_momentum, optim.lars_norm) == ("lars", "classic", "separate")
    assert (optim.lr, optim.vector_lr, optim.weight_decay) == (4.8, None, 1e-6)
    assert (optim.momentum, optim.trust, optim.warmup_epochs, optim.final_lr_ratio) == (0.9, 0.001, 10, 0)
    assert optim.adapted_vectors == "downsample.1.weight"
    assert (optim.steps, optim.warmup_from) == ("epoch", 1e-4)
    assert not optim.vector_weight_decay
    first = Augment(
        size=224, jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, gray=0.2, blur=1.0, solarize=0.0
    )
    assert (first.crop_scale, first.flip, first.blur_sigma, first.solarize_threshold) == (
        (0.08, 1.0),
        0.5,
        (0.1, 2.0),
        0.5,
    )
    assert recipe.views == (first, replace(first, blur=0.1, solarize=0.2))
