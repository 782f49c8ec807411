from __future__ import annotations

import random
import re
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import cast

import pytest

from bench.data.datasets import open_split
from bench.data.sets import lists
from bench.data.share import check_share, labelled_share, published_for
from bench.data.splits import Files, labelled_subset
from bench.errors import BenchError
from bench.settings.site import Site
from bench.spec import Data
from tests.bench.data_trees import class_folders, save, site_with, voc

IMAGENET = Data(name="imagenet", size=32)


def wnids(count: int) -> list[str]:
    return [f"n{1440764 + 13 * number:08}" for number in range(count)]


def synthetic(counts: dict[int, int], seed: int = 0) -> list[str]:
    """Lines of a list with the class sizes of a published one, in a shuffled order as those have."""
    sizes = [each for each, classes in counts.items() for _ in range(classes)]
    lines = [
        f"{wnid}_{7 * number + 1}.JPEG"
        for wnid, each in zip(wnids(len(sizes)), sizes, strict=True)
        for number in range(each)
    ]
    random.Random(seed).shuffle(lines)
    return lines


def text(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()


@pytest.mark.parametrize(
    ("name", "images", "classes"), [("imagenet-1pct", 12_811, 1000), ("imagenet-10pct", 128_116, 1000)]
)
def test_the_published_lists_have_the_published_numbers(name: str, images: int, classes: int) -> None:
    known = lists.PUBLISHED[name]
    assert (known.images, sum(known.counts.values())) == (images, classes)
    assert known.url == f"https://raw.githubusercontent.com/google-research/simclr/master/imagenet_subsets/{known.file}"
    assert re.fullmatch("[0-9a-f]{64}", known.sha256)


@pytest.mark.parametrize("name", ["imagenet-1pct", "imagenet-10pct"])
def test_a_list_is_known_by_its_sha256_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = lists.PUBLISHED[name]
    content = text(synthetic(dict(known.counts)))
    with pytest.raises(BenchError, match=f"its sha256 is {sha256(content).hexdigest()}, expected {known.sha256}"):
        lists.parse_list(name, content, "here")
    monkeypatch.setitem(lists.PUBLISHED, name, replace(known, sha256=sha256(content).hexdigest()))
    assert lists.parse_list(name, content, "here") == content.decode().split()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda lines: lines[:-1], r"it has 12,810 lines, expected 12,811"),
        (lambda lines: [*lines[:-1], lines[0]], r"stands in it twice"),
        (
            lambda lines: [*lines[:2], "n0144/x.JPEG", *lines[3:]],
            r"line 3 is 'n0144/x\.JPEG', expected a file name like n01440764_10026\.JPEG",
        ),
        (lambda lines: ["<!DOCTYPE html>"], r"line 1 is '<!DOCTYPE', expected a file name"),
        (lambda lines: [], r"it has 0 lines, expected 12,811"),
        (
            lambda lines: [f"n01440764_{n}.JPEG" for n in range(len(lines))],
            r"images a class are 1 classes with 12811, expected 811 classes with 13, 189 classes with 12",
        ),
    ],
)
def test_another_list_is_told_what_is_wrong_with_it(spoil: object, message: str) -> None:
    lines = spoil(synthetic(dict(lists.PUBLISHED["imagenet-1pct"].counts)))  # type: ignore[operator]
    with pytest.raises(BenchError, match=message) as caught:
        lists.parse_list("imagenet-1pct", text(lines), "/a/list")
    assert str(caught.value).startswith("/a/list is not SimCLR's published list imagenet-1pct: ")


@pytest.fixture
def labelled(here: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """An ImageNet of 3 classes with 40 images each, and a "published" list of 3 + 3 + 2 of them under [data]."""
    names = wnids(3)
    root = class_folders(tmp_path / "imagenet", (("train", 40), ("val", 2)), names)
    lines = [
        f"{wnid}_{number}.JPEG" for wnid, each in zip(names, (3, 3, 2), strict=True) for number in range(5, 5 + each)
    ]
    random.Random(0).shuffle(lines)
    (tmp_path / "1percent.txt").write_bytes(text(lines))
    known = replace(lists.PUBLISHED["imagenet-1pct"], counts={3: 2, 2: 1}, sha256=sha256(text(lines)).hexdigest())
    monkeypatch.setitem(lists.PUBLISHED, "imagenet-1pct", known)
    return site_with(site_with(here, "imagenet", root), "imagenet-1pct", tmp_path / "1percent.txt")


def test_one_percent_of_imagenet_is_exactly_the_published_list(labelled: Site, tmp_path: Path) -> None:
    share = labelled_share(IMAGENET, 0.01, 3, labelled)
    images = cast(Files, open_split(IMAGENET, "trainval", labelled))
    assert sorted(images.paths[i].name for i in share.indices.tolist()) == sorted(
        (tmp_path / "1percent.txt").read_text().split()
    )
    assert share.indices.tolist() == sorted(share.indices.tolist())
    assert images.labels[share.indices].bincount().tolist() == [3, 3, 2]
    assert (
        share.source
        == f"SimCLR's published list imagenet-1pct, 8 images, sha256 {lists.PUBLISHED['imagenet-1pct'].sha256}"
    )
    again = labelled_share(IMAGENET, 0.01, 99, labelled)
    assert again.indices.tolist() == share.indices.tolist()  # whatever the seed


def test_of_the_training_part_alone_the_held_out_images_are_left_out(labelled: Site, tmp_path: Path) -> None:
    held = cast(Files, open_split(IMAGENET, "val", labelled)).paths[0].name
    lines = (tmp_path / "1percent.txt").read_text().split()
    old = next(line for line in lines if line.partition("_")[0] == held.partition("_")[0])
    content = text([held if line == old else line for line in lines])
    (tmp_path / "1percent.txt").write_bytes(content)
    known = replace(lists.PUBLISHED["imagenet-1pct"], sha256=sha256(content).hexdigest())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lists.PUBLISHED, "imagenet-1pct", known)
        share = labelled_share(IMAGENET, 0.01, 0, labelled, split="train")
        assert len(labelled_share(IMAGENET, 0.01, 0, labelled).indices) == 8
    train = cast(Files, open_split(IMAGENET, "train", labelled))
    assert sorted(train.paths[i].name for i in share.indices.tolist()) == sorted(set(content.decode().split()) - {held})
    assert "8 images less 1 held out as val" in share.source


def test_a_list_that_names_a_missing_image_is_refused(labelled: Site, tmp_path: Path) -> None:
    line = (tmp_path / "1percent.txt").read_text().split()[0]
    (tmp_path / "imagenet" / "train" / line.partition("_")[0] / line).unlink()
    with pytest.raises(
        BenchError,
        match=rf"imagenet-1pct names 1 images that imagenet does not have here, e\.g\. "
        rf"train/{line.partition('_')[0]}/{line}",
    ):
        labelled_share(IMAGENET, 0.01, 0, labelled)


def test_without_the_list_there_is_one_clear_error_also_for_plans(labelled: Site, tmp_path: Path) -> None:
    (tmp_path / "1percent.txt").unlink()
    for ask in (lambda: labelled_share(IMAGENET, 0.01, 0, labelled), lambda: check_share("imagenet", 0.01, labelled)):
        with pytest.raises(
            BenchError,
            match=r"1% of imagenet's labels means SimCLR's published list.*`bench data fetch imagenet-1pct` gets it",
        ):
            ask()
    with pytest.raises(BenchError, match=r"10% of imagenet's labels .*10percent\.txt"):
        check_share("imagenet", 0.1, labelled)
    check_share("imagenet", 1.0, labelled)
    check_share("mnist5k", 0.01, labelled)


def test_elsewhere_a_share_is_seeded_and_says_so(labelled: Site) -> None:
    digits = Data(name="mnist5k", size=32)
    labels = open_split(digits, "trainval", labelled).labels
    share = labelled_share(digits, 0.01, 2, labelled)
    assert share.indices.tolist() == labelled_subset(labels, 10, 0.01, 2).tolist()
    assert share.source == "seeded class-balanced share, 40 of 4,000 images, seed 2"
    assert "seeded" in labelled_share(IMAGENET, 0.05, 0, labelled).source  # a share that nobody published a list for
    everything = labelled_share(IMAGENET, 1.0, 0, labelled)
    assert (len(everything.indices), everything.source) == (120, "all 120 images")


def test_a_share_of_several_labels_an_image_is_refused(here: Site, tmp_path: Path) -> None:
    site = site_with(here, "voc2007", voc(tmp_path / "voc"))
    with pytest.raises(BenchError, match="images with several labels each: a share of 10% of them is not defined"):
        labelled_share(Data(name="voc2007", size=32), 0.1, 0, site)


def test_the_check_for_plans_imports_no_torch() -> None:
    modules = "bench.data.sets.lists, bench.data.catalogue, bench.commands.data.check, bench.commands.data.fetch"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_listed_image_in_another_class_folder_is_missing(labelled: Site, tmp_path: Path) -> None:
    line = (tmp_path / "1percent.txt").read_text().split()[0]
    wnid = line.partition("_")[0]
    other = next(name for name in wnids(3) if name != wnid)
    (tmp_path / "imagenet" / "train" / wnid / line).unlink()
    save(tmp_path / "imagenet" / "train" / other / line)
    with pytest.raises(BenchError, match="imagenet-1pct names 1 images"):
        labelled_share(IMAGENET, 0.01, 0, labelled)


def test_packed_imagenet_never_draws_a_share_where_there_is_a_published_one() -> None:
    with pytest.raises(BenchError, match="use imagenet"):
        published_for("imagenet-256", 0.01)
    assert published_for("imagenet-256", 1.0) is None
