"""Data sets as their makers publish them: folders of images, lists of files, COCO-style JSON. All are `Files`.

Opening one reads lists and folder listings, no image. Each loader raises BenchError for a tree that is not whole: a
class without images, a list that names a missing file, an annotation of an unknown category. `val` is held out of the
official training images, always the same; `test` holds the official validation or test images, whichever papers report
on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import compress, count
from pathlib import Path

import torch
from torch import Tensor

from bench.data.fingerprint import PLACES_IMAGES, PLACES_LISTS
from bench.data.location import root_of
from bench.data.sets.class_folders import Tree, names_in, scan_folder, without_hidden
from bench.data.splits import Files, Paths, Split, SplitData, hold_out
from bench.errors import BenchError
from bench.seeding import generator
from bench.settings.site import Site

# In the order of the VOC2007 development kit.
# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
VOC_VALUES = {"1": 1, "-1": 0, "0": -1}  # of the lists: present, absent, present but difficult
CALTECH_TRAIN = 30  # images a class
DIGITS = 9  # of a class number; more are no class number


def load_imagenet(site: Site, size: int) -> Mapping[Split, SplitData]:
    """`train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG`; `val` is a seeded 1 % of the training images."""
    return _image_folder(root_of("imagenet", site))


def load_places205(site: Site, size: int) -> Mapping[Split, SplitData]:
    """The official lists in `trainvalsplit_places205/`, or `train/<class>` and `val/<class>` folders.

    A list has a path and a class number a line.
    """
    root = root_of("places205", site)
    return _places_lists(root) if (root / PLACES_LISTS).is_dir() else _image_folder(root)


def load_inat18(site: Site, size: int) -> Mapping[Split, SplitData]:
    """`train2018.json` and `val2018.json` with the images below `train_val2018/`."""
    return _inat(root_of("inat18", site))


def load_voc2007(site: Site, size: int) -> Mapping[Split, SplitData]:
    """`VOCdevkit/VOC2007`: the official train, val and test lists of 20 classes, several classes an image.

    What the lists mark as difficult is -1 (not counted) in every split.
    """
    return _voc(root_of("voc2007", site) / "VOCdevkit" / "VOC2007")


def load_birdsnap(site: Site, size: int) -> Mapping[Split, SplitData]:
    """`train/<species>` and `test/<species>` folders: the official archive holds addresses, and many have gone."""
    return _image_folder(root_of("birdsnap", site), test="test", share=0.1)


def load_sun397(site: Site, size: int) -> Mapping[Split, SplitData]:
    """The first of the ten official partitions, as SimCLR (arXiv:2002.05709, appendix B.8.1)."""
    return _sun(root_of("sun397", site))


def load_caltech101(site: Site, size: int) -> Mapping[Split, SplitData]:
    """30 random training images a class, the rest is the test set (SimCLR, appendix B.8.1).

    With the background folder as a class of its own: only so do 102 x 30 = 3,060 of 9,144 images train, as published.
    torchvision's Caltech101 leaves it out.
    """
    return _caltech(root_of("caltech101", site) / "caltech101" / "101_ObjectCategories")


@lru_cache(maxsize=2)
def _image_folder(root: Path, test: str = "val", share: float = 0.01) -> Mapping[Split, SplitData]:
    train = scan_folder(root / "train")
    whole = _files(train)
    tested = _files(scan_folder(root / test, train.classes))
    if share == 0.01:
        kept, held = _random_hundredth(len(whole), "held out")
    else:
        kept, held = hold_out(whole.labels, max(1, int(share * len(whole))), root.name)
    return {
        "train": whole.rows(kept),
        "val": whole.rows(held),
        "test": tested,
    }


def _files(tree: Tree) -> Files:
    return Files(Paths(tree.paths), torch.tensor(tree.labels), len(tree.classes), tree.left_out)


def _random_hundredth(count: int, purpose: str) -> tuple[Tensor, Tensor]:
    """For large sets, whatever the class: rare species keep their few training images."""
    order = torch.randperm(count, generator=generator(0, purpose))
    held = max(1, count // 100)
    return order[held:].sort().values, order[:held].sort().values


@lru_cache(maxsize=2)
def _places_lists(root: Path) -> Mapping[Split, SplitData]:
    images = next((root / folder for folder in PLACES_IMAGES if (root / folder).is_dir()), None)
    if images is None:
        raise BenchError(
            f"{root} has the lists of Places205 but no images: expected {root / PLACES_IMAGES[0]} or "
            f"{root / PLACES_IMAGES[1]}."
        )
    train = _listed(root / PLACES_LISTS / "train_places205.csv", images)
    test = _listed(root / PLACES_LISTS / "val_places205.csv", images)
    if train.classes != test.classes:
        raise BenchError(
            f"{root / 'trainvalsplit_places205'}: the training list has {train.classes} classes, the validation list "
            f"{test.classes}."
        )
    kept, held = _random_hundredth(len(train), "held out")
    return {"train": train.rows(kept), "val": train.rows(held), "test": test}


def _listed(file: Path, images: Path) -> Files:
    """Files of a list with a path and a class number a line."""
    names, labels = [], []
    for number, line in enumerate(read_lines(file), 1):
        name, _, label = line.rpartition(" ")
        if not name or not label.isdecimal() or len(label) > DIGITS:
            raise BenchError(f"{file}, line {number}: expected a path and a class number, found {line[:80]!r}.")
        names.append(name.lstrip("/"))
        labels.append(int(label))
    keep, left_out = without_hidden(names, file)
    names, labels = list(compress(names, keep)), list(compress(labels, keep))
    known, classes = set(labels), max(labels) + 1
    if len(known) < classes:
        first, more = next(label for label in count() if label not in known), classes - len(known) - 1
        raise BenchError(f"{file}: no image of class {first}" + (f" and {more:,} more classes." if more > 0 else "."))
    check_there(images, names, file)
    return Files(Paths(f"{images}/{name}" for name in names), torch.tensor(labels), classes, left_out)


@lru_cache(maxsize=2)
def _inat(root: Path) -> Mapping[Split, SplitData]:
    train, known = _coco(root, root / "train2018.json")
    test, others = _coco(root, root / "val2018.json")
    if known != others:
        odd = sorted(known ^ others)
        raise BenchError(
            f"{root}: train2018.json and val2018.json have other categories: {len(odd)} differ, e.g. {odd[0]}."
        )
    kept, held = _random_hundredth(len(train), "inat18")
    return {"train": train.rows(kept), "val": train.rows(held), "test": test}


def _coco(root: Path, file: Path) -> tuple[Files, set[int]]:
    """Files and category ids of a JSON with one annotation an image. Classes are numbered in the order of the ids."""
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
        ids = sorted({int(category["id"]) for category in body["categories"]})
        names = {image["id"]: str(image["file_name"]) for image in body["images"]}
        found = {a["image_id"]: int(a["category_id"]) for a in body["annotations"]}
        os.fsencode("".join(names.values()))
        twice = len(body["images"]) - len(names) + len(body["annotations"]) - len(found)
    except (ValueError, KeyError, TypeError, OSError, OverflowError, RecursionError) as error:
        what = f"has no {error}" if isinstance(error, KeyError) else f"cannot be read ({error})"
        raise BenchError(
            f"{file} {what}: expected the official JSON with images, annotations and categories."
        ) from error
    if twice:
        raise BenchError(f"{file}: {twice} images have an id or an annotation twice, expected one of each.")
    bare = names.keys() ^ found.keys()
    if bare or not names:
        raise BenchError(
            f"{file}: {len(bare)} images without an annotation or annotations without an image; {len(names)} images "
            "in all."
        )
    labels = {category: label for label, category in enumerate(ids)}
    odd = set(found.values()) - labels.keys()
    if odd:
        raise BenchError(f"{file}: category {min(odd)} of an annotation is not among the {len(ids)} categories.")
    keep, left_out = without_hidden(names.values(), file)
    shown = {key: name for (key, name), kept in zip(names.items(), keep, strict=True) if kept}
    check_there(root, list(shown.values()), file)
    return Files(
        Paths(f"{root}/{name}" for name in shown.values()),
        torch.tensor([labels[found[key]] for key in shown]),
        len(ids),
        left_out,
    ), set(ids)


@lru_cache(maxsize=2)
def _voc(root: Path) -> Mapping[Split, SplitData]:
    return {split: _voc_split(root, split) for split in ("train", "val", "test")}


def _voc_split(root: Path, split: str) -> Files:
    columns: list[list[int]] = []
    first: list[str] = []
    for name in VOC_CLASSES:
        file = root / "ImageSets" / "Main" / f"{name}_{split}.txt"
        rows = [line.split() for line in read_lines(file)]
        for number, row in enumerate(rows, 1):
            if len(row) != 2 or row[1] not in VOC_VALUES:
                raise BenchError(
                    f"{file}, line {number}: expected an image and 1, 0 or -1, found {' '.join(row)[:80]!r}."
                )
        images = [row[0] for row in rows]
        first = first or images
        if images != first:
            raise BenchError(
                f"{file} lists other images than {VOC_CLASSES[0]}_{split}.txt: unpack the archives of VOC2007 anew."
            )
        columns.append([VOC_VALUES[row[1]] for row in rows])
    keep, left_out = without_hidden(first, root / "ImageSets" / "Main")
    names = [f"JPEGImages/{image}.jpg" for image in compress(first, keep)]
    check_there(root, names, root / "ImageSets" / "Main" / f"{VOC_CLASSES[0]}_{split}.txt")
    return Files(
        Paths(f"{root}/{name}" for name in names),
        torch.tensor(columns, dtype=torch.int8)[:, torch.tensor(keep)].T.contiguous(),
        len(VOC_CLASSES),
        left_out,
    )


@lru_cache(maxsize=2)
def _sun(root: Path) -> Mapping[Split, SplitData]:
    listed, left_out = {}, {}
    for part in ("Training", "Testing"):
        lines = [line.lstrip("/") for line in read_lines(root / "Partitions" / f"{part}_01.txt")]
        keep, left_out[part] = without_hidden(lines, root / "Partitions" / f"{part}_01.txt")
        listed[part] = list(compress(lines, keep))
    classes = sorted({name.rpartition("/")[0] for name in listed["Training"]})
    numbers = {name: label for label, name in enumerate(classes)}
    made = {}
    for part, names in listed.items():
        file = root / "Partitions" / f"{part}_01.txt"
        odd = sorted({name.rpartition("/")[0] for name in names} ^ numbers.keys())
        if odd:
            raise BenchError(f"{file}: {len(odd)} classes are in one list only, e.g. {odd[0]}.")
        check_there(root / "SUN397", names, file)
        labels = torch.tensor([numbers[name.rpartition("/")[0]] for name in names])
        made[part] = Files(Paths(f"{root}/SUN397/{name}" for name in names), labels, len(classes), left_out[part])
    train = made["Training"]
    kept, held = hold_out(train.labels, max(1, len(train) // 10), "sun397")
    return {"train": train.rows(kept), "val": train.rows(held), "test": made["Testing"]}


@lru_cache(maxsize=2)
def _caltech(folder: Path) -> Mapping[Split, SplitData]:
    whole, classes = _files(tree := scan_folder(folder)), tree.classes
    chosen = torch.zeros(len(whole), dtype=torch.bool)
    for label, name in enumerate(classes):
        members = (whole.labels == label).nonzero().squeeze(1)
        if len(members) <= CALTECH_TRAIN:
            raise BenchError(
                f"{folder / name} holds {len(members)} images, expected more than {CALTECH_TRAIN}, which are taken "
                "for training."
            )
        chosen[members[torch.randperm(len(members), generator=generator(0, "caltech101", label))[:CALTECH_TRAIN]]] = (
            True
        )
    train = whole.rows(chosen.nonzero().squeeze(1))
    kept, held = hold_out(train.labels, len(train) // 10, "caltech101")
    return {"train": train.rows(kept), "val": train.rows(held), "test": whole.rows((~chosen).nonzero().squeeze(1))}


def read_lines(file: Path) -> list[str]:
    """The lines without the blanks around them, in the form that folders list names in: bytes of any encoding.

    Raises BenchError when there are none.
    """
    try:
        lines = [os.fsdecode(line.strip()) for line in file.read_bytes().rstrip().splitlines()]
    except OSError as error:
        raise BenchError(f"{file} cannot be read ({error.strerror or error}).") from error
    if not lines:
        raise BenchError(f"{file} is empty.")
    return lines


def check_there(base: Path, names: Sequence[str], source: Path) -> None:
    """Raises BenchError for names below `base` that do not exist. Lists each folder once: no look at every file."""
    listings: dict[str, set[str]] = {}
    missing = []
    for name in names:
        folder, _, file = name.rpartition("/")
        if folder not in listings:
            where = Path(f"{base}/{folder}")  # as the paths are made: a name from the root on stays below the base
            listings[folder] = names_in(where)
        if file not in listings[folder]:
            missing.append(name)
    if missing:
        raise BenchError(
            f"{source} names {len(missing)} of {len(names)} files that are not there, e.g. {base / missing[0]}: "
            "unpack the images anew."
        )
