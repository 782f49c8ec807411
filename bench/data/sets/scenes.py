"""Scenes of real digits for detection: stand-ins for COCO 2017 and VOC07+12 in exactly their layouts, no download.

A scene holds two to five digits of mnist5k at different sizes, some cut by the rim of the image, some half hidden
behind another. The digits of a split are seen in that split alone. An object is the ink of a digit with one pixel
around it; its mask is what is left to see of it, and its box is the box of that mask. What the scenes are not: ten
classes instead of 80 or 20, one object a kind of thing, an empty ground, 96 pixels. docs/detection.md has what was
measured on them.

    scenes_coco  annotations/instances_{train,val}2017.json with masks as run lengths, {train,val}2017/*.png
    scenes_voc   VOC2007 and VOC2012 with ImageSets/Main, Annotations/*.xml and JPEGImages/*.jpg
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeAlias
from xml.etree import ElementTree as Xml

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from bench.errors import BenchError
from bench.files import make_folder
from bench.seeding import generator

VERSION = 1  # raised when the scenes change
SIZE = 96  # pixels of a scene
TILE = 28  # of an mnist digit with its rim
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
Part: TypeAlias = Literal["train", "test"]
SCENES: Mapping[Part, int] = {"train": 200, "test": 300}
OBJECTS = (2, 5)  # least and most in a scene
STRETCH = (0.9, 1.7)  # of the tile: digits of 18 to 34 pixels
INK = 64  # gray level from which a pixel belongs to a digit
LEAST_INSIDE, LEAST_SEEN = 0.7, 0.5  # shares of a digit that lie in the image and that no other hides
HARD = 0.7  # a digit of which less is to be seen counts as difficult in VOC's sense


@dataclass(frozen=True)
class Scene:
    """One image (SIZE, SIZE) uint8 and its objects, back to front."""

    image_HW: Tensor
    labels: tuple[int, ...]
    masks_NHW: Tensor  # bool: what is to be seen of each
    seen: tuple[float, ...]  # share of each that is to be seen
    cut: tuple[bool, ...]  # by the rim

    def box(self, index: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of an object in pixels; right and bottom are the first outside of it."""
        rows, columns = self.masks_NHW[index].any(dim=1).nonzero(), self.masks_NHW[index].any(dim=0).nonzero()
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@lru_cache(maxsize=2)
def draw_scenes(part: Part) -> tuple[Scene, ...]:
    """The scenes of a split, always the same."""
    from bench.data.sets.digits import mnist5k

    digits = mnist5k()[part]
    rim = (digits.images.shape[-1] - TILE) // 2
    tiles, labels = digits.images[:, 0, rim:-rim, rim:-rim], digits.labels
    rng = generator(0, "scenes", part)
    order = iter(
        torch.cat(
            [torch.randperm(len(labels), generator=rng) for _ in range(1 + SCENES[part] * OBJECTS[1] // len(labels))]
        ).tolist()
    )
    return tuple(_draw(tiles, labels, order, rng) for _ in range(SCENES[part]))


def _draw(tiles: Tensor, labels: Tensor, order: Iterator[int], rng: torch.Generator) -> Scene:
    wanted = int(torch.randint(OBJECTS[0], OBJECTS[1] + 1, (1,), generator=rng))
    image = torch.zeros(SIZE, SIZE)
    masks: list[Tensor] = []
    areas: list[int] = []
    classes: list[int] = []
    cut: list[bool] = []
    for _ in range(wanted):
        row = next(order)
        for _attempt in range(30):
            ink = _stretched(tiles[row], rng)
            whole = _grown(ink >= INK)
            painted, mask = _placed(ink, whole, rng)
            area, inside = int(whole.sum()), int(mask.sum())
            left = [int((other & ~mask).sum()) for other in masks]
            if inside >= LEAST_INSIDE * area and all(
                seen >= LEAST_SEEN * full for seen, full in zip(left, areas, strict=True)
            ):
                masks = [other & ~mask for other in masks] + [mask]
                areas.append(area)
                classes.append(int(labels[row]))
                cut.append(inside < area)
                image = torch.where(mask, painted, image)
                break
    seen = tuple(int(mask.sum()) / area for mask, area in zip(masks, areas, strict=True))
    return Scene(image.round().to(torch.uint8), tuple(classes), torch.stack(masks), seen, tuple(cut))


def _stretched(tile_HW: Tensor, rng: torch.Generator) -> Tensor:
    low, high = STRETCH
    size = round(TILE * (low + (high - low) * float(torch.rand(1, generator=rng))))
    light = 0.7 + 0.3 * float(torch.rand(1, generator=rng))
    large = F.interpolate(tile_HW[None, None].float(), size=(size, size), mode="bilinear", antialias=True)[0, 0]
    return large * light


def _grown(mask_HW: Tensor) -> Tensor:
    """The mask and one pixel around it."""
    return F.max_pool2d(mask_HW[None].float(), 3, 1, 1)[0] > 0


def _placed(ink_hw: Tensor, whole_hw: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """The digit and its mask somewhere in an empty image; what reaches over the rim is cut off."""
    size, room = len(ink_hw), len(ink_hw) // 3
    top, left = torch.randint(-room, SIZE - size + room + 1, (2,), generator=rng).tolist()
    parts = []
    for part in (ink_hw, whole_hw.float()):
        canvas = torch.zeros(SIZE + 2 * room, SIZE + 2 * room)
        canvas[top + room : top + room + size, left + room : left + room + size] = part
        parts.append(canvas[room : room + SIZE, room : room + SIZE])
    return parts[0], parts[1] > 0


def run_lengths(mask_HW: Tensor) -> dict[str, list[int]]:
    """COCO's uncompressed run lengths: columns from the left, each downwards, beginning with the zeros."""
    flat = mask_HW.T.flatten()
    ends = (flat[1:] != flat[:-1]).nonzero().squeeze(1) + 1
    edges = [0, *ends.tolist(), len(flat)]
    counts = [b - a for a, b in pairwise(edges)]
    return {"size": list(mask_HW.shape), "counts": [0, *counts] if flat[0] else counts}


def scene_folder(name: str, size: int, cache: Path) -> Path:
    """The folder of `scenes_coco` or `scenes_voc` below a cache folder, written when it is not there yet.

    Raises BenchError for another size. Processes that write it at once each write their own, and the first one counts.
    """
    if size != SIZE:
        raise BenchError(f"{name} has scenes of {SIZE} px, the spec asks for {size}.")
    folder = cache / f"{name}-v{VERSION}"
    if folder.is_dir():
        return folder
    make_folder(cache)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=cache))
    try:
        (_write_coco if name == "scenes_coco" else _write_voc)(temporary)
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_coco(root: Path) -> None:
    parts: Mapping[str, Part] = {"train2017": "train", "val2017": "test"}
    for split, part in parts.items():
        (root / split).mkdir()
        images: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for number, scene in enumerate(draw_scenes(part), start=1):
            name = f"{number:012d}.png"
            Image.fromarray(scene.image_HW.numpy()).convert("RGB").save(root / split / name)
            images.append({"id": number, "file_name": name, "width": SIZE, "height": SIZE})
            for index, label in enumerate(scene.labels):
                left, top, right, bottom = scene.box(index)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": label + 1,
                        "bbox": [left, top, right - left, bottom - top],
                        "area": int(scene.masks_NHW[index].sum()),
                        "iscrowd": 0,
                        "segmentation": run_lengths(scene.masks_NHW[index]),
                    }
                )
        categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
        file = root / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(
            json.dumps(
                {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
            ),
            encoding="utf-8",
        )


def _write_voc(root: Path) -> None:
    train = draw_scenes("train")
    half = len(train) // 2
    for year, split, scenes in (
        ("2007", "trainval", train[:half]),
        ("2012", "trainval", train[half:]),
        ("2007", "test", draw_scenes("test")),
    ):
        folder = root / f"VOC{year}"
        for part in ("ImageSets/Main", "Annotations", "JPEGImages"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        names = [f"{split}_{number:06d}" for number in range(1, len(scenes) + 1)]
        (folder / "ImageSets/Main" / f"{split}.txt").write_text(
            "".join(f"{name}\n" for name in names), encoding="utf-8"
        )
        for name, scene in zip(names, scenes, strict=True):
            Image.fromarray(scene.image_HW.numpy()).convert("RGB").save(
                folder / "JPEGImages" / f"{name}.jpg", quality=95
            )
            Xml.ElementTree(_annotation(name, scene)).write(folder / "Annotations" / f"{name}.xml")


def _annotation(name: str, scene: Scene) -> Xml.Element:
    """VOC counts pixels from 1 and includes the last one."""
    root = Xml.Element("annotation")
    _texts(root, {"filename": f"{name}.jpg"})
    _texts(Xml.SubElement(root, "size"), {"width": SIZE, "height": SIZE, "depth": 3})
    for index, label in enumerate(scene.labels):
        thing = Xml.SubElement(root, "object")
        left, top, right, bottom = scene.box(index)
        _texts(
            thing,
            {
                "name": CLASSES[label],
                "pose": "Unspecified",
                "truncated": int(scene.cut[index]),
                "difficult": int(scene.seen[index] < HARD),
            },
        )
        _texts(Xml.SubElement(thing, "bndbox"), {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom})
    return root


def _texts(parent: Xml.Element, texts: Mapping[str, str | int]) -> None:
    for key, value in texts.items():
        Xml.SubElement(parent, key).text = str(value)
