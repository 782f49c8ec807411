"""The other published runs of TWIST: the README and train.py of bytedance/TWIST, one recipe each.

A self-labelling recipe is the second pretraining of a run: `first` is the recipe of the one whose weights it goes on
from. The networks are ResNet-50, ResNet-50 2x, DeiT-S/16 and ViT-B/16 with stochastic depth 0.1. The ViT recipes are
those of the README's last form, with half the batch of the first one; the runs of table 3 with 300 epochs of ResNet-50
(75.0 %) and of 1000 classes for unsupervised classification are not described.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from bench.contracts import Recipe
from bench.spec import Optim
from methods.parts.views import byol_crops, small_crops

# The released crops; "harder" ones in the self-labelling stage ("Switching to Harder Multi Crop", train.py).
_LARGE, _SMALL = (0.4, 1.0), (0.05, 0.4)
_HARDER_LARGE, _HARDER_SMALL = (0.14, 1.0), (0.05, 0.14)


def _self_label(first: Recipe, *, keep_among: int) -> Recipe:
    """50 epochs from a tenth of the rate, 5 of them warm-up, on harder crops.

    keep_among: images per GPU, among which the code takes its threshold.
    """
    return replace(
        first,
        first=first,
        method=replace(first.method, stage="self_label", keep_among=keep_among),  # type: ignore[type-var]
        views=byol_crops(12, large=_HARDER_LARGE, small=_HARDER_SMALL),
        optim=replace(first.optim, lr=0.05 * first.batch_size / 256, warmup_epochs=5),
        epochs=50,
    )


def _vit(default: object, *, rate: float, decay: float, final_decay: float | None, local: int) -> Recipe:
    """AdamW, clipping at 3, the EMA teacher and lam1 = -0.6 of the README's commands, on 1024 images."""
    return Recipe(
        method=replace(default, alpha=0.4, teacher=0.996, activation="gelu", small_init=True),  # type: ignore[type-var]
        views=byol_crops(local, large=_LARGE, small=_SMALL),
        optim=Optim(
            name="adamw",
            lr=rate * 1024 / 256,
            weight_decay=decay,
            final_weight_decay=final_decay,
            warmup_epochs=10,
            final_lr_ratio=0.001,
            clip_norm=3.0,
        ),
        batch_size=1024,
        epochs=300,
        precision="fp16",
        normalize="imagenet",
        positions="factor",  # the code's transformer is DINO's: local crops of 96 px
    )


def _small_self_label(first: Recipe) -> Recipe:
    """A tenth of the rate and a sixteenth of the length, as in the published run."""
    method = replace(first.method, stage="self_label", keep_among=None)  # type: ignore[type-var]
    return replace(
        first, first=first, method=method, optim=replace(first.optim, lr=0.1 * first.optim.lr), epochs=first.epochs / 16
    )


def _everywhere(
    recipes: Mapping[str, Recipe], paper: Recipe, kind: Literal["multicrop", "self_label", "teacher"]
) -> Mapping[str, Recipe]:
    """The run at the scales where nothing is published: the method's recipe there in the same form."""
    made = {"paper": paper}
    for scale in ("embedded", "cifar"):
        recipe = replace(recipes[scale], views=small_crops(recipes[scale].views))
        if kind == "teacher":
            # A short run needs a faster teacher: 0.9 instead of 0.996.
            method = replace(recipe.method, alpha=0.4, teacher=0.9, activation="gelu")  # type: ignore[type-var]
            made[scale] = replace(recipe, method=method)
        else:
            made[scale] = _small_self_label(recipe) if kind == "self_label" else recipe
    return made


def variants(recipes: Mapping[str, Recipe], default: object) -> Mapping[str, Mapping[str, Recipe]]:
    """The runs by name and scale.

    `recipes` are those of methods/twist.py, `default` is its Config with the code's defaults.
    """
    # 16 GPUs x 128; the defaults of train.py
    r50 = replace(recipes["paper"], method=default, views=byol_crops(12, large=_LARGE, small=_SMALL))
    wide = replace(r50.optim, lr=0.5 * 1920 / 256)
    bunches = replace(default, bunch=240)  # type: ignore[type-var]
    r50w2 = replace(r50, method=bunches, batch_size=1920, epochs=200, optim=wide)  # 32 GPUs x 60
    return {
        "resnet50_multicrop": _everywhere(recipes, r50, "multicrop"),
        "resnet50_self_label": _everywhere(recipes, _self_label(r50, keep_among=128), "self_label"),
        "resnet50w2_multicrop": _everywhere(recipes, r50w2, "multicrop"),
        "resnet50w2_self_label": _everywhere(recipes, _self_label(r50w2, keep_among=60), "self_label"),
        "deit_small": _everywhere(
            recipes, _vit(default, rate=0.0003, decay=0.06, final_decay=0.12, local=6), "teacher"
        ),
        "vit_base": _everywhere(
            recipes, _vit(default, rate=0.00075, decay=0.06, final_decay=None, local=10), "teacher"
        ),
    }
