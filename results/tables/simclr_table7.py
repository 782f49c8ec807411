"""SimCLR, table 7: ImageNet accuracy of models trained with few labels.

https://arxiv.org/abs/2002.05709 (v3), section 6. Fine-tuning of the whole network on SimCLR's published lists of 1 %
and 10 % of the labels (appendix B.5), no decay, the last epoch. The supervised baseline is S4L's (arXiv:1905.03670).
"""

from __future__ import annotations

from results.table import Column, Row, Table

_LABELS = "Methods using other label-propagation"
_REPRESENTATION = "Methods using representation learning only"


def _row(label: str, architecture: str, section: str, one: str, ten: str, *, missing: str = "", width: int = 0) -> Row:
    return Row(
        label=label,
        architecture=architecture,
        section=section,
        method="simclr" if width else None,
        width=width or 1,
        missing=missing,
        released=f"simclr_{width}x" if width else "",
        printed={"1 % labels, Top-5": one, "10 % labels, Top-5": ten},
    )


TABLE = Table(
    id="simclr_table7",
    paper="SimCLR",
    arxiv="2002.05709",
    number="7",
    title="ImageNet accuracy of models trained with few labels",
    columns=(
        Column(name="1 % labels, Top-5", metric="top5", protocol="semi_supervised", variant="simclr_1pct"),
        Column(name="10 % labels, Top-5", metric="top5", protocol="semi_supervised", variant="simclr_10pct"),
        Column(
            name="1 % labels, Top-1", metric="top1", protocol="semi_supervised", variant="simclr_1pct", printed=False
        ),
        Column(
            name="10 % labels, Top-1", metric="top1", protocol="semi_supervised", variant="simclr_10pct", printed=False
        ),
    ),
    rows=(
        Row(
            label="Supervised baseline",
            architecture="ResNet-50",
            method="random",
            variants={
                "1 % labels, Top-5": "scratch_1pct",
                "10 % labels, Top-5": "scratch_10pct",
                "1 % labels, Top-1": "scratch_1pct",
                "10 % labels, Top-1": "scratch_10pct",
            },
            printed={"1 % labels, Top-5": "48.4", "10 % labels, Top-5": "80.4"},
            note="trained from a random start on those labels alone",
        ),
        _row("Pseudo-label", "ResNet-50", _LABELS, "51.6", "82.4", missing="pseudo_label"),
        _row("VAT+Entropy Min.", "ResNet-50", _LABELS, "47.0", "83.4", missing="vat"),
        _row("UDA (w. RandAug)", "ResNet-50", _LABELS, "", "88.5", missing="uda"),
        _row("FixMatch (w. RandAug)", "ResNet-50", _LABELS, "", "89.1", missing="fixmatch"),
        _row("S4L (Rot+VAT+En.M.)", "ResNet-50 (4x)", _LABELS, "", "91.2", missing="s4l"),
        _row("InstDisc", "ResNet-50", _REPRESENTATION, "39.2", "77.4", missing="instance_discrimination"),
        _row("BigBiGAN", "RevNet-50 (4x)", _REPRESENTATION, "55.2", "78.8", missing="bigbigan"),
        _row("PIRL", "ResNet-50", _REPRESENTATION, "57.2", "83.8", missing="pirl"),
        _row("CPC v2", "ResNet-161 (*)", _REPRESENTATION, "77.9", "91.2", missing="cpc_v2"),
        _row("SimCLR (ours)", "ResNet-50", _REPRESENTATION, "75.5", "87.8", width=1),
        _row("SimCLR (ours)", "ResNet-50 (2x)", _REPRESENTATION, "83.0", "91.2", width=2),
        _row("SimCLR (ours)", "ResNet-50 (4x)", _REPRESENTATION, "85.8", "92.6", width=4),
    ),
    order_by="1 % labels, Top-5",
)
