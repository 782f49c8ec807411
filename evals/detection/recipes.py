"""What the papers' detectors differ in, as data, and their published settings with the source of each.

Common to all, and so no field: Detectron2's own Faster R-CNN and Mask R-CNN; all layers fine-tuned (FREEZE_AT 0) with
batch norm in training mode and its statistics over all GPUs; RGB input in the encoder's own normalisation; the stride
of a bottleneck in its 3x3 convolution (STRIDE_IN_1X1 False), as in every encoder here; SGD with momentum 0.9 and weight
decay 1e-4, not on norms (Detectron2's default).

Sources: MoCo's detection configurations (facebookresearch/moco, detection/configs); Detectron2's Base-RCNN-C4 and
Base-RCNN-FPN with its 1x and 2x schedules; Barlow Twins (arXiv:2103.03230, appendix C.2); VICReg (arXiv:2105.04906,
appendix C.3); TWIST's and truncated triplet's repositories.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from bench.contracts import Cost, Sizes
from bench.errors import BenchError
from bench.spec import Backbone

# an iteration of 16 images on 8 V100, Detectron2's model zoo (MODEL_ZOO.md): ResNet-50 without and with masks
V100_SECONDS = {
    ("C4", False): 0.551,
    ("C4", True): 0.584,
    ("FPN", False): 0.210,
    ("FPN", True): 0.261,
}
ZOO = "Detectron2's model zoo: ResNet-50, 8 V100, frozen norms; scaled with images and pixels"
_MOST_RANKS = 8
# An embedded iteration of 8 scenes.
CORE_SECONDS = {("C4", False): 0.04, ("C4", True): 0.09, ("FPN", False): 0.11, ("FPN", True): 0.15}
CORE = "this project's embedded scenes, one core"


@dataclass(frozen=True, kw_only=True)
class Narrow:
    """Sizes of the heads and numbers of regions; the defaults are Detectron2's. Smaller on small scenes."""

    anchors: tuple[int, ...] = (32, 64, 128, 256, 512)  # pixels; C4 has all on its one feature map, FPN one a level
    pooled: int = 0  # side of the pooled regions of the box head; 0: 14 (C4) or 7 (FPN)
    channels: int = 256  # of FPN and of the convolutions in its heads
    hidden: int = 1024  # of the fully connected layers of FPN's box head
    box_layers: int = 4  # convolutions of FPN's box head where it has norms
    mask_layers: int = 4  # convolutions of FPN's mask head; C4 has none
    # before and after suppression in training, the same in testing; 0: Detectron2's
    proposals: tuple[int, int, int, int] = (
        0,
        0,
        0,
        0,
    )
    sampled_anchors: int = 256  # an image
    sampled_regions: int = 512  # an image
    detections: int = 100  # kept an image


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A detector on top of an encoder, and its training. Rates are those of the whole batch, steps are iterations."""

    architecture: Literal["C4", "FPN"] = "C4"
    iterations: int = 24_000
    schedule: Literal["multistep", "cosine"] = "multistep"
    steps: tuple[int, ...] = (18_000, 22_000)  # the rate falls to a tenth after each; multistep only
    lr: float = 0.02
    warmup: int = 100  # iterations, linear
    warmup_factor: float = 0.001  # of the rate at the start
    batch_size: int = 16  # images
    extra_norm: bool = True  # C4: a batch norm behind res5 (MoCo's Res5ROIHeadsExtraNorm)
    head_norm: bool = (
        False  # FPN: batch norm in the pyramid and heads, and a box head of 4 convolutions and 1 linear layer
    )
    precise_norm: int = 200  # iterations that re-estimate the statistics of batch norm after training; 0: none
    rpn_loss: float = 1.0  # weight of the region proposal network's two losses
    # shorter side in pixels, one is drawn
    train_sizes: tuple[int, ...] = (
        480,
        512,
        544,
        576,
        608,
        640,
        672,
        704,
        736,
        768,
        800,
    )
    test_size: int = 800
    longest: int = 1333  # longer side at most
    longest_trained: int | None = field(default=None, metadata={"omit_when": None})  # in training; None: as in testing
    flip: bool = True  # half of the training images
    narrow: Narrow = field(default_factory=Narrow)

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.batch_size < 1 or self.warmup < 0 or self.lr <= 0 or not self.train_sizes:
            raise BenchError("a detector needs iterations, a batch, a rate above 0 and at least one training size.")
        if self.schedule == "multistep" and any(step >= self.iterations for step in self.steps):
            raise BenchError(f"the rate falls after {self.steps} iterations, but there are {self.iterations}.")

    def most_ranks(self) -> int:
        """Two images a rank on at most 8, as Detectron2's recipes have them: smaller shares wait for each other."""
        return max(1, min(_MOST_RANKS, self.batch_size // 2))

    def memory(self, sizes: Sizes) -> float:
        """For a plan, a guess: an image of 800 px is 46 of 224 px with what the regions of interest add.

        Detectron2's MODEL_ZOO has 4.8 to 5.2 GB for two images (C4, R50) with frozen norms, stem and first stage;
        here all of them learn, which keeps about twice as much.
        """
        return 8 * sizes.weights + self.batch_size / sizes.ranks * 46 * sizes.training

    def summary(self) -> str:
        """The settings that a reader checks against the paper."""
        course = (
            "cosine" if self.schedule == "cosine" else f"tenths after {', '.join(f'{step:,}' for step in self.steps)}"
        )
        extra = ", norm behind res5" if self.architecture == "C4" and self.extra_norm else ""
        extra += ", norms in pyramid and heads" if self.architecture == "FPN" and self.head_norm else ""
        extra += f", RPN loss times {self.rpn_loss:g}" if self.rpn_loss != 1 else ""
        sizes = (
            f"{min(self.train_sizes)} to {max(self.train_sizes)} px"
            if len(self.train_sizes) > 1
            else f"{self.train_sizes[0]} px"
        )
        return (
            f"{self.architecture}{extra}, {self.iterations:,} iterations, batch {self.batch_size}, lr {self.lr:g} "
            f"({course}), "
            f"warm-up {self.warmup:,}, trained at {sizes}"
        )


Made = TypeVar("Made", bound=Detector)


def cost(detector: Detector, backbone: Backbone, *, masks: bool) -> Cost:
    """What the training takes."""
    kind = (detector.architecture, masks)
    if detector.test_size < 200:  # the embedded scenes
        return Cost(detector.iterations * CORE_SECONDS[kind] * detector.batch_size / 8 + 20, "core", CORE)
    middle = sorted(detector.train_sizes)[len(detector.train_sizes) // 2]
    share = detector.batch_size / 16 * (middle / 736) ** 2 * (backbone.base_channels * backbone.width / 64) ** 2
    return Cost(detector.iterations * V100_SECONDS[kind] * 8 * share, "GPU", ZOO)


# -- VOC07+12: Faster R-CNN --------------------------------------------------------------------------------------------

VOC_MOCO = Detector()  # pascal_voc_R_50_C4_24k.yaml
# Appendix C.2; what it does not say is VISSL's configuration, which rests on MoCo's.
VOC_BARLOW_TWINS = replace(VOC_MOCO, lr=0.1, warmup=1000, warmup_factor=0.333)
# Appendix C.3: Barlow Twins' settings and a weight of the proposal losses. No configuration was released; the paper
# does not state norms and sizes, which are MoCo's here. A reader who followed the appendix reports AP50 79.1 for the
# printed 82.4.
VOC_VICREG = replace(VOC_BARLOW_TWINS, rpn_loss=0.2)
# detection/voc_fpn_1fc/pascal_voc_R_50_FPN_24k_infomin.yaml
VOC_TWIST = replace(VOC_MOCO, architecture="FPN", head_norm=True)
_TRIPLET_SIZES = (*VOC_MOCO.train_sizes, 832, 864, 880)
# configs/pascal_voc_R_50_C4_24k.yaml on the base file Base-RCNN-C4-BN.yaml_bk_bk.yaml: the active base file is COCO's,
# with 180,000 iterations, which does not fit the name "24k".
VOC_TRIPLET = replace(
    VOC_MOCO, schedule="cosine", steps=(), lr=0.2, warmup=1200, warmup_factor=1e-4, train_sizes=_TRIPLET_SIZES
)

# -- COCO 2017: Mask R-CNN ---------------------------------------------------------------------------------------------

_COCO_SIZES = (640, 672, 704, 736, 768, 800)
COCO_C4_1X = replace(VOC_MOCO, iterations=90_000, steps=(60_000, 80_000), warmup=1000, train_sizes=_COCO_SIZES)
COCO_MOCO = replace(COCO_C4_1X, iterations=180_000, steps=(120_000, 160_000))  # coco_R_50_C4_2x.yaml
COCO_FPN_1X = replace(COCO_C4_1X, architecture="FPN")  # mask_rcnn_R_50_FPN_1x with trained, synchronised norms
COCO_BARLOW_TWINS = replace(COCO_C4_1X, lr=0.03)  # appendix C.2
# Appendix C.3. No configuration was released; norms and sizes, which the paper does not state, are those of VISSL's FPN
# configuration.
COCO_VICREG = replace(COCO_FPN_1X, lr=0.04, warmup=50)
# detection/infomin_configs/R_50_FPN_1x_infomin.yaml, all of whose values are these.
COCO_TWIST = replace(COCO_FPN_1X, head_norm=True)
# README's command names configs/coco_R_50_C4_2x_moco.yaml: coco_R_50_C4_2x.yaml with a longer side of at most 1200 px
# (INPUT.MAX_SIZE_TRAIN), on the active Base-RCNN-C4-BN.yaml.
COCO_TRIPLET = replace(
    COCO_MOCO,
    schedule="cosine",
    steps=(),
    lr=0.05,
    warmup=10_000,
    warmup_factor=1e-4,
    train_sizes=(*_COCO_SIZES, 832, 864, 880),
    longest_trained=1200,
)

# -- other scales ------------------------------------------------------------------------------------------------------

_SMALL_C4 = Narrow(
    anchors=(16, 24, 36), pooled=8, proposals=(300, 64, 300, 32), sampled_anchors=64, sampled_regions=32, detections=20
)
_SMALL_FPN = replace(
    _SMALL_C4, anchors=(16, 24, 34, 48), pooled=7, channels=32, hidden=128, box_layers=1, mask_layers=1
)
# Digits are not mirrored. The first settings that were tried; docs/detection.md has what was measured.
EMBEDDED_C4 = Detector(
    iterations=300,
    steps=(200, 270),
    lr=0.04,
    warmup=20,
    batch_size=8,
    precise_norm=10,
    train_sizes=(96,),
    test_size=96,
    longest=96,
    flip=False,
    narrow=_SMALL_C4,
)
EMBEDDED_FPN = replace(EMBEDDED_C4, architecture="FPN", head_norm=True, narrow=_SMALL_FPN)
# One GPU and networks of 32 px: both sets themselves at a quarter of the usual size. Not measured.
_CIFAR = Narrow(anchors=(8, 16, 32, 64, 128), proposals=(0, 0, 1000, 300))
CIFAR_C4 = replace(VOC_MOCO, train_sizes=(160, 192, 224), test_size=224, longest=384, narrow=_CIFAR)
CIFAR_FPN = replace(CIFAR_C4, architecture="FPN", head_norm=True, narrow=replace(_CIFAR, anchors=(8, 16, 32, 64)))


def at_scales(config: type[Made], paper: Detector) -> dict[str, Made]:
    """The configs of a published detector, and of what stands for its architecture at the other scales."""
    small = (EMBEDDED_C4, CIFAR_C4) if paper.architecture == "C4" else (EMBEDDED_FPN, CIFAR_FPN)
    scales = {"embedded": small[0], "cifar": small[1], "paper": paper}
    return {scale: config(**vars(detector)) for scale, detector in scales.items()}
