"""What a detection job shows: a few test scenes, the truth above and predictions below, and the AP of each class."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from bench.files import Json
from reports.figures import svg

INCHES = 1.5  # width of one scene
STRENGTH = 0.55  # of a mask's colour over the image
MOST = 12  # objects drawn on one image


def scene_figure(scenes: Sequence[Mapping[str, Json]], *, name: str, title: str) -> str:
    """The scenes side by side as one SVG; "" without a scene that can be read."""
    drawn = [(image, scene) for scene in scenes if (image := _image(scene)) is not None]
    if not drawn:
        return ""
    with svg.drawing_style():
        tallest = max(image.shape[0] / image.shape[1] for image, _ in drawn)
        figure = Figure(figsize=(INCHES * len(drawn) + 0.25, 2 * INCHES * tallest + 0.35))
        grid = figure.subplots(2, len(drawn), squeeze=False)
        figure.subplots_adjust(
            left=0.25 / figure.get_figwidth(), right=0.995, bottom=0.01, top=1 - 0.02, wspace=0.05, hspace=0.05
        )
        for column, (image, scene) in enumerate(drawn):
            for axes, kind in zip(grid[:, column], ("truth", "predicted"), strict=True):
                _draw(axes, image, _objects(scene, kind))
        for axes, text in zip(grid[:, 0], ("ground truth", "predicted"), strict=True):
            axes.set_ylabel(text)
        return svg.to_svg(figure, name=name, title=title)


def class_rows(details: Mapping[str, Json]) -> tuple[list[str], list[tuple[str, list[float | None]]]]:
    """Columns and rows of the table of AP per class, in percent; nothing for a job of another kind."""
    classes = details.get("ap_per_class")
    if not isinstance(classes, dict) or not classes:
        return [], []
    columns = list(dict.fromkeys(key for own in classes.values() if isinstance(own, dict) for key in own))
    rows = [
        (text, [_number(own.get(key)) for key in columns]) for text, own in classes.items() if isinstance(own, dict)
    ]
    return columns, rows


def _number(value: Json) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _image(scene: Mapping[str, Json]) -> NDArray[np.uint8] | None:
    try:
        with Image.open(io.BytesIO(base64.b64decode(str(scene["image"]), validate=True))) as file:
            return np.asarray(file.convert("RGB"))
    except (KeyError, OSError, ValueError, binascii.Error):
        return None


def _objects(scene: Mapping[str, Json], kind: str) -> list[dict[str, Json]]:
    found = scene.get(kind)
    return [one for one in found if isinstance(one, dict) and _box(one)][:MOST] if isinstance(found, list) else []


def _box(one: Mapping[str, Json]) -> tuple[float, float, float, float] | None:
    """Left, top, width, height in pixels."""
    box = one.get("box")
    values = [_number(value) for value in box] if isinstance(box, list) else []
    if len(values) != 4 or None in values:
        return None
    return values[0], values[1], values[2], values[3]  # type: ignore[return-value]


def _draw(axes: Axes, image: NDArray[np.uint8], objects: Sequence[Mapping[str, Json]]) -> None:
    labels = sorted({str(one.get("class")) for one in objects})
    colours = {label: svg.SERIES[_place(label) % len(svg.SERIES)] for label in labels}
    shown = image.astype(np.float64) / 255
    for one in objects:
        mask = _mask(one.get("mask"), image.shape[:2])
        if mask is not None:
            shown[mask] = (1 - STRENGTH) * shown[mask] + STRENGTH * np.array(to_rgb(colours[str(one.get("class"))]))
    axes.imshow((shown * 255).round().astype(np.uint8), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for one in objects:
        box = _box(one)
        if box is None:
            continue
        colour = colours[str(one.get("class"))]
        axes.add_patch(Rectangle(box[:2], box[2], box[3], fill=False, edgecolor=colour, linewidth=1.2))
        score = _number(one.get("score"))
        text = str(one.get("class")) + ("" if score is None else f" {score:.2f}")
        label = {"facecolor": colour, "edgecolor": "none", "pad": 0.6}
        axes.text(
            box[0],
            max(box[1], 0.08 * image.shape[0]),
            text,
            color="white",
            fontsize=5.5,
            va="bottom",
            bbox=label,
            clip_on=True,
        )


def _place(label: str) -> int:
    """The same colour for a class on every page."""
    return sum(label.encode())


def _mask(lengths: Json, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Uncompressed run lengths (columns, beginning with the zeros) -> (H, W); None without a mask of this size."""
    if not isinstance(lengths, dict):
        return None
    counts = lengths.get("counts")
    if (
        lengths.get("size") != list(shape[:2])
        or not isinstance(counts, list)
        or not all(isinstance(n, int) and n >= 0 for n in counts)
    ):
        return None
    values = np.arange(len(counts)) % 2 == 1
    flat = np.repeat(values, np.array(counts, dtype=np.int64))
    return flat.reshape(shape[1], shape[0]).T if flat.size == shape[0] * shape[1] else None
