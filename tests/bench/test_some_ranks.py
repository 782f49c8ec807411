"""Batch norm and sums over the batch on 1, 2 and 4 ranks are what one process computes from the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.training.ranks import Ranks, product_over_batch
from tests.bench.grouped_ranks import GROUPS, moco_stepped, normed_in_groups
from tests.bench.some_ranks import DTYPES, LOSSES, SHAPES, loss_of, norm_of, normed

PROGRAM = Path(__file__).with_name("some_ranks.py")
ROOT = Path(__file__).parents[2]
WORLDS = (1, 2, 4)
KINDS = [f"{dims} {dtype}" for dims in SHAPES for dtype in DTYPES]
Found = list[dict[str, Any]]
EXACT = {torch.float64: 1e-12, torch.float32: 1e-6}
EXACT_STEP = {torch.float64: 1e-12, torch.float32: 1e-4}  # through a whole network, whose last digits decide kinks


@pytest.fixture(scope="module", params=WORLDS)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each rank of a world computed."""
    world, folder = request.param, tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    logs = [folder / f"log{rank}.txt" for rank in range(world)]
    processes = []
    for rank, log in enumerate(logs):
        with log.open("w") as file:
            command = [sys.executable, "-W", "error::UserWarning", str(PROGRAM), str(folder), str(rank), str(world)]
            processes.append(subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT))
    codes = []
    try:
        for process in processes:
            codes.append(process.wait(timeout=240))
            if codes[-1]:  # the others would wait for it
                break
    finally:
        for process in processes:
            process.kill()
    assert codes == [0] * world, "\n".join(log.read_text()[-3000:] for log in logs)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(world)]


def whole(found: Found, part: str, key: str) -> Tensor:
    """The ranks' rows below each other."""
    return torch.cat([rank[part][key] for rank in found])


def check(found: Found, part: str, expected: dict[str, Tensor], tolerance: float) -> None:
    """Rows are the ranks' one below the other, all else is the same on each; within a share of the tensor's norm."""
    for key, value in expected.items():
        in_rows = key.endswith(("output", "input.gradient")) or key == "evaluation"
        for here in [whole(found, part, key)] if in_rows else [rank[part][key] for rank in found]:
            assert here.shape == value.shape, key
            gap = float((here.double() - value.double()).norm())
            assert gap <= tolerance * float(value.double().norm()), f"{key}: {gap} of {float(value.double().norm())}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_global_norm_equals_torchs_on_the_whole_batch_for_unequal_parts(found: Found, kind: str) -> None:
    shape, dtype = SHAPES[kind[:2]], getattr(torch, kind.rpartition(".")[2])
    expected = normed(norm_of(shape, dtype), shape, dtype, slice(None))
    check(found, kind, expected, EXACT[dtype])


@pytest.mark.parametrize("kind", KINDS)
def test_a_global_norm_is_torchs_synchronised_one_without_its_mask(found: Found, kind: str) -> None:
    for rank in found:
        for key, value in rank[f"torch's {kind}"].items():
            torch.testing.assert_close(rank[kind][key], value, rtol=0, atol=0, msg=key)


@pytest.mark.parametrize("kind", ["channels_last", "empty", "compiled"])
def test_layout_compilation_and_a_rank_without_images_change_nothing(found: Found, kind: str) -> None:
    shape = SHAPES["2d"]
    expected = normed(norm_of(shape, torch.float64), shape, torch.float64, slice(None))
    check(found, kind, expected, EXACT[torch.float64])


def test_a_mean_far_from_zero_costs_no_digit_of_the_variance(found: Found) -> None:
    shape = SHAPES["2d"]
    expected = normed(norm_of(shape, torch.float32), shape, torch.float32, slice(None), mean=1000.0)
    states = {key: value for key, value in expected.items() if key.startswith("state")}
    check(found, "far", states, 1e-5)  # a mean of squares would lose five digits of seven
    check(found, "far", expected, 1e-4)  # the images themselves have no more digits there


def test_images_in_half_precision_have_statistics_in_float32(found: Found) -> None:
    shape, model = SHAPES["2d"], norm_of(SHAPES["2d"], torch.float32)
    expected = normed(model, shape, torch.float32, slice(None), run=lambda model, x: model(x.bfloat16().float()))
    states = {key: value for key, value in expected.items() if key.startswith("state")}
    check(found, "half", states, 1e-6)
    check(found, "half", expected, 5e-2)
    assert found[0]["half"]["0.output"].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(LOSSES))
def test_a_shared_loss_is_that_of_one_process_for_a_share_of_its_operations(
    found: Found, name: str, dtype: torch.dtype
) -> None:
    expected = loss_of(name, dtype, 0, 1)
    operations = int(expected.pop("operations"))
    assert {int(rank[f"{name} {dtype}"]["operations"]) for rank in found} == {operations // len(found)}
    check(found, f"{name} {dtype}", expected, EXACT[dtype])


def test_a_product_over_the_batch_is_the_plain_one_in_one_process() -> None:
    a, b = torch.randn(5, 3), torch.randn(5, 2)
    assert torch.equal(product_over_batch(a, b), a.T @ b)


def test_activations_computed_twice_change_nothing_on_any_number_of_ranks(found: Found) -> None:
    for rank in found:
        assert len(rank["kept"]) > 30
        assert list(rank["recomputed"]) == list(rank["kept"])
        assert all(torch.equal(rank["recomputed"][key], value) for key, value in rank["kept"].items())


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("kind", KINDS)
def test_norms_in_groups_are_those_of_one_process(found: Found, kind: str, group: int) -> None:
    shape, dtype = SHAPES[kind[:2]], getattr(torch, kind.rpartition(".")[2])
    expected = normed_in_groups(shape, dtype, group, Ranks())
    dims, _, name = kind.partition(" ")
    state = {key: value for key, value in expected.items() if key.startswith("state")}  # of the first group: of rank 0
    check(found, f"{dims} {group} {name}", {key: expected[key] for key in expected if key not in state}, EXACT[dtype])
    check(found[:1], f"{dims} {group} {name}", state, EXACT[dtype])


def test_norms_in_groups_are_the_same_in_either_layout(found: Found) -> None:
    expected = normed_in_groups(SHAPES["2d"], torch.float64, 3, Ranks())
    check(found, "last", {key: value for key, value in expected.items() if "state" not in key}, EXACT[torch.float64])


@pytest.mark.parametrize("group", [3, 6])
@pytest.mark.parametrize("dtype", DTYPES)
def test_shuffled_keys_are_the_same_on_any_number_of_ranks(found: Found, dtype: torch.dtype, group: int) -> None:
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]  # as there
    try:
        expected = moco_stepped(dtype, group, Ranks())
    finally:
        torch.backends.mkldnn.enabled = True  # type: ignore[assignment]
    kind = f"moco {group} {dtype}"
    gradients = {key for key in expected if key[:2] in ("0.", "1.") and key[2:] not in ("loss", "queries", "keys")}
    for rank in found:  # DDP hands each the same
        for key in ("0.loss", "1.loss", "0.queries", "0.keys", "1.keys", *sorted(gradients)):
            gap = float((rank[kind][key].double() - expected[key].double()).norm())
            assert gap <= EXACT_STEP[dtype] * float(expected[key].double().norm()) + 1e-9, key
    for key in expected.keys() - gradients - {"1.queries"}:
        torch.testing.assert_close(found[0][kind][key], expected[key], rtol=EXACT_STEP[dtype], atol=EXACT_STEP[dtype])
