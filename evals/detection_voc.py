"""Detection on VOC07+12 with Detectron2: encoder under a Faster R-CNN, all layers fine-tuned, boxes tested on VOC2007.

Trained on the trainval images of VOC2007 and VOC2012, tested on VOC2007's test images. AP is the mean over the
thresholds 0.5 to 0.95 of the intersection over union, AP50 and AP75 are those of one threshold, each the mean over the
classes of the 2007 metric (11 points), as Detectron2's PascalVOCDetectionEvaluator has it. Papers choose nothing on the
way; neither does this. Baselines that a table prints beside it are copied from other papers and may have had another
recipe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from bench.contracts import Context, Cost, Difference, Metric, Outcome, Subject
from bench.spec import Backbone
from evals.detection import recipes
from evals.detection.compat import missing as missing_packages

METRICS = {name: Metric("%", higher_is_better=True) for name in ("box_ap", "box_ap50", "box_ap75")}
RESUMES = True
USES_RANKS = True
MISSING = missing_packages


@dataclass(frozen=True, kw_only=True)
class Config(recipes.Detector):
    """A Faster R-CNN."""

    VERSION: int = field(default=1, init=False)

    def describe(self) -> str:
        """The protocol in one sentence, for column headings."""
        return f"Faster R-CNN {self.summary()}; trained on trainval 07+12, tested on test 07, last iteration"

    def cost(self, backbone: Backbone) -> Cost:
        """What the training takes."""
        return recipes.cost(self, backbone, masks=False)


_scales = partial(recipes.at_scales, Config)
RECIPES = _scales(recipes.VOC_MOCO)
VARIANTS = {
    "moco": RECIPES,
    "barlow_twins": _scales(recipes.VOC_BARLOW_TWINS),
    "vicreg": _scales(recipes.VOC_VICREG),
    "twist": _scales(recipes.VOC_TWIST),
    "truncated_triplet": _scales(recipes.VOC_TRIPLET),
}


def evaluate(config: Config, subject: Subject, context: Context) -> Outcome:
    """AP of boxes on the test images, in percent.

    Raises BenchError where Detectron2 is missing or the data are not whole.
    """
    from evals.detection.engine import run

    return run(config, subject, context, masks=False)


DIFFERENCES = (
    Difference(
        "Base file of truncated triplet",
        "The active base file has 180,000 iterations at a rate of 0.05; it is COCO's.",
        "24,000 iterations at 0.2, those of its backup base file.",
        "The configuration that is run is called 24k.",
        "None if the backup printed the numbers.",
    ),
    Difference(
        "Configurations of Barlow Twins and VICReg",
        "Not released.",
        "Their appendices; what these leave out is MoCo's.",
        "The appendices do not state norms and sizes.",
        "Not known; a reader of VICReg's appendix reports AP50 79.1 for the printed 82.4.",
    ),
)
