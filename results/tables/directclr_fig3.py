"""DirectCLR, Fig. 3, and figures 5 and 6: dimensional collapse of linear networks, trained here in seconds.

https://arxiv.org/abs/2110.09348 (v3, ICLR 2022), sections 4 and 5. The paper prints no numbers for these figures, so
this table has none beside its own; the figures are on this page under "Singular values". Neither encoder nor data take
part: the table is the same at every scale, and the others only ask for data that it does not read.
"""

from __future__ import annotations

from results.table import Column, Row, Table

# those of evals/linear_collapse.py, which a table does not import: it costs torch
STRENGTHS = (
    "0",
    "0.25",
    "1",
    "2.25",
    "4",
    "16",
)


def _column(name: str, metric: str, digits: int) -> Column:
    return Column(
        name=name,
        metric=metric,
        protocol="linear_collapse",
        unit="",
        digits=digits,
        higher_is_better=None,
        printed=False,
    )


TABLE = Table(
    id="directclr_fig3",
    paper="DirectCLR",
    arxiv="2110.09348",
    number="Fig. 3",
    title="Smallest over largest singular value of the embedding's covariance: one linear layer by augmentation "
    "strength k, and two layers",
    columns=(
        *(_column(f"k = {k}", f"smallest_over_largest_k{k}", 4) for k in STRENGTHS),
        _column("Two layers, log10", "two_layers_log10_smallest_over_largest", 1),
        _column("Two layers, values above 1 %", "two_layers_above_1e-2", 0),
        _column("Two layers, alignment", "two_layers_alignment", 2),
        _column("Two layers, block alignment", "two_layers_block_alignment", 3),
    ),
    rows=(Row(label="InfoNCE, 16 x 16 weights", method="pixels"),),
    order_by=f"k = {STRENGTHS[0]}",
    confidence="nothing is printed",
)
