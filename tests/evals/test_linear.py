from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import Context, Subject
from bench.data.splits import labelled_subset
from bench.errors import BenchError
from bench.seeding import generator
from evals import linear
from evals.linear import Config, train_heads
from evals.parts.accuracy import top_k
from evals.parts.features import features_of

Splits = dict[str, tuple[Tensor, Tensor]]
FEW = Config(learning_rates=(0.03, 0.3), weight_decays=(0.0, 1e-2), epochs=10, minimum_steps=0)


def given(splits: Splits, monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    """Evaluate these features instead of a network's."""
    monkeypatch.setattr(linear, "features_of", lambda subject, context: splits)
    monkeypatch.setattr(linear, "classes_of", lambda context: classes)


def noise(classes: int, width: int, seed: int = 0, sizes: tuple[int, int, int] = (300, 100, 1000)) -> Splits:
    """Features that say nothing about their labels."""
    rng = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(n, width, generator=rng), torch.arange(n)[torch.randperm(n, generator=rng)] % classes)
        for name, n in zip(("train", "val", "test"), sizes, strict=True)
    }


def separable(classes: int, width: int, margin: float) -> Splits:
    """Noise, moved apart by class."""
    return {name: (x + margin * F.one_hot(y, width).float(), y) for name, (x, y) in noise(classes, width).items()}


def alone(
    config: Config, x: Tensor, y: Tensor, classes: int, seed: int, rate: float, decay: float
) -> tuple[Tensor, Tensor]:
    """One head with torch's autograd and SGD, written from the protocol."""
    weight, bias = (torch.zeros(shape, requires_grad=True) for shape in ((x.shape[1], classes), (classes,)))
    groups = [{"params": [weight], "weight_decay": decay}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=config.momentum)
    batch = min(config.batch_size, len(x))
    per_epoch = len(x) // batch
    total = max(config.epochs * per_epoch, config.minimum_steps)
    done = 0
    for epoch in range(total):
        order = torch.randperm(len(x), generator=generator(seed, "order", epoch))
        for start in range(per_epoch):
            if done == total:
                return weight.detach(), bias.detach()
            rows = order[start * batch : (start + 1) * batch]
            for group in optimizer.param_groups:
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * done / total))
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(x[rows] @ weight + bias, y[rows]))
            optimizer.step()
            done += 1
    return weight.detach(), bias.detach()


@pytest.mark.parametrize(("batch_size", "minimum_steps"), [(32, 0), (100, 0), (4096, 0), (64, 25)])
def test_each_head_of_the_sweep_is_the_head_trained_alone(batch_size: int, minimum_steps: int) -> None:
    x, y = separable(4, 6, 1.0)["train"]
    x, y = x[:100], y[:100]
    config = Config(
        learning_rates=(0.01, 0.3, 1.0),
        weight_decays=(0.0, 1e-2, 0.1),
        epochs=4,
        batch_size=batch_size,
        minimum_steps=minimum_steps,
    )
    weights, biases = train_heads(config, (x, y), 4, seed=11)
    assert (weights.shape, biases.shape) == ((9, 6, 4), (9, 1, 4))
    grid = [(rate, decay) for rate in config.learning_rates for decay in config.weight_decays]
    for head, (rate, decay) in enumerate(grid):
        weight, bias = alone(config, x, y, 4, 11, rate, decay)
        torch.testing.assert_close(weights[head], weight, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(biases[head, 0], bias, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(weights[0], weights[4])


def test_the_sweep_draws_its_order_from_the_seed() -> None:
    x, y = separable(4, 6, 1.0)["train"]
    first, again, other = (train_heads(FEW, (x, y), 4, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_separable_features_give_100_percent(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(separable(5, 8, 20.0), monkeypatch, 5)
    assert dict(linear.evaluate(FEW, subject, context).metrics) == {"top1": 100.0, "top5": 100.0, "val_top1": 100.0}


def test_features_without_information_give_chance(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(noise(10, 8), monkeypatch, 10)
    found = linear.evaluate(FEW, subject, context).metrics
    assert found["top1"] == pytest.approx(10, abs=5 * 100 * math.sqrt(0.1 * 0.9 / 1000))
    assert found["top5"] == pytest.approx(50, abs=5 * 100 * math.sqrt(0.5 * 0.5 / 1000))


def test_constant_and_badly_scaled_features_do_no_harm(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = separable(5, 8, 4.0)
    scale = torch.tensor([1e-3, 1.0, 1e3, 1.0, 1.0, 1.0, 1.0, 1.0])
    given(plain, monkeypatch, 5)
    expected = linear.evaluate(FEW, subject, context).metrics
    given(
        {name: (torch.cat([x * scale + 7, torch.full((len(x), 3), 5.0)], dim=1), y) for name, (x, y) in plain.items()},
        monkeypatch,
        5,
    )
    assert linear.evaluate(FEW, subject, context).metrics == pytest.approx(dict(expected), abs=0.2)


def test_the_head_is_chosen_on_val_and_never_on_test(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = separable(5, 8, 1.5)
    given(splits, monkeypatch, 5)
    found = linear.evaluate(FEW, subject, context)
    sweep: Any = found.details["sweep"]
    best = max(row["val_top1"] for row in sweep)
    assert found.details["chosen"] == next(row for row in sweep if row["val_top1"] == best)  # ties go to the first
    assert found.metrics["val_top1"] == best
    assert len({row["val_top1"] for row in sweep}) > 1

    x, y = splits["test"]
    given({**splits, "test": (x, y.roll(1))}, monkeypatch, 5)
    permuted = linear.evaluate(FEW, subject, context)
    assert permuted.details["sweep"] == sweep
    assert permuted.details["chosen"] == found.details["chosen"]
    assert permuted.metrics["top1"] < found.metrics["top1"]

    x, y = splits["val"]
    given({**splits, "val": (x, y.roll(1))}, monkeypatch, 5)
    assert linear.evaluate(FEW, subject, context).details["sweep"] != sweep


def test_no_head_trains_on_val(subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = separable(5, 8, 1.5)
    one = replace(FEW, learning_rates=(0.3,), weight_decays=(0.0,))
    given(splits, monkeypatch, 5)
    expected = linear.evaluate(one, subject, context).metrics
    x, y = splits["val"]
    given({**splits, "val": (x * 0 + 9, y.roll(1))}, monkeypatch, 5)
    found = linear.evaluate(one, subject, context).metrics
    assert (found["top1"], found["top5"]) == (expected["top1"], expected["top5"])


def test_a_share_of_the_labels_trains_on_these_images_alone(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = separable(5, 8, 2.0)
    config = replace(FEW, label_fraction=0.1)
    given(splits, monkeypatch, 5)
    expected = linear.evaluate(config, subject, context)
    assert expected.details["train_images"] == 30
    assert expected.details["val_images"] == 100
    x, y = splits["train"]
    hidden = torch.full_like(x, float("nan"))
    chosen = labelled_subset(y, 5, 0.1, context.seed)
    hidden[chosen] = x[chosen]
    given({**splits, "train": (hidden, y)}, monkeypatch, 5)
    found = linear.evaluate(config, subject, context)
    assert found.metrics == expected.metrics
    given(splits, monkeypatch, 5)
    # other images
    assert linear.evaluate(config, subject, replace(context, seed=1)).details["sweep"] != expected.details["sweep"]


def test_too_small_a_share_is_refused(subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    given(noise(10, 8), monkeypatch, 10)
    with pytest.raises(BenchError, match="fewer than one for each of 10 classes"):
        linear.evaluate(replace(FEW, label_fraction=0.01), subject, context)


def test_accuracy_on_real_features_is_that_of_logistic_regression(subject: Subject, context: Context) -> None:
    from sklearn.linear_model import LogisticRegression

    splits = features_of(subject, context)
    mean, std = splits["train"][0].mean(dim=0), splits["train"][0].std(dim=0)
    x = {name: ((features - mean) / std).numpy() for name, (features, _) in splits.items()}
    y = {name: labels.numpy() for name, (_, labels) in splits.items()}
    found = linear.evaluate(linear.RECIPES["embedded"], subject, context).metrics
    models = [LogisticRegression(C=c, max_iter=3000).fit(x["train"], y["train"]) for c in (1e-2, 1e-1, 1.0)]
    best = max(models, key=lambda model: model.score(x["val"], y["val"]))
    assert found["val_top1"] == pytest.approx(100 * best.score(x["val"], y["val"]), abs=1.0)
    assert found["top1"] == pytest.approx(100 * best.score(x["test"], y["test"]), abs=0.5)


def test_top_k_counts_the_labels_among_the_highest_scores() -> None:
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.1, 0.4], [0.3, 0.4, 0.9]])
    labels = torch.tensor([1, 2, 0])
    assert top_k(scores, labels, 1) == pytest.approx(100 / 3)
    assert top_k(scores, labels, 2) == pytest.approx(200 / 3)
    assert top_k(scores, labels, 5) == 100.0  # cut to three classes


def test_the_description_names_grid_labels_and_epochs() -> None:
    text = replace(FEW, label_fraction=0.01).describe()
    assert "1% of the training labels" in text
    assert "best of 4 heads" in text
    assert "10 epochs" in text
    assert "all training labels" in FEW.describe()


def test_the_best_head_is_within_half_a_point_of_scikit_learns_choice(subject: Subject, context: Context) -> None:
    from sklearn.linear_model import LogisticRegressionCV

    pooled = Subject(key="pooled-8x8", network=nn.Sequential(nn.AdaptiveAvgPool2d(8), FirstChannel()), feature_dim=64)
    splits = features_of(pooled, context)
    mean, std = splits["train"][0].mean(dim=0), splits["train"][0].std(dim=0)
    alive = std > 1e-6
    x = {name: ((features - mean) / std)[:, alive].double().numpy() for name, (features, _) in splits.items()}
    model = LogisticRegressionCV(Cs=[1e-3, 1e-2, 1e-1, 1.0, 10.0], cv=3, scoring="accuracy", max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of defaults that are not used here
        model.fit(x["train"], splits["train"][1].numpy())
    found = linear.evaluate(linear.RECIPES["embedded"], pooled, context).metrics
    assert found["top1"] == pytest.approx(100 * model.score(x["test"], splits["test"][1].numpy()), abs=0.5)


class FirstChannel(nn.Module):
    """Gray pixels as one vector an image."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0].flatten(1)
