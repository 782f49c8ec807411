"""Truncated triplet, table 4: detection on PASCAL VOC 07+12.

https://arxiv.org/abs/2104.08760 (v3, ICCV 2021). Faster R-CNN R50-C4, trained on trainval07+12 for 24,000 iterations,
tested on test2007.
"""

from __future__ import annotations

from results.table import Column, Row, Table

_NAMES = ("AP50", "AP", "AP75")
_UNSURE = "not confirmed by a second source"


def _row(
    label: str,
    values: str,
    *,
    method: str | None = None,
    recipe: str = "",
    missing: str = "",
    released: str = "",
    unsure: bool = False,
) -> Row:
    printed = dict(zip(_NAMES, ("" if value == "-" else value for value in values.split()), strict=True))
    doubts = dict.fromkeys((name for name in _NAMES if printed[name]), _UNSURE) if unsure else {}
    return Row(
        label=label, method=method, recipe=recipe, missing=missing, released=released, printed=printed, doubts=doubts
    )


TABLE = Table(
    id="triplet_table4",
    paper="Truncated triplet",
    arxiv="2104.08760",
    number="4",
    title="Object detection on PASCAL VOC 07+12, Faster R-CNN R50-C4",
    columns=tuple(
        Column(
            name=name,
            metric=f"box_{name.lower()}",
            protocol="detection_voc",
            variant="truncated_triplet",
            dataset="voc0712",
            unit="",
        )
        for name in _NAMES
    ),
    rows=(
        _row("Random", "59.0 32.8 31.6", method="random"),
        _row("Relative-Loc", "80.4 55.1 61.2", missing="relative_location"),
        _row("Rotation-Pred", "80.9 55.5 61.4", missing="rotation"),
        _row("NPID", "80.0 54.1 59.5", missing="instance_discrimination"),
        _row("MoCo", "81.4 56.0 62.2", method="moco", recipe="v1"),
        _row("MoCo v2", "82.0 56.6 62.9", method="moco"),
        _row("SimCLR", "79.4 51.5 55.6", method="simclr", released="simclr_1x"),
        _row("BYOL", "81.0 51.9 56.5", method="byol"),
        _row("(label lost in the source)", "81.8 56.4 -", missing="the row's method is not known", unsure=True),
        _row("supervised-100", "81.6 54.2 59.8", method="supervised", released="torchvision_supervised"),
        _row("supervised-270", "82.2 56.9 63.1", missing="supervised for 270 epochs", unsure=True),
        _row("Ours", "82.6 56.9 63.8", method="truncated_triplet", released="truncated_triplet"),
    ),
    order_by="AP",
    confidence="the authors' README, checked against slides",
)
