from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import precision_recall_curve
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.svm import LinearSVC
from torch import Tensor, nn

from bench.contracts import Attempt, Context, Subject
from bench.errors import BenchError, Stopped
from bench.runs.folder import RunFolder
from bench.spec import CENTRE, Crop
from bench.training.checkpoint import spent_before
from evals import knn, svm
from evals.svm import Config, Fitted

Splits = dict[str, tuple[Tensor, Tensor]]
FEW = Config(costs=(0.1, 1, 10), dual=False)
CLASSES = 4


def given(splits: Splits, monkeypatch: pytest.MonkeyPatch, classes: int = CLASSES) -> None:
    """Evaluate these features instead of a network's."""
    monkeypatch.setattr(svm, "features_of", lambda subject, context, **which: splits)
    monkeypatch.setattr(svm, "classes_of", lambda context: classes)


def scenes(margin: float, *, difficult: bool = False, images: tuple[int, int] = (240, 400), seed: int = 0) -> Splits:
    """Features (N, 8) moved by each class that an image shows, and labels (N, CLASSES), a tenth of them -1 where asked.

    The last feature is moved in every image: one without any class has a direction of its own, too.
    """
    rng = torch.Generator().manual_seed(seed)
    made = {}
    for name, n in zip(("trainval", "test"), images, strict=True):
        labels = (torch.rand(n, CLASSES, generator=rng) < 0.3).to(torch.int8)
        x = torch.randn(n, 8, generator=rng) + margin * F.pad(F.pad(labels.float(), (0, 3)), (0, 1), value=1.0)
        hidden = torch.rand(n, CLASSES, generator=rng) < 0.1
        made[name] = (x, torch.where(hidden, -1, labels) if difficult else labels)
    return made


def fitted_by(run: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> Fitted:
    """What `fit` returns while `run` runs."""
    seen: list[Fitted] = []
    fit = svm.fit

    def recorded(config: Config, train: Any, context: Context) -> Fitted:
        seen.append(fit(config, train, context))
        return seen[-1]

    with monkeypatch.context() as patch:
        patch.setattr(svm, "fit", recorded)
        run()
    return seen[0]


def reference(config: Config, splits: Splits, context: Context) -> tuple[list[float], list[float]]:
    """Chosen costs and average precisions in percent, written from VISSL's protocol with scikit-learn alone."""
    x, test = (features.double().numpy() for features in (splits["trainval"][0], splits["test"][0]))
    x, test = (rows / (np.linalg.norm(rows, axis=1)[:, None] + 1e-5) for rows in (x, test))
    costs, found = [], []
    for number in range(CLASSES):
        target = np.where(splits["trainval"][1][:, number].numpy() == 1, 1, -1)
        folds = StratifiedKFold(config.folds, shuffle=True, random_state=svm._state(context.seed, "folds"))
        models = [
            LinearSVC(
                C=cost,
                penalty="l2",
                loss="squared_hinge",
                class_weight={1: 2, -1: 1},
                dual=config.dual,
                max_iter=config.max_iterations,
                random_state=svm._state(context.seed, "solver"),
            )
            for cost in config.costs
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            scores = [
                cross_val_score(model, x, target, cv=folds, scoring="average_precision").mean() for model in models
            ]
            best = int(np.argmax(scores))
            decision = models[best].fit(x, target).decision_function(test)
        labels = splits["test"][1][:, number].numpy()
        precision, recall, _ = precision_recall_curve(labels[labels != -1] == 1, decision[labels != -1])
        costs.append(float(config.costs[best]))
        found.append(float(-100 * np.sum(np.diff(recall) * np.maximum.accumulate(precision[:-1]))))
    return costs, found


@pytest.mark.parametrize("dual", [True, False])
def test_costs_and_precisions_are_those_of_scikit_learn_step_by_step(
    dual: bool, subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, splits = replace(FEW, dual=dual, costs=(0.01, 1, 20)), scenes(0.8, difficult=True)
    given(splits, monkeypatch)
    found = svm.evaluate(config, subject, context)
    rows: Any = found.details["classes"]
    costs, areas = reference(config, splits, context)
    assert [row["cost"] for row in rows] == costs
    assert len(set(costs)) > 1  # each class its own
    assert [row["average_precision"] for row in rows] == pytest.approx(areas, abs=1e-9)
    assert found.metrics["map"] == pytest.approx(np.mean(areas))


def test_both_solvers_find_the_same_minimum(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(scenes(0.8), monkeypatch)
    config = replace(FEW, costs=(1,), tolerance=1e-8, max_iterations=100_000)
    primal, dual = (
        fitted_by(partial(svm.evaluate, c, subject, context), monkeypatch) for c in (config, replace(config, dual=True))
    )
    np.testing.assert_allclose(primal.weights, dual.weights, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(primal.biases, dual.biases, rtol=1e-4, atol=1e-5)


def test_separable_features_give_100_percent(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(scenes(40.0), monkeypatch)
    assert dict(svm.evaluate(FEW, subject, context).metrics) == {
        "map": pytest.approx(100),
        "map_11_point": pytest.approx(100),
    }


def test_features_that_say_nothing_give_the_share_of_positives(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = scenes(0.0, images=(240, 2000))
    given(splits, monkeypatch)
    share = 100 * float((splits["test"][1] == 1).double().mean())
    noise = svm.evaluate(FEW, subject, context).metrics
    # 4 classes of about 600 positives in 2,000: three times the standard error, and interpolation only ever adds.
    assert share - 3 < noise["map"] < share + 6
    given({name: (torch.ones_like(x), y) for name, (x, y) in splits.items()}, monkeypatch)
    constant = svm.evaluate(FEW, subject, context).metrics  # every score the same: exactly the share, class by class
    assert dict(constant) == {"map": pytest.approx(share), "map_11_point": pytest.approx(share)}


def test_a_difficult_image_is_no_test_image_of_its_class_and_a_negative_in_training(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = scenes(0.8, difficult=True)
    given(splits, monkeypatch)
    expected = svm.evaluate(FEW, subject, context)
    rows: Any = expected.details["classes"]
    assert [row["test_left_out"] for row in rows] == (splits["test"][1] == -1).sum(dim=0).tolist()

    (x, y), test = splits["trainval"], splits["test"]
    given({"trainval": (x, y.clamp(min=0)), "test": test}, monkeypatch)
    assert svm.evaluate(FEW, subject, context).metrics == expected.metrics
    given({"trainval": (x, y), "test": (test[0], test[1].clamp(min=0))}, monkeypatch)
    assert svm.evaluate(FEW, subject, context).metrics["map"] < expected.metrics["map"]
    # The features of a left-out image are looked at for the other classes only.
    moved = test[0].clone()
    moved[test[1][:, 0] == -1] = 100.0
    given({"trainval": (x, y), "test": (moved, test[1])}, monkeypatch)
    changed: Any = svm.evaluate(FEW, subject, context).details["classes"]
    assert changed[0]["average_precision"] == rows[0]["average_precision"]
    assert changed[1]["average_precision"] != rows[1]["average_precision"]


def test_nothing_is_learned_from_the_test_split(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = scenes(1.5)
    given(splits, monkeypatch)
    before = fitted_by(partial(svm.evaluate, FEW, subject, context), monkeypatch)
    score = svm.evaluate(FEW, subject, context).metrics["map"]
    given({**splits, "test": (splits["test"][0], splits["test"][1].roll(1, dims=0))}, monkeypatch)
    after = fitted_by(partial(svm.evaluate, FEW, subject, context), monkeypatch)
    np.testing.assert_array_equal(before.weights, after.weights)
    np.testing.assert_array_equal(before.biases, after.biases)
    assert before.cross_validation == after.cross_validation
    assert svm.evaluate(FEW, subject, context).metrics["map"] < score - 10


def test_the_length_of_a_feature_vector_says_nothing(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = scenes(1.0)
    given(splits, monkeypatch)
    expected = svm.evaluate(FEW, subject, context).metrics
    lengths = torch.Generator().manual_seed(5)
    given(
        {name: (x * (1 + 9 * torch.rand(len(x), 1, generator=lengths)), y) for name, (x, y) in splits.items()},
        monkeypatch,
    )
    assert svm.evaluate(FEW, subject, context).metrics == pytest.approx(dict(expected), abs=0.1)


def test_class_numbers_are_one_against_the_rest(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = torch.Generator().manual_seed(0)
    splits = {}
    for name, n in (("trainval", 200), ("test", 300)):
        y = torch.randint(CLASSES, (n,), generator=rng)
        splits[name] = (torch.randn(n, 6, generator=rng) + F.one_hot(y, 6), y)
    given(splits, monkeypatch)
    numbers = svm.evaluate(FEW, subject, context)
    given({name: (x, F.one_hot(y, CLASSES).to(torch.int8)) for name, (x, y) in splits.items()}, monkeypatch)
    assert numbers == svm.evaluate(FEW, subject, context)


def test_fits_that_stop_at_the_limit_are_counted_and_the_warning_is_not_lost_for_others(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = scenes(0.8)
    given(splits, monkeypatch)
    converged = svm.evaluate(FEW, subject, context).details
    assert converged["fits"] == CLASSES * (3 * 3 + 1)
    assert (converged["fits_not_converged"], converged["final_fits_not_converged"]) == (0, 0)
    cut = svm.evaluate(replace(FEW, dual=True, max_iterations=1), subject, context).details
    assert (cut["fits_not_converged"], cut["final_fits_not_converged"]) == (cut["fits"], CLASSES)
    with pytest.raises(ConvergenceWarning):
        LinearSVC(max_iter=1).fit(splits["trainval"][0].numpy(), splits["trainval"][1][:, 0].numpy())


def test_folds_and_solver_draw_from_the_seed(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(scenes(0.8), monkeypatch)
    config = replace(FEW, dual=True)
    first, again, other = (
        fitted_by(partial(svm.evaluate, config, subject, c), monkeypatch)
        for c in (context, context, replace(context, seed=1))
    )
    np.testing.assert_array_equal(first.weights, again.weights)
    assert first.cross_validation == again.cross_validation
    assert first.cross_validation != other.cross_validation


def test_a_stopped_evaluation_goes_on_and_ends_with_the_same_numbers(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given(scenes(0.8), monkeypatch)
    config = replace(FEW, dual=True, max_iterations=20)
    undisturbed = svm.evaluate(config, subject, context)
    calls: list[float] = []
    cross_validated = svm.cross_validated

    def counted(config: Config, x: Any, positive: Any, cost: float, seed: int) -> tuple[float, int]:
        calls.append(cost)
        return cross_validated(config, x, positive, cost, seed)

    monkeypatch.setattr(svm, "cross_validated", counted)
    folder = tmp_path / "run"
    folder.mkdir()
    long = replace(context, folder=folder, attempt=Attempt(began=time.monotonic() - 1e6))
    with pytest.raises(Stopped):
        svm.evaluate(config, subject, replace(long, should_stop=lambda: len(calls) == 5))
    assert spent_before(RunFolder(folder)).seconds > 1e6
    assert svm.evaluate(config, subject, replace(context, folder=folder)) == undisturbed
    assert len(calls) == CLASSES * len(config.costs)  # none twice


def test_a_class_that_cannot_be_validated_or_tested_is_named(
    subject: Subject, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = scenes(0.8)
    (x, y), test = splits["trainval"], splits["test"]
    rare = y.clone()
    rare[:, 2] = 0
    rare[:2, 2] = 1
    given({"trainval": (x, rare), "test": test}, monkeypatch)
    with pytest.raises(BenchError, match="class 2 is on 2 of 240 training images; 3-fold"):
        svm.evaluate(FEW, subject, context)
    absent = test[1].clone()
    absent[:, 1] = -1
    given({"trainval": (x, y), "test": (test[0], absent)}, monkeypatch)
    with pytest.raises(BenchError, match="no test image shows class 1"):
        svm.evaluate(FEW, subject, context)
    with pytest.raises(BenchError, match="at least 2 folds"):
        Config(folds=1)


def test_the_published_recipe_is_vissls_and_its_variants_differ_in_the_image(
    subject: Subject, context: Context
) -> None:
    paper = svm.RECIPES["paper"]
    assert paper.costs == (0.01, 0.1, 1, 2, 5, 10, 15, 20, 50, 100, 1000)
    assert (paper.folds, paper.dual, paper.max_iterations, paper.crop) == (3, True, 2000, Crop(squash=True))
    assert svm.VARIANTS["vissl"]["paper"] == paper
    assert svm.VARIANTS["centre_crop"]["paper"] == replace(paper, crop=CENTRE)
    assert svm.VARIANTS["centre_crop"]["embedded"] == svm.VARIANTS["vissl"]["embedded"]  # one job for both
    assert "squashed" in paper.describe()
    assert "squashed" not in svm.RECIPES["embedded"].describe()


def test_the_embedded_evaluation_takes_the_features_that_knn_left(subject: Subject, context: Context) -> None:
    class Blind(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError("a second pass over the backbone")

    knn.evaluate(knn.RECIPES["embedded"], subject, context)
    quick = replace(svm.RECIPES["embedded"], costs=(1,), folds=2)
    found = svm.evaluate(quick, replace(subject, network=Blind()), context)
    assert found.metrics["map"] > 50
