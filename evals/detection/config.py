"""A Detector as Detectron2's configuration.

The base is Detectron2's own file; what stands here is what differs from it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from bench.errors import BenchError
from bench.spec import Backbone
from evals.detection.recipes import Detector
from evals.detection.weights import is_standard, pixel_statistics

DEPTHS = {"resnet50": 50, "resnet101": 101}


def build_cfg(
    detector: Detector, backbone: Backbone, *, classes: int, masks: bool, bitmasks: bool, device: torch.device
) -> Any:
    """The CfgNode.

    `bitmasks`: masks in the data are run lengths, not polygons. Raises BenchError for settings that do not fit.
    """
    from detectron2.config import CfgNode, get_cfg

    cfg = get_cfg()
    cfg.MODEL.ENCODER = CfgNode(
        {"NAME": backbone.name, "CHANNELS": backbone.base_channels * backbone.width, "STEM": backbone.stem}
    )
    cfg.MODEL.ROI_BOX_HEAD.EXTRA_NORM = detector.extra_norm
    cfg.merge_from_file(str(_folder() / f"Base-RCNN-{detector.architecture}.yaml"))
    model = cfg.MODEL
    model.WEIGHTS = ""
    model.DEVICE = str(device)
    model.MASK_ON = masks
    model.PIXEL_MEAN, model.PIXEL_STD = pixel_statistics(backbone)
    model.BACKBONE.FREEZE_AT = 0
    # Plain batch norm here; with several ranks bench.training.ranks makes every norm use the whole batch, on CPUs too.
    model.RESNETS.NORM = "BN"
    model.RESNETS.STRIDE_IN_1X1 = False
    model.ROI_HEADS.NUM_CLASSES = classes
    model.RPN.LOSS_WEIGHT = detector.rpn_loss  # of both of its losses
    if is_standard(backbone):
        channels = backbone.base_channels * backbone.width
        model.RESNETS.DEPTH = DEPTHS[backbone.name]
        model.RESNETS.STEM_OUT_CHANNELS, model.RESNETS.WIDTH_PER_GROUP, model.RESNETS.RES2_OUT_CHANNELS = (
            channels,
            channels,
            4 * channels,
        )
    _architecture(cfg, detector, backbone)
    _regions(cfg, detector)
    _input(cfg, detector, bitmasks=bitmasks)
    _solver(cfg, detector)
    cfg.freeze()
    return cfg


def _folder() -> Path:
    """Detectron2's own configuration files, found without its model zoo, which needs a module setuptools dropped."""
    found = importlib.util.find_spec("detectron2")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent / "model_zoo" / "configs"
    if not folder.is_dir():
        raise BenchError(
            f"{folder} is missing: Detectron2 was installed without its configuration files; `make detection` "
            "installs them."
        )
    return folder


def _architecture(cfg: Any, detector: Detector, backbone: Backbone) -> None:
    model, narrow, standard = cfg.MODEL, detector.narrow, is_standard(backbone)
    if detector.architecture == "C4":
        if not standard:
            model.BACKBONE.NAME = "build_encoder_backbone"
        model.ROI_HEADS.NAME = "Res5HeadsExtraNorm" if standard else "EncoderRes5Heads"
        model.ANCHOR_GENERATOR.SIZES = [list(narrow.anchors)]
        model.ROI_BOX_HEAD.POOLER_RESOLUTION = narrow.pooled or model.ROI_BOX_HEAD.POOLER_RESOLUTION
        # C4's mask head works on the pooled regions of the box head, which res5 halves and its own layer doubles again.
        model.ROI_MASK_HEAD.POOLER_RESOLUTION = model.ROI_BOX_HEAD.POOLER_RESOLUTION
        return
    levels = [f"p{number}" for number in range(2, 7)]
    if not standard:
        model.BACKBONE.NAME = "build_encoder_fpn_backbone"
        finest = {"imagenet": 2, "small": 2, "cifar": 1}[backbone.stem]  # logarithm of the stride
        levels = [f"p{finest + number}" for number in range(5 if backbone.stem == "imagenet" else 4)]
    if len(narrow.anchors) != len(levels):
        raise BenchError(
            f"the feature pyramid has {len(levels)} levels with this encoder, found {len(narrow.anchors)} anchor "
            f"sizes {narrow.anchors}."
        )
    model.RPN.IN_FEATURES = levels
    model.ROI_HEADS.IN_FEATURES = levels[:-1]
    model.ANCHOR_GENERATOR.SIZES = [[size] for size in narrow.anchors]
    model.FPN.OUT_CHANNELS = model.ROI_BOX_HEAD.CONV_DIM = model.ROI_MASK_HEAD.CONV_DIM = narrow.channels
    model.ROI_BOX_HEAD.FC_DIM = narrow.hidden
    model.ROI_BOX_HEAD.POOLER_RESOLUTION = narrow.pooled or model.ROI_BOX_HEAD.POOLER_RESOLUTION
    model.ROI_MASK_HEAD.NUM_CONV = narrow.mask_layers
    if detector.head_norm:
        model.FPN.NORM = model.ROI_BOX_HEAD.NORM = model.ROI_MASK_HEAD.NORM = "BN"
        model.ROI_BOX_HEAD.NUM_CONV, model.ROI_BOX_HEAD.NUM_FC = narrow.box_layers, 1


def _regions(cfg: Any, detector: Detector) -> None:
    model, narrow = cfg.MODEL, detector.narrow
    for key, value in zip(
        ("PRE_NMS_TOPK_TRAIN", "POST_NMS_TOPK_TRAIN", "PRE_NMS_TOPK_TEST", "POST_NMS_TOPK_TEST"),
        narrow.proposals,
        strict=True,
    ):
        if value:
            model.RPN[key] = value
    model.RPN.BATCH_SIZE_PER_IMAGE = narrow.sampled_anchors
    model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = narrow.sampled_regions
    cfg.TEST.DETECTIONS_PER_IMAGE = narrow.detections


def _input(cfg: Any, detector: Detector, *, bitmasks: bool) -> None:
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN = detector.train_sizes
    cfg.INPUT.MAX_SIZE_TRAIN = detector.longest_trained or detector.longest
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = detector.test_size, detector.longest
    cfg.INPUT.RANDOM_FLIP = "horizontal" if detector.flip else "none"
    cfg.INPUT.MASK_FORMAT = "bitmask" if bitmasks else "polygon"


def _solver(cfg: Any, detector: Detector) -> None:
    solver = cfg.SOLVER
    solver.LR_SCHEDULER_NAME = "WarmupCosineLR" if detector.schedule == "cosine" else "WarmupMultiStepLR"
    solver.MAX_ITER, solver.STEPS = detector.iterations, detector.steps
    solver.BASE_LR, solver.IMS_PER_BATCH = detector.lr, detector.batch_size
    solver.WARMUP_ITERS, solver.WARMUP_FACTOR = detector.warmup, detector.warmup_factor
