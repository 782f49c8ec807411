from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from bench.contracts import Context, Subject
from bench.data.catalogue import CATALOGUE
from bench.errors import BenchError
from bench.spec import Crop, Data
from evals import knn, logistic
from evals.logistic import _METRIC_OF, Config, Head, fits

Splits = dict[str, tuple[Tensor, Tensor]]
FEW = Config(penalties=5, weakest=1e-2, strongest=1e2)
EXACT = Config(tolerance=1e-9, max_iterations=2000)


def given(splits: Splits, monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    """Evaluate these features instead of a network's."""
    joined = tuple(torch.cat(pair) for pair in zip(splits["train"], splits["val"], strict=True))
    made = {**splits, "trainval": joined}
    monkeypatch.setattr(logistic, "features_of", lambda subject, context, **which: made)
    monkeypatch.setattr(logistic, "classes_of", lambda context: classes)


def numbered(margin: float, classes: int = 5, width: int = 8, seed: int = 0) -> Splits:
    """Noise, moved apart by class."""
    rng = torch.Generator().manual_seed(seed)
    made = {}
    for name, n in (("train", 300), ("val", 150), ("test", 1000)):
        y = torch.arange(n)[torch.randperm(n, generator=rng)] % classes
        made[name] = (torch.randn(n, width, generator=rng) + margin * F.one_hot(y, width), y)
    return made


def several(margin: float, classes: int = 4, width: int = 8, seed: int = 0) -> Splits:
    """Labels 1, 0 and, for a tenth, -1; features moved by every class that an image shows."""
    rng = torch.Generator().manual_seed(seed)
    made = {}
    for name, n in (("train", 300), ("val", 150), ("test", 600)):
        labels = (torch.rand(n, classes, generator=rng) < 0.3).to(torch.int8)
        x = torch.randn(n, width, generator=rng) + margin * F.pad(labels.float(), (0, width - classes))
        made[name] = (x, torch.where(torch.rand(n, classes, generator=rng) < 0.1, -1, labels))
    return made


def uneven(x: Tensor) -> Tensor:
    """The same in float64 with means and scales as raw features have them."""
    width = x.shape[1]
    return x.double() * torch.logspace(-2, 1, width, dtype=torch.float64) + torch.arange(width)


def last(config: Config, train: tuple[Tensor, Tensor], classes: int, penalties: Sequence[float]) -> Head:
    return list(fits(config, train, classes, penalties))[-1]


@pytest.mark.parametrize("penalty", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("labels", ["numbers", "presence"])
def test_two_mirrored_points_have_newtons_solution(labels: str, penalty: float) -> None:
    # Points +a and -a. By symmetry no bias. Class numbers: columns w and -w, so the sum is 2 log(1 + exp(-2 w a)) plus
    # penalty w^2. One class that is present at +a: 2 log(1 + exp(-w a)) + penalty w^2 / 2.
    a, slope, decay = 1.7, *((2.0, 2.0) if labels == "numbers" else (1.0, 1.0))
    w = 0.0
    for _ in range(100):
        p = 1 / (1 + math.exp(slope * w * a))
        w -= (-2 * slope * a * p + decay * penalty * w) / (2 * (slope * a) ** 2 * p * (1 - p) + decay * penalty)
    x = torch.tensor([[a], [-a]], dtype=torch.float64)
    y = torch.tensor([0, 1]) if labels == "numbers" else torch.tensor([[1], [0]], dtype=torch.int8)
    head = last(EXACT, (x, y), 2 if labels == "numbers" else 1, [penalty])
    assert float(head.weight_DC[0, 0]) == pytest.approx(w, rel=1e-7)
    assert float(head.bias_C.abs().max()) < 1e-9
    if labels == "numbers":
        assert float(head.weight_DC[0, 1]) == pytest.approx(-w, rel=1e-7)


@pytest.mark.parametrize("labels", ["numbers", "presence"])
def test_the_gradient_of_the_stated_objective_is_zero_at_every_solution(labels: str) -> None:
    x, y = (numbered(1.0) if labels == "numbers" else several(1.0))["train"]
    x = uneven(x)
    classes = 5 if labels == "numbers" else 4
    for head in fits(EXACT, (x, y), classes, [100.0, 1.0, 0.01, 1e-4]):
        weight, bias = head.weight_DC.clone().requires_grad_(), head.bias_C.clone().requires_grad_()
        logits = x @ weight + bias
        if labels == "numbers":
            loss = (logits.logsumexp(dim=1) - logits[torch.arange(len(y)), y]).sum()
        else:  # log(1 + exp(-z)) where present, log(1 + exp(z)) where absent, nothing where not counted
            loss = F.softplus(torch.where(y == 1, -logits, logits))[y >= 0].sum()
        gradients = torch.autograd.grad(loss + head.penalty / 2 * weight.square().sum(), (weight, bias))
        assert max(float(g.abs().max()) for g in gradients) < 1e-4  # of a sum over 300 images, features up to 40
        assert head.gradient < 1e-6


@pytest.mark.parametrize("penalty", [100.0, 1.0, 0.01])
def test_a_head_is_that_of_scikit_learn(penalty: float) -> None:
    x, y = numbered(1.0)["train"]
    x = uneven(x)
    theirs = LogisticRegression(C=1 / penalty, solver="newton-cg", tol=1e-10, max_iter=10_000).fit(x.numpy(), y.numpy())
    ours = last(EXACT, (x, y), 5, [1000.0, penalty])
    torch.testing.assert_close(ours.weight_DC, torch.from_numpy(theirs.coef_.T), rtol=1e-4, atol=1e-6)
    bias = torch.from_numpy(theirs.intercept_)  # known up to a constant
    torch.testing.assert_close(ours.bias_C - ours.bias_C.mean(), bias - bias.mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("penalty", [100.0, 1.0, 0.01])
def test_newtons_method_in_numpy_ends_at_the_same_weights(penalty: float) -> None:
    """The sum of the cross entropies plus penalty / 2 times the squared weights, that is C = 1 / penalty."""
    x, y = (value.numpy() for value in numbered(1.0)["train"])
    x, classes = x.astype(np.float64), 5
    n, d = x.shape
    design, wanted = np.hstack([x, np.ones((n, 1))]), np.eye(classes)[y]
    decay = np.repeat(penalty * np.r_[np.ones(d), 0], classes)  # biases are free
    w = np.zeros((d + 1, classes))

    def gradient(w: Any) -> tuple[Any, Any]:
        logits = design @ w
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return (design.T @ (p - wanted)).ravel() + decay * w.ravel(), p

    for _ in range(30):
        slope, p = gradient(w)
        curvature = np.einsum("ni,nk,kl,nj->ikjl", design, p, np.eye(classes), design, optimize=True)
        curvature -= np.einsum("ni,nk,nl,nj->ikjl", design, p, p, design, optimize=True)
        hessian = curvature.reshape(len(decay), len(decay)) + np.diag(decay)
        w = w - (np.linalg.pinv(hessian) @ slope).reshape(w.shape)  # the biases' common part is not determined
    head = last(EXACT, (torch.from_numpy(x), torch.from_numpy(y)), classes, [penalty])
    ours = np.vstack([head.weight_DC.numpy(), head.bias_C.numpy()])
    assert np.abs(gradient(ours)[0]).max() < 1e-5  # of a sum over 300 images
    np.testing.assert_allclose(ours[:-1], w[:-1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours[-1] - ours[-1].mean(), w[-1] - w[-1].mean(), rtol=0, atol=1e-6)


def test_more_features_than_images_are_fitted_too() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 80, generator=rng, dtype=torch.float64), torch.arange(30) % 3
    theirs = LogisticRegression(C=1.0, solver="newton-cg", tol=1e-10).fit(x.numpy(), y.numpy())
    torch.testing.assert_close(
        last(EXACT, (x, y), 3, [1.0]).weight_DC, torch.from_numpy(theirs.coef_.T), rtol=1e-4, atol=1e-6
    )


def test_the_path_of_penalties_is_the_papers() -> None:
    values = logistic._penalties(logistic.RECIPES["paper"])
    assert len(values) == 45
    assert values[0] == pytest.approx(1e5)
    assert values[-1] == pytest.approx(1e-6)
    assert {round(math.log10(a / b), 12) for a, b in pairwise(values)} == {0.25}
    assert logistic.RECIPES["paper"].crop == Crop(resize=1.0)  # 224 on the shorter side, then the square in its centre


def test_separable_features_give_100_percent(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(numbered(40.0), monkeypatch, 5)
    assert dict(logistic.evaluate(FEW, subject, context).metrics) == dict.fromkeys(logistic.METRICS, pytest.approx(100))
    given(several(40.0), monkeypatch, 4)
    assert dict(logistic.evaluate(FEW, subject, context).metrics) == {"map_11_point": pytest.approx(100)}


def test_features_that_say_nothing_give_chance(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(numbered(0.0, classes=10, width=10), monkeypatch, 10)
    found = logistic.evaluate(FEW, subject, context).metrics
    assert found["top1"] == pytest.approx(10, abs=5 * 100 * math.sqrt(0.1 * 0.9 / 1000))
    assert found["mean_class_top1"] == pytest.approx(10, abs=5)
    assert found["top5"] == pytest.approx(50, abs=5 * 100 * math.sqrt(0.5 * 0.5 / 1000))
    splits = several(0.0)
    given({name: (torch.ones_like(x), y) for name, (x, y) in splits.items()}, monkeypatch, 4)
    y = splits["test"][1]
    share = float(((y == 1).sum(dim=0) / (y >= 0).sum(dim=0)).mean())  # all scores equal: the share of positives
    assert logistic.evaluate(FEW, subject, context).metrics["map_11_point"] == pytest.approx(100 * share)


def test_the_penalty_is_chosen_on_val_and_the_last_fit_is_on_train_and_val(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = numbered(1.0)
    given(splits, monkeypatch, 5)
    found = logistic.evaluate(FEW, subject, context)
    path: Any = found.details["path"]
    best = max(row["top1"] for row in path)
    assert len({row["top1"] for row in path}) > 1
    assert found.details["chosen"] == next(row for row in path if row["top1"] == best)  # ties go to the strongest
    chosen: Any = found.details["chosen"]

    joined = [torch.cat([splits["train"][i], splits["val"][i]]) for i in (0, 1)]
    head = last(EXACT, (joined[0].double(), joined[1]), 5, [chosen["penalty"]])
    expected = 100 * float((head.scores(splits["test"][0].double()).argmax(dim=1) == splits["test"][1]).double().mean())
    assert found.metrics["top1"] == pytest.approx(expected, abs=0.11)  # one image of 1,000

    x, y = splits["val"]
    given({**splits, "val": (x, y.roll(1))}, monkeypatch, 5)
    assert logistic.evaluate(FEW, subject, context).details["path"] != path


@pytest.mark.parametrize("labels", ["numbers", "presence"])
def test_nothing_is_learned_from_the_test_split(
    labels: str, subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits, classes = (numbered(2.0), 5) if labels == "numbers" else (several(2.0), 4)
    seen: list[list[Head]] = []

    def recorded(*args: Any, **kwargs: Any) -> list[Head]:
        seen.append(list(fits(*args, **kwargs)))
        return iter(seen[-1])  # type: ignore[return-value]

    monkeypatch.setattr(logistic, "fits", recorded)
    given(splits, monkeypatch, classes)
    honest = logistic.evaluate(FEW, subject, context)
    given({**splits, "test": (splits["test"][0], splits["test"][1].roll(1, dims=0))}, monkeypatch, classes)
    shuffled = logistic.evaluate(FEW, subject, context)
    assert shuffled.details == honest.details
    for name in honest.metrics:
        if name != "top5":  # all five classes
            assert shuffled.metrics[name] < honest.metrics[name] - 20
    for before, after in zip(seen[0] + seen[1], seen[2] + seen[3], strict=True):
        assert torch.equal(before.weight_DC, after.weight_DC)
        assert torch.equal(before.bias_C, after.bias_C)


def test_a_label_that_is_not_counted_is_left_out_of_its_class_alone(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = several(1.0)
    x, y = splits["train"][0].double(), splits["train"][1]
    together = last(EXACT, (x, y), 4, [0.3])
    for number in range(4):
        rows = y[:, number] >= 0
        alone = last(EXACT, (x[rows], y[rows, number : number + 1]), 1, [0.3])
        torch.testing.assert_close(together.weight_DC[:, number], alone.weight_DC[:, 0], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(together.bias_C[number], alone.bias_C[0], rtol=1e-6, atol=1e-7)
    # In the test split: counting the difficult ones as absent, though they may be present, lowers the score.
    given(splits, monkeypatch, 4)
    expected = logistic.evaluate(FEW, subject, context).metrics["map_11_point"]
    given({**splits, "test": (splits["test"][0], splits["test"][1].clamp(min=0))}, monkeypatch, 4)
    assert logistic.evaluate(FEW, subject, context).metrics["map_11_point"] < expected


def test_each_of_the_twelve_data_sets_is_chosen_with_its_own_metric(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(_METRIC_OF) == 12
    assert set(_METRIC_OF) <= set(CATALOGUE)  # a renamed data set would fall back to top-1
    assert set(_METRIC_OF.values()) <= set(logistic.METRICS)
    given(numbered(1.0), monkeypatch, 5)
    for name, metric in (("dtd", "top1"), ("pets", "mean_class_top1"), ("mnist5k", "top1")):
        found = logistic.evaluate(FEW, subject, replace(context, data=Data(name=name, size=224)))
        assert found.details["chosen_by"] == metric
        assert set(found.metrics) == set(logistic.METRICS)
    given(several(1.0), monkeypatch, 4)
    found = logistic.evaluate(FEW, subject, replace(context, data=Data(name="voc2007", size=224)))
    assert found.details["chosen_by"] == "map_11_point"
    assert set(found.metrics) == {"map_11_point"}


def test_the_mean_over_classes_weighs_rare_classes_as_much_as_frequent_ones() -> None:
    labels = torch.tensor([0] * 9 + [2])
    scores = torch.tensor([[1.0, 0.0, 0.0]] * 10)
    assert logistic._MEASURES["top1"](scores, labels) == pytest.approx(90)
    assert logistic._MEASURES["mean_class_top1"](scores, labels) == pytest.approx(50)  # class 1 does not occur


def test_the_precision_of_class_numbers_ranks_by_probability() -> None:
    # A constant added to all logits of an image changes no probability.
    x, y = numbered(1.0)["test"]
    shift = torch.randn(len(x), 1, generator=torch.Generator().manual_seed(1)) * 10
    assert logistic.mean_eleven_point(x[:, :5], y) == pytest.approx(
        logistic.mean_eleven_point(x[:, :5] + shift, y), abs=1e-3
    )


def test_fits_that_stop_at_the_limit_are_counted(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(numbered(1.0), monkeypatch, 5)
    assert logistic.evaluate(FEW, subject, context).details["fits_not_converged"] == 0
    cut = logistic.evaluate(replace(FEW, max_iterations=1), subject, context).details
    path: Any = cut["path"]
    assert cut["fits_not_converged"] == sum(not row["converged"] for row in path) > 0


def test_a_grid_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(BenchError, match="0 < weakest <= strongest"):
        Config(weakest=0.0)
    with pytest.raises(BenchError, match="at least 1 penalty"):
        Config(penalties=0)
    assert "best of 45 l2 penalties" in Config().describe()


def test_the_embedded_evaluation_takes_the_features_that_knn_left(subject: Subject, context: Context) -> None:
    class Blind(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError("a second pass over the backbone")

    knn.evaluate(knn.RECIPES["embedded"], subject, context)
    quick = replace(logistic.RECIPES["embedded"], penalties=2, weakest=0.1, strongest=1.0)
    assert logistic.evaluate(quick, replace(subject, network=Blind()), context).metrics["top1"] > 60
