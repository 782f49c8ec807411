"""FNC, semi-supervised learning on ImageNet (table 5 presumably: its number is not visible in the source).

https://arxiv.org/abs/2011.11765 (v2, WACV 2022). Fine-tuning on 1 % and 10 % of the labels, ResNet-50. FNC's row is in
the authors' README; the others were checked against Barlow Twins' table 2 where it has them.
"""

from __future__ import annotations

from results.parts.few_labels import NAMES, columns, row
from results.table import Table

TABLE = Table(
    id="fnc_table5",
    paper="FNC",
    arxiv="2011.11765",
    number="5",
    title="ImageNet accuracy with 1 % and 10 % of the labels, fine-tuned",
    columns=columns("fnc"),
    rows=(
        row("Supervised", "25.4 56.4 48.4 80.4", method="random"),
        row("PIRL", "30.7 60.4 57.2 83.8", missing="pirl", unsure=NAMES[:2]),
        row("SimCLR v1", "48.3 65.6 75.5 87.8", method="simclr", released="simclr_1x"),
        row("BYOL", "53.2 68.8 78.4 89.0", method="byol"),
        row("SwAV", "53.9 70.2 78.5 89.9", method="swav", recipe="multicrop"),
        row("SimCLR v2", "57.9 68.4 82.5 89.2", missing="simclr_v2", unsure=NAMES),
        row("FNC (ours)", "63.7 71.1 85.3 90.2", method="fnc", released="fnc"),
    ),
    order_by="1% Top-1",
    confidence="FNC in the authors' README, the others in Barlow Twins' table 2 or unverified",
)
