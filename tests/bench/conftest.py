"""What tests of the engine share: a site in a temporary folder, a run of seconds, real photographs as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from bench.runs.folder import RunFolder
from bench.settings.site import Site
from bench.spec import Augment, Backbone, Data, Optim, Pretrain
from bench.training.loop import Place
from bench.training.ranks import Ranks
from methods.simclr import Config

STEPS_AN_EPOCH = 3500 // 64  # of the small run below


@pytest.fixture
def here(tmp_path: Path) -> Site:
    return Site(root=tmp_path, runs=tmp_path / "runs", output=tmp_path / "out", report=tmp_path / "report")


@pytest.fixture
def small() -> Pretrain:
    """SimCLR on a tiny network for six steps."""
    view = Augment(size=32, crop_scale=(0.25, 1.0), rotation=25.0, flip=0.0, brightness=0.4, contrast=0.4)
    return Pretrain(
        method=Config(temperature=0.5, hidden=32, output=16),
        backbone=Backbone(name="resnet10", base_channels=4, stem="small", zero_init_residual=False),
        data=Data(name="mnist5k", size=32),
        views=(view, view),
        optim=Optim(name="adamw", lr=4e-3, weight_decay=1e-4, warmup_epochs=2 / STEPS_AN_EPOCH),
        batch_size=64,
        epochs=6 / STEPS_AN_EPOCH,
    )


@pytest.fixture
def place(here: Site) -> Callable[..., Place]:
    """`place(name, should_stop)`: a run folder of its own for one process."""

    def make(name: str, should_stop: Callable[[], bool] = bool) -> Place:
        run = RunFolder(here.runs / name)
        run.path.mkdir(parents=True, exist_ok=True)
        return Place(run, here, Ranks(), torch.device("cpu"), should_stop)

    return make


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet's layout with 24 + 6 JPEG patches of two photographs, wide and tall, as two classes."""
    from sklearn.datasets import load_sample_image

    root = tmp_path_factory.mktemp("photographs")
    for name in ("china", "flower"):
        photo = Image.fromarray(load_sample_image(f"{name}.jpg"))
        for number in range(15):
            folder = root / ("train" if number < 12 else "val") / name
            folder.mkdir(parents=True, exist_ok=True)
            top, left = 20 * number, 30 * number
            height, width = ((60, 80), (80, 60), (64, 64))[number % 3]
            photo.crop((left, top, left + width, top + height)).save(folder / f"{number:02}.JPEG", quality=95)
    return root
