from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import graph
from bench.cost import FORWARD_SHARE, STARTUP_SECONDS, Costs
from bench.graph import Job
from bench.runs import Runs
from bench.scales import SCALES, encoder, evaluation
from bench.spec import Evaluate, Pretrain, Spec

PAPER = SCALES["paper"]
IMAGENET, RATE = 1_268_356, 90.0  # images held out for `val` not counted; Barlow Twins' images a second and V100


def seconds(spec: Spec, tmp_path: Path) -> float:
    job = Job(id="a", spec=spec, needs=(), label="a")
    return Costs(Runs(tmp_path), graph.plan([])).estimate(job).seconds


def pretraining(method: str, variant: str = "") -> Pretrain:
    made = encoder(PAPER, method, variant=variant, network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0)
    assert isinstance(made, Pretrain)
    return made


def test_a_pretraining_costs_its_epochs_and_views_by_their_area(tmp_path: Path) -> None:
    plain = pretraining("barlow_twins")
    assert seconds(plain, tmp_path) == pytest.approx(STARTUP_SECONDS + 1000 * IMAGENET / RATE)
    crops = pretraining("twist", "resnet50_multicrop")  # 2 of 224 px and 12 of 96
    pairs = (2 + 12 * (96 / 224) ** 2) / 2
    assert seconds(crops, tmp_path) == pytest.approx(STARTUP_SECONDS + 800 * IMAGENET * pairs / RATE)


def evaluate(protocol: str, variant: str) -> Evaluate:
    return evaluation(PAPER, pretraining("simclr"), protocol, variant=variant, dataset="imagenet", seed=0)


def test_an_augmented_evaluation_costs_a_forward_pass_an_epoch_and_fine_tuning_a_training_on_its_labels(tmp_path: Path) -> None:
    frozen, augmented = seconds(evaluate("linear", ""), tmp_path), seconds(evaluate("linear_augmented", "simclr"), tmp_path)
    assert augmented - frozen == pytest.approx(90 * IMAGENET * FORWARD_SHARE / RATE)
    few, more = (seconds(evaluate("semi_supervised", f"simclr_{share}pct"), tmp_path) for share in (1, 10))
    assert more - few == pytest.approx((30 * 0.1 - 60 * 0.01) * IMAGENET / 2 / RATE)


def test_wall_clock_packs_chains_into_slots(tmp_path: Path) -> None:
    specs = [replace(pretraining("simclr"), seed=seed) for seed in range(3)]
    jobs = graph.plan([(f"seed {spec.seed}", spec) for spec in specs])
    costs = Costs(Runs(tmp_path), jobs)
    one = costs.estimate(next(iter(jobs))).seconds
    assert costs.wall_clock(jobs, list(jobs), 1) == pytest.approx(3 * one)
    assert costs.wall_clock(jobs, list(jobs), 2) == pytest.approx(2 * one)
    assert costs.wall_clock(jobs, list(jobs), 8) == pytest.approx(one)
