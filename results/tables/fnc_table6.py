"""FNC, transfer to twelve data sets (table 6 presumably: its number is not visible in the source).

https://arxiv.org/abs/2011.11765 (v2, WACV 2022). SimCLR's protocol (logistic regression on frozen features,
arXiv:2002.05709, appendix B.8.1) is presumed: the code for it was not released. The fine-tuned half has no protocol
that could be read.
"""

from __future__ import annotations

from results.table import Column, Row, Table

_SETS = {
    "Food": "food101", "CIFAR10": "cifar10", "CIFAR100": "cifar100", "Birdsnap": "birdsnap",
    "SUN397": "sun397", "Cars": "cars", "Aircraft": "aircraft", "VOC2007": "voc2007",
    "DTD": "dtd", "Pets": "pets", "Caltech-101": "caltech101", "Flowers": "flowers102",
}  # fmt: skip
_METRICS = dict.fromkeys(("Aircraft", "Pets", "Caltech-101", "Flowers"), "mean_class_top1") | {
    "VOC2007": "map_11_point"
}
_LINEAR, _TUNED = "Linear evaluation", "Fine-tuned"


def _row(
    label: str, section: str, values: str, *, method: str | None = None, missing: str = "", released: str = ""
) -> Row:
    printed = dict(zip([*_SETS, "Average"], values.split(), strict=True))
    return Row(
        label=label,
        architecture=section.lower(),
        section=section,
        method=method,
        missing=missing,
        released=released,
        printed=printed,
    )


TABLE = Table(
    id="fnc_table6",
    paper="FNC",
    arxiv="2011.11765",
    number="6",
    title="Transfer of ResNet-50 pretrained on ImageNet to twelve data sets",
    columns=(
        *(
            Column(name=name, metric=_METRICS.get(name, "top1"), protocol="logistic", dataset=data)
            for name, data in _SETS.items()
        ),
        Column(name="Average", higher_is_better=None),
    ),
    rows=(
        _row(
            "SimCLR v1",
            _LINEAR,
            "68.4 90.6 71.6 37.4 58.8 50.3 50.3 80.5 74.5 83.6 90.3 91.2 70.6",
            method="simclr",
            released="simclr_1x",
        ),
        _row(
            "SimCLR v2",
            _LINEAR,
            "73.9 92.4 76.0 44.7 61.0 54.9 51.1 81.2 76.5 85.0 91.2 93.5 73.4",
            missing="simclr_v2",
        ),
        _row("BYOL", _LINEAR, "75.3 91.3 78.4 57.2 62.2 67.8 60.6 82.5 75.5 90.4 94.2 96.1 77.6", method="byol"),
        _row(
            "FNC (ours)",
            _LINEAR,
            "74.4 93.0 76.8 54.0 63.2 68.8 61.3 83.0 76.3 89.0 93.5 94.9 77.3",
            method="fnc",
            released="fnc",
        ),
        _row(
            "SimCLR v1",
            _TUNED,
            "88.2 97.7 85.9 75.9 63.5 91.3 88.1 84.1 73.2 89.2 92.1 97.0 85.5",
            missing="fine-tuning protocol",
        ),
        _row(
            "SimCLR v2",
            _TUNED,
            "88.2 97.5 86.0 74.9 64.6 91.8 87.6 84.1 74.7 89.9 92.3 97.2 85.7",
            missing="fine-tuning protocol",
        ),
        _row(
            "BYOL",
            _TUNED,
            "88.5 97.8 86.1 76.3 63.7 91.6 88.1 85.4 76.2 91.7 93.8 97.0 86.3",
            missing="fine-tuning protocol",
        ),
        _row(
            "FNC (ours)",
            _TUNED,
            "88.3 97.7 86.8 76.3 64.2 92.0 88.5 84.7 76.0 90.9 93.6 97.5 86.4",
            missing="fine-tuning protocol",
        ),
    ),
    order_by="CIFAR10",
    confidence="read in the paper (a screenshot of the table)",
)
