"""FNC, table 2: false negative cancellation on top of multi-crop.

https://arxiv.org/abs/2011.11765 (v2, WACV 2022). ResNet-50, 100 epochs at batch 4096. The unit of the times is not
known.
"""

from __future__ import annotations

from results.table import Column, Row, Table


def _row(label: str, recipe: str, values: str) -> Row:
    names = ("Top-1", "Gain", "Time", "Added time")
    printed = dict(zip(names, ("" if value == "-" else value for value in values.split()), strict=True))
    return Row(label=label, method="fnc", recipe=recipe, printed=printed)


TABLE = Table(
    id="fnc_table2",
    paper="FNC",
    arxiv="2011.11765",
    number="2",
    title="Multi-crop and false negative attraction, linear evaluation on ImageNet after 100 epochs",
    columns=(
        Column(name="Top-1", metric="top1", protocol="linear_augmented", variant="fnc", elsewhere="linear", digits=2),
        Column(name="Gain", unit="", higher_is_better=None),
        Column(name="Time", unit="", higher_is_better=None),
        Column(name="Added time", unit="", higher_is_better=None),
    ),
    rows=(
        _row("SimCLR", "simclr", "66.41 - 2.63 -"),
        _row("SimCLR + Multi-crop", "multi_crop_simclr", "68.50 2.09 7.40 4.77"),
        _row("SimCLR + Multi-crop + FN Att.", "multi_crop", "70.42 1.92 7.50 0.10"),
    ),
    confidence="read in the paper (a screenshot of the table)",
    notes=("The unit of the times is not shown in the source; nothing here measures them.",),
)
