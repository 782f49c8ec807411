"""FNC, semi-supervised learning on ImageNet (table 5 presumably: its number is not visible in the source).

https://arxiv.org/abs/2011.11765 (v2, WACV 2022). Fine-tuning on 1 % and 10 % of the labels, ResNet-50. FNC's row is in
the authors' README; the others were checked against Barlow Twins' table 2 where it has them.
"""

from __future__ import annotations

from results.table import Column, Row, Table

_NAMES = ("1% Top-1", "10% Top-1", "1% Top-5", "10% Top-5")
_UNSURE = "recalled, not seen in the paper"


def _row(
    label: str,
    values: str,
    *,
    method: str | None = None,
    recipe: str = "",
    missing: str = "",
    released: str = "",
    unsure: tuple[str, ...] = (),
) -> Row:
    return Row(
        label=label,
        method=method,
        recipe=recipe,
        missing=missing,
        released=released,
        variants={name: f"scratch_{name[:-7]}pct" for name in _NAMES} if method == "random" else {},
        printed=dict(zip(_NAMES, values.split(), strict=True)),
        doubts=dict.fromkeys(unsure, _UNSURE),
        note="trained from a random start on those labels alone" if method == "random" else "",
    )


TABLE = Table(
    id="fnc_table5",
    paper="FNC",
    arxiv="2011.11765",
    number="5",
    title="ImageNet accuracy with 1 % and 10 % of the labels, fine-tuned",
    columns=tuple(
        Column(
            name=name,
            metric=name.split()[1].lower().replace("-", ""),
            protocol="semi_supervised",
            variant=f"fnc_{name[:-7]}pct",
        )
        for name in _NAMES
    ),
    rows=(
        _row("Supervised", "25.4 56.4 48.4 80.4", method="random"),
        _row("PIRL", "30.7 60.4 57.2 83.8", missing="pirl", unsure=_NAMES[:2]),
        _row("SimCLR v1", "48.3 65.6 75.5 87.8", method="simclr", released="simclr_1x"),
        _row("BYOL", "53.2 68.8 78.4 89.0", method="byol"),
        _row("SwAV", "53.9 70.2 78.5 89.9", method="swav", recipe="multicrop"),
        _row("SimCLR v2", "57.9 68.4 82.5 89.2", missing="simclr_v2", unsure=_NAMES),
        _row("FNC (ours)", "63.7 71.1 85.3 90.2", method="fnc", released="fnc"),
    ),
    order_by="1% Top-1",
    confidence="FNC in the authors' README, the others in Barlow Twins' table 2 or unverified",
)
