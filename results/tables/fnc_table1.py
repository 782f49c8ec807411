"""FNC, table 1: what to do with false negatives, elimination or attraction.

https://arxiv.org/abs/2011.11765 (v2, WACV 2022). ResNet-50, 100 epochs at batch 4096, SimCLR v2's setting.
"""

from __future__ import annotations

from results.table import Column, Row, Table


def _row(label: str, recipe: str, top1: str, gain: str = "") -> Row:
    return Row(label=label, method="fnc", recipe=recipe, printed={"Top-1": top1, "Gain": gain})


TABLE = Table(
    id="fnc_table1",
    paper="FNC",
    arxiv="2011.11765",
    number="1",
    title="False negative elimination and attraction, linear evaluation on ImageNet after 100 epochs",
    columns=(
        Column(name="Top-1", metric="top1", protocol="linear_augmented", variant="fnc", elsewhere="linear", digits=2),
        Column(name="Gain", unit="", higher_is_better=None),
    ),
    rows=(
        _row("SimCLR", "simclr", "66.41"),
        _row("FN Elimination", "elimination", "67.43", "1.02"),
        _row("FN Attraction", "attraction", "68.16", "1.75"),
    ),
    confidence="read in the paper (a screenshot of the table)",
)
