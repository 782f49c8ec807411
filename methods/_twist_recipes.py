"""The other published runs of TWIST: the README and train.py of bytedance/TWIST, one recipe each.

A self-labelling recipe is the second pretraining of a run: `start` is the pretraining with the recipe of its first
stage. The networks are ResNet-50, ResNet-50 2x, DeiT-S/16 and ViT-B/16 with stochastic depth 0.1. The ViT recipes are
those of the README's last form, with half the batch of the first one; the runs of table 3 with 300 epochs of ResNet-50
(75.0 %) and of 1000 classes for unsupervised classification are not described.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bench.contracts import Recipe
from bench.spec import Augment, Optim
from methods.twist import RECIPES, Config, paper_view


def _crops(local: int, *, large: tuple[float, float] = (0.4, 1.0), small: tuple[float, float] = (0.05, 0.4)) -> tuple[Augment, ...]:
    """Two global crops and `local` ones of 96 px."""
    globals_ = (paper_view(1.0, crop_scale=large), paper_view(0.1, 0.2, crop_scale=large))
    return (*globals_, *(paper_view(0.5, size=96, crop_scale=small),) * local)


def _self_label(first: Recipe, *, keep_among: int) -> Recipe:
    """50 epochs from a tenth of the rate, 5 of them warm-up, on harder crops ("Switching to Harder Multi Crop", train.py).

    keep_among: images per GPU, among which the code takes its threshold.
    """
    return replace(
        first,
        method=replace(first.method, stage="self_label", keep_among=keep_among),  # type: ignore[type-var]
        views=_crops(12, large=(0.14, 1.0), small=(0.05, 0.14)),
        optim=replace(first.optim, lr=0.05 * first.batch_size / 256, warmup_epochs=5),
        epochs=50,
    )


def _vit(*, rate: float, decay: float, final_decay: float | None, local: int) -> Recipe:
    """AdamW, clipping at 3, the EMA teacher and lam1 = -0.6 of the README's commands, on 1024 images."""
    return Recipe(
        method=Config(alpha=0.4, teacher=0.996, activation="gelu", small_init=True),
        views=_crops(local),
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
        precision="bf16",
        normalize="imagenet",
        zero_init_residual=False,
    )


_R50 = replace(RECIPES["paper"], method=Config(), views=_crops(12))  # 16 GPUs x 128; the defaults of train.py
_R50W2 = replace(_R50, method=Config(bunch=240), batch_size=1920, epochs=200, optim=replace(_R50.optim, lr=0.5 * 1920 / 256))  # 32 GPUs x 60

VARIANTS: Mapping[str, Recipe] = {
    "resnet50_multicrop": _R50,
    "resnet50_self_label": _self_label(_R50, keep_among=128),
    "resnet50w2_multicrop": _R50W2,
    "resnet50w2_self_label": _self_label(_R50W2, keep_among=60),
    "deit_small": _vit(rate=0.0003, decay=0.06, final_decay=0.12, local=6),
    "vit_base": _vit(rate=0.00075, decay=0.06, final_decay=None, local=10),
}
