"""VICReg, table 7: the terms of the loss and their coefficients.

https://arxiv.org/abs/2105.04906 (v3, ICLR 2022), appendix D. 100 epochs; lambda, mu and nu weigh invariance, variance
and covariance. A run that collapses fails here with that word.
"""

from __future__ import annotations

from bench.planning.translate import Change
from results.table import Column, Row, Table

_UNSURE = "the available copy prints another name for this row"


def _row(label: str, weights: tuple[int, int, int], top1: str, *, unsure: bool = False) -> Row:
    invariance, variance, covariance = weights
    return Row(
        label=label,
        architecture=f"lambda={invariance} mu={variance} nu={covariance}",
        method="vicreg",
        recipe="short",
        epochs=100,
        full_run=100,
        change=Change(method={"invariance": invariance, "variance": variance, "covariance": covariance}),
        printed={"Top-1": top1},
        doubts={"Top-1": _UNSURE} if unsure else {},
    )


TABLE = Table(
    id="vicreg_table7",
    paper="VICReg",
    arxiv="2105.04906",
    number="7",
    title="Impact of variance-covariance regularisation: terms and coefficients",
    columns=(Column(name="Top-1", metric="top1", protocol="linear_augmented", variant="vicreg", elsewhere="linear"),),
    rows=(
        _row("Inv", (1, 0, 0), "collapse"),
        _row("Inv + Cov", (25, 0, 1), "collapse"),
        _row("Var + Cov", (0, 25, 1), "collapse", unsure=True),
        _row("Inv + Var", (1, 1, 0), "57.5"),
        _row("Inv + Var + Cov", (1, 1, 1), "collapse"),
        _row("Inv + Var + Cov", (1, 10, 1), "collapse"),
        _row("Inv + Var + Cov", (10, 1, 1), "collapse"),
        _row("Inv + Var + Cov", (5, 5, 1), "68.1"),
        _row("Inv + Var + Cov", (10, 10, 1), "68.2"),
        _row("Inv + Var + Cov", (25, 25, 1), "68.6"),
        _row("Inv + Var + Cov", (50, 50, 1), "68.3"),
    ),
)
