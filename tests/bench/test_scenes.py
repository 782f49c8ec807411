"""Scenes of digits in COCO's and VOC's layouts, and the checks of such layouts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import numpy as np
import pytest
import torch
from PIL import Image

from bench.commands.data.check import check_data
from bench.data.catalogue import CATALOGUE
from bench.data.datasets import open_split
from bench.data.sets import detection_layouts as layouts
from bench.data.sets import scenes
from bench.errors import BenchError
from bench.settings.site import Site
from bench.spec import Data


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "SCENES", {"train": 8, "test": 6})
    scenes.draw_scenes.cache_clear()


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return scenes.scene_folder("scenes_coco", 96, tmp_path)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return scenes.scene_folder("scenes_voc", 96, tmp_path)


def boxes_of(root: Path, split: str) -> dict[int, list[dict[str, Any]]]:
    body = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
    found: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in body["images"]}
    for one in body["annotations"]:
        found[one["image_id"]].append(one)
    return found


def test_objects_stand_where_their_boxes_and_masks_say(coco: Path) -> None:
    for number, objects in boxes_of(coco, "val2017").items():
        image = np.asarray(Image.open(coco / "val2017" / f"{number:012d}.png"))[:, :, 0]
        covered = np.zeros_like(image, dtype=int)
        assert 2 <= len(objects) <= 5 or len(objects) == 1
        for one in objects:
            lengths = one["segmentation"]
            mask = decoded(lengths)
            x, y, width, height = one["bbox"]
            rows, columns = np.nonzero(mask)
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x, y, x + width, y + height)
            assert mask.sum() == one["area"]
            assert image[mask].max() > 100  # there is ink in it
            covered += mask
        assert covered.max() == 1  # what one object hides is not another's
        assert not image[covered == 0].any()  # and all ink belongs to one


def decoded(lengths: Mapping[str, list[int]]) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    height, width = lengths["size"]
    flat, value = [], False
    for count in lengths["counts"]:
        flat += [value] * count
        value = not value
    return np.array(flat).reshape(width, height).T


def test_run_lengths_are_pycocotools_run_lengths() -> None:
    from evals.detection.compat import quiet

    run_length = pytest.importorskip("pycocotools.mask", reason="pycocotools comes with `make detection`")
    for seed in range(5):
        mask = torch.rand(7, 5, generator=torch.Generator().manual_seed(seed)) < 0.5
        mask[0, 0] = bool(seed % 2)
        lengths = scenes.run_lengths(mask)
        with quiet():
            theirs = run_length.decode(run_length.frPyObjects(lengths, 7, 5))
        assert (theirs == mask.numpy()).all()


def test_some_digits_are_cut_and_some_hidden_but_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "SCENES", {"train": 40, "test": 4})
    scenes.draw_scenes.cache_clear()
    drawn = scenes.draw_scenes("train")
    seen = [share for scene in drawn for share in scene.seen]
    assert min(seen) >= 0.5
    assert sum(share < 0.95 for share in seen) > 10
    assert any(cut for scene in drawn for cut in scene.cut)
    assert {label for scene in drawn for label in scene.labels} == set(range(10))


def test_both_layouts_show_the_same_scenes_and_the_test_scenes_are_held_out(coco: Path, voc: Path) -> None:
    body = boxes_of(coco, "val2017")
    for number, objects in body.items():
        tree = Xml.parse(voc / "VOC2007" / "Annotations" / f"test_{number:06d}.xml").getroot()
        corners = [
            [int(box.findtext(side) or -1) for side in ("xmin", "ymin", "xmax", "ymax")] for box in tree.iter("bndbox")
        ]
        assert corners == [[x + 1, y + 1, x + w, y + h] for x, y, w, h in (one["bbox"] for one in objects)]
    pixels = {
        split: {np.asarray(Image.open(file)).tobytes() for file in (coco / split).iterdir()}
        for split in ("train2017", "val2017")
    }
    assert not pixels["train2017"] & pixels["val2017"]
    lists = [(voc / f"VOC{year}/ImageSets/Main/trainval.txt").read_text().split() for year in (2007, 2012)]
    assert [len(names) for names in lists] == [4, 4]


def test_scenes_are_the_same_every_time_and_are_written_once(tmp_path: Path) -> None:
    first = scenes.scene_folder("scenes_coco", 96, tmp_path / "a")
    scenes.draw_scenes.cache_clear()
    second = scenes.scene_folder("scenes_coco", 96, tmp_path / "b")
    files = sorted(file.relative_to(first) for file in first.rglob("*") if file.is_file())
    assert files
    assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files)
    stamp = (first / files[0]).stat().st_mtime_ns
    assert scenes.scene_folder("scenes_coco", 96, tmp_path / "a") == first
    assert (first / files[0]).stat().st_mtime_ns == stamp
    with pytest.raises(BenchError, match=r"96 px.*64"):
        scenes.scene_folder("scenes_coco", 64, tmp_path)


def test_whole_copies_have_no_problem_and_are_decoded_once(
    coco: Path, voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert layouts.check_coco(coco) == []
    assert layouts.check_voc0712(voc, scenes.CLASSES) == []
    data = Data(name="scenes_coco", size=96)
    layouts.check_whole(data, coco, tmp_path / "cache")
    monkeypatch.setattr(layouts, "check_coco", lambda root: ["read again"])
    layouts.check_whole(data, coco, tmp_path / "cache")
    annotations = coco / "annotations" / "instances_train2017.json"
    annotations.write_text(annotations.read_text() + " ")
    with pytest.raises(BenchError, match="read again"):
        layouts.check_whole(data, coco, tmp_path / "cache")


def damage_coco(root: Path, what: str) -> str:
    file, image = root / "annotations" / "instances_train2017.json", root / "train2017" / "000000000002.png"
    body = json.loads(file.read_text())
    if what == "no annotations":
        body["annotations"] = []
    elif what == "missing":
        file.unlink()
        return r"instances_train2017.json is missing"
    elif what == "not json":
        file.write_text("{")
        return "cannot be read as COCO annotations"
    elif what == "outside":
        body["annotations"][0]["bbox"] = [90, 10, 40, 10]
    elif what == "category":
        body["annotations"][0]["category_id"] = 99
    elif what == "image":
        body["annotations"][0]["image_id"] = 99
    elif what == "no mask":
        del body["annotations"][0]["segmentation"]
    elif what == "gone":
        image.unlink()
    elif what == "truncated":
        image.write_bytes(image.read_bytes()[:200])
    elif what == "size":
        Image.new("RGB", (50, 40)).save(image)
    file.write_text(json.dumps(body))
    return {
        "no annotations": "has no annotations",
        "outside": r"annotation 1 has a box .*\(90, 10, 130, 20\) outside of 000000000001.png, which has 96 x 96 px",
        "category": "annotation 1 has the category 99",
        "image": "annotation 1 is of image 99",
        "no mask": "annotation 1 has no mask",
        "gone": "000000000002.png is missing",
        "truncated": "000000000002.png cannot be decoded",
        "size": "000000000002.png is 50 x 40 px, its annotation says 96 x 96",
    }[what]


@pytest.mark.parametrize(
    "what",
    ["no annotations", "missing", "not json", "outside", "category", "image", "no mask", "gone", "truncated", "size"],
)
def test_what_is_wrong_with_a_copy_of_coco_is_named_before_training(coco: Path, tmp_path: Path, what: str) -> None:
    wanted = damage_coco(coco, what)
    with pytest.raises(BenchError, match=wanted) as caught:
        layouts.check_whole(Data(name="coco", size=96), coco, tmp_path / "cache")
    assert "train2017:" in str(caught.value)


@pytest.mark.parametrize("what", ["annotation", "outside", "class", "image", "truncated", "list", "empty list"])
def test_what_is_wrong_with_a_copy_of_voc_is_named(voc: Path, what: str) -> None:
    annotation, image = voc / "VOC2012/Annotations/trainval_000002.xml", voc / "VOC2012/JPEGImages/trainval_000002.jpg"
    listed = voc / "VOC2012/ImageSets/Main/trainval.txt"
    text = annotation.read_text()
    wanted = {
        "annotation": "trainval_000002.xml is missing",
        "outside": r"trainval_000002 has a box .* outside of",
        "class": "has an object 'eleven', which is none of the 10 classes",
        "image": "trainval_000002.jpg is missing",
        "truncated": "trainval_000002.jpg cannot be decoded",
        "list": "trainval.txt is missing",
        "empty list": "trainval.txt lists no image",
    }[what]
    if what == "annotation":
        annotation.unlink()
    elif what == "outside":
        annotation.write_text(text.replace("<xmax>", "<xmax>9", 1))
    elif what == "class":
        name = text.split("<name>")[1].split("<")[0]
        annotation.write_text(text.replace(f"<name>{name}<", "<name>eleven<", 1))
    elif what == "image":
        image.unlink()
    elif what == "truncated":
        image.write_bytes(image.read_bytes()[:300])
    elif what == "list":
        listed.unlink()
    else:
        listed.write_text("")
    problems = layouts.check_voc0712(voc, scenes.CLASSES)
    assert len(problems) == 1
    assert problems[0].startswith("VOC2012 trainval: ")
    assert re.search(wanted, problems[0])


def test_many_problems_are_counted(coco: Path) -> None:
    for file in (coco / "val2017").iterdir():
        file.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "NAMED", 2)
        problems = layouts.check_coco(coco)
    assert len(problems) == 3
    assert problems[-1] == "val2017: and 4 more of this kind."


def test_bench_data_check_reads_a_real_layout(coco: Path, tmp_path: Path) -> None:
    site = Site(root=tmp_path, runs=tmp_path / "runs", output=tmp_path, report=tmp_path, data={"coco": coco})
    found = check_data("coco", site)
    assert "trainval: 8 images" in found.lines
    assert [problem for problem in found.problems if "118,287" in problem]  # eight are not all of COCO
    assert "8 training images, expected 200" in check_data("scenes_coco", site).problems[0]  # eight in these tests


def test_only_detection_can_read_boxes(tmp_path: Path) -> None:
    site = Site(root=tmp_path, runs=tmp_path, output=tmp_path, report=tmp_path)
    assert [name for name, known in CATALOGUE.items() if known.boxes] == [
        "scenes_coco",
        "scenes_voc",
        "coco",
        "voc0712",
    ]
    with pytest.raises(BenchError, match="boxes instead of labelled images"):
        open_split(Data(name="scenes_coco", size=96), "train", site)
