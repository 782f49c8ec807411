"""SwAV's runs with multi-crop (facebookresearch/swav; every crop has SimCLR's distortion, src/multicropdataset.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bench.contracts import Recipe
from methods.parts.views import simclr_view, small_crops


def variants(recipes: Mapping[str, Recipe]) -> Mapping[str, Mapping[str, Recipe]]:
    """The run by scale; `recipes` are those of methods/swav.py."""
    # scripts/swav_800ep_pretrain.sh; 75.3 %
    views = (*(simclr_view(crop_scale=(0.14, 1.0)),) * 2, *(simclr_view(crop_scale=(0.05, 0.14), size=96),) * 6)
    small = {scale: replace(recipes[scale], views=small_crops(recipes[scale].views)) for scale in ("embedded", "cifar")}
    return {"multicrop": small | {"paper": replace(recipes["paper"], views=views)}}
