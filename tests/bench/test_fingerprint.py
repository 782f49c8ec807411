"""What a data set holds: true copies are alike, and what a reader would see otherwise is seen."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.data import contents, listing
from bench.data.catalogue import CATALOGUE
from bench.data.contents import Contents
from bench.data.datasets import LOADERS
from bench.data.fingerprint import DataHere, Fingerprint
from bench.data.packing import pack
from bench.data.sets import folders, scenes
from bench.data.splits import Files
from bench.errors import BenchError
from bench.settings.site import Site
from tests.bench import data_trees


def of(site: Site, name: str, root: Path) -> Fingerprint:
    found = DataHere(replace(site, data={name: root})).fingerprint(name)
    assert found is not None
    return found


def tree(root: Path) -> Path:
    """ImageNet's layout with two classes; nobody opens an image."""
    for part, count in (("train", 3), ("val", 1)):
        for name in ("n01", "n02"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                (root / part / name / f"{number}.JPEG").write_bytes(b"x" * (100 + number))
    return root


def test_a_true_copy_elsewhere_is_the_same_data_set(here: Site, tmp_path: Path) -> None:
    first = of(here, "imagenet", tree(tmp_path / "first"))
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    os.utime(tmp_path / "copy/train/n01/0.JPEG", (0, 0))
    assert of(here, "imagenet", tmp_path / "copy") == first
    assert (first.files, first.bytes) == (8, 2 * (100 + 101 + 102) + 2 * 100)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a byte more": lambda root: (root / "train/n01/1.JPEG").write_bytes(b"x" * 105),
    "two files change places": lambda root: [
        (root / "train/n01/0.JPEG").rename(root / "0"),
        (root / "train/n02/1.JPEG").rename(root / "train/n01/0.JPEG"),
        (root / "0").rename(root / "train/n02/1.JPEG"),
    ],
    "gone": lambda root: (root / "train/n02/2.JPEG").unlink(),
    "new": lambda root: (root / "val/n02/9.png").write_bytes(b""),
    "another name": lambda root: (root / "val/n02/0.JPEG").rename(root / "val/n02/1.JPEG"),
    "another class": lambda root: (root / "train/n02").rename(root / "train/n03"),
    "a link to nothing": lambda root: (root / "train/n02/7.JPEG").symlink_to("nowhere"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_the_reader_would_see_otherwise_is_seen(here: Site, tmp_path: Path, change: str) -> None:
    root = tree(tmp_path / "data")
    first = of(here, "imagenet", root)
    CHANGES[change](root)
    assert of(here, "imagenet", root) != first


LEFT_OUT = ("train/n01/._1.JPEG", "train/n01/notes.txt", "train/.DS_Store", "val/list.txt", "README.md", "test/1.JPEG")


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_no_reader_takes_changes_nothing(here: Site, tmp_path: Path, name: str) -> None:
    root = tree(tmp_path / "data")
    first = of(here, "imagenet", root)
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(b"12345")
    assert of(here, "imagenet", root) == first


def test_a_file_overwritten_in_place_is_seen_though_its_folder_looks_the_same(here: Site, tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    first, folder = of(here, "imagenet", root), (root / "train/n01").stat()
    with (root / "train/n01/0.JPEG").open("ab") as file:
        file.write(b"more")
    assert (root / "train/n01").stat().st_mtime_ns == folder.st_mtime_ns
    assert of(here, "imagenet", root) != first


def test_links_are_followed_and_one_upwards_ends(here: Site, tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    first = of(here, "imagenet", root)
    (root / "train/n02").rename(tmp_path / "elsewhere")
    (root / "train/n02").symlink_to(tmp_path / "elsewhere")
    assert of(here, "imagenet", root) == first
    (root / "train/n02/self").symlink_to(root)
    found = listing.look(root, [listing.Scope("", "tree")], Contents(None))
    assert found.files == 8


def test_many_slow_answers_give_the_same_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "data")
    scopes = [listing.Scope("train", "classes"), listing.Scope("val", "classes")]
    first = listing.look(root, scopes, Contents(None))
    monkeypatch.setattr(listing, "PROBES", 1)
    monkeypatch.setattr(listing, "SLOW", 0.0)
    monkeypatch.setattr(listing, "CHUNK", 2)
    assert listing.look(root, scopes, Contents(None)) == first


@pytest.mark.parametrize(("locale", "utf8"), [("C.UTF-8", "1"), ("C", "0")])
def test_shares_of_several_processes_make_the_same_listing(tmp_path: Path, locale: str, utf8: str) -> None:
    root = tmp_path / "train"
    for number in range(40):
        (root / f"n{number:02}").mkdir(parents=True)
        for image in range(number % 3 + 1):
            (root / f"n{number:02}" / f"{image}é.JPEG").write_bytes(b"x" * (number + image))
    (root / "n07/folder.JPEG").mkdir()
    (root / "n08/gone.JPEG").symlink_to("nowhere")
    (root / "n09/link.JPEG").symlink_to(root / "n08/1é.JPEG")
    (root / "n10/.hidden.JPEG").touch()
    (tmp_path / "n11").mkdir()
    (tmp_path / "n11/1.JPEG").write_bytes(b"11")
    (root / "n40").symlink_to(tmp_path / "n11")
    (root / "n41 (empty)").mkdir()
    os.mkfifo(root / "n12/pipe.JPEG")
    tools = tmp_path / "tools"
    tools.mkdir()
    code = """if True:
        import os, sys
        from pathlib import Path
        from bench.data import gnu_find, listing
        from bench.data.contents import Contents
        scopes = [listing.Scope("train", "classes")]
        alone = listing.look(Path(sys.argv[1]), scopes, Contents(None))
        listing.cores, listing.MANY, again = lambda: 3, 10, []
        add_class = listing._Walk.add_class
        listing._Walk.add_class = lambda walk, name, path: again.append(name) or add_class(walk, name, path)
        assert listing.look(Path(sys.argv[1]), scopes, Contents(None)) == alone
        seen = [len(again)]
        gnu_find._LONGEST = 200  # bytes: many short command lines
        assert listing.look(Path(sys.argv[1]), scopes, Contents(None)) == alone
        seen.append(len(again) - sum(seen))
        tool = Path(sys.argv[2], "find")
        os.environ["PATH"] = str(tool.parent)  # no find at all
        assert listing.look(Path(sys.argv[1]), scopes, Contents(None)) == alone
        seen.append(len(again) - sum(seen))
        for other in ("exit 1", "kill -9 $$", "echo no", "exit 0", '/usr/bin/find "$@" | /usr/bin/head -c 99; exit 1'):
            tool.write_text(f"#!/bin/sh\\n{other}\\n")
            tool.chmod(0o755)
            assert listing.look(Path(sys.argv[1]), scopes, Contents(None)) == alone, other
            seen.append(len(again) - sum(seen))
        print(*seen, alone.files, len(alone.digest()))
    """
    command = [sys.executable, "-c", code, str(tmp_path), str(tools)]
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": utf8, "LC_ALL": locale}
    environment["PATH"] = os.environ["PATH"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    every = "42 " * 6
    assert (found.stdout, found.stderr) == (f"8 8 {every}82 64\n", "")


def test_a_folder_that_cannot_be_read_ends_the_other_processes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        (tmp_path / f"train/n{number:02}").mkdir(parents=True)
        (tmp_path / f"train/n{number:02}/1.JPEG").touch()
    children: list[subprocess.Popen[bytes]] = []
    add, make = listing._Walk.add_class, subprocess.Popen

    def endless(command: list[str], **pipes: int) -> subprocess.Popen[bytes]:
        code = "import time; time.sleep(600)" if len(children) < 2 else "raise SystemExit(1)"
        children.append(make([sys.executable, "-S", "-c", code], **pipes))  # type: ignore[call-overload]
        return children[-1]

    def add_class(walk: listing._Walk, name: str, path: str) -> None:
        if children:
            raise PermissionError(13, "Permission denied", path)
        add(walk, name, path)

    monkeypatch.setattr(listing, "cores", lambda: 3)
    monkeypatch.setattr(listing, "MANY", 1)
    monkeypatch.setattr(listing._Walk, "add_class", add_class)
    monkeypatch.setattr("subprocess.Popen", endless)
    with pytest.raises(BenchError, match=r"cannot be read \(Permission denied\)"):
        listing.look(tmp_path, [listing.Scope("train", "classes")], Contents(None))
    assert [child.poll() for child in children] == [-9, -9, 1]


def test_names_are_bytes(here: Site, tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    for name in (b"caf\xe9.JPEG", "straße.JPEG".encode(), b"line\nbreak.JPEG"):
        (Path(os.fsdecode(os.fsencode(root / "train/n01") + b"/" + name))).write_bytes(b"1")
    code = (
        "import sys; from pathlib import Path; from bench.data import listing as l, contents as c;"
        "print(l.look(Path(sys.argv[1]), [l.Scope('train', 'classes')], c.Contents(None)).digest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, str(root)],
            env={"LC_ALL": locale, "PYTHONUTF8": utf8, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for locale, utf8 in (("C.UTF-8", "1"), ("C", "0"), ("POSIX", "0"))
    }
    assert len(found) == 1


def test_lists_and_annotations_count_by_their_content(here: Site, tmp_path: Path) -> None:
    root = data_trees.voc(tmp_path / "voc")
    first = of(here, "voc2007", root)
    lists = root / "VOCdevkit/VOC2007/ImageSets/Main/aeroplane_train.txt"
    body = lists.read_text()
    lists.write_text(body.replace(" 1\n", " 0\n", 1) if " 1\n" in body else body.replace("-1\n", " 1\n", 1))
    assert lists.stat().st_size == len(body)
    assert of(here, "voc2007", root) != first


def test_a_list_is_read_again_only_when_the_file_system_knows_of_a_change(
    here: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = data_trees.voc(tmp_path / "voc")
    here.runs.mkdir()
    monkeypatch.setattr(contents, "SETTLED", -1.0)
    first = of(here, "voc2007", root)
    assert (here.runs / "data/voc2007-contents.json").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(contents, "file_digest", None)
        assert of(here, "voc2007", root) == first
    (here.runs / "data/voc2007-contents.json").write_text("{ damaged")
    assert of(here, "voc2007", root) == first


@pytest.mark.parametrize("name", [name for name, known in CATALOGUE.items() if known.package])
def test_a_data_set_of_a_package_is_its_file(here: Site, name: str) -> None:
    found = DataHere(here).fingerprint(name)
    assert found is not None
    assert found.files == 1
    assert found.bytes > 50_000
    assert not here.runs.exists()  # a look leaves nothing


def test_what_is_not_here_has_none_and_no_one_fails(here: Site, tmp_path: Path) -> None:
    data = DataHere(here)
    assert data.fingerprint("imagenet") is None
    assert data.problems == {}


TREES: dict[str, Callable[[Path], object]] = {
    "imagenet": lambda root: data_trees.class_folders(root, (("train", 101), ("val", 2)), ("n1", "n2")),
    "birdsnap": lambda root: data_trees.class_folders(root, (("train", 11), ("test", 2)), ("Auk", "Owl"), ".jpg"),
    "places205": data_trees.places,
    "inat18": data_trees.inat,
    "voc2007": data_trees.voc,
    "sun397": data_trees.sun,
    "caltech101": lambda root: data_trees.class_folders(
        root, (("caltech101/101_ObjectCategories", 32),), ("ant", "BACKGROUND_Google"), ".jpg"
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_every_file_that_is_read_counts(here: Site, tmp_path: Path, name: str) -> None:
    root = tmp_path / "tree"
    TREES[name](root)
    site = replace(here, data={name: root})
    first = of(here, name, root)
    splits = LOADERS[name](site, 32)
    paths = {path for data in splits.values() if isinstance(data, Files) for path in data.paths}
    others = {path for path in root.rglob("*") if path.is_file()} - paths  # lists, annotations
    assert len(paths) + len(others) == first.files
    for path in (min(paths), max(paths), *sorted(others)[:3]):
        content = path.read_bytes()
        path.write_bytes(content + b"\n")
        assert of(here, name, root) != first
        path.write_bytes(content)
    assert of(here, name, root) == first


def test_a_pack_counts_by_its_index_which_has_a_checksum_of_every_image(here: Site, tmp_path: Path) -> None:
    source = data_trees.class_folders(tmp_path / "in", (("train", 101), ("val", 2)), ("n1", "n2"))
    site = replace(here, data={"imagenet": source, "imagenet-256": tmp_path / "packed"})
    pack("imagenet", 256, site, workers=1, say=lambda _: None)
    first = of(here, "imagenet-256", tmp_path / "packed")
    assert first.files == 1 + 3 * 2
    data_trees.save(source / "train/n1/n1_0.JPEG", 7)
    shutil.rmtree(tmp_path / "packed")
    folders._image_folder.cache_clear()
    pack("imagenet", 256, site, workers=1, say=lambda _: None)
    assert of(here, "imagenet-256", tmp_path / "packed") != first


def test_sets_with_boxes_count_by_annotations_and_images(here: Site, tmp_path: Path) -> None:
    for name in ("coco", "voc0712"):
        made = scenes.scene_folder(f"scenes_{name.removesuffix('0712')}", 96, tmp_path / "cache")
        root = Path(shutil.copytree(made, tmp_path / name))
        first = of(here, name, root)
        assert first.files > 500
        note = next(path for path in sorted(root.rglob("*")) if path.suffix in {".json", ".xml"})
        content = note.read_bytes()
        note.write_bytes(content[:-5] + b"     ")  # as many bytes
        assert of(here, name, root) != first
        note.write_bytes(content)
        assert of(here, name, root) == first
        next(path for path in sorted(root.rglob("*")) if path.suffix in {".jpg", ".png"}).unlink()
        assert of(here, name, root) != first


def test_differences_are_counted_and_named(here: Site, tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    site = replace(here, data={"imagenet": root})
    here.runs.mkdir()
    before = DataHere(site)
    first = before.fingerprint("imagenet")
    assert first is not None
    before.remember("imagenet")
    (root / "train/n02/1.JPEG").write_bytes(b"x" * 1305)
    assert _difference(site, first) == "1 file differs, e.g. train/n02/1.JPEG: 101 bytes then, 1,305 bytes now"
    (root / "train/n01/2.JPEG").unlink()
    (root / "val/n01/5.JPEG").write_bytes(b"x")
    assert _difference(site, first) == (
        "3 files differ (of them 1 gone and 1 new), e.g. train/n02/1.JPEG: 101 bytes then, 1,305 bytes now"
    )
    shutil.rmtree(here.runs / "data")  # a result that came from another machine
    assert re.fullmatch(
        r"8 files, 806 bytes, fingerprint \w{12} then; 8 files, 1,909 bytes, fingerprint \w{12} now",
        _difference(site, first),
    )


def _difference(site: Site, then: Fingerprint) -> str:
    now = DataHere(site)
    assert now.fingerprint("imagenet") != then
    return now.difference("imagenet", then)
