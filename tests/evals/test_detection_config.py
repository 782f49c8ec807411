"""The configuration that Detectron2 gets is the published one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from bench.errors import BenchError
from bench.spec import Backbone
from evals.detection import compat, recipes
from evals.detection.config import _folder, build_cfg

pytestmark = pytest.mark.skipif(bool(compat.missing()), reason=compat.missing())
R50 = Backbone(name="resnet50", normalize="imagenet")


def cfg_of(detector: recipes.Detector, backbone: Backbone = R50, *, classes: int = 80, masks: bool = True) -> Any:
    compat.require()
    return build_cfg(detector, backbone, classes=classes, masks=masks, bitmasks=False, device=torch.device("cpu"))


def official(file: str, *changes: object) -> Any:
    """A file of Detectron2's model zoo with changes, as the papers' repositories write them."""
    compat.require()
    from detectron2.config import CfgNode, get_cfg

    cfg = get_cfg()
    cfg.MODEL.ENCODER = CfgNode({"NAME": "resnet50", "CHANNELS": 64, "STEM": "imagenet"})
    cfg.MODEL.ROI_BOX_HEAD.EXTRA_NORM = True
    cfg.merge_from_file(str(_folder() / file))
    # What our encoders need, and MoCo's converted weights: detection/configs of facebookresearch/moco.
    cfg.merge_from_list(
        [
            "MODEL.PIXEL_MEAN",
            [123.675, 116.280, 103.530],
            "MODEL.PIXEL_STD",
            [58.395, 57.120, 57.375],
            "INPUT.FORMAT",
            "RGB",
        ]
    )
    cfg.merge_from_list(
        [
            "MODEL.RESNETS.STRIDE_IN_1X1",
            False,
            "MODEL.BACKBONE.FREEZE_AT",
            0,
            "MODEL.RESNETS.NORM",
            "BN",
            "MODEL.WEIGHTS",
            "",
        ]
    )
    cfg.merge_from_list(list(changes))
    return cfg


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal but for where Detectron2's trainer would put things, and for numbers that differ by rounding."""
    mine, published = flat(ours), flat(theirs)
    # Unused here: names of data sets, the device, C4's pooler of the mask head; precise norms are asked for by the
    # loop.
    for key in ("DATASETS.TRAIN", "DATASETS.TEST", "MODEL.DEVICE", "TEST.PRECISE_BN.ENABLED"):
        mine.pop(key), published.pop(key)
    if ours.MODEL.ROI_HEADS.NAME.startswith("Res5"):
        mine.pop("MODEL.ROI_HEADS.NAME"), published.pop("MODEL.ROI_HEADS.NAME")
    different = {
        key: (mine.get(key), published.get(key))
        for key in mine.keys() | published.keys()
        if mine.get(key) != published.get(key)
    }
    for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"):
        pair = different.pop(key, ([], []))
        assert pair[0] == pytest.approx(pair[1])
    assert different == {}


def flat(node: Any, before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        if hasattr(value, "items"):
            found |= flat(value, f"{before}{key}.")
        else:
            found[before + key] = list(value) if isinstance(value, tuple) else value
    return found


def test_voc_is_mocos_configuration() -> None:
    sizes = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    published = official(
        "Base-RCNN-C4.yaml",
        *(
            "MODEL.ROI_HEADS.NUM_CLASSES",
            20,
            "MODEL.RESNETS.DEPTH",
            50,
            "MODEL.MASK_ON",
            False,
            "INPUT.MIN_SIZE_TRAIN",
            sizes,
        ),
        *("SOLVER.STEPS", (18000, 22000), "SOLVER.MAX_ITER", 24000, "SOLVER.WARMUP_ITERS", 100, "SOLVER.BASE_LR", 0.02),
    )
    assert_same(cfg_of(recipes.VOC_MOCO, classes=20, masks=False), published)


def test_coco_1x_is_detectron2s_schedule_in_both_architectures() -> None:
    for file, detector in (
        ("mask_rcnn_R_50_C4_1x", recipes.COCO_C4_1X),
        ("mask_rcnn_R_50_FPN_1x", recipes.COCO_FPN_1X),
    ):
        assert_same(cfg_of(detector), official(f"COCO-InstanceSegmentation/{file}.yaml"))


def test_triplet_trains_on_images_of_at_most_1200_pixels_and_tests_on_larger_ones() -> None:
    assert (cfg_of(recipes.COCO_TRIPLET).INPUT.MAX_SIZE_TRAIN, cfg_of(recipes.COCO_TRIPLET).INPUT.MAX_SIZE_TEST) == (
        1200,
        1333,
    )


def test_vicreg_weighs_both_losses_of_the_proposal_network() -> None:
    compat.require()
    with compat.quiet():
        from detectron2.modeling import build_model

        from evals.detection import networks  # noqa: F401

        model = build_model(cfg_of(recipes.VOC_VICREG, replace(R50, base_channels=4), classes=20, masks=False))
    assert model.proposal_generator.loss_weight == {"loss_rpn_cls": 0.2, "loss_rpn_loc": 0.2}


@pytest.mark.parametrize("extra", [True, False])
def test_a_norm_stands_behind_res5_on_request(extra: bool) -> None:
    compat.require()
    with compat.quiet():
        from detectron2.modeling import build_model

        from evals.detection import networks  # noqa: F401

        for backbone in (replace(R50, base_channels=4), Backbone(name="resnet10", base_channels=4, stem="small")):
            model = build_model(cfg_of(replace(recipes.VOC_MOCO, extra_norm=extra), backbone, masks=False))
            assert hasattr(model.roi_heads.res5, "norm") is extra


def test_twist_has_norms_in_the_pyramid_and_a_box_head_of_four_convolutions_and_one_layer() -> None:
    cfg = cfg_of(recipes.COCO_TWIST)
    assert cfg.MODEL.FPN.NORM == cfg.MODEL.ROI_BOX_HEAD.NORM == cfg.MODEL.ROI_MASK_HEAD.NORM == "BN"
    assert (cfg.MODEL.ROI_BOX_HEAD.NUM_CONV, cfg.MODEL.ROI_BOX_HEAD.NUM_FC, cfg.MODEL.ROI_BOX_HEAD.CONV_DIM) == (
        4,
        1,
        256,
    )


def test_the_cosine_schedule_starts_with_a_warm_up() -> None:
    compat.require()
    from detectron2.solver import build_lr_scheduler

    cfg = cfg_of(recipes.VOC_TRIPLET)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=cfg.SOLVER.BASE_LR)
    schedule = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(1201):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.2 * 1e-4)
    assert rates[1200] == pytest.approx(
        0.2 * (1 + torch.cos(torch.tensor(torch.pi * 1200 / 24000)).item()) / 2, rel=1e-6
    )
    assert max(rates) == rates[-1]


def test_anchors_must_fit_the_levels() -> None:
    with pytest.raises(BenchError, match="5 levels"):
        cfg_of(replace(recipes.COCO_FPN_1X, narrow=recipes.EMBEDDED_FPN.narrow))


def test_what_batches_take_of_shared_memory_is_that_of_the_largest_images() -> None:
    from evals.detection.data import _takes

    found = _takes(cfg_of(recipes.COCO_FPN_1X), share=2, batches=1000)
    assert found.each == 2 * (-(-3 * 800 * 1333 // 4096) * 4096 + 2 * 4096)
    assert found.count(8) == 2 * 8 + 2
