"""VICReg, table 5: branches that share weights, do not share them, or have different architectures.

https://arxiv.org/abs/2105.04906 (v3, ICLR 2022), section 6 and appendix C.4. 100 epochs; the linear accuracy is that of
the ResNet-50 branch. BYOL's crosses mean that the method cannot be run so.
"""

from __future__ import annotations

from bench.planning.translate import Change
from results.table import Column, Row, Table

_FORMS = {"SW R50": "", "DW R50": "resnet50", "DA R50/R101": "resnet101", "DA R50/ViT-S": "deit_small"}


def _column(name: str, second: str) -> Column:
    change = Change(second=second) if second else None
    return Column(
        name=name, metric="top1", protocol="linear_augmented", variant="vicreg", elsewhere="linear", change=change
    )


def _row(label: str, method: str, values: str) -> Row:
    return Row(
        label=label,
        method=method,
        recipe="short" if method == "vicreg" else "",
        epochs=100,
        full_run=100,
        printed=dict(zip(_FORMS, values.split(), strict=True)),
    )


TABLE = Table(
    id="vicreg_table5",
    paper="VICReg",
    arxiv="2105.04906",
    number="5",
    title="Impact of sharing weights or not between branches: shared weights (SW), different weights (DW), different "
    "architectures (DA)",
    columns=tuple(_column(name, second) for name, second in _FORMS.items()),
    rows=(
        Row(
            label="BYOL",
            method="byol",
            recipe="short",
            epochs=100,
            full_run=100,
            without=("DW R50", "DA R50/R101", "DA R50/ViT-S"),
            printed={
                "SW R50": "69.3",
                "DW R50": "not applicable",
                "DA R50/R101": "not applicable",
                "DA R50/ViT-S": "not applicable",
            },
        ),
        _row("SimCLR", "simclr", "64.4 63.1 63.9 63.5"),
        _row("Barlow Twins", "barlow_twins", "68.7 64.2 65.3 63.9"),
        _row("VICReg", "vicreg", "68.6 66.5 68.1 66.2"),
    ),
    order_by="SW R50",
    notes=(
        "The settings of SimCLR and Barlow Twins for 100 epochs are not stated; they are run with their own rates.",
    ),
)
