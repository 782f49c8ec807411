from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from bench import cli
from bench.commands.data import check
from bench.data import decoding, loader, packing
from bench.data.datasets import open_split
from bench.data.loader import Plan
from bench.data.sets import folders, packed
from bench.data.splits import SPLITS, Files
from bench.errors import BenchError
from bench.settings.site import Site
from bench.spec import Augment, Data

NAME, SIZE = "imagenet-48", 48  # the patches are 60 to 80 px
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack of the tests' patches, in shards of ten."""
    monkeypatch.setattr(packed, "PACKS", {NAME: ("imagenet", SIZE)})
    monkeypatch.setattr(packing, "IMAGES", 10)
    known = packed.load_pack
    from bench.data import catalogue, datasets

    monkeypatch.setitem(
        catalogue.CATALOGUE,
        NAME,
        replace(catalogue.CATALOGUE["imagenet-256"], classes=2, trainval_images=24, test_images=6),
    )
    monkeypatch.setitem(datasets.LOADERS, NAME, lambda site, size: known(NAME, site, size))
    packed._load.cache_clear()
    decoding._shard.cache_clear()


@pytest.fixture
def source(photographs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(photographs, tmp_path / "imagenet"))


@pytest.fixture
def site(here: Site, source: Path, tmp_path: Path) -> Site:
    return replace(here, data={"imagenet": source, NAME: tmp_path / "packed"})


@pytest.fixture
def make(site: Site) -> Callable[[], tuple[packing.Packed, list[str]]]:
    def run() -> tuple[packing.Packed, list[str]]:
        said: list[str] = []
        packed._load.cache_clear()
        decoding._shard.cache_clear()
        return packing.pack("imagenet", SIZE, site, workers=1, say=said.append), said

    return run


def files(name: str, split: str, site: Site) -> Files:
    return cast(Files, open_split(Data(name=name, size=32), split, site))  # type: ignore[arg-type]


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


Make = Callable[[], tuple[packing.Packed, list[str]]]


def test_a_pack_has_the_splits_of_its_source_in_smaller_images(site: Site, make: Make) -> None:
    made, said = make()
    assert (made.images, made.damaged) == (30, ())
    assert sorted(file.name for file in made.folder.glob("*.pack")) == [
        f"{stem}.pack" for stem in ("test-0000", "train-0000", "train-0001", "train-0002", "val-0000")
    ]
    assert made.bytes == sum(file.stat().st_size for file in made.folder.glob("*.pack"))
    assert "30 images to pack into" in said[0]
    for split in SPLITS:
        before, after = files("imagenet", split, site), files(NAME, split, site)
        assert torch.equal(before.labels, after.labels)
        assert before.classes == after.classes
        # train/<class>/<file>
        assert [path.parts[-3:] for path in after.paths] == [path.parts[-3:] for path in before.paths]
        for index in range(len(before)):
            large, image = loader.decode(before, index), loader.decode(after, index)
            assert min(image.shape[1:]) == SIZE
            assert max(image.shape[1:]) == int(SIZE * max(large.shape[1:]) / min(large.shape[1:]))
            expected = packing._resized(large, SIZE)
            # what JPEG leaves of a photograph this small
            assert float((image.float() - expected.float()).abs().mean()) < 6


def test_images_that_are_small_enough_are_stored_as_they_are(site: Site, source: Path, make: Make) -> None:
    tiny = source / "train" / "china" / "00.JPEG"
    Image.new("RGB", (SIZE, 90), "red").save(tiny, quality=30)
    make()
    after = next(
        path
        for split in SPLITS
        for path in files(NAME, split, site).paths
        if path.parts[-2:] == ("china", "00.JPEG") and "train" in str(path)
    )
    assert decoding.read_bytes(after) == tiny.read_bytes()


def test_batches_of_a_pack_are_the_same_with_workers_and_in_the_middle(site: Site, make: Make) -> None:
    make()
    split, plan = files(NAME, "trainval", site), Plan(images=24, batch_size=8, seed=1)
    view = Augment(size=32, brightness=0.4, blur=0.5)
    alone = list(loader.train_batches(split, (view,), plan, range(5), CPU, workers=0))
    helped = list(loader.train_batches(split, (view,), plan, range(2, 5), CPU, workers=2))
    for a, b in zip(alone[2:], helped, strict=True):
        assert torch.equal(a.views[0], b.views[0])
        assert torch.equal(a.labels, b.labels)


def test_packing_goes_on_where_it_stopped_and_gives_the_same_bytes(
    site: Site, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = make()
    whole = content(made.folder)
    shutil.rmtree(made.folder)
    written = 0

    def stops(path: Path, size: int) -> tuple[bytes | bytearray, bool]:
        nonlocal written
        written += 1
        if written > 24 + 15:  # the sample of the estimate, one shard and a half
            raise KeyboardInterrupt
        return encode(path, size)

    encode = packing._encoded
    monkeypatch.setattr(packing, "_encoded", stops)
    monkeypatch.setattr(packing, "SAMPLE", 24)
    with pytest.raises(KeyboardInterrupt):
        make()
    assert not (made.folder / "pack.json").exists()
    with pytest.raises(BenchError, match=r"pack.json is missing; `bench data pack imagenet --size 256` makes it"):
        open_split(Data(name=NAME, size=32), "train", site)
    before = {file.name: file.stat().st_mtime_ns for file in made.folder.glob("*.pack")}
    assert before
    monkeypatch.setattr(packing, "_encoded", encode)
    _, said = make()
    assert said[0] == f"{len(before)} of 5 shards are there and whole"
    assert {name: (made.folder / name).stat().st_mtime_ns for name in before} == before
    assert content(made.folder) == whole


@pytest.mark.parametrize("harm", ["flip", "cut", "lose", "index"])
def test_a_damaged_shard_is_made_anew_and_only_that(make: Make, harm: str) -> None:
    made, _ = make()
    whole = content(made.folder)
    shard = made.folder / "train-0001.pack"
    if harm == "flip":
        body = bytearray(shard.read_bytes())
        body[len(body) // 2] ^= 1
        shard.write_bytes(body)
    elif harm == "cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif harm == "lose":
        shard.unlink()
    else:
        shard.with_suffix(".json").write_text("{")
    _, said = make()
    assert said[0] == "4 of 5 shards are there and whole"
    assert content(made.folder) == whole
    assert make()[1] == ["5 of 5 shards are there and whole"]


def test_other_images_in_the_source_make_their_shards_anew(site: Site, source: Path, make: Make) -> None:
    make()
    held = files(NAME, "val", site).paths[0]
    extra = source / "val" / "flower" / "99.JPEG"
    shutil.copy(source / "val" / "flower" / "12.JPEG", extra)
    folders._image_folder.cache_clear()  # listed once a process
    _, said = make()
    assert said[0] == "4 of 5 shards are there and whole"
    assert len(files(NAME, "test", site)) == 7
    assert files(NAME, "val", site).paths[0] == held


def test_a_damaged_image_of_a_shard_is_told_by_its_checksum_and_replaced_in_pretraining(site: Site, make: Make) -> None:
    make()
    split = files(NAME, "train", site)
    hurt = split.paths[3]
    shard, _, place = str(hurt).partition(".pack/")
    offset = int(place.split("-")[0])
    body = bytearray(Path(f"{shard}.pack").read_bytes())
    body[offset + 300] ^= 255
    Path(f"{shard}.pack").write_bytes(body)
    decoding._shard.cache_clear()
    with pytest.raises(
        BenchError, match=rf"^{hurt} is damaged \(its checksum is another\): `bench data pack` makes this shard anew"
    ):
        loader.decode(split, 3)
    loader.decode(split, 2)
    plan = Plan(images=len(split), batch_size=len(split), seed=0)
    (batch,) = loader.train_batches(split, (Augment(size=16),), plan, range(1), CPU, workers=0, replace_unreadable=True)
    assert batch.unreadable == (3,)


def test_damaged_images_of_the_source_are_packed_as_they_are_and_named(site: Site, source: Path, make: Make) -> None:
    broken = source / "val" / "china" / "12.JPEG"
    broken.write_bytes(broken.read_bytes()[:300])
    made, said = make()
    assert made.damaged == ("val/china/12.JPEG",)
    assert any("1 damaged ones as they are" in line for line in said)
    split = files(NAME, "test", site)
    with pytest.raises(BenchError, match=r"val/china/12\.JPEG cannot be decoded"):
        loader.decode(split, 0)


def test_a_lost_or_cut_shard_is_found_on_opening(site: Site, make: Make) -> None:
    made, _ = make()
    shard = made.folder / "train-0001.pack"
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(
        BenchError, match=f"^{shard} has 100 bytes, expected {size:,}: `bench data pack imagenet --size 48` makes"
    ):
        open_split(Data(name=NAME, size=32), "train", site)
    shard.unlink()
    with pytest.raises(BenchError, match=f"^{shard} is missing: `bench data pack"):
        open_split(Data(name=NAME, size=32), "train", site)


def test_a_pack_of_another_format_or_size_is_refused(site: Site, make: Make) -> None:
    made, _ = make()
    about = json.loads((made.folder / "pack.json").read_text())
    for change in ({"format": 2}, {"size": 256}, {"quality": 75}):
        (made.folder / "pack.json").write_text(json.dumps(about | change))
        with pytest.raises(BenchError, match="describes another pack or another format of it than imagenet-48"):
            open_split(Data(name=NAME, size=32), "train", site)


def test_too_small_a_disk_and_unknown_packs_are_refused_before_anything_is_written(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BenchError, match=r"no packed data set imagenet-100; what can be packed: imagenet --size 48"):
        packing.pack("imagenet", 100, site)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(
        BenchError, match=r"the pack needs about .* GB, 1e-06 GB are free. Choose another folder with --out"
    ):
        packing.pack("imagenet", SIZE, site, workers=1, say=lambda line: None)
    assert not list(site.data[NAME].glob("*.pack"))


@pytest.mark.slow
def test_the_command_packs_with_processes_and_check_finds_it_whole(
    workplace: Path, source: Path, make: Make, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = make()
    (workplace / "bench.toml").write_text(f'[data]\nimagenet = "{source}"\n')
    result = CliRunner().invoke(cli.app, ["data", "pack", "imagenet", "--size", str(SIZE), "--workers", "2"])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1].endswith(f"GB in {workplace}/data/{NAME}")
    assert content(workplace / "data" / NAME) == content(made.folder)
    assert check.check_data(NAME, site).problems == []
