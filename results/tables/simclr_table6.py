"""SimCLR, table 6: linear evaluation on ImageNet, methods and network widths.

https://arxiv.org/abs/2002.05709 (v3), section 6. SimCLR: 1000 epochs at batch 4096, about 15 h on 128 TPU v3 cores for
ResNet-50 (1.5 h per 100 epochs, section 2.2). The paper's linear protocol is in appendix B.6.
"""

from __future__ import annotations

from results.table import Column, Row, Table


def _printed(parameters: str, top1: str, top5: str = "") -> dict[str, str]:
    return {"Param (M)": parameters, "Top-1": top1, "Top-5": top5}


_SAME = "Methods using ResNet-50"
_OTHER = "Methods using other architectures"

TABLE = Table(
    id="simclr_table6",
    paper="SimCLR",
    arxiv="2002.05709",
    number="6",
    title="ImageNet accuracies of linear classifiers trained on representations learned with different "
    "self-supervised methods",
    columns=(
        Column(name="Param (M)", metric="parameters_million", unit="M", digits=2, higher_is_better=None),
        Column(name="Top-1", metric="top1", protocol="linear_augmented", variant="simclr", elsewhere="linear"),
        Column(name="Top-5", metric="top5", protocol="linear_augmented", variant="simclr", elsewhere="linear"),
        Column(
            name="Top-1, 1 % labels", metric="top1", protocol="linear", options={"label_fraction": 0.01}, printed=False
        ),
        Column(name="kNN Top-1", metric="top1", protocol="knn", printed=False),
    ),
    rows=(
        Row(
            label="Local Agg.",
            architecture="ResNet-50",
            section=_SAME,
            missing="local_aggregation",
            printed=_printed("24", "60.2"),
        ),
        Row(
            label="MoCo",
            architecture="ResNet-50",
            section=_SAME,
            method="moco",
            recipe="v1",
            printed=_printed("24", "60.6"),
        ),
        Row(label="PIRL", architecture="ResNet-50", section=_SAME, missing="pirl", printed=_printed("24", "63.6")),
        Row(
            label="CPC v2",
            architecture="ResNet-50",
            section=_SAME,
            missing="cpc_v2",
            printed=_printed("24", "63.8", "85.3"),
        ),
        Row(
            label="SimCLR (ours)",
            architecture="ResNet-50",
            section=_SAME,
            method="simclr",
            epochs=1000,
            printed=_printed("24", "69.3", "89.0"),
            released="simclr_1x",
        ),
        Row(
            label="Rotation",
            architecture="RevNet-50 (4x)",
            section=_OTHER,
            missing="rotation",
            printed=_printed("86", "55.4"),
        ),
        Row(
            label="BigBiGAN",
            architecture="RevNet-50 (4x)",
            section=_OTHER,
            missing="bigbigan",
            printed=_printed("86", "61.3", "81.9"),
        ),
        Row(
            label="AMDIM",
            architecture="Custom-ResNet",
            section=_OTHER,
            missing="amdim",
            printed=_printed("626", "68.1"),
        ),
        Row(
            label="CMC",
            architecture="ResNet-50 (2x)",
            section=_OTHER,
            missing="cmc",
            printed=_printed("188", "68.4", "88.2"),
        ),
        Row(
            label="MoCo",
            architecture="ResNet-50 (4x)",
            section=_OTHER,
            method="moco",
            recipe="v1",
            width=4,
            printed=_printed("375", "68.6"),
        ),
        Row(
            label="CPC v2",
            architecture="ResNet-161 (*)",
            section=_OTHER,
            missing="cpc_v2",
            printed=_printed("305", "71.5", "90.1"),
        ),
        Row(
            label="SimCLR (ours)",
            architecture="ResNet-50 (2x)",
            section=_OTHER,
            method="simclr",
            width=2,
            epochs=1000,
            released="simclr_2x",
            printed=_printed("94", "74.2", "92.0"),
        ),
        Row(
            label="SimCLR (ours)",
            architecture="ResNet-50 (4x)",
            section=_OTHER,
            method="simclr",
            width=4,
            epochs=1000,
            released="simclr_4x",
            printed=_printed("375", "76.5", "93.2"),
        ),
    ),
    anchors=(
        Row(label="Raw pixels", method="pixels", note="no network: the bar that a small encoder must clear"),
        Row(label="Random encoder", architecture="ResNet-50", method="random", note="the same network, never trained"),
        Row(
            label="Supervised",
            architecture="ResNet-50",
            method="supervised",
            note="trained on all labels: an upper reference",
            released="torchvision_supervised",
        ),
    ),
    notes=("In the paper * marks networks that are not standard ResNets.",),
)
