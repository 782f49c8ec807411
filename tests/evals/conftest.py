"""What tests of evaluations share: a context in a temporary folder and a tiny random encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.contracts import Context, Subject
from bench.networks import encoders
from bench.settings.site import Site
from bench.spec import Backbone, Data


@pytest.fixture
def context(tmp_path: Path) -> Context:
    site = Site(root=tmp_path, runs=tmp_path / "runs", output=tmp_path / "out", report=tmp_path / "report")
    return Context(
        site=site,
        data=Data(name="mnist5k", size=32),
        seed=0,
        device=torch.device("cpu"),
        features=tmp_path / "features",
    )


@pytest.fixture
def subject() -> Subject:
    """A random network of 64 features."""
    network = encoders.build(Backbone(name="resnet10", base_channels=8, stem="small", zero_init_residual=False), seed=0)
    return Subject(key="random-tiny", network=network.eval().requires_grad_(False), feature_dim=network.feature_dim)
