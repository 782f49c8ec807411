"""VICReg, table 2: transfer to Places205, VOC07 and iNat18, detection on VOC07+12, detection and segmentation on COCO.

https://arxiv.org/abs/2105.04906 (v3, ICLR 2022), section 5.2; protocols in appendix C.3. COCO is Mask R-CNN R50-FPN,
unlike Barlow Twins' table 4. A dagger marks values that the authors of VICReg measured themselves.
"""

from __future__ import annotations

from results.table import Column, Row, Table

_NAMES = ("Places205", "VOC07", "iNat18", "VOC07+12 det", "COCO det", "COCO seg")


def _row(
    label: str,
    values: str,
    *,
    method: str | None = None,
    recipe: str = "",
    missing: str = "",
    released: str = "",
    note: str = "",
) -> Row:
    printed = dict(zip(_NAMES, ("" if value == "-" else value for value in values.split()), strict=True))
    return Row(
        label=label, method=method, recipe=recipe, missing=missing, released=released, printed=printed, note=note
    )


_DAGGER = "COCO: measured by the authors of VICReg"

TABLE = Table(
    id="vicreg_table2",
    paper="VICReg",
    arxiv="2105.04906",
    number="2",
    title="Transfer learning on downstream tasks",
    columns=(
        Column(
            name="Places205", metric="top1", protocol="linear_transfer", variant="vicreg_places205", dataset="places205"
        ),
        Column(name="VOC07", metric="map", protocol="svm", variant="centre_crop", dataset="voc2007"),
        Column(name="iNat18", metric="top1", protocol="linear_transfer", variant="vicreg_inat18", dataset="inat18"),
        Column(
            name="VOC07+12 det",
            metric="box_ap50",
            protocol="detection_voc",
            variant="vicreg",
            dataset="voc0712",
            unit="",
        ),
        Column(name="COCO det", metric="box_ap", protocol="detection_coco", variant="vicreg", dataset="coco", unit=""),
        Column(name="COCO seg", metric="mask_ap", protocol="detection_coco", variant="vicreg", dataset="coco", unit=""),
    ),
    rows=(
        _row("Supervised", "53.2 87.5 46.7 81.3 39.0 35.4", method="supervised", released="torchvision_supervised"),
        _row("MoCo", "46.9 79.8 31.5 - - -", method="moco", recipe="v1"),
        _row("PIRL", "49.8 81.1 34.1 - - -", missing="pirl"),
        _row("SimCLR", "52.5 85.5 37.2 - - -", method="simclr", released="simclr_1x"),
        _row("MoCo v2", "51.8 86.4 38.6 82.5 39.8 36.1", method="moco"),
        _row("SimSiam", "- - - 82.4 - -", method="simsiam"),
        _row("BYOL", "54.0 86.6 47.6 - 40.4 37.0", method="byol", note=_DAGGER),
        _row("SwAV (m-c)", "56.7 88.9 48.6 82.6 41.6 37.8", method="swav", recipe="multicrop"),
        _row("OBoW", "56.8 89.3 - 82.9 - -", missing="obow"),
        _row(
            "Barlow Twins",
            "54.1 86.2 46.5 82.6 40.0 36.7",
            method="barlow_twins",
            released="barlow_twins",
            note=_DAGGER,
        ),
        _row("VICReg (ours)", "54.3 86.6 47.0 82.4 39.4 36.4", method="vicreg", released="vicreg"),
    ),
    order_by="Places205",
)
