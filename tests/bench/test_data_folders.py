from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from bench.data.datasets import open_split
from bench.data.loader import decode
from bench.data.location import check_present
from bench.data.sets.folders import VOC_CLASSES
from bench.data.splits import SPLITS, Files, Paths, Split
from bench.errors import BenchError
from bench.settings.site import Site
from bench.spec import Data
from tests.bench.data_trees import class_folders, files_below, inat, places, save, site_with, sun, voc, voc_label


def opened(name: str, site: Site, split: Split) -> Files:
    return cast(Files, open_split(Data(name=name, size=32), split, site))


def whole(name: str, site: Site, root: Path) -> dict[Split, Files]:
    """All splits; every image of the tree is in exactly one of them and can be decoded."""
    parts: dict[Split, Files] = {split: opened(name, site, split) for split in SPLITS}
    paths = [path for part in parts.values() for path in part.paths]
    assert len(paths) == len(set(paths))
    assert set(paths) == set(files_below(root))
    both = opened(name, site, "trainval")
    assert list(both.paths) == [*parts["train"].paths, *parts["val"].paths]
    assert torch.equal(both.labels, torch.cat([parts["train"].labels, parts["val"].labels]))
    for part in parts.values():
        assert len(part.labels) == len(part.paths)
        assert decode(part, len(part) - 1).shape == (3, 32, 32)
    return parts


# -- Places205 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", ["data/vision/torralba/deeplearning/images256", "images256"])
def test_places_is_read_off_its_lists(here: Site, tmp_path: Path, images: str) -> None:
    root = places(tmp_path / "places", images=images)
    parts = whole("places205", site_with(here, "places205", root), root)
    assert {name: len(part) for name, part in parts.items()} == {"train": 179, "val": 1, "test": 12}
    names = {"abbey": 0, "outdoor": 1, "volcano": 2}
    for part in parts.values():
        assert part.classes == 3
        assert part.labels.tolist() == [names[path.parent.name] for path in part.paths]
    assert all("val" in path.name for path in parts["test"].paths)


def test_places_may_be_class_folders(here: Site, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "places", (("train", 4), ("val", 2)), ("abbey", "volcano"), ".jpg")
    parts = whole("places205", site_with(here, "places205", root), root)
    assert {name: len(part) for name, part in parts.items()} == {"train": 7, "val": 1, "test": 4}


def broken_line(root: Path) -> None:
    file = root / "trainvalsplit_places205" / "train_places205.csv"
    file.write_text(file.read_text().replace(" 1\n", "\n", 1))


def lost_image(root: Path) -> None:
    next(root.rglob("gsun_train0003.jpg")).unlink()


def lost_class(root: Path) -> None:
    file = root / "trainvalsplit_places205" / "train_places205.csv"
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if not line.endswith(" 1\n")))


def lost_images(root: Path) -> None:
    (root / "data").rename(root / "pictures")


def fewer_classes(root: Path) -> None:
    file = root / "trainvalsplit_places205" / "val_places205.csv"
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if not line.endswith(" 2\n")))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            broken_line,
            (
                r"train_places205\.csv, line 61: expected a path and a class number, found "
                r"'c/cabin/outdoor/gsun_train0000\.jpg'"
            ),
        ),
        (
            lost_image,
            r"train_places205\.csv names 1 of 180 files that are not there, e\.g\. .*/gsun_train0003\.jpg: unpack",
        ),
        (lost_class, r"train_places205\.csv: no image of class 1\."),
        (lost_images, r"has the lists of Places205 but no images: expected .*images256"),
        (fewer_classes, r"the training list has 3 classes, the validation list 2"),
    ],
)
def test_places_that_is_not_whole_is_refused(
    here: Site, tmp_path: Path, harm: Callable[[Path], None], message: str
) -> None:
    root = places(tmp_path / "places")
    harm(root)
    with pytest.raises(BenchError, match=message):
        opened("places205", site_with(here, "places205", root), "train")


# -- iNaturalist -----------------------------------------------------------------------------------------------------


def test_inat_is_read_off_its_json(here: Site, tmp_path: Path) -> None:
    root = inat(tmp_path / "inat")
    parts = whole("inat18", site_with(here, "inat18", root), root)
    assert {name: len(part) for name, part in parts.items()} == {"train": 104, "val": 1, "test": 21}
    order = {"3": 0, "7": 1, "12": 2}  # by id, as numbers
    for part in parts.values():
        assert part.classes == 3
        assert part.labels.tolist() == [order[path.parent.name] for path in part.paths]
    assert parts["test"].labels.bincount().tolist() == [6, 10, 5]


def change(root: Path, file: str, work: Callable[[dict[str, Any]], object]) -> None:
    body = json.loads((root / file).read_text())
    work(body)
    (root / file).write_text(json.dumps(body))


@pytest.mark.parametrize(
    ("file", "work", "message"),
    [
        (
            "train2018.json",
            lambda b: b.pop("categories"),
            r"train2018\.json has no 'categories': expected the official JSON",
        ),
        ("val2018.json", lambda b: b.pop("annotations"), r"val2018\.json has no 'annotations'"),
        ("train2018.json", lambda b: b["annotations"].pop(), r"train2018\.json: 1 images without an annotation"),
        (
            "train2018.json",
            lambda b: b["annotations"][0].update(category_id=99),
            r"category 99 of an annotation is not among the 3 categories",
        ),
        (
            "val2018.json",
            lambda b: b["categories"].append({"id": 99}),
            r"train2018\.json and val2018\.json have other categories: 1 differ, e\.g\. 99",
        ),
        (
            "val2018.json",
            lambda b: b["images"][2].update(file_name="train_val2018/Aves/7/gone.jpg"),
            r"names 1 of 21 files .*Aves/7/gone\.jpg",
        ),
        ("train2018.json", lambda b: b["images"].clear() or b["annotations"].clear(), r"0 images in all"),
    ],
)
def test_inat_that_is_not_whole_is_refused(
    here: Site, tmp_path: Path, file: str, work: Callable[[dict[str, Any]], object], message: str
) -> None:
    root = inat(tmp_path / "inat")
    change(root, file, work)
    with pytest.raises(BenchError, match=message):
        opened("inat18", site_with(here, "inat18", root), "train")


def test_inat_json_that_was_cut_short_is_refused(here: Site, tmp_path: Path) -> None:
    root = inat(tmp_path / "inat")
    text = (root / "train2018.json").read_text()
    (root / "train2018.json").write_text(text[: len(text) // 2])
    with pytest.raises(BenchError, match=r"train2018\.json cannot be read"):
        opened("inat18", site_with(here, "inat18", root), "train")


# -- VOC2007 ---------------------------------------------------------------------------------------------------------


def test_voc_has_the_official_lists_and_three_kinds_of_labels(here: Site, tmp_path: Path) -> None:
    root = voc(tmp_path / "voc")
    parts = whole("voc2007", site_with(here, "voc2007", root), root)
    assert {name: len(part) for name, part in parts.items()} == {"train": 20, "val": 22, "test": 24}
    meaning = {"1": 1, "-1": 0, "0": -1}
    for part in parts.values():
        assert (part.labels.dtype, part.labels.shape, part.classes) == (torch.int8, (len(part), 20), 20)
        for path, row in zip(part.paths, part.labels.tolist(), strict=True):
            assert row == [meaning[voc_label(int(path.stem), column)] for column in range(20)]
    assert set(parts["test"].labels.flatten().tolist()) == {-1, 0, 1}


def main_list(root: Path, name: str) -> Path:
    return root / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / name


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda r: main_list(r, "sofa_val.txt").unlink(), r"sofa_val\.txt cannot be read \(No such file"),
        (
            lambda r: main_list(r, "aeroplane_test.txt").unlink(),
            r"aeroplane_test\.txt is missing; .*VOCtest_06-Nov-2007",
        ),
        (
            lambda r: main_list(r, "dog_train.txt").write_text("000000 2\n"),
            r"dog_train\.txt, line 1: expected an image and 1, 0 or -1, found '000000 2'",
        ),
        (
            lambda r: main_list(r, "dog_train.txt").write_text("000000 1\n"),
            r"dog_train\.txt lists other images than aeroplane_train\.txt",
        ),
        (lambda r: main_list(r, "aeroplane_val.txt").write_text(""), r"aeroplane_val\.txt is empty"),
        (
            lambda r: (r / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000041.jpg").unlink(),
            r"aeroplane_val\.txt names 1 of 22 files .*000041\.jpg",
        ),
        (lambda r: (r / "VOCdevkit").rename(r / "VOC"), r"VOCdevkit/VOC2007/ImageSets/Main is missing"),
    ],
)
def test_voc_that_is_not_whole_is_refused(
    here: Site, tmp_path: Path, harm: Callable[[Path], object], message: str
) -> None:
    root = voc(tmp_path / "voc")
    harm(root)
    with pytest.raises(BenchError, match=message):
        opened("voc2007", site_with(here, "voc2007", root), "train")


# -- smaller sets ----------------------------------------------------------------------------------------------------


def test_sun_is_its_first_partition(here: Site, tmp_path: Path) -> None:
    root = sun(tmp_path / "sun")
    parts = whole("sun397", site_with(here, "sun397", root), root)
    assert {name: len(part) for name, part in parts.items()} == {"train": 18, "val": 2, "test": 20}
    assert parts["val"].labels.tolist() == [0, 1]  # a tenth of each class
    for part in parts.values():
        assert part.labels.tolist() == [int(path.parent.name == "outdoor") for path in part.paths]


def test_sun_with_a_class_in_one_list_only_is_refused(here: Site, tmp_path: Path) -> None:
    root = sun(tmp_path / "sun")
    save(root / "SUN397" / "z" / "zoo" / "sun_1.jpg")
    with (root / "Partitions" / "Testing_01.txt").open("a") as file:
        file.write("/z/zoo/sun_1.jpg\n")
    with pytest.raises(BenchError, match=r"Testing_01\.txt: 1 classes are in one list only, e\.g\. z/zoo"):
        opened("sun397", site_with(here, "sun397", root), "train")


def test_caltech_trains_on_thirty_images_a_class_and_keeps_the_background(here: Site, tmp_path: Path) -> None:
    root = tmp_path / "caltech"
    names = ("BACKGROUND_Google", "ant", "wrench")
    for digit, (name, each) in enumerate(zip(names, (40, 31, 33), strict=True)):
        for number in range(each):
            save(root / "caltech101" / "101_ObjectCategories" / name / f"image_{number:04}.jpg", digit)
    parts = whole("caltech101", site_with(here, "caltech101", root), root)
    trained = Counter([*parts["train"].labels.tolist(), *parts["val"].labels.tolist()])
    assert trained == {0: 30, 1: 30, 2: 30}
    assert Counter(parts["val"].labels.tolist()) == {0: 3, 1: 3, 2: 3}
    assert Counter(parts["test"].labels.tolist()) == {0: 10, 1: 1, 2: 3}
    (root / "caltech101" / "101_ObjectCategories" / "ant" / "image_0000.jpg").unlink()
    moved = root.rename(tmp_path / "other")
    with pytest.raises(BenchError, match="ant holds 30 images, expected more than 30"):
        opened("caltech101", site_with(here, "caltech101", moved), "train")


def test_birdsnap_is_class_folders(here: Site, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birdsnap", (("train", 20), ("test", 3)), ("Auk", "Wren"), ".jpg")
    parts = whole("birdsnap", site_with(here, "birdsnap", root), root)
    assert {name: part.labels.bincount().tolist() for name, part in parts.items()} == {
        "train": [18, 18],
        "val": [2, 2],
        "test": [3, 3],
    }


# -- all -------------------------------------------------------------------------------------------------------------


def test_images_side_by_side_are_told_apart_from_an_empty_folder(here: Site, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "imagenet", (("train", 2),), ("n01440764", "n01443537"))
    for number in range(3):
        save(root / "val" / f"ILSVRC2012_val_{number:08}.JPEG")
    with pytest.raises(
        BenchError, match=r"val has no class folders.*Its 3 images lie side by side: sort them into class folders"
    ):
        opened("imagenet", site_with(here, "imagenet", root), "test")


def test_hidden_folders_are_no_classes(here: Site, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "imagenet", (("train", 2), ("val", 1)), ("n01440764", "n01443537"))
    (root / "train" / ".ipynb_checkpoints").mkdir()
    assert opened("imagenet", site_with(here, "imagenet", root), "test").classes == 2


def test_a_data_set_is_found_where_fetch_puts_it(here: Site) -> None:
    with pytest.raises(BenchError, match=r'add `voc2007 = "/path"` under \[data\].*`bench data fetch voc2007` gets it'):
        check_present("voc2007", here)
    voc(here.root / "data" / "voc2007")
    check_present("voc2007", here)
    assert len(opened("voc2007", here, "test")) == 24


def test_paths_are_a_sequence_of_paths(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("a.jpg", "é.jpg", "", "b c.png")]
    paths = Paths(names)
    assert (list(paths), len(paths), paths[-1], list(paths[1:3])) == (
        [Path(n) for n in names],
        4,
        Path(names[3]),
        [Path(n) for n in names[1:3]],
    )
    assert list(paths.names()) == names
    with pytest.raises(IndexError):
        paths[4]
    assert len(VOC_CLASSES) == 20
