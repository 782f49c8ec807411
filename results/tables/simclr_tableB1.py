"""SimCLR, table B.1: linear evaluation over batch sizes and training lengths, with two ways to scale the rate.

https://arxiv.org/abs/2002.05709 (v3), appendix B.1. Linear scaling: rate 0.3 x B / 256; square root: 0.075 x sqrt(B).
Both are 4.8 at batch 4096. Away from the published scale batches keep their proportion to the recipe's (4096 is the
recipe's), and 2000 epochs would be its whole length.
"""

from __future__ import annotations

from math import sqrt

from bench.planning.translate import Change
from results.table import Column, Row, Table

_LENGTHS = (100, 200, 400, 800)
_LINEAR, _ROOT = "linear", "square root"
_PRINTED = {
    _LINEAR: (
        (256, "57.5 61.9 64.7 66.6"),
        (512, "60.7 64.0 66.2 67.8"),
        (1024, "62.8 65.3 67.2 68.5"),
        (2048, "64.0 66.1 68.1 68.9"),
        (4096, "64.6 66.5 68.2 68.9"),
        (8192, "64.8 66.6 67.8 69.0"),
    ),
    _ROOT: (
        (256, "62.8 64.3 65.7 66.5"),
        (512, "63.8 65.6 66.7 67.4"),
        (1024, "64.3 66.1 67.2 68.3"),
        (2048, "64.7 66.8 67.9 68.8"),
        (4096, "64.5 66.8 68.0 69.1"),
        (8192, "64.8 67.0 68.3 69.1"),
    ),
}


def _row(scaling: str, batch: int, values: str) -> Row:
    share = batch / 4096
    return Row(
        label=f"batch {batch}",
        architecture=f"{scaling} scaling of the rate",
        section=f"{scaling.capitalize()} scaling of the learning rate",
        method="simclr",
        full_run=2000,
        change=Change(batch=share, lr=share if scaling == _LINEAR else sqrt(share)),
        printed=dict(zip((f"{epochs} epochs" for epochs in _LENGTHS), values.split(), strict=True)),
    )


TABLE = Table(
    id="simclr_tableB1",
    paper="SimCLR",
    arxiv="2002.05709",
    number="B.1",
    title="Linear evaluation (top-1) under different batch sizes and training epochs, with linear and square root "
    "scaling of the learning rate",
    columns=tuple(
        Column(
            name=f"{epochs} epochs",
            metric="top1",
            protocol="linear_augmented",
            variant="simclr",
            elsewhere="linear",
            epochs=epochs,
        )
        for epochs in _LENGTHS
    ),
    rows=tuple(_row(scaling, batch, values) for scaling, lines in _PRINTED.items() for batch, values in lines),
    order_by="100 epochs",
)
