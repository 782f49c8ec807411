"""What it costs to know how good frozen features are: of 4,000 images with 128 features each, and 1,000 test images.

A sweep trains 30 heads (6 learning rates, 5 weight decays) in one pass and chooses one on 500 held-out images. What 30
heads cost over one depends on what else is in the time: nothing (a), the pass over the backbone that gives the features
(b), or a pass for every epoch, on augmented images, as the papers' own protocols have it (c).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from bench.contracts import Context, Subject
from bench.networks import encoders
from bench.settings.site import Site
from evals import linear, linear_augmented
from evals.parts.features import features_of
from tests.perf.pairs import Side, Spent, Usual, pairs, timed
from tests.perf.test_training_speed import SETTING_B

SWEEP = linear.RECIPES["embedded"]
ONE = replace(SWEEP, learning_rates=(0.1,), weight_decays=(0.0,))
HEADS = len(SWEEP.learning_rates) * len(SWEEP.weight_decays)
AUGMENTED = replace(
    linear_augmented.RECIPES["embedded"], learning_rates=SWEEP.learning_rates, weight_decays=SWEEP.weight_decays
)
AUGMENTED_ONE = replace(AUGMENTED, learning_rates=(0.1,), weight_decays=(0.0,), split="train")
INVERSE_DECAYS = (0.01, 0.1, 1.0, 10.0, 100.0)  # scikit-learn's C
AT_MOST: dict[Side, float] = {"ratio at most": 1.2}


@pytest.fixture(scope="module")
def subject() -> Subject:
    network = encoders.build(SETTING_B.backbone, seed=0).to(memory_format=torch.channels_last)
    return Subject(key="random-perf", network=network.eval().requires_grad_(False), feature_dim=network.feature_dim)


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Context]:
    """A context with an empty cache of features, at every call another one."""
    numbers = count()
    site = Site(root=tmp_path, runs=tmp_path / "runs", output=tmp_path / "out", report=tmp_path / "report")

    def make() -> Context:
        return Context(
            site=site,
            data=SETTING_B.data,
            seed=0,
            device=torch.device("cpu"),
            features=tmp_path / f"features{next(numbers)}",
        )

    return make


def swept(config: linear.Config, subject: Subject, fresh: Callable[[], Context]) -> Spent:
    """From images to a chosen head and its test accuracy."""
    return timed(lambda: linear.evaluate(config, subject, fresh()))


def by_scikit_learn(subject: Subject, context: Context) -> float:
    """The usual way: extract, standardise, a logistic regression per weight decay, the best on the held-out images.

    Its test accuracy.
    """
    splits = features_of(subject, context)
    mean, std = splits["train"][0].mean(dim=0), splits["train"][0].std(dim=0) + 1e-6
    (train_x, train_y), (val_x, val_y), (test_x, test_y) = (
        (((x - mean) / std).numpy(), y.numpy()) for x, y in splits.values()
    )
    models = [LogisticRegression(C=c, max_iter=1000).fit(train_x, train_y) for c in INVERSE_DECAYS]
    best = max(models, key=lambda model: model.score(val_x, val_y))
    return float(best.score(test_x, test_y))


@pytest.mark.benchmark(group="probe", timer=time.process_time)
def test_extraction_and_a_chosen_weight_decay(
    benchmark: Any, subject: Subject, fresh: Callable[[], Context], rounds: int
) -> None:
    torch.set_flush_denormal(True)  # as the worker does
    usual = Usual(
        name=f"the same features, scikit-learn's LogisticRegression for {len(INVERSE_DECAYS)} weight decays",
        spent=timed(lambda: by_scikit_learn(subject, fresh())),
    )
    goals: dict[Side, float] = {"value at most": 3.0}
    pairs(
        benchmark,
        f"extraction and a sweep of {HEADS} heads",
        swept(SWEEP, subject, fresh),
        usual,
        unit="s",
        rounds=min(rounds, 3),
        goals=goals,
    )


@pytest.mark.benchmark(group="probe", timer=time.process_time)
@pytest.mark.parametrize("counted", ["heads", "extraction"])
def test_sweep_beside_one_head(
    benchmark: Any, subject: Subject, fresh: Callable[[], Context], rounds: int, counted: str
) -> None:
    def heads(config: linear.Config) -> Spent:
        if counted == "extraction":
            return swept(config, subject, fresh)
        context = fresh()
        linear.evaluate(ONE, subject, context)
        return timed(lambda: linear.evaluate(config, subject, context))

    what = f"(a) {HEADS} heads on cached features" if counted == "heads" else f"(b) extraction and {HEADS} heads"
    one = Usual(name="one head", spent=heads(ONE), comparison="times the time of")
    pairs(benchmark, what, heads(SWEEP), one, unit="s", rounds=min(rounds, 3), goals=AT_MOST)


@pytest.mark.benchmark(group="probe", timer=time.process_time)
def test_bound_of_the_sweep(benchmark: Any, subject: Subject, fresh: Callable[[], Context], rounds: int) -> None:
    """What is left when a sweep does nothing but its products.

    No loop over epochs can take less, so the ratio (a) cannot come under this one.
    """
    context = fresh()
    (features, labels), *_ = features_of(subject, context).values()
    steps, columns = SWEEP.epochs * (len(features) // SWEEP.batch_size), HEADS * (int(labels.max()) + 1)
    x = features[: SWEEP.batch_size].clone()
    weight, error = torch.randn(x.shape[1], columns), torch.randn(len(x), columns)
    logits, gradient = torch.empty_like(error), torch.empty_like(weight)

    def products() -> None:
        for _ in range(steps):
            torch.mm(x, weight, out=logits)
            torch.mm(x.T, error, out=gradient)

    one = Usual(
        name="one head, all of it",
        spent=timed(lambda: linear.evaluate(ONE, subject, context)),
        comparison="times the time of",
    )
    pairs(
        benchmark,
        f"a bound for (a): the float32 products of {HEADS} heads and nothing else",
        timed(products),
        one,
        unit="s",
        rounds=min(rounds, 3),
    )


@pytest.mark.benchmark(group="probe", timer=time.process_time)
def test_augmented_sweep_beside_one_head(
    benchmark: Any, subject: Subject, fresh: Callable[[], Context], short: bool, rounds: int
) -> None:
    def heads(config: linear_augmented.Config) -> Spent:
        config = replace(config, epochs=1 if short else config.epochs)
        return timed(lambda: linear_augmented.evaluate(config, subject, fresh()))

    one = Usual(name="one head", spent=heads(AUGMENTED_ONE), comparison="times the time of")
    what = f"(c) {HEADS} heads on augmented images, one pass over the backbone an epoch"
    pairs(benchmark, what, heads(AUGMENTED), one, unit="s", rounds=min(rounds, 3), goals=AT_MOST)
