"""Common checks over every method that is found by name: a new file is tested the day it is added."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from typing import cast

import pytest
import torch

from bench import plugins
from bench.contracts import Batch, Method, Recipe
from bench.files import file_sha256
from bench.identity import canonical, from_json, job_id
from bench.planning.refusals import check_pretrain
from bench.planning.scales import SCALES
from bench.planning.translate import encoder
from bench.runs.folder import RunFolder
from bench.settings.site import Site
from bench.spec import Backbone, Pretrain
from bench.training import loop, methods
from bench.training.ranks import Ranks

METHODS = plugins.names("method")
TINY = Backbone(name="resnet10", base_channels=4, stem="small", zero_init_residual=False)
# as wide as a ResNet-18: recipes may ask for 360 channels
SHALLOW = Backbone(name="resnet10", base_channels=64, stem="cifar")


def spec_of(method: str, scale: str) -> Pretrain:
    made = encoder(SCALES[scale], method, network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0)
    assert isinstance(made, Pretrain)
    return made


def test_the_methods_are_found() -> None:
    assert {"simclr", "barlow_twins", "supervised"} <= set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_module_names_its_paper(method: str) -> None:
    assert re.search(r"arXiv:\d{4}\.\d{4,5}\b", inspect.getdoc(plugins.load("method", method)) or "")
    assert len(plugins.summary("method", method)) > 10


@pytest.mark.parametrize("method", METHODS)
def test_config_is_a_frozen_dataclass_with_a_version(method: str) -> None:
    config = plugins.load("method", method).Config()
    assert is_dataclass(config)
    version = next(f for f in fields(config) if f.name == "VERSION")
    assert not version.init
    assert isinstance(version.default, int)
    for f in fields(config):
        with pytest.raises(FrozenInstanceError):
            setattr(config, f.name, 1)


@pytest.mark.parametrize("method", METHODS)
def test_every_scale_has_a_recipe(method: str) -> None:
    module = plugins.load("method", method)
    assert {"embedded", "cifar", "paper"} <= set(module.RECIPES)
    for recipe in module.RECIPES.values():
        assert isinstance(recipe, Recipe)
        assert isinstance(recipe.method, module.Config)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("method", METHODS)
def test_recipe_can_be_planned_and_read_back_by_a_worker(method: str, scale: str) -> None:
    spec = spec_of(method, scale)
    check_pretrain(spec)
    back = from_json(json.loads(json.dumps(canonical(spec))))
    assert back == spec
    assert job_id(back) == job_id(spec)


@pytest.mark.parametrize("method", METHODS)
def test_loss_is_finite_and_its_gradient_reaches_every_encoder_parameter(
    method: str, batch: Callable[[int, int], Batch]
) -> None:
    spec = replace(spec_of(method, "embedded"), backbone=TINY)
    network = methods.build_method(spec, 10)
    made = cast(Method, network)
    images = batch(64, len(spec.views))
    embeddings = made.embed(images)
    assert all(len(rows) == 64 for rows in embeddings.values())
    losses = made.loss(embeddings, images.labels)
    assert all(value.ndim == 0 and bool(torch.isfinite(value)) for value in losses.values())
    names = [name for name, _ in made.encoder.named_parameters()]
    gradients = torch.autograd.grad(losses["loss"], list(made.encoder.parameters()))
    for name, gradient in zip(names, gradients, strict=True):
        assert float(gradient.abs().max()) > 0, name
    made.after_step(0.1)


@pytest.mark.parametrize("scale", ["embedded", "paper"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_never_waits_for_the_device(method: str, scale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device "meta", which has shapes but no values: what asks for one there makes the host wait for a GPU."""
    monkeypatch.setattr(torch, "autocast", lambda device, *args, **options: nullcontext())  # it does not know "meta"
    module = plugins.load("method", method)
    for recipes in (module.RECIPES, *getattr(module, "VARIANTS", {}).values()):
        recipe = recipes.get(scale)
        if recipe is None:
            continue
        spec = replace(
            spec_of(method, scale),
            method=recipe.method,
            views=recipe.views,
            backbone=SHALLOW,
            batch_size=recipe.batch_size,
        )
        made = cast(Method, methods.build_method(spec, 1000).to("meta"))
        labels = torch.zeros(spec.batch_size, dtype=torch.long, device="meta")
        views = [torch.zeros(spec.batch_size, 3, 32, 32, device="meta") for _ in spec.views]
        embeddings = made.embed(Batch(views=views, labels=labels, indices=torch.arange(spec.batch_size)))
        made.loss(embeddings, labels)["loss"].backward()  # type: ignore[no-untyped-call]
        if hasattr(made, "before_step"):
            made.before_step(0.5)
        made.after_step(0.501)


@pytest.mark.parametrize("method", METHODS)
def test_initial_weights_follow_the_seed_and_leave_the_global_generator_alone(method: str) -> None:
    spec = replace(spec_of(method, "embedded"), backbone=TINY)
    before = torch.random.get_rng_state()
    states = [methods.build_method(replace(spec, seed=seed), 10).state_dict() for seed in (0, 0, 1)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    drawn = [key for key, value in states[0].items() if value.is_floating_point() and value.ndim > 1]
    assert not any(torch.equal(states[0][key], states[2][key]) for key in drawn)


@pytest.mark.parametrize("method", METHODS)
def test_a_short_training_leaves_weights_and_a_finite_loss(method: str, site: Site) -> None:
    steps = 3
    spec = replace(spec_of(method, "embedded"), backbone=TINY, batch_size=64, epochs=steps / (3500 // 64))
    run = RunFolder(site.runs / job_id(spec))
    run.path.mkdir(parents=True)
    trained = loop.pretrain(spec, loop.Place(run, site, Ranks(), torch.device("cpu")))
    assert trained.metrics["steps"] == steps
    assert math.isfinite(trained.metrics["loss"])
    assert [line["step"] for line in run.curves()] == [1, 2, 3]
    saved = torch.load(run.weights, weights_only=True)
    fresh = methods.build_method(spec, steps)
    assert set(saved["method"]) == set(fresh.state_dict())
    moved = [key for key, value in fresh.state_dict().items() if not torch.equal(value, saved["method"][key])]
    assert any(key.startswith("encoder.conv1") for key in moved)
    assert trained.weights_sha256 == file_sha256(run.weights)
