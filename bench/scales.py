"""Scales: budgets in which every table can run. Tables speak the paper's language; a scale translates it.

embedded   real digits, a small ResNet, two CPU cores, minutes, no download: the default
smoke      the same chain cut to seconds: shows that everything works here; its numbers mean nothing
cifar      CIFAR-10, ResNets with the CIFAR stem, one GPU, hours
paper      as published
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from bench import plugins
from bench.contracts import Recipe
from bench.errors import BenchError, unknown_name
from bench.spec import Backbone, Data, Encoder, Evaluate, Pixels, Pretrain, Random

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How the paper's words are translated."""

    name: str
    summary: str
    recipe: str  # which of a plug-in's RECIPES
    networks: Mapping[str, Backbone]  # the paper's architecture -> the one here, at width 1
    data: Mapping[str, Data]  # the paper's data set -> the one here
    shrink: float = 1.0  # further factor on the recipe's epochs
    published: bool = False  # whether numbers may be held against the printed ones

    @property
    def caveat(self) -> str:
        """What a reader of a table at this scale must know, "" at the published one."""
        if self.published:
            return ""
        here = " and ".join(f"{data.name} stands in for {NAMES.get(name, name)}" for name, data in self.data.items())
        return (
            f"This is not {' or '.join(NAMES.get(name, name) for name in self.data)}. At the scale {self.name!r} ({self.summary}) {here}, "
            "so the printed numbers are no target: compare the order of the rows, not the values."
        )


def _digits_network(base: int) -> Mapping[str, Backbone]:
    # Without zero-initialised residuals: with them an untrained network is nearly blind (39 % instead of 81 % linear
    # top-1 on the digits), which would make every method look good, and 150 steps are too few to recover (SimCLR: -2 points).
    return {"resnet50": Backbone(name="resnet10", base_channels=base, stem="small", zero_init_residual=False)}


NAMES = {"imagenet": "ImageNet"}  # data sets as papers write them

SCALES: Mapping[str, Scale] = {
    scale.name: scale
    for scale in (
        Scale(
            name="embedded",
            summary="5,000 real digits, a ResNet-10, minutes on two CPU cores",
            recipe="embedded",
            networks=_digits_network(8),
            data={"imagenet": Data(name="mnist5k", size=32)},
        ),
        Scale(
            name="smoke",
            summary="the embedded scale cut to one epoch and half the channels, to see that the chain works",
            recipe="embedded",
            networks=_digits_network(4),
            data={"imagenet": Data(name="mnist5k", size=32)},
            shrink=1 / 24,
        ),
        Scale(
            name="cifar",
            summary="CIFAR-10 and a ResNet-18 with the CIFAR stem, hours on one GPU",
            recipe="cifar",
            networks={"resnet50": Backbone(name="resnet18", stem="cifar")},
            data={"imagenet": Data(name="cifar10", size=32)},
        ),
        Scale(
            name="paper",
            summary="as published",
            recipe="paper",
            networks={"resnet50": Backbone(name="resnet50")},
            data={"imagenet": Data(name="imagenet", size=224)},
            published=True,
        ),
    )
}


def scale_of(name: str) -> Scale:
    """Raises BenchError with the valid names."""
    if name not in SCALES:
        raise unknown_name("scale", name, SCALES)
    return SCALES[name]


def encoder(scale: Scale, method: str, *, network: str, width: int, epochs: float | None, dataset: str, seed: int) -> Encoder:
    """The encoder spec of a table row. `random` and `pixels` need no training; `epochs` None is the recipe's length."""
    if method == "pixels":
        return Pixels()
    backbone = replace(_translated("architecture", scale.networks, network, scale), width=width)
    if method == "random":
        return Random(backbone=backbone, seed=seed)
    recipe, full = recipe_of(method, scale)
    length = recipe.epochs * scale.shrink * (epochs / full if epochs else 1.0)
    # A short run keeps the paper's warm-up at the published scale (its ablations do) and a tenth of itself elsewhere.
    warmup = recipe.optim.warmup_epochs if scale.published else min(recipe.optim.warmup_epochs, 0.1 * length)
    return Pretrain(
        method=recipe.method,
        backbone=replace(backbone, normalize=recipe.normalize),
        data=_translated("data set", scale.data, dataset, scale),
        views=recipe.views,
        optim=replace(recipe.optim, warmup_epochs=warmup),
        batch_size=recipe.batch_size,
        epochs=length,
        precision=recipe.precision,
        seed=seed,
    )


def evaluation(scale: Scale, subject: Encoder, protocol: str, *, dataset: str, options: Mapping[str, Any], seed: int) -> Evaluate:
    """The evaluation spec of a table cell; `options` replace fields of the protocol's recipe."""
    recipes = plugins.load("evaluation", protocol).RECIPES
    if scale.recipe not in recipes:
        raise BenchError(f"evaluation {protocol!r} has no recipe for scale {scale.recipe!r}; it has {', '.join(recipes)}.")
    data = _translated("data set", scale.data, dataset, scale)
    return Evaluate(encoder=subject, protocol=replace(recipes[scale.recipe], **options), data=data, seed=seed)


def recipe_of(method: str, scale: Scale) -> tuple[Recipe, float]:
    """The method's recipe at a scale, and the epochs of its paper recipe, to which a row's epochs are relative."""
    recipes: Mapping[str, Recipe] = plugins.load("method", method).RECIPES
    if scale.recipe not in recipes:
        raise BenchError(f"method {method!r} has no recipe for scale {scale.recipe!r}; it has {', '.join(recipes)}.")
    recipe = recipes[scale.recipe]
    return recipe, recipes["paper"].epochs if "paper" in recipes else recipe.epochs


def _translated(kind: str, known: Mapping[str, T], name: str, scale: Scale) -> T:
    if name not in known:
        raise BenchError(f"scale {scale.name!r} has no {kind} for {name!r}; it has {', '.join(known)}.")
    return known[name]
