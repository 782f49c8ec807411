"""A few test scenes with truth and predictions, small enough for a report: pictures.json in the run folder."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as run_length

from bench.data.decoding import rgb
from bench.data.sets.scenes import run_lengths
from bench.files import write_json
from evals.detection.data import Scenes

FORMAT = 1
SHOWN = 6  # scenes, evenly spread over the test images
SURE = 0.3  # least score of a prediction that is shown
LONGEST = 320  # pixels of a shown image


def write(found: Sequence[Mapping[str, Any]], scenes: Scenes, folder: Path) -> None:
    """Write the pictures of some test scenes; boxes are [left, top, width, height] in the pixels of the shown image."""
    items = DatasetCatalog.get(scenes.test)
    chosen = [items[place * len(items) // SHOWN] for place in range(min(SHOWN, len(items)))]
    by_image: dict[Any, list[Mapping[str, Any]]] = {item["image_id"]: [] for item in chosen}
    for one in found:
        if one["image_id"] in by_image and one["score"] >= SURE:
            by_image[one["image_id"]].append(one)
    write_json(
        folder / "pictures.json",
        {"format": FORMAT, "scenes": [_scene(item, by_image[item["image_id"]], scenes.classes) for item in chosen]},
    )


def _scene(item: Mapping[str, Any], predicted: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict[str, Any]:
    with Image.open(item["file_name"]) as file:
        image = Image.fromarray(rgb(file))
    share = min(1.0, LONGEST / max(image.size))
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    lossless = max(image.size) <= 128
    buffer = io.BytesIO()
    image.resize(size).save(buffer, "PNG" if lossless else "JPEG", quality=85)
    truth = [
        {
            "class": classes[one["category_id"]],
            "box": _scaled(BoxMode.convert(one["bbox"], one["bbox_mode"], BoxMode.XYWH_ABS), share),
            "mask": _mask(one.get("segmentation"), item, size),
        }
        for one in item["annotations"]
    ]
    shown = [
        {
            "class": classes[one["category_id"]],
            "score": round(float(one["score"]), 3),
            "box": _scaled(one["bbox"], share),
            "mask": _mask(one.get("segmentation"), item, size),
        }
        for one in predicted
    ]
    return {
        "image": base64.b64encode(buffer.getvalue()).decode(),
        "kind": "png" if lossless else "jpeg",
        "width": size[0],
        "height": size[1],
        "truth": truth,
        "predicted": shown,
    }


def _scaled(box: Sequence[float], share: float) -> list[float]:
    return [round(float(value) * share, 2) for value in box]


def _mask(shape: Any, item: Mapping[str, Any], size: tuple[int, int]) -> dict[str, list[int]] | None:
    """Polygons or run lengths -> uncompressed run lengths at the shown size."""
    if not shape:
        return None
    if isinstance(shape, list):
        shape = run_length.merge(run_length.frPyObjects(shape, item["height"], item["width"]))
    elif isinstance(shape["counts"], list):
        shape = run_length.frPyObjects(shape, *shape["size"])
    whole = Image.fromarray(run_length.decode(shape) * np.uint8(255))
    return run_lengths(torch.from_numpy(np.array(whole.resize(size)) > 127))
