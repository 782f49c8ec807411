"""Our own ResNets inside Detectron2: as a backbone, under a feature pyramid, and as the res5 stage of a C4 detector.

Detectron2 has no ResNet with one block a stage and no stem but ImageNet's, and its C4 head has bottlenecks only. The
modules here keep the encoder's own layers, so their features are the encoder's by construction. They are built from
`cfg.MODEL.ENCODER` (NAME, CHANNELS, STEM), which is a `bench.spec.Backbone` as far as Detectron2 may know it.

Import this module after `compat.require()`.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, ROI_HEADS_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import Tensor, nn

from bench import spec
from bench.networks import encoders

STAGES = ("res2", "res3", "res4", "res5")


class Trunk(Backbone):  # type: ignore[misc]
    """An encoder's stem and stages: normalised images (B, 3, H, W) -> {"res2": (B, C, H / stride, W / stride), ...}."""

    def __init__(self, encoder: encoders.ResNet, out_features: tuple[str, ...]) -> None:
        super().__init__()
        self.conv1, self.bn1, self.maxpool = encoder.conv1, encoder.bn1, encoder.maxpool
        stride = encoder.conv1.stride[0] * (2 if isinstance(encoder.maxpool, nn.MaxPool2d) else 1)
        self._out_features = list(out_features)
        self._out_feature_channels, self._out_feature_strides = {}, {}
        self.depth = STAGES.index(out_features[-1]) + 1
        for number in range(1, self.depth + 1):
            stage = getattr(encoder, f"layer{number}")
            setattr(self, f"layer{number}", stage)
            self._out_feature_channels[STAGES[number - 1]] = channels(stage)
            self._out_feature_strides[STAGES[number - 1]] = stride * 2 ** (number - 1)

    def forward(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """The stages that were asked for."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x_BCHW))))
        found = {}
        for number in range(1, self.depth + 1):
            x = getattr(self, f"layer{number}")(x)
            if STAGES[number - 1] in self._out_features:
                found[STAGES[number - 1]] = x
        return found


def channels(stage: nn.Sequential) -> int:
    """Width of a stage's output."""
    block = stage[-1]
    assert isinstance(block, encoders.Block)
    return block.last_norm.num_features


def pyramid_stages(stem: str) -> tuple[str, ...]:
    """Stages below a feature pyramid: Detectron2's four under ImageNet's stem.

    Under smaller stems res2 is too fine and left out.
    """
    return STAGES if stem == "imagenet" else STAGES[1:]


def _encoder(cfg: Any) -> encoders.ResNet:
    """The network of cfg.MODEL.ENCODER with weights that will be replaced."""
    node = cfg.MODEL.ENCODER
    network = encoders.build(spec.Backbone(name=node.NAME, base_channels=node.CHANNELS, stem=node.STEM), seed=0)
    assert isinstance(network, encoders.ResNet)
    return network


def build_encoder_backbone(cfg: Any, input_shape: ShapeSpec) -> Trunk:
    """The trunk of a C4 detector: everything below res5."""
    return Trunk(_encoder(cfg), ("res4",))


def build_encoder_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """A feature pyramid over the encoder's stages.

    Levels are named by their stride as in Detectron2: p3 has 8 pixels.
    """
    trunk = Trunk(_encoder(cfg), pyramid_stages(cfg.MODEL.ENCODER.STEM))
    last = trunk.output_shape()["res5"].stride
    top = LastLevelMaxPool()
    top.in_feature = f"p{last.bit_length() - 1}"
    features = list(pyramid_stages(cfg.MODEL.ENCODER.STEM))
    return FPN(
        bottom_up=trunk,
        in_features=features,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top,
    )


def _with_norm(cfg: Any, stage: nn.Sequential, width: int) -> tuple[nn.Sequential, int]:
    if cfg.MODEL.ROI_BOX_HEAD.EXTRA_NORM:
        stage.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, width))
    return stage, width


@ROI_HEADS_REGISTRY.register()
class Res5HeadsExtraNorm(Res5ROIHeads):  # type: ignore[misc]
    """Detectron2's C4 head, with batch norm behind res5 on request (facebookresearch/moco, detection/train_net.py)."""

    @classmethod
    def _build_res5_block(cls, cfg: Any) -> tuple[nn.Sequential, int]:
        stage, width = super()._build_res5_block(cfg)
        return _with_norm(cfg, stage, width)


@ROI_HEADS_REGISTRY.register()
class EncoderRes5Heads(Res5ROIHeads):  # type: ignore[misc]
    """The C4 head whose res5 is the encoder's own last stage."""

    @classmethod
    def _build_res5_block(cls, cfg: Any) -> tuple[nn.Sequential, int]:
        stage = _encoder(cfg).layer4
        return _with_norm(cfg, stage, channels(stage))


for build in (build_encoder_backbone, build_encoder_fpn_backbone):
    BACKBONE_REGISTRY.register(build)
