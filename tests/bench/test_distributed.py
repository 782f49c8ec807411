from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.training.norms import GlobalBatchNorm, synchronise_norms
from bench.training.ranks import Ranks, from_environment, gather, process_group

PROGRAM = Path(__file__).with_name("two_ranks.py")
ROOT = Path(__file__).parents[2]
NORMS = [f"norm {dims} {dtype}" for dims in ("1d", "2d") for dtype in ("torch.float64", "torch.float32")]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What one process computes alone, and what two ranks compute together: {"alone": .., "rank0": .., "rank1": ..}."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    logs = [folder / f"log{rank}.txt" for rank in (0, 1)]
    processes = []
    for rank, log in enumerate(logs):
        with log.open("w") as file:
            command = [sys.executable, "-W", "error::UserWarning", str(PROGRAM), str(folder), str(rank)]
            processes.append(subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT))
    try:
        codes = [processes[0].wait(timeout=240)]
        codes += [processes[1].wait(timeout=240)] if codes == [0] else []  # a lone rank would wait for the other
    finally:
        for process in processes:
            process.kill()
    assert codes == [0, 0], "\n".join(log.read_text()[-2000:] for log in logs)
    return {name: torch.load(folder / f"{name}.pt", weights_only=True) for name in ("alone", "rank0", "rank1")}


def rows(found: dict[str, dict[str, Any]], part: str, key: str) -> Tensor:
    """The ranks' parts below each other."""
    return torch.cat([found[f"rank{rank}"][part][key] for rank in (0, 1)])


def test_gather_hands_over_all_rows_and_the_gradient_of_ones_own(found: dict[str, dict[str, Any]]) -> None:
    alone = found["alone"]["gather"]
    for rank in ("rank0", "rank1"):
        for key in ("whole", "loss", "labels"):
            torch.testing.assert_close(found[rank]["gather"][key], alone[key], rtol=0, atol=1e-12)
    torch.testing.assert_close(rows(found, "gather", "gradient"), alone["gradient"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("part", NORMS)
def test_global_batch_norm_equals_torchs_on_the_whole_batch(found: dict[str, dict[str, Any]], part: str) -> None:
    alone = found["alone"][part]
    rtol, atol = (0, 1e-9) if "float64" in part else (1e-5, 1e-4)
    for key, expected in alone.items():
        if key.endswith(("output", "input.gradient")) or key == "evaluation":
            torch.testing.assert_close(rows(found, part, key), expected, rtol=rtol, atol=atol, msg=key)
        else:
            for rank in ("rank0", "rank1"):
                torch.testing.assert_close(found[rank][part][key], expected, rtol=rtol, atol=atol, msg=key)
    assert {"state.0.running_mean", "state.0.running_var", "state.0.num_batches_tracked"} <= set(alone)


STEPS = [
    "simclr",
    "barlow_twins",
    "byol",
    "dino",
    "directclr",
    "fnc",
    "fnc memory",
    "moco",
    "simsiam",
    "swav",
    "truncated_triplet",
    "twist",
    "twist teacher",
    "vicreg",
]


@pytest.mark.parametrize("method", STEPS)
def test_losses_and_gradients_do_not_depend_on_the_number_of_ranks(
    found: dict[str, dict[str, Any]], method: str
) -> None:
    alone = found["alone"][f"step {method}"]
    assert sum(key.startswith("gradient.encoder") for key in alone) > 10
    for rank in ("rank0", "rank1"):
        together = found[rank][f"step {method}"]
        torch.testing.assert_close(together["loss"], alone["loss"], rtol=0, atol=1e-9)
        for key, expected in alone.items():
            torch.testing.assert_close(together[key], expected, rtol=1e-9, atol=1e-9, msg=key)


@pytest.mark.parametrize("method", ["simclr", "barlow_twins", "moco in groups"])
def test_training_does_not_depend_on_the_number_of_ranks(found: dict[str, dict[str, Any]], method: str) -> None:
    alone, together = found["alone"][f"train {method}"], found["rank0"][f"train {method}"]
    assert together["curve"] == pytest.approx(alone["curve"], rel=1e-4)
    assert len(set(alone["curve"])) == 2
    assert set(together["weights"]) == set(alone["weights"])  # so evaluations can read either
    for key, expected in alone["weights"].items():
        torch.testing.assert_close(together["weights"][key], expected, rtol=1e-3, atol=1e-4, msg=key)
        moved = float((expected - alone["start"][key]).float().norm())
        assert float((together["weights"][key] - expected).float().norm()) <= 0.01 * moved, key
    metrics = found["rank1"][f"train {method}"]["metrics"]
    assert metrics["loss"] == together["metrics"]["loss"]  # all ranks agree


def test_training_in_fp16_scales_alike_on_one_rank_and_on_two(found: dict[str, dict[str, Any]]) -> None:
    alone, together = (found[name]["train in fp16"] for name in ("alone", "rank0"))
    assert together["curve"] == pytest.approx(alone["curve"], rel=0.02)
    scales = [[(line["loss_scale"], line["skipped_steps"]) for line in made["lines"]] for made in (alone, together)]
    assert scales == [[(256.0, 0.0)] * 2] * 2
    assert found["rank1"]["train in fp16"]["metrics"]["loss"] == together["metrics"]["loss"]


def test_one_process_needs_no_group() -> None:
    z = torch.randn(3, 2, requires_grad=True)
    with process_group(Ranks(), torch.device("cpu")):
        assert not torch.distributed.is_initialized()
        assert gather(z) is z


def test_ranks_come_from_the_launchers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(key, raising=False)
    assert from_environment() == Ranks(0, 1, 0)
    assert from_environment().first
    for key, value in {"RANK": "11", "WORLD_SIZE": "16", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(key, value)
    assert from_environment() == Ranks(rank=11, world=16, local=3)
    assert not from_environment().first


def test_synchronised_norms_keep_names_and_parameters() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16)))
    before, parameters = network.state_dict(), list(network.parameters())
    synchronise_norms(network)
    assert sum(isinstance(module, GlobalBatchNorm) for module in network.modules()) == 2
    assert list(network.state_dict()) == list(before)
    assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))


def test_a_norm_without_fixed_momentum_is_refused() -> None:
    with pytest.raises(ValueError, match="tracks its statistics"):
        GlobalBatchNorm(nn.BatchNorm1d(2, track_running_stats=False))
