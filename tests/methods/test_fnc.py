from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import Batch, Facts
from bench.errors import BenchError, Stopped
from bench.planning.scales import scale_of
from bench.planning.translate import encoder
from bench.runs.folder import RunFolder
from bench.settings.site import Site
from bench.spec import Augment, Backbone, Pretrain
from bench.training import loop
from bench.training.ranks import Ranks
from methods.fnc import RECIPES, Config, Method, fnc_loss, most_similar, own_candidates, same_label
from methods.simclr import nt_xent

WIDTH = 3
SMALL = Config(hidden=20, output=WIDTH, memory=0)


def method(config: Config, images: int, encoder: nn.Module | None = None) -> Method:
    facts = Facts(
        backbone=Backbone(name="resnet10"), feature_dim=12, classes=10, images=3500, batch_size=images, steps=10, seed=0
    )
    return Method(config, encoder or nn.Identity(), facts).double()


def noise(images: int, *names: str, seed: int = 0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(images, WIDTH, generator=rng, dtype=torch.float64).requires_grad_() for name in names}


def views(count: int, name: str = "view") -> list[str]:
    return [f"{name}{number}" for number in range(count)]


def cosine(u: Tensor, v: Tensor) -> Tensor:
    lengths = (u * u).sum().sqrt() * (v * v).sum().sqrt()
    return (u * v).sum() / lengths if bool(lengths) else u.sum() * 0


def found_by_hand(search: list[Tensor], others: list[tuple[int, Tensor]], config: Config) -> set[int]:
    """F_i: the positions of the false negatives among (position, vector) of the negatives."""
    scores = []
    for position, vector in others:
        each = [float(cosine(vector.detach(), view.detach())) for view in search]
        scores.append((max(each) if config.aggregate == "max" else sum(each) / len(each), position))
    best = sorted(scores, reverse=True)[: config.top_k]
    return {position for score, position in best if config.threshold is None or score > config.threshold}


def naive(embeddings: dict[str, Tensor], memory: list[Tensor], config: Config) -> tuple[Tensor, float]:
    """Equations 1 to 3 of the paper, anchor by anchor, and the mean number of false negatives."""
    every = [z for name, z in embeddings.items() if name.startswith("view")]
    slow = [z.detach() for name, z in embeddings.items() if name.startswith("slow")] or every
    anchors = every if config.multi_crop else every[:2]
    images = len(anchors[0])
    targets = slow if config.memory else anchors
    candidates = [targets[view][image] for view in range(len(anchors)) for image in range(images)] + memory
    terms, numbers = [], []
    for view, image in product(range(len(anchors)), range(images)):
        itself = view * images + image
        positives = [v * images + image for v in range(len(anchors)) if v != view]
        own = {itself, *positives}
        search = {"all": slow, "support": slow[2:], "anchor": slow[view : view + 1]}[config.search]
        negatives = [(k, candidates[k]) for k in range(len(candidates)) if k not in own and bool(candidates[k].any())]
        false = found_by_hand([z[image] for z in search], negatives, config) if config.mode != "none" else set()
        numbers.append(len(false))
        kept = [k for k in range(len(candidates)) if k != itself and not (config.mode == "elimination" and k in false)]
        pulled = positives + (sorted(false) if config.mode == "attraction" else [])

        def term(k: int, anchor: Tensor) -> Tensor:
            return torch.exp(cosine(anchor, candidates[k]) / config.temperature)

        anchor = anchors[view][image]
        denominator = torch.stack([term(k, anchor) for k in kept]).sum()
        logs = [torch.log(term(k, anchor) / denominator) for k in pulled]
        terms.append(-torch.stack(logs).sum() / len(pulled))
    return config.loss_factor * torch.stack(terms).mean(), sum(numbers) / len(numbers)


def assert_equal(config: Config, embeddings: dict[str, Tensor], made: Method, memory: list[Tensor]) -> None:
    images = len(embeddings["view0"])
    expected, count = naive(embeddings, memory, config)
    found = made.loss(embeddings, torch.arange(images))
    torch.testing.assert_close(found["loss"], expected, rtol=0, atol=1e-10)
    if config.mode != "none":
        assert float(found["false_negatives"]) == pytest.approx(count)
        assert count > 0
    inputs = [z for name, z in embeddings.items() if name.startswith("view")][: None if config.multi_crop else 2]
    torch.testing.assert_close(
        torch.autograd.grad(found["loss"], inputs), torch.autograd.grad(expected, inputs), rtol=0, atol=1e-10
    )


BOUNDS: list[dict[str, Any]] = [
    {"top_k": 3, "threshold": None},
    {"top_k": None, "threshold": 0.2},
    {"top_k": 3, "threshold": 0.2},
]


@pytest.mark.parametrize("bounds", BOUNDS, ids=["top-k", "threshold", "both"])
@pytest.mark.parametrize("aggregate", ["max", "mean"])
@pytest.mark.parametrize("search", ["all", "support", "anchor"])
@pytest.mark.parametrize("mode", ["elimination", "attraction"])
@pytest.mark.parametrize("multi_crop", [False, True])
def test_loss_and_gradient_equal_the_papers_equations(
    multi_crop: bool, mode: Any, search: Any, aggregate: Any, bounds: dict[str, Any]
) -> None:
    config = replace(
        SMALL, multi_crop=multi_crop, mode=mode, search=search, aggregate=aggregate, temperature=0.3, **bounds
    )
    assert_equal(config, noise(4, *views(4)), method(config, 4), [])


@pytest.mark.parametrize("search", ["all", "support", "anchor"])
@pytest.mark.parametrize("mode", ["none", "elimination", "attraction"])
@pytest.mark.parametrize("multi_crop", [False, True])
def test_with_a_memory_too_step_after_step(multi_crop: bool, mode: Any, search: Any) -> None:
    config = replace(
        SMALL,
        multi_crop=multi_crop,
        mode=mode,
        search=search,
        memory=7,
        temperature=0.3,
        top_k=4,
        threshold=None,
        loss_factor=2.0,
    )
    images, count = 3, 3
    anchors = count if multi_crop else 2
    made = method(config, images)
    memory = list(torch.zeros(7 * images, WIDTH, dtype=torch.float64))
    for step in range(4):  # zeros are in the denominator at first; after it old embeddings fall out
        embeddings = noise(images, *views(count), *views(count, "slow"), seed=step)
        memory = memory[: (7 - anchors) * images]
        assert_equal(config, embeddings, made, memory)
        newest = [embeddings[f"slow{view}"][image].detach() for view in range(anchors) for image in range(images)]
        memory = [z / (z * z).sum().sqrt() for z in newest] + memory
        torch.testing.assert_close(made.memory, torch.stack(memory), rtol=0, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_without_support_views_and_without_cancellation_it_is_simclr(temperature: float) -> None:
    z = noise(6, "view0", "view1")
    for multi_crop in (False, True):
        found = method(replace(SMALL, mode="none", multi_crop=multi_crop, temperature=temperature), 6).loss(
            z, torch.arange(6)
        )["loss"]
        expected = nt_xent(z["view0"], z["view1"], temperature=temperature)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
        inputs = list(z.values())
        torch.testing.assert_close(
            torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), rtol=0, atol=1e-13
        )


def test_a_bound_that_nothing_meets_is_simclr_too() -> None:
    z = noise(5, "view0", "view1")
    far = replace(SMALL, mode="attraction", threshold=0.9999)
    expected = nt_xent(z["view0"], z["view1"], temperature=far.temperature)
    found = method(far, 5).loss(z, torch.arange(5))
    torch.testing.assert_close(found["loss"], expected, rtol=0, atol=1e-12)
    assert float(found["false_negatives"]) == float(found["same_label"]) == 0


def unit(*angles: float) -> Tensor:
    return torch.tensor(
        [[math.cos(math.radians(angle)), math.sin(math.radians(angle))] for angle in angles], dtype=torch.float64
    )


def test_a_known_case_of_elimination_and_attraction() -> None:
    # Two pairs of twins: image 0 and 1 at 0 degrees, image 2 and 3 at 180; every view sits on its image.
    z = torch.stack([unit(0, 0, 180, 180)] * 2)
    candidates = z.flatten(0, 1)
    own = own_candidates(4, 2, candidates)
    false = most_similar(z, candidates, own, aggregate="max", top_k=None, threshold=0.7)
    assert false.nonzero().tolist() == [[0, 1], [0, 5], [1, 0], [1, 4], [2, 3], [2, 7], [3, 2], [3, 6]]
    both = false.expand(2, -1, -1)
    near, far = math.exp(1 / 0.5), math.exp(-1 / 0.5)
    plain, without, towards = (
        float(fnc_loss(z, candidates, both, mode=mode, temperature=0.5))
        for mode in ("none", "elimination", "attraction")
    )
    assert plain == pytest.approx(-math.log(near / (3 * near + 4 * far)))
    assert without == pytest.approx(-math.log(near / (near + 4 * far)))
    assert towards == pytest.approx(plain)  # the twins are already where they are pulled to
    assert float(same_label(both, torch.tensor([7, 7, 1, 2]))) == pytest.approx(50)


def test_max_needs_one_similar_view_and_mean_all_of_them() -> None:
    search = torch.stack([unit(0), unit(90)])
    candidates = torch.cat([unit(0), unit(5), unit(45), unit(180)])  # the first is the image's own
    own = torch.tensor([[True, False, False, False]])
    chosen = {
        kind: most_similar(search, candidates, own, aggregate=kind, top_k=1, threshold=None).nonzero()[:, 1].tolist()
        for kind in ("max", "mean")
    }
    assert chosen == {"max": [1], "mean": [2]}
    lax = most_similar(search, candidates, own, aggregate="max", top_k=9, threshold=0.7)  # cos 45 is 0.707
    assert lax.tolist() == [[False, True, True, False]]


def test_unfilled_slots_count_in_the_denominator_and_are_never_false_negatives() -> None:
    images = 4
    config = replace(SMALL, memory=5, top_k=50, threshold=None, mode="none", temperature=0.5)
    same = {name: torch.ones(images, WIDTH, dtype=torch.float64) for name in ("view0", "view1", "slow0", "slow1")}
    expected = math.log((2 * images - 1) * math.exp(2) + 3 * images) - 2
    assert float(method(config, images).loss(same, torch.arange(images))["loss"]) == pytest.approx(expected)
    searching = method(replace(config, mode="attraction"), images)
    counts = [float(searching.loss(same, torch.arange(images))["false_negatives"]) for _ in range(3)]
    assert counts == [6, 14, 18]  # of 8, 16, 20 filled slots two are the image's own


def test_the_slow_network_gets_no_gradient_and_support_views_only_with_multi_crop() -> None:
    names = (*views(3), *views(3, "slow"))
    for multi_crop in (False, True):
        config = replace(SMALL, memory=4, multi_crop=multi_crop, top_k=3, threshold=None)
        z = noise(4, *names)
        loss = method(config, 4).loss(z, torch.arange(4))["loss"]
        gradients = dict(zip(names, torch.autograd.grad(loss, list(z.values()), allow_unused=True), strict=True))
        reached = {
            name for name, gradient in gradients.items() if gradient is not None and float(gradient.abs().max()) > 0
        }
        assert reached == {"view0", "view1"} | ({"view2"} if multi_crop else set())


def test_too_few_candidates_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 x 3 candidates, got 5"):
        fnc_loss(torch.ones(2, 3, 4), torch.ones(5, 4), None, mode="none", temperature=1)


class Flat(nn.Module):
    """An encoder with one layer that counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, 12)
        self.passes: list[tuple[int, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append((len(x), torch.is_grad_enabled()))
        out: Tensor = self.layer(x.flatten(1))
        return out


@pytest.mark.parametrize(
    ("changes", "passes", "slow", "names"),
    [
        ({"multi_crop": True}, [(32, True)], [], views(4)),
        ({"multi_crop": False}, [(16, True), (16, False)], [], views(4)),
        ({"multi_crop": False, "search": "anchor"}, [(16, True)], [], views(2)),
        ({"multi_crop": False, "mode": "none"}, [(16, True)], [], views(2)),
        ({"multi_crop": True, "memory": 4}, [(32, True)], [(32, False)], [*views(4), *views(4, "slow")]),
        ({"multi_crop": False, "memory": 4}, [(16, True)], [(32, False)], [*views(2), *views(4, "slow")]),
    ],
)
def test_only_what_is_needed_passes_the_network(
    changes: dict[str, Any], passes: list[Any], slow: list[Any], names: list[str], batch: Callable[[int, int], Batch]
) -> None:
    made = method(replace(SMALL, **changes), 8, Flat()).float()
    embeddings = made.embed(batch(8, 4))
    assert list(embeddings) == names
    assert cast(Flat, made.encoder).passes == passes
    assert (cast(Flat, cast(nn.Sequential, made.slow)[0]).passes if made.slow is not None else []) == slow
    gradients = [name for name, z in embeddings.items() if z.requires_grad]
    assert gradients == (views(4) if made.config.multi_crop else views(2))


def test_embeddings_keep_the_views_apart(batch: Callable[[int, int], Batch]) -> None:
    made = method(replace(SMALL, memory=4), 8, Flat()).float().eval()
    images = batch(8, 3)
    found = made.embed(images)
    for number, view in enumerate(images.views):
        torch.testing.assert_close(found[f"view{number}"], made.projector(made.encoder(view)))
        torch.testing.assert_close(found[f"slow{number}"], found[f"view{number}"])  # a copy at first


def test_the_slow_networks_follow_with_the_published_momentum(batch: Callable[[int, int], Batch]) -> None:
    made = method(replace(SMALL, memory=4), 8, Flat()).float()
    assert made.slow is not None
    assert not any(p.requires_grad for p in made.slow.parameters())
    before = [p.clone() for p in made.slow.parameters()]
    with torch.no_grad():
        for p in made.parameters():
            if p.requires_grad:
                p.add_(1)
    made.after_step(0.5)
    online = [*made.encoder.parameters(), *made.projector.parameters()]
    for old, fast, now in zip(before, online, made.slow.parameters(), strict=True):
        torch.testing.assert_close(now, 0.999 * old + 0.001 * fast)


def test_projector_is_that_of_simclr_v2_with_a_norm_after_every_layer(facts: Facts) -> None:
    made = Method(Config(hidden=20, output=5, memory=0), nn.Identity(), facts)
    kinds = [type(layer) for layer in made.projector]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear, nn.BatchNorm1d]
    shapes = {name: tuple(p.shape) for name, p in made.projector.named_parameters() if p.requires_grad}
    # No bias in a linear layer, no shift in the last norm.
    assert shapes == {
        "0.weight": (20, 12),
        "1.weight": (20,),
        "1.bias": (20,),
        "3.weight": (20, 20),
        "4.weight": (20,),
        "4.bias": (20,),
    } | {
        "6.weight": (5, 20),
        "7.weight": (5,),
    }


def tiny(**changes: Any) -> Pretrain:
    config = Config(hidden=16, output=8, memory=4, top_k=5, threshold=None, temperature=0.5, momentum=0.9)
    made = encoder(scale_of("embedded"), "fnc", network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0)
    assert isinstance(made, Pretrain)
    backbone = Backbone(name="resnet10", base_channels=4, stem="small", zero_init_residual=False)
    return replace(
        made, method=config, backbone=backbone, batch_size=32, epochs=5 / (3500 // 32), precision="fp32", **changes
    )


def trained(spec: Pretrain, site: Site, name: str, stop_after: int | None = None) -> dict[str, Tensor]:
    """The weights after a run, which is stopped once after some steps and taken up again."""
    run = RunFolder(site.runs / name)
    run.path.mkdir(parents=True)
    calls = iter(range(100))
    if stop_after is not None:
        with pytest.raises(Stopped):
            loop.pretrain(
                spec,
                loop.Place(run, site, Ranks(), torch.device("cpu"), should_stop=lambda: next(calls) + 1 == stop_after),
            )
    loop.pretrain(spec, loop.Place(run, site, Ranks(), torch.device("cpu")))
    weights: dict[str, Tensor] = torch.load(run.weights, weights_only=True)["method"]
    return weights


def test_an_interrupted_run_goes_on_with_its_memory(site: Site) -> None:
    whole, resumed = trained(tiny(), site, "whole"), trained(tiny(), site, "resumed", stop_after=3)
    assert whole.keys() == resumed.keys()
    assert whole["memory"].shape == (4 * 32, 8)
    torch.testing.assert_close(whole["memory"].norm(dim=1), torch.ones(4 * 32))
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key


def test_sub_batches_fill_the_memory_once_a_step(site: Site) -> None:
    memory = trained(tiny(chunks=2), site, "chunks")["memory"]
    assert len({tuple(row) for row in memory.tolist()}) == len(memory)


def _paper_spec() -> Pretrain:
    spec = encoder(scale_of("paper"), "fnc", network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0)
    assert isinstance(spec, Pretrain)
    return spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "attract"}, "unknown fnc mode 'attract'. Did you mean 'attraction'"),
        ({"search": "supports"}, "unknown fnc search 'supports'. Did you mean 'support'"),
        ({"aggregate": "median"}, "unknown fnc aggregate 'median'"),
        ({"top_k": None, "threshold": None}, "attraction needs top_k, threshold or both, found neither"),
        ({"top_k": 0}, "top_k is 0, expected 1 to 40950"),
        ({"top_k": 40951}, "top_k is 40951, expected 1 to 40950, the negatives in a batch of 4096"),
        ({"threshold": 1.0}, "threshold is 1.0, expected a cosine from -1 to below 1"),
        ({"memory": 9}, "memory is 9 batches, expected 0 or at least the 10 of one step"),
        ({"memory": -1}, "memory is -1 batches"),
        ({"momentum": 1.0}, "momentum is 1.0, expected 0 to below 1"),
        ({"temperature": 0}, "temperature is 0, expected more than 0"),
    ],
)
def test_wrong_settings_are_refused_in_one_line_when_a_plan_is_made(changes: dict[str, Any], message: str) -> None:
    spec = _paper_spec()
    Config().check(spec)
    with pytest.raises(BenchError) as caught:
        replace(Config(), **changes).check(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_number_of_views_is_checked_against_what_the_search_needs() -> None:
    spec = _paper_spec()
    one, two = replace(spec, views=spec.views[:1]), replace(spec, views=spec.views[:2])
    with pytest.raises(BenchError, match="needs 2 main views and any number of support views, found 1"):
        Config().check(one)
    with pytest.raises(BenchError, match="search='support' needs support views"):
        Config(search="support").check(two)
    Config(search="support", mode="none").check(two)
    Config(top_k=None).check(two)
    Config(mode="none", top_k=None, threshold=None).check(two)
    with pytest.raises(BenchError, match="top_k is 10, expected 1 to 8"):
        Config(memory=0).check(replace(two, batch_size=5))


def test_paper_recipe_is_the_published_one() -> None:
    recipe, spec = RECIPES["paper"], _paper_spec()
    assert (recipe.batch_size, recipe.epochs, recipe.normalize, recipe.precision) == (4096, 1000, "none", "tf32")
    assert spec.backbone.zero_init_residual
    optim = recipe.optim
    assert (optim.name, optim.lars_momentum, optim.weight_decay, optim.warmup_epochs) == ("lars", "classic", 1e-4, 10)
    assert optim.lr == pytest.approx(0.1 * math.sqrt(4096))
    assert (optim.momentum, optim.trust, optim.final_lr_ratio, optim.vector_lr, optim.vector_weight_decay) == (
        0.9,
        0.001,
        0,
        None,
        False,
    )
    config = cast(Config, recipe.method)
    assert (config.mode, config.search, config.aggregate, config.top_k, config.threshold) == (
        "attraction",
        "all",
        "max",
        10,
        0.7,
    )
    assert (config.multi_crop, config.memory, config.momentum) == (True, 16, 0.999)
    assert (config.temperature, config.loss_factor, config.hidden, config.output) == (0.1, 2.0, 2048, 128)
    view = Augment(
        size=224,
        crop_scale=(0.08, 1.0),
        crop_ratio=(3 / 4, 4 / 3),
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
        policy="randaugment_released",
        colour="tensorflow_multiplied",
        crop="tensorflow",
    )
    assert recipe.views == (view,) * 10  # two main views and 8 support views


def test_collapse_check_sees_the_first_view_of_the_encoder(batch: Callable[[int, int], Batch]) -> None:
    made = method(replace(SMALL, memory=4), 8, Flat()).float()
    assert next(iter(made.embed(batch(8, 2)))) == "view0"


def test_rows_are_normalised_once(batch: Callable[[int, int], Batch]) -> None:
    z = noise(4, "view0", "view1")
    made = method(SMALL, 4)
    stretched = {name: value * torch.tensor([[1.0], [2.0], [30.0], [0.1]]) for name, value in z.items()}
    torch.testing.assert_close(made.loss(stretched, torch.arange(4))["loss"], made.loss(z, torch.arange(4))["loss"])
    torch.testing.assert_close(
        made.loss({k: F.normalize(v) for k, v in z.items()}, torch.arange(4)), made.loss(z, torch.arange(4))
    )
