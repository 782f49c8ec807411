"""Barlow Twins, table 1: linear evaluation on ImageNet.

https://arxiv.org/abs/2103.03230 (v3, ICML 2021), section 3.1. ResNet-50; Barlow Twins for 1000 epochs at batch 2048,
about 124 h on 32 V100. Appendix B.1 has the protocol.
"""

from __future__ import annotations

from results.table import Column, Row, Table


def _row(
    label: str,
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
        method=method,
        recipe=recipe,
        missing=missing,
        released=released,
        printed={"Top-1": top1, "Top-5": top5},
    )


TABLE = Table(
    id="barlow_table1",
    paper="Barlow Twins",
    arxiv="2103.03230",
    number="1",
    title="Top-1 and top-5 accuracies under linear evaluation on ImageNet, ResNet-50",
    columns=(
        Column(name="Top-1", metric="top1", protocol="linear_augmented", variant="barlow_twins", elsewhere="linear"),
        Column(name="Top-5", metric="top5", protocol="linear_augmented", variant="barlow_twins", elsewhere="linear"),
    ),
    rows=(
        _row("Supervised", "76.5", method="supervised", released="torchvision_supervised"),
        _row("MoCo", "60.6", method="moco", recipe="v1"),
        _row("PIRL", "63.6", missing="pirl"),
        _row("SimCLR", "69.3", "89.0", method="simclr", released="simclr_1x"),
        _row("MoCo v2", "71.1", "90.1", method="moco"),
        _row("SimSiam", "71.3", method="simsiam"),
        _row("SwAV (w/o multi-crop)", "71.8", method="swav"),
        _row("BYOL", "74.3", "91.6", method="byol"),
        _row("SwAV", "75.3", method="swav", recipe="multicrop"),
        _row("Barlow Twins (ours)", "73.2", "91.0", method="barlow_twins", released="barlow_twins"),
    ),
)
