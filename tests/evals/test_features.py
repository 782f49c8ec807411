from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from bench.contracts import Context, Subject
from bench.data.datasets import open_split
from bench.data.splits import SPLITS, Arrays
from bench.spec import Crop
from evals.parts.features import classes_of, features_of


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
    # neither is stuck in inference mode
    rewritten = [x.requires_grad_() for x, _ in (*first.values(), *second.values())]
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
def test_a_damaged_cache_is_computed_anew_and_repaired(
    counting: Subject, context: Context, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = features_of(counting, context)
    (file,) = context.features.glob("*-test-*/features.npy")
    whole = file.read_bytes()
    file.write_bytes(DAMAGE[damage](whole))
    again = features_of(counting, context)
    assert seen(counting) == 6000  # the test split alone
    assert "damaged" in capsys.readouterr().out
    assert torch.equal(again["test"][0], first["test"][0])
    features_of(counting, context)
    assert seen(counting) == 6000


@pytest.mark.parametrize("name", ["features.npy", "labels.npy", "checksums.json"])
def test_a_cache_that_lacks_a_file_is_computed_anew(counting: Subject, context: Context, name: str) -> None:
    features_of(counting, context)
    (file,) = context.features.glob(f"*-val-*/{name}")
    file.unlink()
    assert len(features_of(counting, context)["val"][1]) == 500
    assert seen(counting) == 5500


def test_trainval_is_train_and_val_without_another_pass(counting: Subject, context: Context) -> None:
    parts = features_of(counting, context, splits=("train", "val"))
    joined, labels = features_of(counting, context, splits=("trainval",))["trainval"]
    assert seen(counting) == 4000
    assert torch.equal(joined, torch.cat([parts["train"][0], parts["val"][0]]))
    assert torch.equal(labels, torch.cat([parts["train"][1], parts["val"][1]]))


def test_another_crop_is_another_entry(counting: Subject, context: Context) -> None:
    features_of(counting, context, splits=("val",))
    features_of(counting, context, splits=("val",), crop=Crop(squash=True))
    assert seen(counting) == 1000


def test_two_processes_that_write_the_same_entry_agree(counting: Subject, context: Context) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(
                lambda _: features_of(replace(counting, network=Counting()), context, splits=("test",))["test"][0],
                range(4),
            )
        )
    assert all(torch.equal(found[0], other) for other in found)
    (entry,) = context.features.iterdir()
    assert {f.name for f in entry.iterdir()} == {"features.npy", "labels.npy", "checksums.json"}


def test_writing_to_the_features_never_reaches_the_cache(counting: Subject, context: Context) -> None:
    features_of(counting, context)
    features_of(counting, context)["val"][0].zero_()
    assert float(features_of(counting, context)["val"][0].abs().sum()) > 0
    assert seen(counting) == 5000


def test_no_temporary_file_is_left(counting: Subject, context: Context) -> None:
    features_of(counting, context)
    assert len(list(context.features.iterdir())) == len(SPLITS)


def test_classes_are_those_of_the_data_set(context: Context) -> None:
    assert classes_of(context) == 10
