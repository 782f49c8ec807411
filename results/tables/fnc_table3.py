"""FNC, table 3: what false negative cancellation adds to each baseline.

https://arxiv.org/abs/2011.11765 (v2, WACV 2022). ResNet-50, 100 epochs at batch 4096. The paper prints baseline and
method side by side; here each is a row, because each is a pretraining of its own.
"""

from __future__ import annotations

from results.table import Column, Row, Table


def _rows(label: str, recipes: tuple[str, str], baseline: str, cancelled: str, gain: str) -> tuple[Row, Row]:
    return (
        Row(label=label, method="fnc", recipe=recipes[0], printed={"Top-1": baseline}),
        Row(
            label=f"{label} + FN cancel",
            method="fnc",
            recipe=recipes[1],
            printed={"Top-1": cancelled, "Difference": gain},
        ),
    )


TABLE = Table(
    id="fnc_table3",
    paper="FNC",
    arxiv="2011.11765",
    number="3",
    title="False negative cancellation on three baselines, linear evaluation on ImageNet after 100 epochs",
    columns=(
        Column(name="Top-1", metric="top1", protocol="linear_augmented", variant="fnc", elsewhere="linear", digits=2),
        Column(name="Difference", unit="", higher_is_better=None),
    ),
    rows=(
        *_rows("SimCLR", ("simclr", "attraction"), "66.41", "68.16", "1.75"),
        *_rows("SimCLR + Multi-crop", ("multi_crop_simclr", "multi_crop"), "68.50", "70.42", "1.92"),
        *_rows("SimCLR + Multi-crop + Momentum", ("momentum_simclr", "momentum"), "69.16", "71.43", "2.27"),
    ),
    confidence="read in the paper (a screenshot of the table); its number is inferred",
)
