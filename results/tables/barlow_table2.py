"""Barlow Twins, table 2: semi-supervised learning on ImageNet with 1 % and 10 % of the labels.

https://arxiv.org/abs/2103.03230 (v3, ICML 2021), section 3.2; protocol in appendix B.2. The supervised row is S4L's
baseline (arXiv:1905.03670).
"""

from __future__ import annotations

from results.parts.few_labels import columns, row
from results.table import Table

TABLE = Table(
    id="barlow_table2",
    paper="Barlow Twins",
    arxiv="2103.03230",
    number="2",
    title="Semi-supervised learning on ImageNet using 1 % and 10 % of the training labels",
    columns=columns("barlow_twins"),
    rows=(
        row("Supervised", "25.4 56.4 48.4 80.4", method="random"),
        row("PIRL", "- - 57.2 83.8", missing="pirl"),
        row("SimCLR", "48.3 65.6 75.5 87.8", method="simclr", released="simclr_1x"),
        row("BYOL", "53.2 68.8 78.4 89.0", method="byol"),
        row("SwAV", "53.9 70.2 78.5 89.9", method="swav", recipe="multicrop"),
        row("Barlow Twins (ours)", "55.0 69.7 79.2 89.3", method="barlow_twins", released="barlow_twins"),
    ),
    order_by="1% Top-1",
)
