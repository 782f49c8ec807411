"""Every method side by side, on one network and three label budgets: a table of this project, in no paper.

The frozen representation under the same linear protocol with 100 %, 10 % and 1 % of the labels, and kNN. It shows what
a scale can tell apart, and guards every method against regressions.
"""

from __future__ import annotations

from bench import plugins
from results.table import Column, Row, Table

LABELS = {
    "barlow_twins": "Barlow Twins",
    "byol": "BYOL",
    "dino": "DINO",
    "directclr": "DirectCLR",
    "fnc": "FNC",
    "moco": "MoCo v2",
    "simclr": "SimCLR",
    "simsiam": "SimSiam",
    "swav": "SwAV",
    "truncated_triplet": "Truncated triplet",
    "twist": "TWIST",
    "vicreg": "VICReg",
}


def _linear(name: str, fraction: float) -> Column:
    return Column(name=name, metric="top1", protocol="linear", options={"label_fraction": fraction}, printed=False)


TABLE = Table(
    id="all_methods",
    paper="This project",
    arxiv="",
    number="1",
    title="Every method on the same network, frozen, with all, a tenth and a hundredth of the labels",
    columns=(
        Column(name="Top-1", metric="top1", protocol="linear", printed=False),
        _linear("Top-1, 10 % labels", 0.1),
        _linear("Top-1, 1 % labels", 0.01),
        Column(name="kNN Top-1", metric="top1", protocol="knn", printed=False),
    ),
    rows=tuple(
        Row(label=LABELS.get(name, name), method=name) for name in plugins.names("method") if name != "supervised"
    ),
    anchors=(
        Row(label="Raw pixels", method="pixels", note="no network: the bar that a small encoder must clear"),
        Row(label="Random encoder", method="random", note="the same network, never trained"),
        Row(
            label="Supervised",
            method="supervised",
            note="trained on ALL labels, also in the columns with few: an upper reference",
        ),
    ),
    confidence="nothing is printed",
)
