from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from bench.contracts import Context, Subject
from bench.errors import BenchError
from evals.linear_collapse import _STRENGTHS, METRICS, Config, evaluate, train
from evals.parts import linear_networks as linear

SUBJECT = Subject(key="unused", network=nn.Identity(), feature_dim=1)


def batch(count: int, width: int, noise: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A weight and two views, float64."""
    rng = torch.Generator().manual_seed(seed)
    x, first, second = (torch.randn(count, width, generator=rng, dtype=torch.float64) for _ in range(3))
    return torch.randn(width, width, generator=rng, dtype=torch.float64) / 2, x + noise * first, x + noise * second


def code_loss(weight: Tensor, xa: Tensor, xb: Tensor, temperature: float) -> Tensor:
    """The toy_task's InfoNCE, loop by loop."""
    za, zb = [weight @ x for x in xa], [weight @ x for x in xb]
    terms = []
    for i, z in enumerate(za):
        scores = torch.stack([(z * other).sum() / temperature for other in zb])
        terms.append(torch.log(torch.exp(scores).sum()) - scores[i])
    return torch.stack(terms).sum() / len(terms)


def paper_loss(weight: Tensor, xa: Tensor, xb: Tensor) -> Tensor:
    """InfoNCE of sections 4 and 5: squared distances, negatives from the own view, summed over the batch."""
    za, zb = [weight @ x for x in xa], [weight @ x for x in xb]
    terms = []
    for i, z in enumerate(za):
        near = torch.exp(-((z - zb[i]) ** 2).sum() / 2)
        far = [torch.exp(-((z - other) ** 2).sum() / 2) for j, other in enumerate(za) if j != i]
        terms.append(-torch.log(near / (torch.stack(far).sum() + near)))
    return torch.stack(terms).sum()


@pytest.mark.parametrize("seed", [0, 1])
def test_gradients_are_those_of_the_losses_written_as_loops(seed: int) -> None:
    weight, xa, xb = batch(6, 4, 0.7, seed)
    weight.requires_grad_()
    expected = torch.autograd.grad(code_loss(weight, xa, xb, 0.1), weight)[0]
    torch.testing.assert_close(
        linear.code_gradient(weight.detach(), xa, xb, temperature=0.1), expected, rtol=0, atol=1e-10
    )
    expected = torch.autograd.grad(paper_loss(weight, xa, xb), weight)[0]
    torch.testing.assert_close(linear.paper_gradient(weight.detach(), xa, xb) * 6, expected, rtol=0, atol=1e-10)


def test_minus_the_gradient_is_the_weight_times_data_minus_augmentation_covariance() -> None:
    """Section 4.2: X = S0 - S1, both positive semi-definite sums over weighted pairs."""
    weight, xa, xb = batch(5, 3, 0.7, 2)
    a = torch.zeros(5, 5, dtype=torch.float64)
    for i in range(5):
        terms = [torch.exp(-((weight @ (xa[i] - (xb[i] if j == i else xa[j]))) ** 2).sum() / 2) for j in range(5)]
        a[i] = torch.stack(terms) / torch.stack(terms).sum()
    s0 = sum(
        (a[i, j] * torch.outer(xa[i] - xa[j], xa[i] - xa[j]) for i in range(5) for j in range(5) if j != i),
        torch.zeros(3, 3).double(),
    )
    s1 = sum(((1 - a[i, i]) * torch.outer(xb[i] - xa[i], xb[i] - xa[i]) for i in range(5)), torch.zeros(3, 3).double())
    found = linear.weighted_covariances(weight, xa, xb)
    torch.testing.assert_close(found, (s0, s1), rtol=0, atol=1e-10)
    torch.testing.assert_close(linear.paper_gradient(weight, xa, xb) * 5, -weight @ (s0 - s1), rtol=0, atol=1e-10)
    for covariance in found:
        assert float(torch.linalg.eigvalsh(covariance).min()) > -1e-12


def test_with_a_fixed_x_a_direction_collapses_exactly_where_x_is_negative() -> None:
    """Theorem 1: dW/dt = W X has the solution W(0) exp(X t)."""
    rng = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(4, 4, generator=rng, dtype=torch.float64))[0]
    eigenvalues = torch.tensor([0.5, 0.1, -0.5, -2.0], dtype=torch.float64)
    x = directions * eigenvalues @ directions.T
    start = torch.randn(4, 4, generator=rng, dtype=torch.float64)
    weight, steps = start, 20_000
    for _ in range(steps):
        weight = weight + 10 / steps * weight @ x
    torch.testing.assert_close(weight, start @ torch.linalg.matrix_exp(10 * x), rtol=5e-3, atol=1e-4)
    grown = (weight @ directions).norm(dim=0) / (start @ directions).norm(dim=0)
    torch.testing.assert_close(grown.log(), 10 * eigenvalues, rtol=5e-3, atol=0)
    assert ((grown < 1) == (eigenvalues < 0)).all()


def test_two_aligned_layers_grow_as_theorem_3_says_and_keep_their_balance() -> None:
    """Singular values move with s1 s2^2 v'Xv and s2 s1^2 v'Xv; W1 W1' - W2' W2 is conserved."""
    rng = torch.Generator().manual_seed(0)
    u2, middle, v1 = (torch.linalg.qr(torch.randn(4, 4, generator=rng, dtype=torch.float64))[0] for _ in range(3))
    s1, s2 = (
        torch.tensor([2.0, 1.0, 0.5, 0.1], dtype=torch.float64),
        torch.tensor([1.5, 0.8, 0.4, 0.05], dtype=torch.float64),
    )
    weights = [middle * s1 @ v1.T, u2 * s2 @ middle.T]
    x = torch.randn(4, 4, generator=rng, dtype=torch.float64)
    x = x @ x.T
    torch.testing.assert_close(linear.alignment_matrix(*weights), torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-10)
    first, last = linear.layer_gradients(weights, -weights[1] @ weights[0] @ x)
    drive = (v1.T @ x @ v1).diagonal()
    tiny = 1e-6
    torch.testing.assert_close(
        (torch.linalg.svdvals(weights[0] - tiny * first) - s1) / tiny, s1 * s2**2 * drive, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        (torch.linalg.svdvals(weights[1] - tiny * last) - s2) / tiny, s2 * s1**2 * drive, rtol=1e-4, atol=1e-5
    )
    kept = first @ weights[0].T + weights[0] @ first.T - last.T @ weights[1] - weights[1].T @ last
    assert float(kept.abs().max()) < 1e-10


def test_layer_gradients_are_those_of_the_product() -> None:
    weight, xa, xb = batch(6, 4, 0.5, 3)
    first, last = weight.clone().requires_grad_(), weight.flip(0).clone().requires_grad_()
    expected = torch.autograd.grad(code_loss(last @ first, xa, xb, 1.0), (first, last))
    layers = [first.detach(), last.detach()]
    found = linear.layer_gradients(layers, linear.code_gradient(layers[1] @ layers[0], xa, xb, temperature=1.0))
    torch.testing.assert_close(tuple(found), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("k", [0.0, 1.0, 4.0])
def test_one_layer_settles_near_the_solution_of_large_batches(k: float) -> None:
    """W'W is 0.1 on clean coordinates and 0.1 / (1 + k)^2 on augmented ones, and nearer with a larger batch."""
    shares = []  # of that solution, by input coordinate
    for size in (64, 512):
        config = Config(steps=1500, batch_size=size, one_layer_rate=0.004)
        weight = train(config, 0, layers=1, augmented=8, variance=k)[-1][1][0].double()
        found = (weight.T @ weight).diagonal() / 0.1
        shares.append((float(found[:8].mean()), float(found[8:].mean()) * (1 + k) ** 2))
    small, large = shares
    assert 1 < large[0] < small[0] < 2.5
    assert 0.9 < large[1] < small[1] + 0.1
    assert large[1] / large[0] == pytest.approx(1, rel=0.25)


def test_the_solution_of_large_batches_has_no_gradient() -> None:
    """For Gaussians the softmax over infinitely many negatives has a closed form; M = W'W solves S M S = 0.1 C."""
    k, temperature = 2.25, 0.1
    scale = torch.cat([torch.ones(8), torch.full((8,), 1 + k)]).double()  # variance of a view
    weight = (temperature / scale**2).sqrt().diag().requires_grad_()
    m = weight.T @ weight
    loss = -m.trace() / temperature + (m * scale @ m * scale).diagonal().sum() / (2 * temperature**2)
    assert float(torch.autograd.grad(loss, weight)[0].abs().max()) < 1e-12


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, float], dict[str, object]]:
    context = Context.__new__(Context)  # only the seed is looked at
    object.__setattr__(context, "seed", 0)
    outcome = evaluate(Config(), SUBJECT, context)
    return dict(outcome.metrics), dict(outcome.details)


def test_the_collapse_is_there_with_strong_augmentation_and_not_without(
    figures: tuple[dict[str, float], dict[str, object]],
) -> None:
    metrics = figures[0]
    ratios = [metrics[f"smallest_over_largest_k{k:g}"] for k in _STRENGTHS]
    ranks = [metrics[f"effective_rank_k{k:g}"] for k in _STRENGTHS]
    assert set(metrics) == set(METRICS)
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] > 0.5
    assert ratios[-1] < 0.002
    assert ranks[0] > 15.5
    assert ranks[-1] == pytest.approx(8, abs=0.3)  # the clean half
    for k, ratio in zip(_STRENGTHS, ratios, strict=True):
        assert ratio <= 1.05 / (1 + k) ** 2  # finite batches only add to the collapse
        assert ratio > 0.05 / (1 + k) ** 2  # it shrinks with k, it does not vanish


def test_two_layers_collapse_without_strong_augmentation(figures: tuple[dict[str, float], dict[str, object]]) -> None:
    metrics, details = figures
    assert metrics["two_layers_log10_smallest_over_largest"] < -6
    assert 8 <= metrics["two_layers_above_1e-2"] < 16
    assert metrics["two_layers_block_alignment"] > 0.98
    dynamics = details["dynamics"]
    assert isinstance(dynamics, dict)
    steps, values = dynamics["steps"], dynamics["singular_values"]
    assert steps[0] == 0
    assert steps[-1] == 10_000
    assert steps == sorted(set(steps))
    assert set(values) == {"first layer", "last layer", "embedding"}
    assert all(len(rows) == len(steps) and all(len(row) == 16 for row in rows) for rows in values.values())
    assert values["first layer"][0] == pytest.approx([math.exp(-0.35 * place) for place in range(16)], rel=1e-4)
    assert dynamics["alignment"][-1] == metrics["two_layers_alignment"]
    kept = int(metrics["two_layers_above_1e-2"])
    late = values["first layer"][-1]
    assert late[kept - 1] > 2 * late[kept]  # large ones have grown together, small ones stayed behind


def test_one_layer_without_noise_does_not_collapse_where_two_do() -> None:
    config = Config(steps=3000)
    one = linear.embedding_spectrum(train(config, 0, layers=1, augmented=16, variance=1e-6)[-1][1])
    two = linear.embedding_spectrum(train(config, 0, layers=2, augmented=16, variance=1e-6)[-1][1])
    assert float(one[-1] / one[0]) > 0.2
    assert float(two[-1] / two[0]) < 1e-5


def test_figure_3_has_a_line_for_each_strength(figures: tuple[dict[str, float], dict[str, object]]) -> None:
    spectra = figures[1]["spectra"]
    assert isinstance(spectra, list)
    assert [entry["label"] for entry in spectra] == [f"k = {k:g}" for k in _STRENGTHS]
    for entry in spectra:
        assert len(entry["values"]) == 16
        assert entry["values"] == sorted(entry["values"], reverse=True)


def test_the_theorys_loss_collapses_the_augmented_half_too() -> None:
    config = Config(loss="paper", one_layer_rate=0.01, steps=3000)
    strong, none = (
        linear.embedding_spectrum(train(config, 0, layers=1, augmented=8, variance=k)[-1][1]) for k in (16.0, 0.0)
    )
    assert float(strong[8] / strong[7]) < 5e-3
    assert float(none[8] / none[7]) > 0.3


def test_alignment_of_known_layers() -> None:
    values = torch.tensor([4.0, 3.0, 2.0, 1.0])
    aligned = linear.alignment_matrix(values.diag(), values.diag())
    torch.testing.assert_close(aligned, torch.eye(4).double())
    assert linear.block_alignment(aligned, 2) == pytest.approx(1)
    swapped = linear.alignment_matrix(values.diag(), values.flip(0).diag())  # what one layer keeps the other drops
    assert linear.block_alignment(swapped, 2) == pytest.approx(0)
    assert float(swapped.diagonal().mean()) == pytest.approx(0)
    # order differs, the kept half does not
    within = linear.alignment_matrix(values.diag(), values[[1, 0, 3, 2]].diag())
    assert linear.block_alignment(within, 2) == pytest.approx(1)
    assert float(within.diagonal().mean()) == pytest.approx(0)


def test_it_repeats_itself_and_follows_the_seed() -> None:
    config = Config(steps=20)
    ends = [train(config, seed, layers=1, augmented=8, variance=1.0)[-1][1][0] for seed in (0, 0, 1)]
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(BenchError, match="batch_size is 11, expected 2 to 10"):
        Config(batch_size=11, images=10)
