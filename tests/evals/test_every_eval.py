"""Common checks over every evaluation that is found by name: a new file is tested the day it is added."""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace

import pytest

from bench import plugins
from bench.contracts import Context, Metric, Subject
from bench.identity import canonical, from_json, job_id
from bench.networks import encoders
from bench.planning.scales import SCALES
from bench.planning.translate import encoder, evaluation
from bench.spec import Backbone
from tests.evals import detection_parts

EVALUATIONS = plugins.names("evaluation")


def test_the_evaluations_are_found() -> None:
    assert {"linear", "knn"} <= set(EVALUATIONS)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_config_is_a_frozen_dataclass_with_a_version(name: str) -> None:
    config = plugins.load("evaluation", name).Config()
    assert is_dataclass(config)
    version = next(f for f in fields(config) if f.name == "VERSION")
    assert not version.init
    assert isinstance(version.default, int)
    for f in fields(config):
        with pytest.raises(FrozenInstanceError):
            setattr(config, f.name, 1)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_module_says_what_it_does_and_what_its_numbers_are(name: str) -> None:
    module = plugins.load("evaluation", name)
    assert len(inspect.getdoc(module) or "") > 40
    assert module.METRICS
    for metric in module.METRICS.values():
        assert isinstance(metric, Metric)
        assert metric.unit in {"%", ""}
    for config in module.RECIPES.values():
        assert isinstance(config, module.Config)
        describe = getattr(config, "describe", None)
        if describe is not None:
            assert len(describe()) > 10


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", EVALUATIONS)
def test_recipe_can_be_planned_and_read_back_by_a_worker(name: str, scale: str) -> None:
    subject = encoder(SCALES[scale], "random", network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0)
    spec = evaluation(SCALES[scale], subject, name, dataset="imagenet", seed=3)
    back = from_json(json.loads(json.dumps(canonical(spec))))
    assert back == spec
    assert job_id(back) == job_id(spec)


@pytest.fixture
def tiny() -> Subject:
    """A random network of 32 features."""
    network = encoders.build(Backbone(name="resnet10", base_channels=4, stem="small", zero_init_residual=False), seed=0)
    return Subject(key="random-tiny", network=network.eval().requires_grad_(False), feature_dim=network.feature_dim)


def _quick(name: str, context: Context) -> tuple[object, Context]:
    """The embedded recipe; detectors, which take a minute and have data of their own, cut to a few iterations."""
    module = plugins.load("evaluation", name)
    if not name.startswith("detection_"):
        return module.RECIPES["embedded"], context
    if module.MISSING():
        pytest.skip(module.MISSING())
    kind = name.removeprefix("detection_")
    return detection_parts.quick(kind), replace(detection_parts.context_of(context.features.parent, kind), folder=None)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_an_evaluation_returns_finite_numbers_under_its_own_names_and_the_same_twice(
    name: str, tiny: Subject, context: Context
) -> None:
    module, subject = plugins.load("evaluation", name), tiny
    before = {key: value.clone() for key, value in subject.network.state_dict().items()}
    config, context = _quick(name, context)
    first, second = (module.evaluate(config, subject, context) for _ in range(2))
    assert set(first.metrics) == set(module.METRICS)
    assert dict(first.metrics) == dict(second.metrics)
    for key, value in first.metrics.items():
        assert math.isfinite(value)
        if module.METRICS[key].unit == "%":
            assert 0 <= value <= 100
    json.dumps(first.details, allow_nan=False)
    assert all(bool((value == before[key]).all()) for key, value in subject.network.state_dict().items())  # frozen
