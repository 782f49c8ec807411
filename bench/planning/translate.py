"""A row or a cell in the paper's words, as a spec at a scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

from bench import plugins
from bench.contracts import Recipe
from bench.errors import BenchError, unknown_name
from bench.planning.scales import Scale
from bench.spec import Augment, Backbone, Encoder, Evaluate, Pixels, Pretrain, Random

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Change:
    """What one row or column of a table changes in a method's recipe, in the paper's terms."""

    method: Mapping[str, Any] = field(default_factory=dict)  # fields of the method's Config
    views: Mapping[str, Any] = field(default_factory=dict)  # fields of every view's Augment
    batch: float = 1.0  # factor on the batch of the recipe
    lr: float = 1.0  # factor on the learning rate of the recipe
    second: str = ""  # architecture of a second branch with weights of its own
    optim: Mapping[str, Any] = field(default_factory=dict)  # fields of Optim

    def apply(self, recipe: Recipe, scale: Scale) -> Recipe:
        """The recipe with the changes. Raises BenchError for a field that does not exist."""
        lr, vector = recipe.optim.lr * self.lr, recipe.optim.vector_lr
        method = _replaced(recipe.method, self.method)
        if self.second:
            method = _replaced(
                method, {"second": _network(_translated("architecture", scale.networks, self.second, scale), recipe)}
            )
        return replace(
            recipe,
            method=method,
            views=tuple(_replaced(view, self.views) for view in recipe.views),
            batch_size=round(recipe.batch_size * self.batch),
            optim=_replaced(
                replace(recipe.optim, lr=lr, vector_lr=None if vector is None else vector * self.lr), self.optim
            ),
        )


def encoder(
    scale: Scale,
    method: str,
    *,
    network: str,
    width: int,
    epochs: float | None,
    dataset: str,
    seed: int,
    variant: str = "",
    changes: Sequence[Change] = (),
    full_run: float | None = None,
) -> Encoder:
    """The encoder spec of a table row. `random` and `pixels` need no training; `epochs` None is the recipe's length.

    Away from the published scale epochs shrink as the recipe's: `full_run` of the paper's epochs (None: the method's
    headline run) become the recipe's. A recipe with a `first` stage starts from a pretraining of its own; `epochs` is
    then the length of the first, and the second keeps its own.
    """
    if method == "pixels":
        return Pixels()
    backbone = replace(_translated("architecture", scale.networks, network, scale), width=width)
    if method == "random":
        return Random(backbone=backbone, seed=seed)
    recipe, full = recipe_of(method, scale, variant)
    share = epochs / (full if scale.published or full_run is None else full_run) if epochs else 1.0

    def pretrain(recipe: Recipe, share: float, start: Pretrain | None) -> Pretrain:
        for change in changes:
            recipe = change.apply(recipe, scale)
        length = recipe.epochs * scale.shrink * share
        # A short run keeps the paper's warm-up at the published scale (its ablations do) and a tenth of itself
        # elsewhere.
        warmup = recipe.optim.warmup_epochs if scale.published else min(recipe.optim.warmup_epochs, 0.1 * length)
        return Pretrain(
            method=recipe.method,
            backbone=_network(backbone, recipe),
            data=_translated("data set", scale.data, dataset, scale),
            views=tuple(_view(view, scale, dataset) for view in recipe.views),
            optim=replace(recipe.optim, warmup_epochs=warmup),
            batch_size=recipe.batch_size,
            epochs=length,
            precision=scale.overrides.precision or recipe.precision,
            seed=seed,
            start=start,
            chunks=scale.overrides.chunks_for(method, backbone.width),
            norm_group=recipe.norm_group,
            compile=scale.overrides.compile,
        )

    if recipe.first is None:
        return pretrain(recipe, share, None)
    return pretrain(recipe, 1.0, pretrain(recipe.first, share, None))


def evaluation(
    scale: Scale,
    subject: Encoder,
    protocol: str,
    *,
    dataset: str,
    seed: int,
    options: Mapping[str, Any] | None = None,
    variant: str = "",
) -> Evaluate:
    """The evaluation spec of a table cell: a recipe of the protocol or of one of its variants.

    `options` replace fields of it.
    """
    found = plugins.evaluation(protocol)
    recipes = _variant("evaluation", protocol, found.recipes, found.variants, variant)
    if scale.recipe not in recipes:
        raise BenchError(
            f"evaluation {protocol!r} has no recipe for scale {scale.recipe!r}; it has {', '.join(recipes)}."
        )
    data = _translated("data set", scale.data, dataset, scale)
    config = _replaced(recipes[scale.recipe], options or {})
    if scale.overrides.precision and hasattr(config, "precision"):  # it trains a network, or heads on one that moves
        config = replace(config, precision=scale.overrides.precision)
    return Evaluate(encoder=subject, protocol=config, data=data, seed=seed)


def recipe_of(method: str, scale: Scale, variant: str = "") -> tuple[Recipe, float]:
    """A method's or variant's recipe at a scale, and the epochs of its paper recipe, to which a row's are relative."""
    found = plugins.method(method)
    recipes = _variant("method", method, found.recipes, found.variants, variant)
    if scale.recipe not in recipes:
        raise BenchError(f"method {method!r} has no recipe for scale {scale.recipe!r}; it has {', '.join(recipes)}.")
    recipe, paper = recipes[scale.recipe], recipes.get("paper", recipes[scale.recipe])
    return recipe, (paper.first or paper).epochs


def _variant(
    kind: str, name: str, recipes: Mapping[str, T], variants: Mapping[str, Mapping[str, T]], variant: str
) -> Mapping[str, T]:
    if variant and variant not in variants:
        raise unknown_name(f"variant of {kind} {name}", variant, variants)
    return variants[variant] if variant else recipes


def _network(backbone: Backbone, recipe: Recipe) -> Backbone:
    zero_init = backbone.zero_init_residual if recipe.zero_init_residual is None else recipe.zero_init_residual
    positions = recipe.positions or backbone.positions
    return replace(backbone, normalize=recipe.normalize, zero_init_residual=zero_init, positions=positions)


def _replaced(value: T, changes: Mapping[str, Any]) -> T:
    known = {f.name for f in fields(value)} if is_dataclass(value) else set()
    for name in changes:
        if name not in known:
            raise unknown_name(f"field of {type(value).__module__}", name, known)
    return replace(value, **changes) if changes else value  # type: ignore[type-var]


def _view(view: Augment, scale: Scale, dataset: str) -> Augment:
    needed = {name: value for name, value in scale.views.get(dataset, {}).items() if getattr(view, name)}
    return _replaced(view, needed | ({"exact": True} if scale.overrides.exact_views else {}))


def _translated(kind: str, known: Mapping[str, T], name: str, scale: Scale) -> T:
    if name not in known:
        raise BenchError(f"scale {scale.name!r} has no {kind} for {name!r}; it has {', '.join(known)}.")
    return known[name]
