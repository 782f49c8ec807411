"""Barlow Twins, table 4: object detection on VOC07+12, detection and segmentation on COCO.

https://arxiv.org/abs/2103.03230 (v3, ICML 2021), section 3.3; protocols in appendix C.2. Faster R-CNN R50-C4 on VOC,
Mask R-CNN R50-C4 with the 1x schedule on COCO.
"""

from __future__ import annotations

from results.table import Column, Row, Table

_VOC = {"AP all": "box_ap", "AP50": "box_ap50", "AP75": "box_ap75"}
_COCO = {
    "AP bb": "box_ap", "AP bb 50": "box_ap50", "AP bb 75": "box_ap75",
    "AP mk": "mask_ap", "AP mk 50": "mask_ap50", "AP mk 75": "mask_ap75",
}  # fmt: skip


def _row(label: str, values: str, *, method: str, recipe: str = "", released: str = "") -> Row:
    return Row(
        label=label,
        method=method,
        recipe=recipe,
        released=released,
        printed=dict(zip([*_VOC, *_COCO], values.split(), strict=True)),
    )


TABLE = Table(
    id="barlow_table4",
    paper="Barlow Twins",
    arxiv="2103.03230",
    number="4",
    title="Object detection on VOC07+12, detection and instance segmentation on COCO",
    columns=(
        *(
            Column(name=n, metric=m, protocol="detection_voc", variant="barlow_twins", dataset="voc0712", unit="")
            for n, m in _VOC.items()
        ),
        *(
            Column(name=n, metric=m, protocol="detection_coco", variant="barlow_twins", dataset="coco", unit="")
            for n, m in _COCO.items()
        ),
    ),
    rows=(
        _row(
            "Supervised",
            "53.5 81.3 58.8 38.2 58.2 41.2 33.3 54.7 35.2",
            method="supervised",
            released="torchvision_supervised",
        ),
        _row("MoCo-v2", "57.4 82.5 64.0 39.3 58.9 42.5 34.4 55.8 36.5", method="moco"),
        _row("SwAV", "56.1 82.6 62.7 38.4 58.6 41.3 33.8 55.2 35.9", method="swav", recipe="multicrop"),
        _row("SimSiam", "57 82.4 63.7 39.2 59.3 42.1 34.4 56.0 36.7", method="simsiam"),
        _row(
            "Barlow Twins (ours)",
            "56.8 82.6 63.4 39.2 59.0 42.5 34.3 56.0 36.5",
            method="barlow_twins",
            released="barlow_twins",
        ),
    ),
    order_by="AP all",
)
