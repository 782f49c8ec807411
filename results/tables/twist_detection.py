"""TWIST, its detection and segmentation results on VOC07+12 and COCO.

https://arxiv.org/abs/2110.07402 (v4). From the authors' README: R50-FPN in all three, Faster R-CNN for 24,000
iterations on VOC, Mask R-CNN with the 1x schedule on COCO, in InfoMin's configuration.
"""

from __future__ import annotations

from results.table import Column, Row, Table

_VOC = {"VOC AP": "box_ap", "VOC AP50": "box_ap50", "VOC AP75": "box_ap75"}
_COCO = {
    "COCO box AP": "box_ap", "COCO box AP50": "box_ap50", "COCO box AP75": "box_ap75",
    "COCO mask AP": "mask_ap", "COCO mask AP50": "mask_ap50", "COCO mask AP75": "mask_ap75",
}  # fmt: skip

TABLE = Table(
    id="twist_detection",
    paper="TWIST",
    arxiv="2110.07402",
    number="detection",
    title="Object detection on VOC07+12, detection and instance segmentation on COCO, R50-FPN",
    columns=(
        *(
            Column(name=n, metric=m, protocol="detection_voc", variant="twist", dataset="voc0712", unit="")
            for n, m in _VOC.items()
        ),
        *(
            Column(name=n, metric=m, protocol="detection_coco", variant="twist", dataset="coco", unit="")
            for n, m in _COCO.items()
        ),
    ),
    rows=(
        Row(
            label="TWIST",
            method="twist",
            recipe="resnet50_self_label",
            released="twist",
            printed=dict(
                zip(
                    [*_VOC, *_COCO],
                    ["58.1", "84.2", "65.4", "41.9", "62.6", "45.7", "37.9", "59.7", "40.6"],
                    strict=True,
                )
            ),
        ),
    ),
    anchors=(Row(label="Random encoder", method="random", note="the same network, never trained"),),
    order_by="VOC AP",
    confidence="the authors' README",
)
