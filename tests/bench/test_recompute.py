"""Activation checkpointing changes memory, and neither a gradient nor a statistic."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.execution import worker
from bench.networks import encoders
from bench.planning.graph import plan
from bench.runs.folder import Runs
from bench.spec import Backbone, Pretrain, Resources
from bench.training import loop
from bench.training.loop import Place
from bench.training.norms import synchronise_norms
from bench.training.recompute import recompute_blocks
from tests.live_storage import peak_bytes

RESNET = Backbone(name="resnet50", base_channels=4, zero_init_residual=False)
NETWORKS = {"resnet10": Backbone(name="resnet10", base_channels=4, stem="small"), "resnet50": RESNET}
TRANSFORMER = Backbone(name="vit_digits")


def images(count: int, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def step(network: nn.Module, batches: list[Tensor], *, precision: torch.dtype | None = None) -> dict[str, Tensor]:
    """Several forwards, then the way back through all of them, as a method with two views."""
    torch.manual_seed(3)
    with torch.autocast("cpu", precision, enabled=precision is not None):
        found = torch.cat([network(batch) for batch in batches]).float()
    (found.square().mean() + found.sin().sum()).backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {"output": found.detach()} | gradients | {name: value.clone() for name, value in network.named_buffers()}


def same(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    assert list(before) == list(after)
    assert len(before) > 20
    for name, value in before.items():
        assert torch.equal(after[name], value), name


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("synchronised", [False, True])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_resnets_gradients_and_statistics_are_the_same_bit_for_bit(
    name: str, synchronised: bool, precision: torch.dtype | None
) -> None:
    kept = encoders.build(NETWORKS[name], 0)
    if synchronised:
        synchronise_norms(kept)
    twice = copy.deepcopy(kept)
    recompute_blocks(twice)
    batches = [images(4), images(6)]
    same(step(kept, batches, precision=precision), step(twice, batches, precision=precision))
    assert {int(v) for name, v in twice.named_buffers() if name.endswith("num_batches_tracked")} == {2}
    assert list(twice.state_dict()) == list(kept.state_dict())
    assert torch.equal(twice.eval()(images(2)), kept.eval()(images(2)))


def test_a_transformers_silenced_branches_are_drawn_once() -> None:
    kept = encoders.build(TRANSFORMER, 0)
    for block in kept.get_submodule("blocks").children():
        block.drop_path = 0.5  # type: ignore[assignment]
    twice = copy.deepcopy(kept)
    recompute_blocks(twice)
    same(step(kept, [images(4)]), step(twice, [images(4)]))


def test_a_resnet_50_keeps_less_than_half() -> None:
    kept = encoders.build(RESNET, 0)
    twice = copy.deepcopy(kept)
    recompute_blocks(twice)
    before, after = (peak_bytes(partial(step, network, [images(24, 64)])) for network in (kept, twice))
    assert after < before / 2


def test_without_gradients_nothing_is_computed_twice() -> None:
    network = encoders.build(RESNET, 0)
    counted: list[int] = []
    network.get_submodule("layer1.0.conv1").register_forward_hook(lambda *_: counted.append(1))
    recompute_blocks(network)
    with torch.no_grad():
        network(images(2))
    assert counted == [1]
    step(network, [images(2)])
    assert counted == [1] * 3


def test_a_training_with_checkpointed_activations_ends_with_the_same_digits(
    small: Pretrain, place: Callable[..., Place]
) -> None:
    kept, twice = place("kept"), place("twice")
    twice = replace(twice, site=replace(twice.site, checkpoint_activations=True))
    sums = [loop.pretrain(small, there).weights_sha256 for there in (kept, twice)]
    assert sums[0] == sums[1]


@pytest.mark.parametrize("given", [False, True])
def test_a_worker_does_what_its_job_was_given(
    small: Pretrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, given: bool
) -> None:
    """Whatever bench.toml says by then: the plan looked at the memory of a GPU and chose."""
    (tmp_path / "bench.toml").write_text("[local]\nslots = 1\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    job = next(iter(plan([("small", small)])))
    run = Runs(tmp_path / "runs")[job.id]
    run.create(job, Resources(checkpoint_activations=given))
    asked: list[nn.Module] = []
    monkeypatch.setattr(loop, "recompute_blocks", asked.append)
    assert worker.main(str(run.path)) == 0
    assert bool(asked) is given
