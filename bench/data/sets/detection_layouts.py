"""Detection data on disk: COCO 2017 and VOC07+12 in their published layouts, and what may be wrong with a copy.

    coco      annotations/instances_{train,val}2017.json, {train,val}2017/*.jpg
    voc0712   VOC2007 and VOC2012, each with ImageSets/Main/*.txt, Annotations/*.xml and JPEGImages/*.jpg: trained on
              both
              trainval lists, tested on VOC2007's test list

A check names what would otherwise end a training after hours: missing annotations, boxes outside of their image, images
that are missing, have another size, or cannot be decoded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

from PIL import Image

from bench.data.location import root_of
from bench.data.sets import scenes
from bench.errors import BenchError
from bench.files import make_folder, write_json
from bench.identity import digest
from bench.machine import cores
from bench.settings.site import Site
from bench.spec import Data

COCO = ("coco", "scenes_coco")  # names of the catalogue in COCO's layout
VOC = ("voc0712", "scenes_voc")  # and in VOC's
COCO_SPLITS = ("train2017", "val2017")
VOC_SPLITS = (("2007", "trainval"), ("2012", "trainval"), ("2007", "test"))
VOC_CLASSES = (  # of the VOC challenges 2007 to 2012
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
SLACK = 1.0  # pixels by which a box may leave its image: both sets have annotations that are rounded so
NAMED = 20  # problems that are spelled out; the rest is counted
MISMATCH = "is {} x {} px, its annotation says {} x {}"


@dataclass(frozen=True)
class Picture:
    """An image file and the size (width, height) that its annotation claims."""

    file: Path
    size: tuple[int, int]


def detection_root(data: Data, site: Site, cache: Path) -> Path:
    """The folder of a detection data set; the embedded scenes are written below `cache` first. Raises BenchError."""
    if data.name in (COCO[1], VOC[1]):
        return scenes.scene_folder(data.name, data.size, cache)
    return root_of(data.name, site)


def class_names(data: Data) -> tuple[str, ...]:
    """Classes of a set in VOC's layout, which does not list them itself."""
    return scenes.CLASSES if data.name == VOC[1] else VOC_CLASSES


def check_whole(
    data: Data, root: Path, cache: Path, wait: Callable[[], None] | None = None, fingerprint: str = ""
) -> None:
    """Raises BenchError with the first problems.

    A copy that was found whole is not read again while its lists and its `fingerprint` stay as they are.

    With `wait` another process looks, and this one calls `wait` again and again until that has found the copy whole.
    """
    lists = sorted([*root.glob("annotations/instances_*2017.json"), *root.glob("VOC20*/ImageSets/Main/[!.]*.txt")])
    stamps = [f"{file.relative_to(root)} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in lists]
    mark = (
        cache
        / f"whole-{data.name}-{digest((str(root), fingerprint, *stamps) if fingerprint else (str(root), *stamps))}.json"
    )
    while wait is not None and not mark.exists():
        wait()
    if mark.exists():
        return
    problems = check_coco(root) if data.name in COCO else check_voc0712(root, class_names(data))
    if problems:
        shown = " ".join(problems[:3])
        more = f" And {len(problems) - 3} more: `bench data check {data.name}` lists them." if len(problems) > 3 else ""
        raise BenchError(f"data set {data.name!r} in {root} is not whole. {shown}{more}")
    make_folder(cache)
    write_json(mark, {"root": str(root), "lists": stamps})


def numbers(root: Path, *, coco: bool) -> tuple[int, int]:
    """Images that are listed for training and for testing.

    0 where a list is missing or damaged, which the checks name.
    """
    if coco:
        train, test = (len(_read_coco(root, split)[1]) for split in COCO_SPLITS)
        return train, test
    lists = [root / f"VOC{year}" / "ImageSets" / "Main" / f"{split}.txt" for year, split in VOC_SPLITS]
    counts = [len(_listed(file)) if file.is_file() else 0 for file in lists]
    return counts[0] + counts[1], counts[2]


def check_coco(root: Path, *, decode: bool = True) -> list[str]:
    """What is wrong with a copy of COCO 2017, one sentence each, [] when nothing is.

    `decode`: also open every image.
    """
    found: list[str] = []
    for split in COCO_SPLITS:
        problems, pictures = _read_coco(root, split)
        found += [f"{split}: {problem}" for problem in _shortened(problems)]
        found += [f"{split}: {problem}" for problem in _shortened(_images(pictures, decode=decode))]
    return found


def check_voc0712(root: Path, classes: Sequence[str] = VOC_CLASSES, *, decode: bool = True) -> list[str]:
    """What is wrong with a VOCdevkit that holds VOC2007 and VOC2012, as `check_coco`."""
    found: list[str] = []
    for year, split in VOC_SPLITS:
        problems, pictures = _read_voc(root / f"VOC{year}", split, classes)
        found += [f"VOC{year} {split}: {problem}" for problem in _shortened(problems)]
        found += [f"VOC{year} {split}: {problem}" for problem in _shortened(_images(pictures, decode=decode))]
    return found


def _read_coco(root: Path, split: str) -> tuple[list[str], list[Picture]]:
    file = root / "annotations" / f"instances_{split}.json"
    if not file.is_file():
        return [f"{file} is missing."], []
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
        images = {image["id"]: image for image in body["images"]}
        categories = {category["id"] for category in body["categories"]}
        annotations = body["annotations"]
        pictures = [
            Picture(root / split / image["file_name"], (image["width"], image["height"])) for image in images.values()
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{file} cannot be read as COCO annotations ({type(error).__name__}: {error})."], []
    problems = list(_coco_problems(annotations, images, categories))
    if not annotations:
        problems.append(f"{file} has no annotations.")
    return problems, pictures


def _coco_problems(
    annotations: Iterable[Mapping[str, Any]], images: Mapping[int, Mapping[str, Any]], categories: set[int]
) -> Iterator[str]:
    for one in annotations:
        name = f"annotation {one.get('id')}"
        if one.get("image_id") not in images:
            yield f"{name} is of image {one.get('image_id')}, which is not listed."
            continue
        image = images[one["image_id"]]
        if one.get("category_id") not in categories:
            yield f"{name} has the category {one.get('category_id')}, which is not listed."
        if not one.get("segmentation"):
            yield f"{name} has no mask."
        box = one.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, int | float) for v in box):
            yield f"{name} has the box {box!r}, expected x, y, width, height."
            continue
        x, y, width, height = box
        yield from _outside(
            name, (x, y, x + width, y + height), (image["width"], image["height"]), str(image["file_name"])
        )


def _listed(file: Path) -> list[str]:
    """The names in a list of images, which may be in any encoding: they are names of files."""
    return file.read_text(encoding="utf-8", errors="surrogateescape").split()


def _read_voc(folder: Path, split: str, classes: Sequence[str]) -> tuple[list[str], list[Picture]]:
    listed = folder / "ImageSets" / "Main" / f"{split}.txt"
    if not listed.is_file():
        return [f"{listed} is missing."], []
    names = _listed(listed)
    problems = [] if names else [f"{listed} lists no image."]
    pictures = []
    for name in names:
        file = folder / "Annotations" / f"{name}.xml"
        try:
            tree = Xml.parse(file).getroot()
            width, height = (int(_text(tree, f"size/{side}")) for side in ("width", "height"))
            problems += _voc_problems(tree, name, (width, height), classes)
        except FileNotFoundError:
            problems.append(f"{file} is missing.")
            continue
        except (OSError, ValueError, Xml.ParseError) as error:
            problems.append(f"{file} cannot be read as a VOC annotation ({error}).")
            continue
        pictures.append(Picture(folder / "JPEGImages" / f"{name}.jpg", (width, height)))
    return problems, pictures


def _voc_problems(tree: Xml.Element, name: str, size: tuple[int, int], classes: Sequence[str]) -> Iterator[str]:
    things = tree.findall("object")
    if not things:
        yield f"{name} has no object."
    for thing in things:
        if _text(thing, "name") not in classes:
            yield f"{name} has an object {_text(thing, 'name')!r}, which is none of the {len(classes)} classes."
        left, top, right, bottom = (float(_text(thing, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
        yield from _outside(name, (left - 1, top - 1, right, bottom), size, name)


def _text(element: Xml.Element, path: str) -> str:
    found = element.findtext(path)
    if found is None:
        raise ValueError(f"no {path}")
    return found


def _outside(name: str, box: tuple[float, float, float, float], size: tuple[int, int], image: str) -> Iterator[str]:
    left, top, right, bottom = box
    width, height = size
    inside = left >= -SLACK and top >= -SLACK and right <= width + SLACK and bottom <= height + SLACK
    if not (inside and right >= left and bottom >= top):
        corners = ", ".join(f"{value:g}" for value in box)
        yield (
            f"{name} has a box from left, top to right, bottom ({corners}) outside of {image}, which has {width} x "
            f"{height} px."
        )


def _images(pictures: Sequence[Picture], *, decode: bool) -> list[str]:
    """Problems of the image files, in their order. Pillow decodes outside of Python's lock, so threads do."""
    look: Callable[[Picture], str] = _decoded if decode else _present
    with ThreadPoolExecutor(max_workers=min(16, cores())) as pool:
        return [problem for problem in pool.map(look, pictures) if problem]


def _present(picture: Picture) -> str:
    return "" if picture.file.is_file() else f"{picture.file} is missing."


def _decoded(picture: Picture) -> str:
    try:
        with Image.open(picture.file) as image:
            if image.size != picture.size:
                return f"{picture.file} {MISMATCH.format(*image.size, *picture.size)}."
            image.load()
            if image.mode == "F" or image.mode.startswith("I"):  # Detectron2 converts by Pillow, which cuts at 255
                return f"{picture.file} has more than 8 bits (mode {image.mode}): save it with 8."
    except FileNotFoundError:
        return f"{picture.file} is missing."
    except Exception as error:  # Pillow raises many kinds for a damaged file
        return f"{picture.file} cannot be decoded ({type(error).__name__})."
    return ""


def _shortened(problems: list[str]) -> list[str]:
    rest = len(problems) - NAMED
    return problems if rest <= 0 else [*problems[:NAMED], f"and {rest:,} more of this kind."]
