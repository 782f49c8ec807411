from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.contracts import Context, Subject
from bench.errors import BenchError
from evals import knn
from evals.knn import Config

Splits = dict[str, tuple[Tensor, Tensor]]


def given(splits: Splits, monkeypatch: pytest.MonkeyPatch, classes: int = 3) -> None:
    """Evaluate these features instead of a network's."""
    monkeypatch.setattr(knn, "features_of", lambda subject, context: splits)
    monkeypatch.setattr(knn, "classes_of", lambda context: classes)


def naive(splits: Splits, config: Config, classes: int) -> list[list[float]]:
    """Votes per test image and class, one pair at a time."""

    def cosine(a: list[float], b: list[float]) -> float:
        return (
            sum(x * y for x, y in zip(a, b, strict=True))
            / math.sqrt(sum(x * x for x in a))
            / math.sqrt(sum(y * y for y in b))
        )

    memory, labels = splits["train"][0].tolist(), splits["train"][1].tolist()
    scores = []
    for image in splits["test"][0].tolist():
        near = sorted(
            ((cosine(image, other), label) for other, label in zip(memory, labels, strict=True)), reverse=True
        )
        votes = [0.0] * classes
        for similarity, label in near[: config.neighbours]:
            votes[label] += math.exp(similarity / config.temperature)
        scores.append(votes)
    return scores


@pytest.mark.parametrize(
    "config",
    [Config(neighbours=1), Config(neighbours=7, temperature=0.07), Config(neighbours=20, temperature=1.0), Config()],
)
def test_accuracy_equals_naive_loops(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch, config: Config
) -> None:
    rng, classes = torch.Generator().manual_seed(3), 8
    splits = {
        name: (torch.randn(n, 4, generator=rng) * 3 + 1, torch.randint(classes, (n,), generator=rng))
        for name, n in (("train", 60), ("test", 40))
    }
    given(splits, monkeypatch, classes)
    found = knn.evaluate(config, subject, context).metrics
    right = {1: 0, 5: 0}
    for votes, label in zip(naive(splits, config, classes), splits["test"][1].tolist(), strict=True):
        best = sorted(range(classes), key=lambda c: -votes[c])
        for k in right:
            right[k] += label in best[:k]
    assert found["top1"] == pytest.approx(100 * right[1] / 40)
    if config.neighbours > 5:  # with one neighbour, all other classes tie at no votes
        assert found["top5"] == pytest.approx(100 * right[5] / 40)


def test_votes_at_the_papers_scale_are_those_of_the_formula_in_numpy(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, classes = np.random.default_rng(4), 12
    splits = {}
    for name, n in (("train", 900), ("test", 300)):
        labels = rng.integers(classes, size=n)
        x = rng.normal(size=(n, 16)) + 0.6 * np.eye(16)[labels]
        splits[name] = (torch.from_numpy(x).float(), torch.from_numpy(labels))
    given(splits, monkeypatch, classes)
    (memory, told), (x, labels) = ((x.double().numpy(), y.numpy()) for x, y in splits.values())
    cosine = (x / np.linalg.norm(x, axis=1)[:, None]) @ (memory / np.linalg.norm(memory, axis=1)[:, None]).T
    for config in (Config(), Config(neighbours=20, temperature=0.1)):
        near = np.argsort(-cosine, axis=1)[:, : config.neighbours]
        weight = np.exp(np.take_along_axis(cosine, near, axis=1) / config.temperature)
        votes = np.stack([(weight * (told[near] == c)).sum(axis=1) for c in range(classes)], axis=1)
        ranks = (votes > votes[np.arange(300), labels][:, None]).sum(axis=1)
        found = knn.evaluate(config, subject, context).metrics
        assert found["top1"] == pytest.approx(100 * (ranks < 1).mean(), abs=1e-9)
        assert found["top5"] == pytest.approx(100 * (ranks < 5).mean(), abs=1e-9)


def test_of_two_classes_with_equal_votes_one_is_right_and_not_both(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = torch.eye(4)[[0, 0, 0, 0, 1]]  # twice class 0 and twice class 1 in the same place
    found = []
    for label in (0, 1):
        splits = {"train": (memory, torch.tensor([0, 1, 1, 0, 2])), "test": (torch.eye(4)[:1], torch.tensor([label]))}
        given(splits, monkeypatch)
        found.append(knn.evaluate(Config(neighbours=4), subject, context).metrics["top1"])
    assert sorted(found) == [0.0, 100.0]


def test_an_image_among_its_own_class_is_recognised(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, labels = torch.Generator().manual_seed(0), torch.arange(90) % 3
    features = torch.eye(3)[labels] + 0.01 * torch.randn(90, 3, generator=rng)
    # length must not matter
    given({"train": (features[:60], labels[:60]), "test": (features[60:] * 100, labels[60:])}, monkeypatch)
    assert dict(knn.evaluate(Config(neighbours=10), subject, context).metrics) == {"top1": 100.0, "top5": 100.0}
    given({"train": (features[:60], labels[:60]), "test": (features[60:], (labels[60:] + 1) % 3)}, monkeypatch)
    assert knn.evaluate(Config(neighbours=10), subject, context).metrics["top1"] == 0.0


def test_near_neighbours_outvote_many_far_ones(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = torch.tensor([[1.0, 0.0], *[[0.0, 1.0]] * 5])
    labels = torch.tensor([0, 1, 1, 1, 1, 1])
    given({"train": (memory, labels), "test": (torch.tensor([[1.0, 0.1]]), torch.tensor([0]))}, monkeypatch, classes=2)
    assert knn.evaluate(Config(neighbours=6, temperature=0.07), subject, context).metrics["top1"] == 100.0
    assert knn.evaluate(Config(neighbours=6, temperature=100.0), subject, context).metrics["top1"] == 0.0


def test_a_tiny_temperature_does_not_overflow(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    given({"train": (torch.eye(3), torch.arange(3)), "test": (torch.eye(3), torch.arange(3))}, monkeypatch)
    assert knn.evaluate(Config(neighbours=3, temperature=1e-3), subject, context).metrics["top1"] == 100.0


def test_more_neighbours_than_images_are_cut(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    given({"train": (torch.eye(3), torch.arange(3)), "test": (torch.eye(3), torch.arange(3))}, monkeypatch)
    assert knn.evaluate(Config(neighbours=200), subject, context).metrics["top1"] == 100.0


def test_several_labels_an_image_are_one_clear_error(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = torch.eye(3, dtype=torch.int8)
    given({"train": (torch.eye(3), several), "test": (torch.eye(3), several)}, monkeypatch)
    with pytest.raises(
        BenchError, match=r"mnist5k has several labels an image; this evaluation expects one: choose .*svm"
    ):
        knn.evaluate(Config(neighbours=3), subject, context)


def test_defaults_are_those_of_instance_discrimination() -> None:
    assert (Config().neighbours, Config().temperature) == (200, 0.07)
