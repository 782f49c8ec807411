"""Branches that do not share weights (VICReg's table 5), for the methods that the paper ran so."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench.contracts import Batch
from bench.errors import BenchError
from bench.planning.refusals import check_pretrain
from bench.spec import Backbone, Pretrain
from bench.training import methods
from methods.barlow_twins import Config as BarlowTwins
from methods.simclr import Config as SimCLR
from methods.vicreg import Config as VICReg
from tests.conftest import TINY, tiny_pretrain

OTHER = Backbone(name="resnet18", base_channels=4, stem="small", zero_init_residual=False)
CONFIGS = {
    "simclr": SimCLR(hidden=16, output=8),
    "barlow_twins": BarlowTwins(hidden=16, output=8),
    "vicreg": VICReg(hidden=16, output=8),
}


def spec_of(config: object) -> Pretrain:
    return replace(tiny_pretrain(), method=config)


@pytest.mark.parametrize("second", [TINY, OTHER], ids=["same architecture", "another architecture"])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_second_branch_sees_the_second_view_and_learns(name: str, second: Backbone) -> None:
    config = replace(CONFIGS[name], second=second)  # type: ignore[type-var]
    check_pretrain(spec_of(config))
    network = methods.build_method(spec_of(config), 10)
    views = [torch.rand(16, 3, 32, 32), torch.rand(16, 3, 32, 32)]

    def embed(first: torch.Tensor, other: torch.Tensor) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = network.embed(Batch([first, other], torch.zeros(16).long(), torch.arange(16)))  # type: ignore[operator]
        return found

    z, swapped = embed(*views), embed(views[0], views[0])
    assert torch.equal(z["za"], swapped["za"])
    assert not torch.allclose(z["zb"], swapped["zb"])
    # weights of its own, also where the architecture is the same
    assert not torch.allclose(swapped["za"], swapped["zb"])
    network.loss(z, torch.zeros(16))["loss"].backward()  # type: ignore[operator]
    assert all(p.grad is not None for p in network.get_submodule("second").parameters() if p.requires_grad)
    assert all(p.grad is not None for p in network.get_submodule("encoder").parameters() if p.requires_grad)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_second_branch_that_cannot_work_is_refused_at_plan_time(name: str) -> None:
    config = replace(CONFIGS[name], second=Backbone(name="resnet51"))  # type: ignore[type-var]
    with pytest.raises(BenchError, match="unknown architecture 'resnet51'"):
        check_pretrain(spec_of(config))
    config = replace(CONFIGS[name], second=replace(TINY, normalize="imagenet"))  # type: ignore[type-var]
    with pytest.raises(BenchError, match="the second branch normalises its input by 'imagenet', the first by 'none'"):
        check_pretrain(spec_of(config))
