from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from bench.contracts import Context, Subject
from bench.data.datasets import SPLITS, Arrays, open_split
from evals._features import classes_of, features_of


class Counting(nn.Module):
    """Mean colour and corner of an image; counts the images that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return torch.cat([x.mean(dim=(2, 3)), x[:, 0, 8:16, 8:16].flatten(1)], dim=1)


@pytest.fixture
def counting() -> Subject:
    return Subject(key="counting", network=Counting(), feature_dim=67)


def seen(subject: Subject) -> int:
    assert isinstance(subject.network, Counting)
    return subject.network.seen


def test_features_are_those_of_a_direct_forward_pass(subject: Subject, context: Context) -> None:
    found = features_of(subject, context)
    assert set(found) == set(SPLITS)
    for split in SPLITS:
        data = open_split(context.data, split, context.site)
        assert isinstance(data, Arrays)
        features, labels = found[split]
        assert features.shape == (len(data), subject.feature_dim)
        assert features.dtype == torch.float32
        assert torch.equal(labels, data.labels)
        with torch.inference_mode():
            direct = subject.network(data.images[-100:].float() / 255)
        torch.testing.assert_close(features[-100:], direct, rtol=1e-4, atol=1e-5)


def test_a_second_call_makes_no_forward_pass(counting: Subject, context: Context) -> None:
    first = features_of(counting, context)
    assert seen(counting) == 5000
    second = features_of(counting, context)
    assert seen(counting) == 5000
    for split in SPLITS:
        assert all(torch.equal(a, b) for a, b in zip(first[split], second[split], strict=True))
    rewritten = [x.requires_grad_() for x, _ in (*first.values(), *second.values())]  # neither is stuck in inference mode
    assert all(x.requires_grad for x in rewritten)


def test_other_weights_and_other_seeds_are_told_apart(counting: Subject, context: Context) -> None:
    features_of(counting, context)
    features_of(counting, replace(context, seed=7))  # features do not depend on the evaluation's seed
    assert seen(counting) == 5000
    features_of(replace(counting, key="other"), context)
    assert seen(counting) == 10000


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "overwritten": lambda content: b"x" * len(content),
    "bit": lambda content: content[:5000] + bytes([content[5000] ^ 255]) + content[5001:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_computed_anew_and_repaired(counting: Subject, context: Context, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = features_of(counting, context)
    (file,) = context.features.glob("*-test-*")
    whole = file.read_bytes()
    file.write_bytes(DAMAGE[damage](whole))
    again = features_of(counting, context)
    assert seen(counting) == 6000  # the test split alone
    assert "damaged" in capsys.readouterr().out
    assert torch.equal(again["test"][0], first["test"][0])
    features_of(counting, context)
    assert seen(counting) == 6000


def test_a_cache_without_its_arrays_is_computed_anew(counting: Subject, context: Context) -> None:
    import numpy as np

    features_of(counting, context)
    (file,) = context.features.glob("*-val-*")
    with file.open("wb") as handle:
        np.savez(handle, features=np.zeros((500, 67), dtype=np.float32))
    assert len(features_of(counting, context)["val"][1]) == 500
    assert seen(counting) == 5500


def test_no_temporary_file_is_left(counting: Subject, context: Context) -> None:
    features_of(counting, context)
    assert len(list(context.features.iterdir())) == len(SPLITS)


def test_classes_are_those_of_the_data_set(context: Context) -> None:
    assert classes_of(context) == 10
