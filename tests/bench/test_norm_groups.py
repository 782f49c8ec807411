"""Batch norm in groups is that of each group alone, on any number of ranks; shuffled keys share none with queries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.errors import BenchError, Stopped
from bench.identity import job_id, to_json
from bench.planning.resources import resources_of, valid_ranks
from bench.seeding import seed_of
from bench.settings.site import Site
from bench.spec import Pretrain
from bench.training import loop, methods
from bench.training.norm_groups import GroupBatchNorm, group_norms, shuffled
from bench.training.ranks import Ranks
from methods.moco import Config as Moco
from tests.bench.grouped_ranks import (
    DTYPES,
    GROUPS,
    IMAGES,
    SHAPES,
    VIEWS,
    moco_spec,
    norm_of,
    normed_in_groups,
    random,
    views_of,
)
from tests.live_storage import peak_bytes

EXACT = {torch.float64: 1e-12, torch.float32: 1e-6}


def one_by_one(shape: tuple[int, ...], group: int) -> dict[str, Tensor]:
    """The formula, group after group in float64; statistics of the first group."""
    weight, bias = (torch.tensor(values).double() for values in ([0.5, 1.0, 2.0], [0.1, 0.0, -1.0]))
    along = (1, -1, *(1,) * (len(shape) - 2))
    axes = [0, *range(2, len(shape))]
    mean_of_all, variance_of_all = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    found: dict[str, Tensor] = {}
    for step in range(2):
        weight, bias = weight.detach().requires_grad_(), bias.detach().requires_grad_()
        views, factors = views_of(shape, step)
        for view in views:
            view.requires_grad_()
        parts: list[list[Tensor]] = [[] for _ in views]
        for first in range(0, IMAGES, group):
            x = torch.cat([view[first : first + group] for view in views])
            mean, variance = x.mean(axes), x.var(axes, correction=0)
            y = (x - mean.view(along)) / (variance.view(along) + 1e-5).sqrt() * weight.view(along) + bias.view(along)
            for own, rows in zip(parts, y.chunk(VIEWS), strict=True):
                own.append(rows)
            if first == 0:
                mean_of_all = 0.9 * mean_of_all + 0.1 * mean.detach()
                variance_of_all = 0.9 * variance_of_all + 0.1 * x.detach().var(axes, correction=1)
        outputs = [torch.cat(own) for own in parts]
        loss = sum(((0.3 * y * f).sin().sum() for y, f in zip(outputs, factors, strict=True)), torch.zeros(()))
        gradients = torch.autograd.grad(loss, (*views, weight, bias))
        found |= {f"{step}.weight.gradient": gradients[-2], f"{step}.bias.gradient": gradients[-1]}
        for number, y in enumerate(outputs):
            found |= {f"{step}.{number}.output": y.detach(), f"{step}.{number}.input.gradient": gradients[number]}
    state = {"running_mean": mean_of_all, "running_var": variance_of_all, "num_batches_tracked": torch.tensor(2)}
    return found | {f"state.0.{key}": value for key, value in state.items()}


def near(here: Tensor, expected: Tensor, tolerance: float, name: str) -> None:
    gap = float((here.double() - expected.double()).norm())
    assert here.shape == expected.shape, name
    assert gap <= tolerance * max(float(expected.double().norm()), 1e-3), f"{name}: {gap}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("dims", list(SHAPES))
def test_each_group_is_normalised_alone(dims: str, group: int, dtype: torch.dtype) -> None:
    found = normed_in_groups(SHAPES[dims], dtype, group, Ranks())
    expected = one_by_one(SHAPES[dims], group)
    assert set(expected) <= set(found)
    for name, value in expected.items():
        near(found[name], value, EXACT[dtype], name)


def test_a_layout_of_the_images_stays() -> None:
    model = norm_of(SHAPES["2d"], torch.float32)
    group_norms(model, 3, IMAGES, Ranks())
    for views in (1, 2):
        x = torch.cat([random(*SHAPES["2d"], seed=1)] * views).float().contiguous(memory_format=torch.channels_last)
        assert model(x).is_contiguous(memory_format=torch.channels_last)


def test_images_in_half_precision_have_statistics_in_float32() -> None:
    x = random(*SHAPES["2d"], seed=1).bfloat16()
    half, full = norm_of(SHAPES["2d"], torch.float32), norm_of(SHAPES["2d"], torch.float32)
    for model in (half, full):
        group_norms(model, 3, IMAGES, Ranks())
    y = half(x).detach()
    assert y.dtype == torch.bfloat16
    near(y, full(x.float()).detach(), 5e-3, "output")
    for key, value in full.state_dict().items():
        near(half.state_dict()[key], value, 1e-6, key)


def test_the_only_group_of_a_rank_needs_no_other_norm() -> None:
    model = norm_of(SHAPES["1d"], torch.float32)
    group_norms(model, 6, 6, Ranks(rank=1, world=2))
    assert type(model[0]) is nn.BatchNorm1d


def test_rows_that_are_no_whole_views_are_refused() -> None:
    model = nn.Sequential(GroupBatchNorm(nn.BatchNorm1d(3), group=3, images=6))
    with pytest.raises(ValueError, match="9 rows are not whole views of 6 images"):
        model(torch.randn(9, 3))
    assert model.eval()(torch.randn(9, 3)).shape == (9, 3)
    with pytest.raises(ValueError, match="4 ranks with 4 images each do not fit"):
        group_norms(model, 6, 4, Ranks(world=4))


def test_groups_of_one_rank_take_no_more_memory_than_one_norm() -> None:
    def step(model: nn.Module) -> Callable[[], None]:
        x = torch.randn(64, 16, 14, 14).requires_grad_()
        return lambda: model(x).square().sum().backward()

    plain = nn.Sequential(nn.BatchNorm2d(16))
    groups = nn.Sequential(nn.BatchNorm2d(16))
    group_norms(groups, 8, 64, Ranks())
    assert peak_bytes(step(groups)) <= 1.1 * peak_bytes(step(plain))


# -- Shuffled keys -----------------------------------------------------------------------------------------------------


def dealt(step: int, seed: int = 1, count: int = 64) -> Tensor:
    """Which image stands at each place of the pass."""
    seen: list[Tensor] = []
    images = torch.arange(float(count))[:, None]
    back = shuffled(lambda x: seen.append(x.clone()) or x, images, seed, step)  # type: ignore[func-returns-value]
    assert torch.equal(back, images)  # every output is back at its image's place
    return seen[0].flatten().long()


def test_a_shuffle_is_a_permutation_of_seed_and_step_alone() -> None:
    assert torch.equal(dealt(3), dealt(3))
    assert not torch.equal(dealt(3), dealt(4))
    assert not torch.equal(dealt(3), dealt(3, seed=2))
    assert sorted(dealt(3).tolist()) == list(range(64))


def test_a_key_shares_its_querys_group_no_more_often_than_by_chance() -> None:
    places = torch.arange(64) // 8  # the groups of the queries
    shared = torch.stack([(dealt(step) // 8 == places).double() for step in range(400)])
    assert abs(float(shared.mean()) - 1 / 8) < 0.01  # 25,600 pairs: a standard deviation of 0.002


def test_keys_pass_the_slow_encoder_in_the_groups_that_were_dealt() -> None:
    network = methods.build_method(moco_spec(3), 10).double()
    slow, x = network.get_submodule("slow"), random(IMAGES, 3, 32, 32, seed=5)
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(seed_of(1, "shuffle", 4)))
    expected = torch.empty(IMAGES, 8, dtype=torch.float64)
    with torch.no_grad():
        for rows in torch.split(order, 3):
            expected[rows] = slow(x[rows])  # torch's own norms, a group at a time
        group_norms(network, 3, IMAGES, Ranks())
        found = shuffled(network.get_submodule("slow"), x, 1, 4)
    near(found, expected, 1e-12, "keys")


def test_a_step_deals_anew_and_goes_on_where_a_checkpoint_left() -> None:
    there = methods.build_method(moco_spec(3), 10)
    there.after_step(0.7)  # type: ignore[operator]
    again = methods.build_method(moco_spec(3), 10)
    again.load_state_dict(there.state_dict())
    for network in (there, again):
        assert round(network.clock.value(network.progress) * 10) == 7  # type: ignore[union-attr, operator]
    assert "progress" not in methods.build_method(moco_spec(None), 10).state_dict()


def test_a_run_in_groups_that_was_stopped_ends_with_the_digits_of_one_that_was_not(
    small: Pretrain, place: Callable[..., loop.Place]
) -> None:
    method = Moco(queue=128, hidden=32, output=16, shuffle=True)
    spec, whole, twice = replace(small, method=method, norm_group=16), place("whole"), place("twice")
    loop.pretrain(spec, whole)
    asked = iter((False, False, True))
    with pytest.raises(Stopped, match="after step 3 of 6"):
        loop.pretrain(spec, replace(twice, should_stop=lambda: next(asked)))
    loop.pretrain(spec, twice)
    loop.pretrain(replace(spec, norm_group=None, method=replace(method, shuffle=False)), plain := place("plain"))
    losses = [[line["loss"] for line in there.run.curves()] for there in (whole, twice, plain)]
    assert losses[0] == losses[1] != losses[2]
    first, second = (torch.load(there.run.weights, weights_only=True)["method"] for there in (whole, twice))
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_shuffle_without_groups_is_refused() -> None:
    for group in (None, IMAGES):
        spec = replace(moco_spec(3), norm_group=group)
        with pytest.raises(BenchError, match="shuffle is True, which needs a norm_group below the batch of 12"):
            spec.method.check(spec)  # type: ignore[attr-defined]


# -- The plan ----------------------------------------------------------------------------------------------------------


def site(ranks: int, images_per_gpu: int = 0) -> Site:
    place = Path("/nowhere")
    return Site(root=place, runs=place, output=place, report=place, ranks=ranks, images_per_gpu=images_per_gpu)


def test_ranks_hold_whole_groups_or_groups_hold_whole_ranks() -> None:
    assert valid_ranks(12, norm_group=6) == [1, 2, 4, 6, 12]  # not 3: 4 images and groups of 6
    assert valid_ranks(256, norm_group=32) == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert valid_ranks(6272, norm_group=1568)[:6] == [1, 2, 4, 8, 16, 28]
    assert valid_ranks(256, chunks=4, norm_group=32) == [1, 2, 4, 8, 16, 32, 64]
    assert valid_ranks(256, chunks=16, norm_group=32) == []


def test_a_plan_names_the_ranks_that_hold_groups() -> None:
    spec = replace(moco_spec(6), method=replace(moco_spec(6).method, queue=24))  # type: ignore[type-var]
    with pytest.raises(
        BenchError, match="batch 12 with batch norm over groups of 6 images does not divide into 3 ranks"
    ):
        resources_of(spec, site(3))
    with pytest.raises(BenchError, match=r"valid: 1, 2\. Change them"):
        resources_of(spec, site(3))
    assert resources_of(spec, site(4)).ranks == 4
    with pytest.raises(BenchError, match="nor into any other number: a chunk of 3 images holds no whole groups"):
        resources_of(replace(spec, chunks=4), site(1))


def test_a_spec_without_groups_has_the_id_that_it_had() -> None:
    plain, groups = moco_spec(None), moco_spec(3)
    assert "norm_group" not in to_json(plain)
    assert "shuffle" not in to_json(plain)
    assert job_id(plain) != job_id(groups)
    for wrong in (0, 1, 5):
        with pytest.raises(BenchError, match=f"norm_group is {wrong}, expected None or 2 and more images that divide"):
            replace(plain, norm_group=wrong)
