from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import Batch, Facts, Recipe
from bench.errors import BenchError, Stopped
from bench.planning.refusals import check_pretrain
from bench.planning.scales import SCALES, scale_of
from bench.planning.translate import encoder
from bench.runs.folder import RunFolder
from bench.settings.site import Site
from bench.spec import Augment, Pretrain
from bench.training import loop
from bench.training.ranks import Ranks
from methods.swav import RECIPES, VARIANTS, Config, Method, sinkhorn, swapped_prediction
from tests.conftest import TINY


def spec_of(scale: str = "embedded", variant: str = "") -> Pretrain:
    made = encoder(
        scale_of(scale), "swav", variant=variant, network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0
    )
    assert isinstance(made, Pretrain)
    return made


def cosines(rows: int, prototypes: int, *, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(rows, prototypes, generator=rng, dtype=torch.float64) * 2 - 1


def naive_sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> list[list[float]]:
    """Listing 1 (appendix), number by number: Q is K x B, rows to 1 / K, columns to 1 / B, in the end columns to 1."""
    images, prototypes = scores.shape
    q = [[math.exp(float(scores[b, k]) / epsilon) for b in range(images)] for k in range(prototypes)]
    total = sum(map(sum, q))
    q = [[value / total for value in row] for row in q]
    for _ in range(iterations):
        for k in range(prototypes):
            row = sum(q[k])
            q[k] = [value / row / prototypes for value in q[k]]
        for b in range(images):
            column = sum(q[k][b] for k in range(prototypes))
            for k in range(prototypes):
                q[k][b] /= column * images
    return [[q[k][b] / sum(q[j][b] for j in range(prototypes)) for k in range(prototypes)] for b in range(images)]


def naive_loss(scores: list[Tensor], assignments: list[Tensor], temperature: float) -> Tensor:
    """Equation 2 for each assigned view and each other view, image by image."""
    terms = []
    for own, q in enumerate(assignments):
        for other, view in enumerate(scores):
            if other == own:
                continue
            loss = torch.zeros((), dtype=torch.float64)
            for image, row in enumerate(view):
                powers = [torch.exp(value / temperature) for value in row]
                for k, power in enumerate(powers):
                    loss = loss - q[image, k] * torch.log(power / torch.stack(powers).sum())
            terms.append(loss / len(view))
    return torch.stack(terms).sum() / len(terms)


@pytest.mark.parametrize(("rows", "prototypes", "iterations"), [(7, 4, 3), (4, 9, 1), (6, 6, 5)])
def test_assignments_are_those_of_the_papers_listing(rows: int, prototypes: int, iterations: int) -> None:
    scores = cosines(rows, prototypes)
    found = sinkhorn(scores, epsilon=0.05, iterations=iterations)
    expected = torch.tensor(naive_sinkhorn(scores, 0.05, iterations), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_rows_sum_to_one_and_prototypes_get_equal_shares() -> None:
    scores = cosines(12, 5)
    assert float(scores.softmax(dim=1).sum(dim=0).std()) > 0.1
    torch.testing.assert_close(
        sinkhorn(scores, epsilon=0.05, iterations=3).sum(dim=1), torch.ones(12, dtype=torch.float64)
    )
    found = sinkhorn(scores, epsilon=0.05, iterations=500)
    torch.testing.assert_close(found.sum(dim=0), torch.full((5,), 12 / 5, dtype=torch.float64), rtol=1e-6, atol=0)


def test_equal_images_get_the_uniform_assignment_and_clear_ones_their_own() -> None:
    torch.testing.assert_close(sinkhorn(torch.ones(6, 3), epsilon=0.05, iterations=3), torch.full((6, 3), 1 / 3))
    torch.testing.assert_close(sinkhorn(torch.eye(3), epsilon=0.05, iterations=3), torch.eye(3), rtol=0, atol=1e-6)


def test_assignments_survive_what_overflows_without_logarithms() -> None:
    far = torch.tensor([[1.0, -1.0, 0.5], [1.0, -1.0, -1.0], [0.9, -1.0, 1.0]])
    found = sinkhorn(far, epsilon=1e-3, iterations=3)
    assert not torch.exp(far / 1e-3).isfinite().all()
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum(dim=1), torch.ones(3))


@pytest.mark.parametrize(("views", "assigned"), [(2, 2), (5, 2), (3, 1)])
def test_loss_equals_naive_loops_with_its_gradient(views: int, assigned: int) -> None:
    scores = [cosines(4, 3, seed=seed).requires_grad_() for seed in range(views)]
    assignments = [cosines(4, 3, seed=10 + seed).softmax(dim=1) for seed in range(assigned)]
    ours, theirs = swapped_prediction(scores, assignments, temperature=0.1), naive_loss(scores, assignments, 0.1)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-10)
    for found, expected in zip(
        *(torch.autograd.grad(loss, scores, materialize_grads=True) for loss in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_views_predict_each_others_assignment_not_their_own() -> None:
    a, b = torch.eye(2), 1 - torch.eye(2)
    crossed, straight = (float(swapped_prediction([a, b], pair, temperature=0.1)) for pair in ([b, a], [a, b]))
    assert crossed == pytest.approx(math.log1p(math.exp(-10)), rel=1e-3)
    assert straight == pytest.approx(10 + math.log1p(math.exp(-10)), rel=1e-3)
    assert float(
        swapped_prediction([torch.zeros(2, 8)] * 2, [torch.full((2, 8), 1 / 8)] * 2, temperature=0.1)
    ) == pytest.approx(math.log(8))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 or more views"):
        swapped_prediction([torch.zeros(2, 3)], [torch.zeros(2, 3)], temperature=0.1)
    with pytest.raises(ValueError, match=r"\(2, 3\), \(2, 4\)"):
        swapped_prediction([torch.zeros(2, 3)] * 2, [torch.zeros(2, 4)], temperature=0.1)
    with pytest.raises(ValueError, match="at least 1 iteration"):
        sinkhorn(torch.zeros(2, 3), epsilon=0.05, iterations=0)


SMALL = Config(prototypes=6, hidden=16, output=5, frozen_steps=2)
FACTS = Facts(backbone=TINY, feature_dim=12, classes=10, images=64, batch_size=8, steps=80, seed=0)  # 8 steps an epoch


class Flat(nn.Module):
    """An encoder with one layer, for squares of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 12)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(F.adaptive_avg_pool2d(x, 8).flatten(1))
        return out


def batch(seed: int = 0, *, local: int = 0, images: int = 8) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    sizes = (16, 16, *(8,) * local)
    views = [torch.rand(images, 3, size, size, generator=rng) for size in sizes]
    return Batch(views=views, labels=torch.zeros(images), indices=torch.arange(images))


def made(config: Config = SMALL) -> Method:
    torch.manual_seed(0)
    return Method(config, Flat(), FACTS)


def test_embed_gives_unit_embeddings_and_cosines_with_unit_prototypes() -> None:
    network = made()
    found = network.embed(batch(local=3))
    assert list(found) == ["z0", "z1", "s0", "s1", "s2", "s3", "s4"]
    weight = network.prototypes.weight
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(found["z1"].norm(dim=1), torch.ones(8))
    torch.testing.assert_close(found["s1"], found["z1"] @ weight.T)
    assert not found["z0"].requires_grad


def test_scores_are_in_full_precision_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = made().embed(batch())
    assert {rows.dtype for rows in found.values()} == {torch.float32}
    torch.testing.assert_close(found["z0"].norm(dim=1), torch.ones(8))


def test_the_method_puts_assignment_and_loss_together_and_no_gradient_reaches_the_assignment() -> None:
    network = made()
    found = network.embed(batch(local=2))
    scores = [found[f"s{v}"] for v in range(4)]
    q = [sinkhorn(s.detach(), epsilon=0.05, iterations=3) for s in scores[:2]]
    expected = swapped_prediction(scores, q, temperature=0.1)
    ours = network.loss(found, torch.zeros(8))["loss"]
    torch.testing.assert_close(ours, expected)
    for a, b in zip(*(torch.autograd.grad(loss, scores, retain_graph=True) for loss in (ours, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_prototypes_learn_only_after_the_frozen_steps_and_stay_unit_vectors() -> None:
    network = made()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    before, moved = network.prototypes.weight.detach().clone(), []
    for step in range(4):
        optimizer.zero_grad()
        network.loss(network.embed(batch(step)), torch.zeros(8))["loss"].backward()  # type: ignore[no-untyped-call]
        network.before_step(step / FACTS.steps)
        assert network.projector[0].weight.grad is not None
        optimizer.step()
        network.after_step((step + 1) / FACTS.steps)
        moved.append(not torch.allclose(network.prototypes.weight, before))
        torch.testing.assert_close(network.prototypes.weight.norm(dim=1), torch.ones(6))
    assert moved == [False, False, True, True]


def test_queue_fills_from_its_epoch_newest_first_and_is_used_once_full() -> None:
    network = made(replace(SMALL, queue=16, queue_epoch=1))
    past: list[Tensor] = []
    for step in range(12):
        found = network.embed(batch(step))
        scores, z = [found["s0"], found["s1"]], torch.stack([found["z0"], found["z1"]])
        wide = scores
        if step >= 10:  # epoch 1 begins with step 8; two batches make it full
            queue = torch.cat(past[::-1], dim=1)
            torch.testing.assert_close(network.queue, queue)
            wide = [torch.cat([s, rows @ network.prototypes.weight.T]) for s, rows in zip(scores, queue, strict=True)]
        elif step <= 8:
            assert not network.queue.any()
        q = [sinkhorn(s.detach(), epsilon=0.05, iterations=3)[:8] for s in wide]
        torch.testing.assert_close(
            network.loss(found, torch.zeros(8))["loss"], swapped_prediction(scores, q, temperature=0.1)
        )
        past = [*past, z][-2:]
        network.after_step((step + 1) / FACTS.steps)


def test_a_projector_is_as_wide_as_its_encoder() -> None:
    wide = Method(SMALL, Flat(), replace(FACTS, backbone=replace(TINY, width=2)))
    assert [tuple(p.shape) for p in wide.projector.parameters()] == [(32, 12), (32,), (32,), (32,), (5, 32), (5,)]


def run_of(site: Site, name: str) -> RunFolder:
    run = RunFolder(site.runs / name)
    run.path.mkdir(parents=True)
    return run


def test_a_resumed_run_ends_bit_identical(site: Site) -> None:
    """With a queue that is full when the run stops, and prototypes that begin to learn after it."""
    steps = 6
    spec = replace(
        spec_of(variant="multicrop"),
        method=replace(SMALL, frozen_steps=4, queue=128, queue_epoch=0),
        backbone=TINY,
        batch_size=64,
        epochs=steps / (3500 // 64),
    )
    whole, parts = run_of(site, "whole"), run_of(site, "parts")
    loop.pretrain(spec, loop.Place(whole, site, Ranks(), torch.device("cpu")))
    asked = iter([False, False, True])
    with pytest.raises(Stopped, match="after step 3 of 6"):
        loop.pretrain(spec, loop.Place(parts, site, Ranks(), torch.device("cpu"), should_stop=lambda: next(asked)))
    assert loop.pretrain(spec, loop.Place(parts, site, Ranks(), torch.device("cpu"))).resumed == 1
    a, b = (torch.load(run.weights, weights_only=True)["method"] for run in (whole, parts))
    assert a["queue"].any()
    assert set(a) == set(b)
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def test_wrong_settings_are_one_line_at_plan_time() -> None:
    spec = spec_of()
    for config, message in (
        (Config(prototypes=1), "prototypes is 1, expected at least 2"),
        (Config(temperature=0), "temperature is 0 and epsilon 0.05"),
        (Config(epsilon=-1), "epsilon -1, expected more than 0"),
        (Config(iterations=0), "iterations is 0"),
        (Config(queue=200), f"queue is 200, expected 0 or a multiple of the batch of {spec.batch_size}"),
        (Config(queue=-1), "queue is -1"),
        (Config(frozen_steps=-1), "frozen_steps is -1"),
        (Config(queue_epoch=-1), "queue_epoch -1"),
    ):
        with pytest.raises(BenchError, match=message):
            check_pretrain(replace(spec, method=config))
    with pytest.raises(BenchError, match="needs at least 2 views, found 1"):
        check_pretrain(replace(spec, views=spec.views[:1]))


def view(low: float, high: float, size: int = 224) -> Augment:
    return Augment(
        size=size,
        crop_scale=(low, high),
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
    )


@pytest.mark.parametrize(
    ("recipe", "views"),
    [
        (RECIPES["paper"], (view(0.08, 1.0),) * 2),
        (VARIANTS["multicrop"]["paper"], (*(view(0.14, 1.0),) * 2, *(view(0.05, 0.14, 96),) * 6)),
    ],
)
def test_paper_recipes_are_the_published_ones(recipe: Recipe, views: tuple[Augment, ...]) -> None:
    assert recipe.method == Config(
        prototypes=3000,
        hidden=2048,
        output=128,
        temperature=0.1,
        epsilon=0.05,
        iterations=3,
        frozen_steps=313,
        queue=0,
        queue_epoch=15,
    )
    assert recipe.views == views
    assert (recipe.batch_size, recipe.epochs, recipe.normalize, recipe.zero_init_residual) == (
        4096,
        800,
        "imagenet",
        False,
    )
    o = recipe.optim
    assert (o.name, o.lr, o.weight_decay, o.momentum, o.trust, o.warmup_epochs) == ("lars", 4.8, 1e-6, 0.9, 0.001, 10)
    assert (o.lars_momentum, o.lars_norm, o.vector_lr, o.vector_weight_decay) == ("popular", "separate", None, True)
    assert o.lr * o.final_lr_ratio == pytest.approx(0.0048)
    assert (o.clip_norm, o.final_weight_decay) == (None, None)


@pytest.mark.parametrize("scale", SCALES)
def test_multicrop_can_be_planned_at_every_scale(scale: str) -> None:
    spec = spec_of(scale, "multicrop")
    check_pretrain(spec)
    sizes = [view.size for view in spec.views]
    assert sizes == ([224] * 2 + [96] * 6 if scale == "paper" else [32] * 2 + [16] * 4)
