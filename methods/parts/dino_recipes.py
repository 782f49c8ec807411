"""DINO with vision transformers: the args.txt that facebookresearch/dino publishes beside the weights of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bench.contracts import Recipe
from bench.spec import Optim
from methods.parts.views import byol_crops


def _paper(method: object, *, rate: float, final: float, epochs: int) -> Recipe:
    """1024 images (16 GPUs x 64, 32 x 32), ten local crops, weight decay from 0.04 to 0.4.

    `rate` is that of 256 images.
    """
    lr = rate * 1024 / 256
    return Recipe(
        method=method,
        views=byol_crops(10, large=(0.25, 1.0), small=(0.05, 0.25)),
        optim=Optim(
            name="adamw", lr=lr, weight_decay=0.04, final_weight_decay=0.4, warmup_epochs=10, final_lr_ratio=final / lr
        ),
        batch_size=1024,
        epochs=epochs,
        precision="fp32",  # as in methods/dino.py
        normalize="imagenet",
        positions="factor",  # vision_transformer.py: local crops of 96 px
    )


def _small(recipe: Recipe, *, learn_gain: bool) -> Recipe:
    """Where nothing is published: the ResNet's recipe there with a ViT's head, optimizer and decay; untuned."""
    method = replace(recipe.method, norm=False, learn_gain=learn_gain)  # type: ignore[type-var]
    optim = Optim(name="adamw", lr=2e-3, weight_decay=0.04, final_weight_decay=0.4, warmup_epochs=0.1 * recipe.epochs)
    return replace(recipe, method=method, optim=optim)


def variants(recipes: Mapping[str, Recipe], default: object) -> Mapping[str, Mapping[str, Recipe]]:
    """The runs by name and scale.

    `recipes` are those of methods/dino.py, `default` is its Config with a ViT's defaults.
    """
    small = replace(default, learn_gain=True, drop_path=0.1)  # type: ignore[type-var]
    base = replace(default, temperature_epochs=50, frozen_epochs=3, clip=0.3, drop_path=0.1)  # type: ignore[type-var]
    papers = {
        "deit_small": _paper(small, rate=0.0005, final=1e-5, epochs=800),  # dino_deitsmall16_pretrain; 77.0 %
        "vit_base": _paper(base, rate=0.00075, final=2e-6, epochs=400),  # dino_vitbase16_pretrain; 78.2 %
    }
    scales = ("embedded", "cifar")
    return {
        name: {scale: _small(recipes[scale], learn_gain=name == "deit_small") for scale in scales} | {"paper": paper}
        for name, paper in papers.items()
    }
