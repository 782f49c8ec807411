"""Predictions of a detector and their average precision, over all and per class.

COCO: pycocotools itself, on predictions in its own result format. VOC: Detectron2's `voc_eval` on the lines of the
devkit's result files. What was scored is what is saved in the run folder, so anyone can score it again by hand.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.evaluation.pascal_voc_evaluation import PascalVOCDetectionEvaluator, voc_eval
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bench.files import write_atomic

Scores = dict[str, float]
THRESHOLDS = range(50, 100, 5)  # percent of intersection over union
KINDS = {"box": "bbox", "mask": "segm"}  # our word -> pycocotools'


class Predictions(DatasetEvaluator):  # type: ignore[misc]
    """Gathers the detections of each test image, in COCO's result format with contiguous classes, and VOC's lines."""

    def __init__(self, name: str, *, voc: bool) -> None:
        self._lines = PascalVOCDetectionEvaluator(name) if voc else None

    def reset(self) -> None:
        """Forget everything."""
        self._found: list[dict[str, Any]] = []
        if self._lines is not None:
            self._lines.reset()

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """One batch."""
        for image, output in zip(inputs, outputs, strict=True):
            self._found += instances_to_coco_json(output["instances"].to("cpu"), image["image_id"])
        if self._lines is not None:
            self._lines.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any]:
        """{"found": all predictions, "lines": {class: lines}} on the first rank, {} on the others."""
        lines = dict(self._lines._predictions) if self._lines is not None else {}
        parts = comm.gather((self._found, lines), dst=0)
        if not comm.is_main_process():
            return {}
        together: dict[int, list[str]] = {}
        for _, own in parts:
            for label, text in own.items():
                together.setdefault(label, []).extend(text)
        return {"found": [one for found, _ in parts for one in found], "lines": together}


def score_coco(found: Sequence[Mapping[str, Any]], name: str, folder: Path | None) -> tuple[Scores, dict[str, Scores]]:
    """AP of boxes and masks in percent, over all and per class. The predictions go to predictions.json in `folder`."""
    meta = MetadataCatalog.get(name)
    number = {place: identity for identity, place in meta.thing_dataset_id_to_contiguous_id.items()}
    results = [{**one, "category_id": number[one["category_id"]]} for one in found]
    if folder is not None:
        write_atomic(folder / "predictions.json", json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its tables
        truth = COCO(meta.json_file)
        tables = {kind: _coco_table(truth, results, word) for kind, word in KINDS.items()}
    total: Scores = {}
    classes: dict[str, Scores] = {text: {} for text in meta.thing_classes}
    for kind, (stats, precision) in tables.items():
        total |= {f"{kind}_ap{suffix}": _percent(value) for suffix, value in zip(("", "50", "75"), stats, strict=True)}
        for place, text in enumerate(meta.thing_classes):
            classes[text] |= {
                f"{kind}_ap": _mean(precision[:, :, place]),
                f"{kind}_ap50": _mean(precision[0, :, place]),
            }
    return total, classes


def _coco_table(truth: Any, results: Sequence[Mapping[str, Any]], kind: str) -> tuple[Sequence[float], Any]:
    """AP, AP50, AP75 as shares, and the precisions (thresholds, recalls, classes); -1 where a class has no object."""
    own = deepcopy(list(results))
    if kind == "segm":
        for one in own:
            one.pop("bbox", None)  # type: ignore[attr-defined]
    if not own:
        return (0.0, 0.0, 0.0), np.zeros((len(THRESHOLDS), 101, len(truth.getCatIds())))
    scored = COCOeval(truth, truth.loadRes(own), kind)
    scored.evaluate()
    scored.accumulate()
    scored.summarize()
    return scored.stats[:3], scored.eval["precision"][:, :, :, 0, -1]


def score_voc(lines: Mapping[int, Sequence[str]], name: str, folder: Path | None) -> tuple[Scores, dict[str, Scores]]:
    """AP of boxes in percent, over all and per class. The devkit's result files go to `folder`/predictions."""
    meta = MetadataCatalog.get(name)
    classes: dict[str, Scores] = {}
    by_limit: dict[int, list[float]] = {limit: [] for limit in THRESHOLDS}
    with tempfile.TemporaryDirectory() as scratch:
        files = (folder / "predictions" if folder is not None else Path(scratch)) / "comp4_det_test_{}.txt"
        root = Path(meta.dirname)
        for place, text in enumerate(meta.thing_classes):
            write_atomic(Path(str(files).format(text)), "\n".join(lines.get(place, [""])))
            aps = {limit: _voc_ap(str(files), root, meta, text, limit) for limit in THRESHOLDS}
            classes[text] = {"box_ap": float(np.mean(list(aps.values()))), "box_ap50": aps[50], "box_ap75": aps[75]}
            for limit, ap in aps.items():
                by_limit[limit].append(ap)
    # classes first, then thresholds, as Detectron2 sums
    means = {limit: float(np.mean(aps)) for limit, aps in by_limit.items()}
    return {"box_ap": float(np.mean(list(means.values()))), "box_ap50": means[50], "box_ap75": means[75]}, classes


def _voc_ap(files: str, root: Path, meta: Any, text: str, limit: int) -> float:
    annotations, listed = str(root / "Annotations" / "{}.xml"), str(root / "ImageSets" / "Main" / f"{meta.split}.txt")
    _, _, ap = voc_eval(files, annotations, listed, text, ovthresh=limit / 100, use_07_metric=meta.year == 2007)
    return 100 * float(ap)


def _percent(share: float) -> float:
    return 100 * float(share) if share > -1 else 0.0


def _mean(precision: Any) -> float:
    """Mean over the recalls, in percent; NaN for a class without objects."""
    known = precision[precision > -1]
    return 100 * float(known.mean()) if known.size else math.nan
