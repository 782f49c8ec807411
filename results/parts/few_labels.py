"""Fine-tuning on 1 % and 10 % of ImageNet's labels: columns and rows as Barlow Twins and FNC print them."""

from __future__ import annotations

from results.table import Column, Row

NAMES = ("1% Top-1", "10% Top-1", "1% Top-5", "10% Top-5")
_UNSURE = "recalled, not seen in the paper"


def columns(paper: str) -> tuple[Column, ...]:
    """Both accuracies at both shares, by the settings of a paper."""
    metrics = {"Top-1": "top1", "Top-5": "top5"}
    return tuple(
        Column(name=name, metric=metrics[name[-5:]], protocol="semi_supervised", variant=f"{paper}_{name[:-7]}pct")
        for name in NAMES
    )


def row(
    label: str,
    values: str,
    *,
    method: str | None = None,
    recipe: str = "",
    missing: str = "",
    released: str = "",
    unsure: tuple[str, ...] = (),
) -> Row:
    """`values` are those of NAMES, "-" where the paper has none; `unsure` names columns whose value was not seen."""
    return Row(
        label=label,
        method=method,
        recipe=recipe,
        missing=missing,
        released=released,
        variants={name: f"scratch_{name[:-7]}pct" for name in NAMES} if method == "random" else {},
        printed=dict(zip(NAMES, ("" if value == "-" else value for value in values.split()), strict=True)),
        doubts=dict.fromkeys(unsure, _UNSURE),
        note="trained from a random start on those labels alone" if method == "random" else "",
    )
