"""What works on ImageNet's features keeps no second copy of them, and small data get the digits that they had."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.contracts import Context, Outcome, Subject
from evals import knn, linear
from evals.parts import features, pieces
from evals.parts.pieces import in_pieces
from tests.live_storage import peak_bytes

IMAGES, WIDTH, CLASSES = 1_268_356, 8192, 1000  # ImageNet under a ResNet-50 (4x)
WHOLE = IMAGES * WIDTH * 4


def normalised(rows: Tensor) -> Tensor:
    return F.normalize(rows, dim=1)


def test_pieces_are_the_whole_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1003, 67, generator=torch.Generator().manual_seed(0)) * 3 + 1
    mean, std = x.mean(dim=0), x.std(dim=0)

    def standardised(rows: Tensor) -> Tensor:
        return (rows - mean) / std

    changes: tuple[Callable[[Tensor], Tensor], ...] = (normalised, standardised, lambda rows: rows[:, :5])
    expected = [change(x) for change in changes]
    monkeypatch.setattr(pieces, "PIECE_BYTES", 67 * 4 * 10)  # the last has 3 rows
    for change, whole in zip(changes, expected, strict=True):
        assert torch.equal(in_pieces(x, change, torch.device("cpu")), whole)


@pytest.mark.parametrize("module", [knn, linear])
def test_a_protocol_in_pieces_gives_the_same_digits(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch, module: object
) -> None:
    def found() -> Outcome:
        if module is knn:
            return knn.evaluate(knn.RECIPES["embedded"], subject, context)
        return linear.evaluate(linear.Config(epochs=2, minimum_steps=10), subject, context)

    whole = found()
    monkeypatch.setattr(pieces, "PIECE_BYTES", 10_000)
    assert found() == whole


def test_the_features_of_imagenet_are_on_a_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    meta = torch.device("meta")
    stored = torch.empty(IMAGES, WIDTH, device=meta)
    peak = peak_bytes(lambda: in_pieces(stored, normalised, meta))
    assert WHOLE <= peak <= WHOLE + 4e9
    assert peak + 1000 * IMAGES * 4 <= 60e9  # with the similarities of a thousand test images


def test_all_heads_of_imagenet_take_few_bytes_beside_the_features() -> None:
    meta = torch.device("meta")
    train = torch.empty(IMAGES, WIDTH, device=meta), torch.empty(IMAGES, dtype=torch.long, device=meta)
    config = linear.Config(batch_size=4096, epochs=0, minimum_steps=3)
    peak = peak_bytes(lambda: linear.train_heads(config, train, CLASSES, 0))
    heads = len(config.learning_rates) * len(config.weight_decays)
    assert peak >= 2 * heads * CLASSES * WIDTH * 4  # weights and velocities
    assert WHOLE + peak <= 60e9


def test_features_are_written_as_numpy_does_and_never_whole_in_memory(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: dict[str, Tensor] = {}
    monkeypatch.setattr(features, "BATCH", 50)
    monkeypatch.setattr(features, "_KEPT_BYTES", 0)
    peak = peak_bytes(lambda: found.update(train=features.features_of(subject, context, splits=("train",))["train"][0]))
    images = 50 * 3 * 32 * 32 * 4
    plain = io.BytesIO()
    np.save(plain, found["train"].numpy())
    (file,) = context.features.glob("*-train-*/features.npy")
    assert file.read_bytes() == plain.getvalue()
    assert peak > images
    few = peak_bytes(lambda: features.features_of(subject, context, splits=("val",)))
    assert peak <= few + images  # 500 or 3,500 images: the same
