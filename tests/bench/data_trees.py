"""Small trees in the layouts of published data sets, made of real digits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

from PIL import Image

from bench.data.sets.digits import mnist5k
from bench.data.sets.folders import VOC_CLASSES
from bench.settings.site import Site

_next = count()


def save(file: Path, digit: int | None = None) -> Path:
    """The next real digit as JPEG or PNG, of one class or of any."""
    images, labels = mnist5k()["train"].images, mnist5k()["train"].labels
    number = next(_next)
    row = number % len(labels) if digit is None else int((labels == digit).nonzero()[number % 350])
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(images[row].permute(1, 2, 0).numpy()).save(file)
    return file


def site_with(here: Site, name: str, root: Path) -> Site:
    return replace(here, data={**here.data, name: root})


def class_folders(root: Path, parts: Iterable[tuple[str, int]], classes: Iterable[str], suffix: str = ".JPEG") -> Path:
    """`<part>/<class>/<class>_<number>` with so many images a class."""
    for part, each in parts:
        for digit, name in enumerate(classes):
            for number in range(each):
                save(root / part / name / f"{name}_{number}{suffix}", digit % 10)
    return root


def places(
    root: Path, train: int = 60, test: int = 4, images: str = "data/vision/torralba/deeplearning/images256"
) -> Path:
    """Places205 with its lists and three classes, one of them in a folder deeper than the others."""
    classes = ("a/abbey", "c/cabin/outdoor", "v/volcano")
    for part, each in (("train", train), ("val", test)):
        lines = []
        for label, name in enumerate(classes):
            for number in range(each):
                file = f"{name}/gsun_{part}{number:04}.jpg"
                save(root / images / file, label)
                lines.append(f"{file} {label}")
        lists = root / "trainvalsplit_places205"
        lists.mkdir(exist_ok=True)
        (lists / f"{part}_places205.csv").write_text("\n".join(lines) + "\n")
    return root


def inat(root: Path) -> Path:
    """iNaturalist 2018 with three species of two kinds, whose ids are not 0, 1, 2, and unequal numbers."""
    species = {7: ("Aves", 50), 3: ("Aves", 30), 12: ("Plantae", 25)}
    number = 0
    for part, share in (("train", 1), ("val", 5)):
        body: dict[str, list[dict[str, object]]] = {"images": [], "annotations": [], "categories": []}
        for key, (kind, each) in species.items():
            body["categories"].append({"id": key, "name": str(key), "supercategory": kind})
            for _ in range(each // share):
                number += 1
                name = f"train_val2018/{kind}/{key}/{number:032x}.jpg"
                save(root / name, key % 10)
                body["images"].append({"id": 1000 + number, "file_name": name, "width": 32, "height": 32})
                body["annotations"].insert(0, {"id": number, "image_id": 1000 + number, "category_id": key})
        (root / f"{part}2018.json").write_text(json.dumps(body))
    return root


def voc_label(number: int, column: int) -> str:
    """What the lists say of an image: one class for sure, the next one difficult."""
    return {0: "1", 1: "0"}.get((column - number) % len(VOC_CLASSES), "-1")


def voc(root: Path) -> Path:
    """VOCdevkit/VOC2007 with 20 + 22 + 24 images."""
    base = root / "VOCdevkit" / "VOC2007"
    (base / "ImageSets" / "Main").mkdir(parents=True)
    first = 0
    for part, images in (("train", 20), ("val", 22), ("test", 24)):
        numbers = range(first, first + images)
        first += images
        for number in numbers:
            save(base / "JPEGImages" / f"{number:06}.jpg")
        for column, name in enumerate(VOC_CLASSES):
            lines = [f"{number:06} {voc_label(number, column):>2}" for number in numbers]
            (base / "ImageSets" / "Main" / f"{name}_{part}.txt").write_text("\n".join(lines) + "\n")
    return root


def sun(root: Path, each: int = 10) -> Path:
    """SUN397 with its first partition: two classes, one of them a sub-folder."""
    for part, begin in (("Training", 0), ("Testing", each)):
        lines = []
        for digit, name in enumerate(("/a/abbey", "/a/apartment_building/outdoor")):
            for number in range(begin, begin + each):
                lines.append(f"{name}/sun_{number:04}.jpg")
                save(root / f"SUN397{lines[-1]}", digit)
        (root / "Partitions").mkdir(exist_ok=True)
        (root / "Partitions" / f"{part}_01.txt").write_text("\n".join(lines) + "\n")
    return root


def files_below(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
