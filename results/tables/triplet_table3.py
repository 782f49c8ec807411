"""Truncated triplet, table 3: detection and instance segmentation on COCO 2017.

https://arxiv.org/abs/2104.08760 (v3, ICCV 2021). Mask R-CNN R50-C4, 2x schedule. The authors' own rows were trained
with a changed base configuration (rate 0.05, cosine, 10,000 warm-up iterations, larger images); the baselines look like
those of OpenSelfSup's model zoo, made with MoCo's standard recipe. Every row is run here with the authors'
configuration.
"""

from __future__ import annotations

from results.table import Column, Row, Table


def _row(
    label: str,
    box: str,
    mask: str,
    *,
    method: str | None = None,
    recipe: str = "",
    missing: str = "",
    released: str = "",
    note: str = "",
) -> Row:
    return Row(
        label=label,
        method=method,
        recipe=recipe,
        missing=missing,
        released=released,
        printed={"AP box": box, "AP mask": mask},
        note=note,
    )


TABLE = Table(
    id="triplet_table3",
    paper="Truncated triplet",
    arxiv="2104.08760",
    number="3",
    title="Object detection and instance segmentation on COCO 2017, Mask R-CNN R50-C4",
    columns=(
        Column(
            name="AP box",
            metric="box_ap",
            protocol="detection_coco",
            variant="truncated_triplet",
            dataset="coco",
            unit="",
        ),
        Column(
            name="AP mask",
            metric="mask_ap",
            protocol="detection_coco",
            variant="truncated_triplet",
            dataset="coco",
            unit="",
        ),
    ),
    rows=(
        _row("Random", "35.6", "31.4", method="random"),
        _row("Relative-Loc", "40.0", "35.0", missing="relative_location"),
        _row("Rotation-Pred", "40.0", "34.9", missing="rotation"),
        _row("NPID", "39.4", "34.5", missing="instance_discrimination"),
        _row("MoCo", "40.9", "35.5", method="moco", recipe="v1"),
        _row("MoCo v2", "40.9", "35.5", method="moco"),
        _row("SimCLR", "39.6", "34.6", method="simclr", released="simclr_1x"),
        _row("BYOL", "40.3", "35.1", method="byol"),
        _row(
            "supervised-100", "40.0", "34.7", method="supervised", released="torchvision_supervised", note="100 epochs"
        ),
        _row("supervised-270", "", "", missing="supervised for 270 epochs", note="no value in any source"),
        _row("Ours", "41.7", "36.2", method="truncated_triplet", released="truncated_triplet"),
    ),
    order_by="AP box",
    confidence="the authors' README, checked against slides",
)
