"""A compiled encoder on two ranks trains as one that is not, whatever its norms are, and goes on from checkpoints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.bench.compiled_ranks import CASES, WORLD

PROGRAM = Path(__file__).with_name("compiled_ranks.py")
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found."""
    folder = tmp_path_factory.mktemp("compiled")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    processes = []
    for rank in range(WORLD):
        with (folder / f"log{rank}.txt").open("w") as log:
            command = [sys.executable, str(PROGRAM), str(folder), str(rank)]
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
    codes = []
    try:
        for process in processes:
            codes.append(process.wait(timeout=900))
            if codes[-1]:  # the others would wait for it
                break
    finally:
        for process in processes:
            process.kill()
    assert codes == [0] * WORLD, "\n".join((folder / f"log{rank}.txt").read_text()[-3000:] for rank in range(WORLD))
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("case", list(CASES))
def test_a_compiled_run_has_the_losses_and_weights_of_one_that_is_not(ranks: list[dict[str, Any]], case: str) -> None:
    plain, compiled = ranks[0][case]["plain"], ranks[0][case]["compiled"]
    assert len(plain["losses"]) > 3
    torch.testing.assert_close(compiled["losses"], plain["losses"], rtol=1e-5, atol=1e-6)
    assert list(compiled["weights"]) == list(plain["weights"])  # and so no name begins with _orig_mod
    for name, value in plain["weights"].items():
        torch.testing.assert_close(compiled["weights"][name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("case", list(CASES))
def test_no_norm_breaks_a_compiled_encoder_in_pieces(ranks: list[dict[str, Any]], case: str) -> None:
    for rank in ranks:
        assert rank[case]["plain"]["graphs"] == 0
        assert rank[case]["compiled"]["breaks"] == 0
        most = 8 if CASES[case][1] else 2  # each of the 4 blocks twice, or the whole before and after a stop
        assert 1 <= rank[case]["compiled"]["graphs"] <= most


def test_a_compiled_run_went_on_from_its_checkpoint(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["byol"]["compiled"]["resumed"] == 1
