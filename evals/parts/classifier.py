"""What is fine-tuned: a pretrained network, the projector layers that are kept, and a new linear classifier."""

from __future__ import annotations

from copy import deepcopy
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from bench.contracts import Subject
from bench.errors import BenchError
from bench.seeding import generator


class Classifier(nn.Module):
    """A network to fine-tune and its new linear classifier."""

    def __init__(self, backbone: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(width, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images in [0, 1] -> logits (B, classes)."""
        logits: Tensor = self.head(self.backbone(x_BCHW))
        return logits


class Start(Protocol):
    """What is asked of the new classifier and kept below it: FineTuning in finetune.py."""

    @property
    def head(self) -> Literal["normal", "zero"]:
        """Its weights: N(0, 0.01), or all 0."""

    @property
    def projector_layers(self) -> int:
        """First layers of the projector that are kept."""


def start(config: Start, subject: Subject, classes: int, seed: int) -> Classifier:
    """The network (a copy, trainable), the projector layers that are kept, and a new classifier drawn from the seed.

    Raises BenchError for an encoder without weights or without so many projector layers.
    """
    if not any(True for _ in subject.network.parameters()):
        raise BenchError(
            "this encoder has no weights to fine-tune; evaluate it with a frozen protocol, such as linear."
        )
    backbone, width = deepcopy(subject.network), subject.feature_dim
    if config.projector_layers:
        kept, width = _first_layers(subject.projector, config.projector_layers)
        backbone = nn.Sequential(backbone, *kept)
    model = Classifier(backbone.requires_grad_(True), width, classes)
    with torch.no_grad():
        drawn = torch.randn(model.head.weight.shape, generator=generator(seed, "head"))
        model.head.weight.copy_(0.01 * drawn if config.head == "normal" else torch.zeros_like(drawn))
        model.head.bias.zero_()
    return model


def _first_layers(projector: nn.Module | None, count: int) -> tuple[nn.Sequential, int]:
    """Copies of a projector's first linear maps, each with the norm and ReLU after it, and the width they end with."""
    parts = list(projector.children()) if isinstance(projector, nn.Sequential) else []
    linear = [(place, part) for place, part in enumerate(parts) if isinstance(part, nn.Linear)]
    if len(linear) < count:
        raise BenchError(
            f"projector_layers is {count}, but this encoder comes with {len(linear)} such layers: "
            "evaluate a method that has a projector, or set projector_layers to 0."
        )
    end = linear[count][0] if count < len(linear) else len(parts)
    return deepcopy(nn.Sequential(*parts[:end])), linear[count - 1][1].out_features
