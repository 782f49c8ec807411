"""SwAV's runs with multi-crop, and the views of the released code (facebookresearch/swav)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bench.contracts import Recipe
from bench.spec import Augment
from methods._views import colour_distortion


def paper_view(crop_scale: tuple[float, float], *, size: int = 224) -> Augment:
    """SimCLR's distortion at full strength for every crop (src/multicropdataset.py)."""
    return Augment(size=size, crop_scale=crop_scale, **colour_distortion(1.0, blur=0.5))


def _small(recipe: Recipe) -> Recipe:
    """Where nothing is published: two global crops and four local ones of a quarter of the area; untuned."""
    local = replace(recipe.views[0], size=recipe.views[0].size // 2, crop_scale=(0.1, 0.4))
    return replace(recipe, views=(*(replace(view, crop_scale=(0.3, 1.0)) for view in recipe.views), *(local,) * 4))


def variants(recipes: Mapping[str, Recipe]) -> Mapping[str, Mapping[str, Recipe]]:
    """The run by scale; `recipes` are those of methods/swav.py."""
    # scripts/swav_800ep_pretrain.sh; 75.3 %
    views = (*(paper_view((0.14, 1.0)),) * 2, *(paper_view((0.05, 0.14), size=96),) * 6)
    small = {scale: _small(recipes[scale]) for scale in ("embedded", "cifar")}
    return {"multicrop": small | {"paper": replace(recipes["paper"], views=views)}}
