"""VICReg, table 1: linear and semi-supervised evaluation on ImageNet.

https://arxiv.org/abs/2105.04906 (v3, ICLR 2022), section 5.1; protocols in appendix C.2. ResNet-50; VICReg for 1000
epochs at batch
2048. The supervised accuracies with few labels are S4L's baseline (arXiv:1905.03670).
"""

from __future__ import annotations

from results.table import Column, Row, Table

_SEMI = ("1% Top-1", "10% Top-1", "1% Top-5", "10% Top-5")
_NAMES = ("Linear Top-1", "Linear Top-5", *_SEMI)


def _row(
    label: str, values: str, *, method: str | None = None, recipe: str = "", missing: str = "", released: str = ""
) -> Row:
    printed = dict(zip(_NAMES, ("" if value == "-" else value for value in values.split()), strict=True))
    supervised = method == "supervised"
    return Row(
        label=label,
        method=method,
        recipe=recipe,
        missing=missing,
        released=released,
        untrained=_SEMI if supervised else (),
        variants={name: f"scratch_{name[:-7]}pct" for name in _SEMI} if supervised else {},
        printed=printed,
        note="with few labels: trained from a random start on those alone" if supervised else "",
    )


TABLE = Table(
    id="vicreg_table1",
    paper="VICReg",
    arxiv="2105.04906",
    number="1",
    title="Evaluation on ImageNet: linear classification and semi-supervised classification with 1 % and 10 % of the "
    "labels",
    columns=(
        Column(name="Linear Top-1", metric="top1", protocol="linear_augmented", variant="vicreg", elsewhere="linear"),
        Column(name="Linear Top-5", metric="top5", protocol="linear_augmented", variant="vicreg", elsewhere="linear"),
        *(
            Column(
                name=name,
                metric=name.split()[1].lower().replace("-", ""),
                protocol="semi_supervised",
                variant=f"vicreg_{name[:-7]}pct",
            )
            for name in _SEMI
        ),
    ),
    rows=(
        _row("Supervised", "76.5 - 25.4 56.4 48.4 80.4", method="supervised", released="torchvision_supervised"),
        _row("MoCo", "60.6 - - - - -", method="moco", recipe="v1"),
        _row("PIRL", "63.6 - - - 57.2 83.8", missing="pirl"),
        _row("CPC v2", "63.8 - - - - -", missing="cpc_v2"),
        _row("CMC", "66.2 - - - - -", missing="cmc"),
        _row("SimCLR", "69.3 89.0 48.3 65.6 75.5 87.8", method="simclr", released="simclr_1x"),
        _row("MoCo v2", "71.1 - - - - -", method="moco"),
        _row("SimSiam", "71.3 - - - - -", method="simsiam"),
        _row("SwAV", "71.8 - - - - -", method="swav"),
        _row("InfoMin Aug", "73.0 91.1 - - - -", missing="infomin"),
        _row("OBoW", "73.8 - - - 82.9 90.7", missing="obow"),
        _row("BYOL", "74.3 91.6 53.2 68.8 78.4 89.0", method="byol"),
        _row("SwAV (w/ multi-crop)", "75.3 - 53.9 70.2 78.5 89.9", method="swav", recipe="multicrop"),
        _row("Barlow Twins", "73.2 91.0 55.0 69.7 79.2 89.3", method="barlow_twins", released="barlow_twins"),
        _row("VICReg (ours)", "73.2 91.1 54.8 69.5 79.4 89.5", method="vicreg", released="vicreg"),
    ),
    order_by="Linear Top-1",
    notes=(
        (
            "The paper's supervised row has two sources: full supervision in the linear columns, training on few "
            "labels "
            "alone in the others."
        ),
    ),
)
