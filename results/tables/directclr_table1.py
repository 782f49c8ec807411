"""DirectCLR, table 1: linear evaluation on ImageNet, with and without a projector.

https://arxiv.org/abs/2110.09348 (v3, ICLR 2022), section 6. ResNet-50, 100 epochs at batch 4096, about 7 h on 32 V100
(README of the released code). All four rows have the code's one InfoNCE loss: its "SimCLR" rows are not SimCLR's own
loss and augmentations, and are run here as that code runs them. The effective ranks are ours; the paper shows the
spectra behind them in figures 2, 7 and 9.
"""

from __future__ import annotations

from bench.planning.translate import Change
from results.table import Column, Row, Table


def _row(label: str, projector: str, choice: str, top1: str, released: str = "") -> Row:
    change = Change(method={"projector": choice})
    return Row(
        label=label,
        architecture=projector,
        method="directclr",
        epochs=100,
        change=change,
        printed={"Top-1": top1},
        released=released,
    )


TABLE = Table(
    id="directclr_table1",
    paper="DirectCLR",
    arxiv="2110.09348",
    number="1",
    title="Linear probe accuracy on ImageNet: SimCLR with a trainable projector, without one, and DirectCLR",
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
        _row("SimCLR", "2-layer nonlinear projector", "two_layer", "66.5"),
        _row("SimCLR", "1-layer linear projector", "linear", "61.1"),
        _row("SimCLR", "no projector", "none", "51.5"),
        _row("DirectCLR", "no projector", "direct", "62.7", released="directclr"),
    ),
    notes=(
        (
            "Ranks are effective ranks: the exponential of the entropy of the normalised singular values of the "
            "covariance."
        ),
    ),
)
