"""DirectCLR, table 2: which property of a linear projector helps.

https://arxiv.org/abs/2110.09348 (v3, ICLR 2022), section 6.3. ResNet-50, 100 epochs at batch 4096, InfoNCE as in table
1. The table's two columns of ticks (diagonal, low-rank) stand under the row names. The last row is DirectCLR of table
1.
"""

from __future__ import annotations

from bench.planning.translate import Change
from results.table import Column, Row, Table


def _row(label: str, choice: str, top1: str, ticks: str = "") -> Row:
    change = Change(method={"projector": choice})
    return Row(label=label, method="directclr", epochs=100, change=change, printed={"Top-1": top1}, note=ticks)


TABLE = Table(
    id="directclr_table2",
    paper="DirectCLR",
    arxiv="2110.09348",
    number="2",
    title="Ablation study: top-1 accuracies on ImageNet with different projector settings",
    columns=(
        Column(name="Top-1", metric="top1", protocol="linear_augmented", variant="directclr", elsewhere="linear"),
        Column(
            name="Rank of the representation",
            metric="representation_effective_rank",
            protocol="spectrum",
            unit="",
            higher_is_better=None,
            printed=False,
        ),
        Column(
            name="Rank of the embedding",
            metric="embedding_effective_rank",
            protocol="spectrum",
            unit="",
            higher_is_better=None,
            printed=False,
        ),
    ),
    rows=(
        _row("no projector", "none", "51.5"),
        _row("orthogonal projector", "orthogonal", "52.2"),
        _row("trainable projector", "linear", "61.1"),
        _row("trainable diagonal projector", "diagonal", "60.2", "diagonal"),
        _row("fixed low-rank projector", "low_rank", "62.3", "low-rank"),
        _row("fixed low-rank diagonal projector", "direct", "62.7", "diagonal, low-rank"),
    ),
    notes=(
        "An orthogonal projector changes no cosine similarity, so its row and the first differ by chance alone.",
        (
            "Ranks are effective ranks: the exponential of the entropy of the normalised singular values of the "
            "covariance."
        ),
    ),
)
