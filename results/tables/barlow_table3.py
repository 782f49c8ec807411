"""Barlow Twins, table 3: transfer of frozen features to Places-205, VOC07 and iNat18.

https://arxiv.org/abs/2103.03230 (v3, ICML 2021), section 3.3; protocols in appendix C.1, run in VISSL.
"""

from __future__ import annotations

from results.table import Column, Row, Table


def _row(label: str, places: str, voc: str, inat: str, *, method: str, recipe: str = "", released: str = "") -> Row:
    printed = {"Places-205": places, "VOC07": voc, "iNat18": inat}
    return Row(label=label, method=method, recipe=recipe, released=released, printed=printed)


TABLE = Table(
    id="barlow_table3",
    paper="Barlow Twins",
    arxiv="2103.03230",
    number="3",
    title="Transfer learning: linear classification on Places-205 and iNat18 (top-1), SVM on VOC07 (mAP)",
    columns=(
        Column(
            name="Places-205",
            metric="top1",
            protocol="linear_transfer",
            variant="barlow_twins_places205",
            dataset="places205",
        ),
        Column(name="VOC07", metric="map", protocol="svm", variant="vissl", dataset="voc2007"),
        Column(
            name="iNat18", metric="top1", protocol="linear_transfer", variant="barlow_twins_inat18", dataset="inat18"
        ),
    ),
    rows=(
        _row("Supervised", "53.2", "87.5", "46.7", method="supervised", released="torchvision_supervised"),
        _row("SimCLR", "52.5", "85.5", "37.2", method="simclr", released="simclr_1x"),
        _row("MoCo-v2", "51.8", "86.4", "38.6", method="moco"),
        _row("SwAV (w/o multi-crop)", "52.8", "86.4", "39.5", method="swav"),
        _row("SwAV", "56.7", "88.9", "48.6", method="swav", recipe="multicrop"),
        _row("BYOL", "54.0", "86.6", "47.6", method="byol"),
        _row("Barlow Twins (ours)", "54.1", "86.2", "46.5", method="barlow_twins", released="barlow_twins"),
    ),
    order_by="Places-205",
)
