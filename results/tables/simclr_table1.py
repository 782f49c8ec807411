"""SimCLR, table 1: linear evaluation on ImageNet under growing colour distortion, with blur, and AutoAugment.

https://arxiv.org/abs/2002.05709 (v3), section 3.2. Self-supervised: 100 epochs at batch 4096, about 1.5 h on 128 TPU v3
cores a cell (section 2.2); the supervised network trains on one view with the same transformations. Crop and flip are
in every column; AutoAugment replaces the whole colour distortion (jitter, grayscale) and has no blur.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.planning.translate import Change
from methods.parts.views import autoaugment, colour_distortion
from results.table import Column, Row, Table

DATA = "imagenet-colour"
VIEWS: Mapping[str, Mapping[str, Any]] = {
    "1/8": colour_distortion(1 / 8),
    "1/4": colour_distortion(1 / 4),
    "1/2": colour_distortion(1 / 2),
    "1": colour_distortion(1),
    "1 (+Blur)": colour_distortion(1, blur=0.5),
    "AutoAug": autoaugment(),
}


def _printed(*values: str) -> dict[str, str]:
    return dict(zip(VIEWS, values, strict=True))


TABLE = Table(
    id="simclr_table1",
    paper="SimCLR",
    arxiv="2002.05709",
    number="1",
    title="Top-1 of linear evaluation of SimCLR and of supervised ResNet-50 under colour distortion of varied "
    "strength and other transformations",
    columns=tuple(
        Column(
            name=name,
            metric="top1",
            protocol="linear_augmented",
            variant="simclr",
            elsewhere="linear",
            dataset=DATA,
            change=Change(views=views),
        )
        for name, views in VIEWS.items()
    ),
    rows=(
        Row(
            label="SimCLR",
            architecture="ResNet-50",
            method="simclr",
            epochs=100,
            full_run=100,
            dataset=DATA,
            printed=_printed("59.6", "61.0", "62.6", "63.2", "64.5", "61.1"),
        ),
        Row(
            label="Supervised",
            architecture="ResNet-50",
            method="supervised",
            dataset=DATA,
            printed=_printed("77.0", "76.7", "76.5", "75.7", "75.4", "77.1"),
        ),
    ),
    anchors=(
        Row(label="Raw pixels", method="pixels", dataset=DATA, note="no network, no views: the same in every column"),
        Row(
            label="Random encoder",
            architecture="ResNet-50",
            method="random",
            dataset=DATA,
            note="never trained: the same in every column",
        ),
    ),
    order_by="1 (+Blur)",
    notes=(
        "The columns are what is compared here, within a row; 1 (+Blur) is the paper's default.",
        (
            "Here the paper trains SimCLR for 100 epochs, a tenth of its headline run; other scales than the published "
            "one train the whole recipe."
        ),
        (
            "The supervised network is evaluated as the other, by a linear classifier on its frozen representation; "
            "the "
            "paper prints its own accuracy."
        ),
        (
            "How long the paper trained the supervised network here is not stated; 90 epochs are those of its appendix "
            "B.3."
        ),
        (
            "On the flat colours of the embedded scale views turn gray half of the time, not a fifth of it, in every "
            "column but AutoAug."
        ),
    ),
)
