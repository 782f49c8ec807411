"""Any tree of files at the readers of class folders, lists and JSON: a right answer or one line, nothing else.

200 trees and 150 lists, always the same; BENCH_EXAMPLES=2000 asks for ten times as many.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from bench.commands.data.check import check_data
from bench.data.datasets import open_split
from bench.data.decoding import read_image
from bench.data.sets.folders import VOC_CLASSES
from bench.data.splits import SPLITS, Files
from bench.errors import BenchError, one_line
from bench.settings.site import Site
from bench.spec import Data

COUNT = int(os.environ.get("BENCH_EXAMPLES", "200"))
EXAMPLES = settings(
    max_examples=COUNT,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
FEWER = settings(EXAMPLES, max_examples=COUNT // 4)
GRAY = np.arange(0, 240, 20, dtype=np.uint8).reshape(3, 4)
IMAGES = (".jpg", ".JPEG", ".png", ".webp", ".tif", ".bmp", ".jfif", ".GIF")
OTHERS = ("", ".txt", ".mpg", ".db", ".jpg.part", ".json")
BAD = (b"", b"no image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0")


@lru_cache(maxsize=1)
def contents() -> tuple[tuple[bytes, Tensor | None], ...]:
    """Files in every mode with their pixels; None where they are to be refused."""
    gray = Image.fromarray(GRAY)
    shaded = gray.convert("LA")
    shaded.putalpha(77)
    made: list[tuple[Image.Image, str, bool]] = [
        (gray, "PNG", True),
        (gray, "GIF", True),
        (gray, "BMP", True),
        (gray.convert("RGB"), "PNG", True),
        (gray.convert("RGBA"), "PNG", True),
        (gray.convert("RGBA"), "TIFF", True),
        (gray.convert("P"), "PNG", True),
        (shaded, "PNG", True),
        (shaded, "TIFF", True),
        (Image.fromarray(GRAY.astype(np.uint16) * 257), "PNG", True),
        (Image.fromarray(GRAY.astype(np.uint16) * 257), "TIFF", True),
        (Image.frombytes("I;16B", (4, 3), (GRAY.astype(">u2") * 257).astype(">u2").tobytes()), "TIFF", True),
        (Image.fromarray(GRAY.astype(np.float32) / 255), "TIFF", True),
        (Image.fromarray(GRAY.astype(np.float32)), "TIFF", False),
        (Image.fromarray(GRAY.astype(np.int32)), "TIFF", False),
        (gray.convert("RGB").convert("CMYK"), "TIFF", True),
        (gray.convert("PA") if gray.mode == "PA" else gray.convert("P").convert("PA"), "TIFF", True),
    ]
    expected = torch.from_numpy(GRAY).expand(3, 3, 4)
    found: list[tuple[bytes, Tensor | None]] = [(content, None) for content in BAD]
    for image, kind, good in made:
        buffer = io.BytesIO()
        image.save(buffer, kind)
        found.append((buffer.getvalue(), expected if good else None))
    return tuple(found)


# A name is bytes but for "/" and zero: hidden, of other alphabets, and what shells, HTML and terminals take for theirs.
STEMS = st.one_of(
    st.sampled_from((b"a", b"1", b"._1", b".b", b"caf\xe9", b"\xff\xfe", "é".encode(), "日本".encode(), b"__MACOSX")),
    st.sampled_from((b"a b", b"%j", b"<b>", b"'\"", b"$HOME", b"a\nb", b"\x1b[31m", b"-rf", b"x" * 200, b" ", b"~")),
    st.binary(min_size=1, max_size=6).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_")),
)
NAMES = st.tuples(STEMS, st.sampled_from((*IMAGES, *IMAGES, *OTHERS))).map(lambda two: os.fsdecode(two[0]) + two[1])
KINDS = st.sampled_from(("file",) * 6 + ("link", "dangling", "loop", "folder", "pipe", "to folder"))


@dataclass(frozen=True)
class Entry:
    """What lies in a class folder under a name."""

    kind: str
    content: int  # of contents()


ENTRIES = st.builds(Entry, KINDS, st.integers(0, len(BAD) + 16))
GOOD = {"whole.png": Entry("file", len(BAD))}  # most folders have it, so that most trees can be read
ANY = st.dictionaries(NAMES, ENTRIES, max_size=5)
FOLDERS = st.one_of(*[ANY.map(lambda entries: {**entries, **GOOD})] * 6, ANY)
CLASSES = st.dictionaries(STEMS.map(os.fsdecode), FOLDERS, min_size=1, max_size=3)


def usable(name: str) -> bool:
    return name not in {".", ".."} and len(os.fsencode(name)) < 255


def visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def write(folder: Path, entries: Mapping[str, Entry]) -> None:
    folder.mkdir(parents=True)
    for name, entry in entries.items():
        path = folder / name
        if entry.kind == "file":
            path.write_bytes(contents()[entry.content][0])
        elif entry.kind == "link":
            real = folder.parents[2] / "real" / str(entry.content)
            real.parent.mkdir(exist_ok=True)
            real.write_bytes(contents()[entry.content][0])
            path.symlink_to(real)
        elif entry.kind == "folder":
            path.mkdir()
        elif entry.kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to({"dangling": "nothing/here", "loop": name, "to folder": ".."}[entry.kind])


def counted(entries: Mapping[str, Entry]) -> list[str]:
    """The names of a class folder that are images of the data set."""
    return sorted(
        name
        for name, entry in entries.items()
        if visible(name)
        and entry.kind not in {"folder", "pipe"}
        and name.lower().endswith(tuple(map(str.lower, IMAGES)))
    )


def opened(name: str, root: Path) -> tuple[Mapping[str, Files], str]:
    """The splits, or the one line instead of them."""
    site = Site(root=root, runs=root / "runs", output=root / "out", report=root / "report", data={name: root / "data"})
    checked = check_data(name, site)
    for text in (*checked.lines, *checked.problems):
        assert_one_line(one_line(BenchError(text)))
    event("refused" if checked.problems[:1] and not checked.lines[1:] else "read")
    try:
        return {split: cast(Files, open_split(Data(name=name, size=32), split, site)) for split in SPLITS}, ""
    except BenchError as error:
        assert checked.problems
        return {}, assert_one_line(one_line(error))


def assert_one_line(text: str) -> str:
    text.encode()  # no lone surrogates
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text
    return text


@EXAMPLES
@given(train=CLASSES, test=st.one_of(st.none(), st.none(), st.none(), CLASSES, st.just({})))
def test_any_tree_of_class_folders_is_read_right_or_refused_in_one_line(
    train: Mapping[str, Mapping[str, Entry]], test: Mapping[str, Mapping[str, Entry]] | None
) -> None:
    trees = {"train": train, "val": train if test is None else test}
    assume(all(usable(name) for tree in trees.values() for part in (tree, *tree.values()) for name in part))
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for part, tree in trees.items():
            (root / "data" / part).mkdir(parents=True)
            for name, entries in tree.items():
                write(root / "data" / part / name, entries)
        found, refusal = opened("imagenet", root)
        classes = {part: sorted(filter(visible, tree)) for part, tree in trees.items()}
        images = {
            part: {
                f"{root}/data/{part}/{name}/{file}": label
                for label, name in enumerate(classes[part])
                for file in counted(tree[name])
            }
            for part, tree in trees.items()
        }
        whole = (
            bool(classes["train"])
            and classes["train"] == classes["val"]
            and all(counted(tree[name]) for part, tree in trees.items() for name in classes[part])
        )
        assert bool(found) == whole, refusal
        if not found:
            return
        labels = {
            part: {
                str(path): int(label)
                for split in splits
                for path, label in zip(found[split].paths, found[split].labels, strict=True)
            }
            for part, splits in (("train", ("train", "val")), ("val", ("test",)))
        }
        assert labels == images
        assert sum(map(len, found.values())) == sum(map(len, images.values()))
        for part, tree in trees.items():
            for name in classes[part]:
                for file in counted(tree[name]):
                    assert_pixels(root / "data" / part / name / file, tree[name][file])


def assert_pixels(path: Path, entry: Entry) -> None:
    expected = contents()[entry.content][1] if entry.kind in {"file", "link"} else None
    try:
        pixels = read_image(path)
    except BenchError as error:
        assert expected is None
        assert_one_line(one_line(error))
    else:
        assert expected is not None
        assert torch.equal(pixels, expected)


# -- lists and JSON --------------------------------------------------------------------------------------------------

NUMBERS = st.sampled_from(
    (b"0", b"1", b"0", b"1", b"-1", b"2", b"", b"x", b"1.0", b"999999999", b"9" * 5000, "٣".encode())
)
THERE = st.sampled_from(((b"a/", b"1", b"0"), (b"b/", b"3", b"1"), (b"/b/", b"caf\xe9", b"1"), (b"a/", b"._1", b"1")))
ODD = st.tuples(st.sampled_from((b"a/", b"b/", b"/a/", b"", b"../")), st.binary(max_size=4), NUMBERS)
LINES = st.lists(THERE, max_size=3) | st.lists(st.one_of(THERE, ODD), max_size=3)
ENDS = st.sampled_from((b"\n", b"\r\n", b" \n", b"\n\n"))
LISTED = ("a/1.jpg", "a/2.jpg", "b/3.jpg", os.fsdecode(b"b/caf\xe9.jpg"))


def listing(extra: list[tuple[bytes, bytes, bytes]], order: list[str], end: bytes) -> bytes:
    """A list of the images that are there, in Places205's form, and other lines after them."""
    there = [os.fsencode(name) + (b" 0" if name[0] == "a" else b" 1") for name in order]
    return end.join([*there, *(folder + name + b".jpg " + number for folder, name, number in extra)]) + end


@FEWER
@given(train=LINES, test=LINES, order=st.permutations(LISTED), end=ENDS, hidden=st.booleans())
def test_any_list_is_read_right_or_refused_in_one_line(
    train: list[tuple[bytes, bytes, bytes]],
    test: list[tuple[bytes, bytes, bytes]],
    order: list[str],
    end: bytes,
    hidden: bool,
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for name in LISTED:
            file = root / "data" / "images256" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(contents()[-1][0])
        lists = root / "data" / "trainvalsplit_places205"
        lists.mkdir()
        first = b"a/._1.jpg 0\n" if hidden else b""
        (lists / "train_places205.csv").write_bytes(first + listing(train, list(order), end))
        (lists / "val_places205.csv").write_bytes(listing(test, list(order), end))
        found, refusal = opened("places205", root)
        assert found or refusal
        if not (train or test or end == b"\n\n"):
            assert found, refusal
        for split, part in found.items():
            for path, label in zip(part.paths, part.labels.tolist(), strict=True):
                assert path.is_file()
                assert visible(path.name)
                assert 0 <= label < part.classes
                assert (train if split != "test" else test) or label == (path.parent.name == "b")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4) | st.just("a/1.jpg"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
PLACES = st.tuples(
    st.sampled_from(("images", "annotations", "categories")),
    st.integers(0, 3),
    st.sampled_from(("id", "image_id", "category_id", "file_name", "", "list")),
    JSON,
)


@FEWER
@given(changes=st.lists(PLACES, max_size=2), cut=st.integers(0, 400) | st.none())
def test_any_json_is_read_right_or_refused_in_one_line(
    changes: list[tuple[str, int, str, Any]], cut: int | None
) -> None:
    body: dict[str, Any] = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(LISTED[:3])],
        "annotations": [{"image_id": number, "category_id": 5 + (number > 1)} for number in range(3)],
        "categories": [{"id": 6}, {"id": 5}],
    }
    for part, place, key, value in changes:
        if key == "list":
            body[part] = value
        elif isinstance(body[part], list) and place < len(body[part]):
            item = body[part][place]
            body[part][place] = value if not key or not isinstance(item, dict) else {**item, key: value}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "data" / "train_val2018").mkdir(parents=True)
        for name in LISTED:
            file = root / "data" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(contents()[-1][0])
        for part in ("train", "val"):
            (root / "data" / f"{part}2018.json").write_text(json.dumps(body)[:cut], encoding="utf-8")
        found, refusal = opened("inat18", root)
        assert found or refusal
        if not changes and cut is None:
            assert found, refusal
            assert found["test"].labels.tolist() == [0, 0, 1]
        for part_of in found.values():
            assert all(path.is_file() and visible(path.name) for path in part_of.paths)
            assert all(0 <= label < part_of.classes for label in part_of.labels.tolist())


CELLS = st.tuples(st.sampled_from((b"1", b"2", b"._1", b"caf\xe9")), st.sampled_from((b"1", b"0", b"-1"))) | st.tuples(
    st.sampled_from((b"1", b"2", b"3", b"._1", b"caf\xe9", b"../x", b"")), NUMBERS
)


@FEWER
@given(rows=st.lists(CELLS, min_size=1, max_size=3), one=st.just([]) | st.lists(CELLS, max_size=2), end=ENDS)
def test_any_list_of_several_classes_is_read_right_or_refused_in_one_line(
    rows: list[tuple[bytes, bytes]], one: list[tuple[bytes, bytes]], end: bytes
) -> None:
    """VOC's: the same rows in the list of every class, but for one."""
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary) / "data" / "VOCdevkit" / "VOC2007"
        (base / "JPEGImages").mkdir(parents=True)
        for stem in (b"1", b"2", b"._1", b"caf\xe9"):
            (base / "JPEGImages" / os.fsdecode(stem + b".jpg")).write_bytes(contents()[-1][0])
        (base / "ImageSets" / "Main").mkdir(parents=True)
        for split in SPLITS:
            for name in VOC_CLASSES:
                cells = one if one and name == "sofa" else rows
                (base / "ImageSets" / "Main" / f"{name}_{split}.txt").write_bytes(
                    end.join(b" ".join(cell) for cell in cells)
                )
        found, refusal = opened("voc2007", Path(temporary))
        assert found or refusal
        for part in found.values():
            images = [image for image, _ in rows if not image.startswith(b".")]
            assert [os.fsencode(path.stem) for path in part.paths] == images
            assert part.labels.shape == (len(images), len(VOC_CLASSES))


def test_what_is_thrown_holds_every_mode() -> None:
    modes = set()
    for content, _ in contents()[len(BAD) :]:
        with Image.open(io.BytesIO(content)) as file:
            modes.add(file.mode)
    assert modes >= {"L", "P", "RGB", "RGBA", "LA", "PA", "I;16", "I;16B", "I", "F", "CMYK"}
    assert len(contents()) == len(BAD) + 17
    with pytest.raises(UnicodeEncodeError):
        assert_one_line("caf\udce9")
