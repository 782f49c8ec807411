"""Detection and instance segmentation on COCO 2017 with Detectron2: encoder under a Mask R-CNN, all layers fine-tuned.

Trained on train2017, tested on val2017. AP of boxes and of masks is pycocotools': the mean over classes and over the
thresholds 0.5 to 0.95 of the intersection over union, at most 100 detections an image; AP50 and AP75 are those of one
threshold. Papers choose nothing on the way; neither does this. Baselines that a table prints beside it are copied from
other papers and may have had another recipe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from bench.contracts import Context, Cost, Difference, Metric, Outcome, Subject
from bench.spec import Backbone
from evals.detection import recipes
from evals.detection.compat import missing as missing_packages

METRICS = {
    f"{kind}_{name}": Metric("%", higher_is_better=True) for kind in ("box", "mask") for name in ("ap", "ap50", "ap75")
}
RESUMES = True
USES_RANKS = True
MISSING = missing_packages


@dataclass(frozen=True, kw_only=True)
class Config(recipes.Detector):
    """A Mask R-CNN."""

    VERSION: int = field(default=1, init=False)

    def describe(self) -> str:
        """The protocol in one sentence, for column headings."""
        return f"Mask R-CNN {self.summary()}; trained on train2017, tested on val2017, last iteration"

    def cost(self, backbone: Backbone) -> Cost:
        """What the training takes."""
        return recipes.cost(self, backbone, masks=True)


_scales = partial(recipes.at_scales, Config)
RECIPES = _scales(recipes.COCO_C4_1X)
VARIANTS = {
    "moco": _scales(recipes.COCO_MOCO),  # C4, 2x
    "c4_1x": RECIPES,
    "fpn_1x": _scales(recipes.COCO_FPN_1X),
    "barlow_twins": _scales(recipes.COCO_BARLOW_TWINS),
    "vicreg": _scales(recipes.COCO_VICREG),
    "twist": _scales(recipes.COCO_TWIST),
    "truncated_triplet": _scales(recipes.COCO_TRIPLET),
}


def evaluate(config: Config, subject: Subject, context: Context) -> Outcome:
    """AP of boxes and masks on the test images, in percent.

    Raises BenchError where Detectron2 is missing or the data are not whole.
    """
    from evals.detection.engine import run

    return run(config, subject, context, masks=True)


DIFFERENCES = (
    Difference(
        "Configurations of Barlow Twins and VICReg",
        "Not released.",
        "Their appendices; norms and sizes of VICReg are those of VISSL's FPN configuration.",
        "The appendices do not state them.",
        "Not known.",
    ),
)
