"""Barlow Twins, table 2: semi-supervised learning on ImageNet with 1 % and 10 % of the labels.

https://arxiv.org/abs/2103.03230 (v3, ICML 2021), section 3.2; protocol in appendix B.2. The supervised row is S4L's
baseline (arXiv:1905.03670).
"""

from __future__ import annotations

from results.table import Column, Row, Table

_NAMES = ("1% Top-1", "10% Top-1", "1% Top-5", "10% Top-5")


def _row(
    label: str, values: str, *, method: str | None = None, recipe: str = "", missing: str = "", released: str = ""
) -> Row:
    return Row(
        label=label,
        method=method,
        recipe=recipe,
        missing=missing,
        released=released,
        variants={name: f"scratch_{name[:-7]}pct" for name in _NAMES} if method == "random" else {},
        printed=dict(zip(_NAMES, ("" if value == "-" else value for value in values.split()), strict=True)),
        note="trained from a random start on those labels alone" if method == "random" else "",
    )


TABLE = Table(
    id="barlow_table2",
    paper="Barlow Twins",
    arxiv="2103.03230",
    number="2",
    title="Semi-supervised learning on ImageNet using 1 % and 10 % of the training labels",
    columns=tuple(
        Column(
            name=name,
            metric=name.split()[1].lower().replace("-", ""),
            protocol="semi_supervised",
            variant=f"barlow_twins_{name[:-7]}pct",
        )
        for name in _NAMES
    ),
    rows=(
        _row("Supervised", "25.4 56.4 48.4 80.4", method="random"),
        _row("PIRL", "- - 57.2 83.8", missing="pirl"),
        _row("SimCLR", "48.3 65.6 75.5 87.8", method="simclr", released="simclr_1x"),
        _row("BYOL", "53.2 68.8 78.4 89.0", method="byol"),
        _row("SwAV", "53.9 70.2 78.5 89.9", method="swav", recipe="multicrop"),
        _row("Barlow Twins (ours)", "55.0 69.7 79.2 89.3", method="barlow_twins", released="barlow_twins"),
    ),
    order_by="1% Top-1",
)
