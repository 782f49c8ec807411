"""What tests of methods share: small batches, a small run, and gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.contracts import Batch, Facts
from bench.settings.site import Site
from bench.spec import Backbone


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(root=tmp_path, runs=tmp_path / "runs", output=tmp_path / "out", report=tmp_path / "report")


@pytest.fixture
def batch() -> Callable[[int, int], Batch]:
    """A batch of noise: `batch(images, views)`."""

    def make(images: int, views: int) -> Batch:
        rng = torch.Generator().manual_seed(5)
        pixels = [torch.rand(images, 3, 32, 32, generator=rng) for _ in range(views)]
        return Batch(views=pixels, labels=torch.arange(images) % 10, indices=torch.arange(images))

    return make


@pytest.fixture
def facts() -> Facts:
    return Facts(
        backbone=Backbone(name="resnet10"), feature_dim=12, classes=10, images=3500, batch_size=16, steps=10, seed=0
    )
