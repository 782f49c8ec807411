"""Fixtures that all tests share."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from bench.planning.graph import Job, plan
from bench.runs.folder import Runs
from bench.spec import Augment, Backbone, Data, Evaluate, Optim, Pretrain, Random
from evals.knn import Config as Knn
from evals.linear import Config as Linear
from methods.simclr import Config as SimCLR

# One thread here and in every process that a test starts: two OpenMP pools on one core are many times slower than one
# thread each, and the digits depend on the number of threads.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
# A shell starts `make test &` with Ctrl-C ignored, and so would be every process that a test sends it to.
signal.signal(signal.SIGINT, signal.default_int_handler)
ROOT = Path(__file__).parents[1]

TINY = Backbone(name="resnet10", base_channels=4, stem="small", zero_init_residual=False)
DIGITS = Data(name="mnist5k", size=32)


def tiny_pretrain(seed: int = 0, epochs: float = 1.0) -> Pretrain:
    """A SimCLR pretraining of seconds."""
    view = Augment(size=32, crop_scale=(0.4, 1.0), flip=0.0)
    return Pretrain(
        method=SimCLR(temperature=0.5, hidden=16, output=8),
        backbone=TINY,
        data=DIGITS,
        views=(view, view),
        optim=Optim(name="adamw", lr=1e-3, weight_decay=0.0, warmup_epochs=0.1),
        batch_size=250,
        epochs=epochs,
        seed=seed,
    )


def knn_of(encoder: Pretrain | Random) -> Evaluate:
    """The cheapest evaluation."""
    return Evaluate(encoder=encoder, protocol=Knn(neighbours=20), data=DIGITS)


def linear_of(encoder: Pretrain | Random) -> Evaluate:
    """A linear evaluation of few heads."""
    return Evaluate(
        encoder=encoder, protocol=Linear(learning_rates=(0.1,), weight_decays=(0.0,), epochs=5), data=DIGITS
    )


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")


@pytest.fixture
def job() -> Job:
    return next(iter(plan([("tiny", tiny_pretrain())])))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with slots of its own, so that tests do not wait for other runs on this machine."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("BENCH_SITE", raising=False)
    monkeypatch.delenv("BENCH_PLUGINS", raising=False)
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


BENCH = [str(Path(sys.executable).with_name("bench"))]  # the installed command, as users type it
