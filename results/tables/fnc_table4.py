"""FNC, linear evaluation on ImageNet (table 4 presumably: its number is not visible in the source).

https://arxiv.org/abs/2011.11765 (v2, WACV 2022). ResNet-50; FNC for 1000 epochs at batch 4096.
"""

from __future__ import annotations

from results.table import Column, Row, Table

_CONTRASTIVE, _OTHERS = "Contrastive", "Others"


def _row(
    label: str,
    section: str,
    top1: str,
    top5: str = "",
    *,
    method: str | None = None,
    recipe: str = "",
    missing: str = "",
    released: str = "",
) -> Row:
    return Row(
        label=label,
        section=section,
        method=method,
        recipe=recipe,
        missing=missing,
        released=released,
        printed={"Top-1": top1, "Top-5": top5},
    )


TABLE = Table(
    id="fnc_table4",
    paper="FNC",
    arxiv="2011.11765",
    number="4",
    title="ImageNet linear evaluation, ResNet-50",
    columns=(
        Column(name="Top-1", metric="top1", protocol="linear_augmented", variant="fnc", elsewhere="linear"),
        Column(name="Top-5", metric="top5", protocol="linear_augmented", variant="fnc", elsewhere="linear"),
    ),
    rows=(
        _row("Supervised", "", "76.5", method="supervised", released="torchvision_supervised"),
        _row("MoCo v1", _CONTRASTIVE, "60.6", method="moco", recipe="v1"),
        _row("PIRL", _CONTRASTIVE, "63.6", missing="pirl"),
        _row("PCL", _CONTRASTIVE, "65.9", missing="pcl"),
        _row("SimCLR v1", _CONTRASTIVE, "69.3", "89.0", method="simclr", released="simclr_1x"),
        _row("MoCo v2", _CONTRASTIVE, "71.1", method="moco"),
        _row("SimCLR v2", _CONTRASTIVE, "71.7", "90.4", missing="simclr_v2"),
        _row("InfoMin", _CONTRASTIVE, "73.0", "91.1", missing="infomin"),
        _row("FNC (ours)", _CONTRASTIVE, "74.4", "91.8", method="fnc", released="fnc"),
        _row("BYOL", _OTHERS, "74.3", "91.6", method="byol"),
        _row("SwAV", _OTHERS, "75.3", method="swav", recipe="multicrop"),
    ),
    confidence="read in the paper (a screenshot); FNC's row in the authors' README",
)
