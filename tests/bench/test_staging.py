"""Packs are copied to a node's own disk once, whole or not at all; whatever goes wrong, the data are read."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from bench import ROOT
from bench.bench_toml import find_site
from bench.commands import doctor, memory
from bench.data import as_is, decoding, packing_as_is, staging
from bench.data.catalogue import CATALOGUE
from bench.data.datasets import open_splits
from bench.data.fingerprint import DataHere
from bench.data.packing_as_is import pack_as_is
from bench.data.sets import folders
from bench.data.splits import Files
from bench.data.staging import staged
from bench.errors import BenchError, Stopped
from bench.files import atomic_path
from bench.settings.site import Site
from tests.bench import data_trees as trees

SHARD = 12_000


@pytest.fixture
def site(here: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """One that reads a pack and has a disk of its own."""
    monkeypatch.setattr(packing_as_is, "SHARD_BYTES", SHARD)
    root = trees.class_folders(tmp_path / "imagenet", (("train", 30), ("val", 3)), ("auk", "kea"))
    folders._image_folder.cache_clear()
    pack_as_is("imagenet", trees.site_with(here, "imagenet", root), out=tmp_path / "pack", say=lambda line: None)
    return replace(trees.site_with(here, "imagenet", tmp_path / "pack"), staging=str(tmp_path / "disk"))


def ask(site: Site, *, copies: bool = True, should_stop: Callable[[], bool] = bool) -> tuple[Site, list[str]]:
    said: list[str] = []
    return staged("imagenet", site, copies=copies, should_stop=should_stop, say=said.append), said


def copies_on(site: Site) -> list[Path]:
    return [path for path in Path(site.staging).glob("imagenet-*") if path.is_dir()]


def test_a_pack_is_copied_once_and_is_the_same_data(site: Site, tmp_path: Path) -> None:
    near, said = ask(site)
    (copy,) = copies_on(site)
    assert near.data["imagenet"] == copy
    assert near == replace(site, data=near.data)
    assert [line.split(" to ")[0].split(" in ")[0] for line in said] == [
        f"staging: copying {sum(f.stat().st_size for f in copy.iterdir()) / 1e3:.0f} kB from {tmp_path}/pack",
        "staging: copied",
        f"staging: imagenet is read from {copy}",
    ]
    assert DataHere(near).known("imagenet") == DataHere(site).known("imagenet")
    there, original = (cast(Files, open_splits("imagenet", 32, where)["train"]) for where in (near, site))
    assert str(there.paths[0]).startswith(f"{copy}/")
    for a, b in zip(there.paths, original.paths, strict=True):
        assert decoding.read_bytes(a) == decoding.read_bytes(b)
    before = {file: file.stat().st_mtime_ns for file in copy.iterdir()}
    again, said = ask(site)
    assert (again, said) == (near, [f"staging: imagenet is read from {copy}"])
    assert {file: file.stat().st_mtime_ns for file in copy.iterdir()} == before


def test_a_pack_of_smaller_images_is_copied_too(here: Site, tmp_path: Path) -> None:
    site = replace(here, data={"imagenet-256": tmp_path / "pack"})
    made = tmp_path / "pack"
    made.mkdir()
    for stem in ("train-0000", "val-0000"):
        (made / f"{stem}.pack").write_bytes(stem.encode())
        crc32 = as_is.checksum_of(made / f"{stem}.pack")
        (made / f"{stem}.json").write_text(f'{{"bytes": {len(stem)}, "crc32": {crc32}}}')
    (made / "pack.json").write_text('{"shards": {"train": ["train-0000"], "val": ["val-0000"]}}')
    near = staged("imagenet-256", replace(site, staging=str(tmp_path / "disk")), copies=True, say=lambda line: None)
    assert {file.name: file.read_bytes() for file in near.data["imagenet-256"].iterdir()} == {
        file.name: file.read_bytes() for file in made.iterdir()
    }


@pytest.mark.parametrize("text", ["{}", '{"shards": 3}', '{"shards": {"train": ["x"]}}', "[", '{"shards": {"a": [1]}}'])
def test_a_damaged_description_is_said_and_the_original_is_left_to_its_reader(
    text: str, here: Site, tmp_path: Path
) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "pack.json").write_text(text)
    (tmp_path / "pack" / "1.json").write_text("{}")
    site = replace(here, data={"imagenet-256": tmp_path / "pack"}, staging=str(tmp_path / "disk"))
    said: list[str] = []
    assert staged("imagenet-256", site, copies=True, say=said.append) == site
    assert said[0].startswith("staging: imagenet-256 is read from its original place: ")


def test_only_packs_are_copied_and_only_where_it_is_asked_for(site: Site, tmp_path: Path) -> None:
    folder = trees.site_with(site, "imagenet", tmp_path / "imagenet")
    same, (line,) = ask(folder)
    assert same == folder
    assert line == (
        f"staging: imagenet is read from {tmp_path}/imagenet: it is no pack (`bench data pack imagenet --as-is` "
        "makes one)"
    )
    assert ask(replace(site, staging=""))[1] == []
    assert staged("mnist5k", site, copies=True, say=pytest.fail) == site
    same, said = ask(site, copies=False)
    assert same == site
    assert said[0].endswith(f"no copy is in {tmp_path}/disk, and this job reads its images once")
    assert not (tmp_path / "disk").exists()
    ask(site)
    assert ask(site, copies=False)[0] != site  # one that is there is used


@pytest.mark.parametrize("name", [name for name, known in CATALOGUE.items() if not known.package])
def test_the_advice_to_pack_is_given_where_packing_is_possible(name: str, here: Site, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    site = replace(trees.site_with(here, name, tmp_path / "images"), staging=str(tmp_path / "disk"))
    said: list[str] = []
    assert staged(name, site, copies=True, say=said.append) == site
    with pytest.raises(BenchError) as refused:  # for its layout, where not for its kind
        pack_as_is(name, site, out=tmp_path / "pack")
    assert ("--as-is" in said[0]) == ("cannot be packed" not in str(refused.value))
    assert said[0].startswith(f"staging: {name} is read from {tmp_path}/images: it is no pack")


@pytest.mark.parametrize(
    ("staging_", "reason"),
    [
        ("$NO_SUCH_PLACE/x", r"there is no variable NO_SUCH_PLACE on this node"),
        ("FILE/x", r"the folder .*/file/x cannot be made"),
    ],
)
def test_a_disk_that_is_not_there_is_said_and_the_original_is_read(
    site: Site, tmp_path: Path, staging_: str, reason: str
) -> None:
    (tmp_path / "file").write_text("")
    same, said = ask(other := replace(site, staging=staging_.replace("FILE", str(tmp_path / "file"))))
    assert same == other
    (line,) = said
    assert line.startswith("staging: imagenet is read from its original place: ")
    assert re.search(reason, line)


def test_variables_have_the_value_of_the_node(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bench.toml").write_text('[local]\nstaging = "$BENCH_TEST_DISK/bench"\n')
    assert find_site(tmp_path).staging == "$BENCH_TEST_DISK/bench"  # not known where it is read
    monkeypatch.setenv("BENCH_TEST_DISK", str(tmp_path / "nvme"))
    near, _ = ask(replace(site, staging="$BENCH_TEST_DISK/bench"))
    assert near.data["imagenet"].parent == tmp_path / "nvme" / "bench"


def test_too_small_a_disk_is_known_before_anything_is_copied(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 2000))
    same, (line,) = ask(site)
    assert same == site
    assert line.startswith(
        f"staging: imagenet is read from its original place: {tmp_path}/disk has 2 kB free, the pack"
    )
    assert copies_on(site) == [path for path in copies_on(site) if not list(path.iterdir())]


def test_a_disk_that_fills_up_meanwhile_is_left_as_it_was(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    real = atomic_path

    def full(path: Path) -> AbstractContextManager[Path]:
        if path.name == "images-0001.pack":
            raise OSError(28, "No space left on device")
        return real(path)

    monkeypatch.setattr(staging, "atomic_path", full)
    same, said = ask(site)
    assert same == site
    assert "No space left on device" in said[-1]
    assert copies_on(site) == []


def test_a_damaged_pack_is_not_copied(site: Site, tmp_path: Path) -> None:
    shard = tmp_path / "pack" / "images-0001.pack"
    body = bytearray(shard.read_bytes())
    body[7] ^= 1
    shard.write_bytes(body)
    same, said = ask(site)
    assert same == site
    assert f"{shard} is damaged: its checksum is another than when it was packed" in said[-1]
    assert copies_on(site) == []


KILLED = """
import sys, time
from pathlib import Path
from bench.bench_toml import find_site
from bench.commands import doctor, memory
from bench.data import staging
staging.COPIERS, real, seen = 1, staging.atomic_path, 0
def slow(path):
    global seen
    seen += 1
    if seen == 4:
        print("here", flush=True)
        time.sleep(600)
    return real(path)
staging.atomic_path = slow
staging.staged("imagenet", find_site(), copies=True, say=lambda line: None)
"""


def test_an_interrupted_copy_is_never_read_and_others_wait_for_one_that_is_made(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bench.toml").write_text(
        f'[data]\nimagenet = "{tmp_path}/pack"\n[local]\nstaging = "{tmp_path}/disk"\n'
    )
    with subprocess.Popen(
        [sys.executable, "-c", KILLED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        (half,) = copies_on(site)
        assert half.name.endswith(".partial")
        assert len(list(half.iterdir())) == 3
        assert ask(site, copies=False)[0] == site
        monkeypatch.setattr(staging, "POLL", 0.01)
        looks = iter([False, False, True])
        with pytest.raises(Stopped, match="stopped while another process copied"):
            ask(site, should_stop=lambda: next(looks))
        process.send_signal(signal.SIGKILL)
    before = {file.name: file.stat().st_mtime_ns for file in half.iterdir()}
    near, _ = ask(site)
    (copy,) = copies_on(site)
    assert near.data["imagenet"] == copy
    for name, time in before.items():  # what was whole is not copied again
        assert (copy / name).stat().st_mtime_ns == time
    assert {f.name: f.read_bytes() for f in copy.iterdir()} == {
        f.name: f.read_bytes() for f in (tmp_path / "pack").iterdir() if f.name != packing_as_is.LOCK
    }


def test_a_stop_while_copying_keeps_what_is_whole_and_two_at_once_copy_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stopped, match="stopped while the data were copied"):
        ask(site, should_stop=lambda: True)
    assert [path.suffix for path in copies_on(site)] == [".partial"]
    monkeypatch.setattr(staging, "POLL", 0.01)
    copied = staging._copy_all
    times: list[int] = []

    def counting(copy: staging._Copy, should_stop: Callable[[], bool]) -> None:
        times.append(1)
        copied(copy, should_stop)

    monkeypatch.setattr(staging, "_copy_all", counting)
    found: list[Site] = []
    threads = [threading.Thread(target=lambda: found.append(ask(site)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(times) == 1
    assert found == [found[0]] * 4
    assert found[0] != site


@pytest.mark.parametrize("lost", ["images-0001.pack", "as-is.json"])
def test_where_nobody_waits_for_anybody_a_copy_that_is_not_whole_is_not_read(
    lost: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system without locks: another process tidies the folder away while this one copies to it."""

    def no_lock(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    copied = staging._copy_all

    def disturbed(copy: staging._Copy, should_stop: Callable[[], bool]) -> None:
        copied(copy, should_stop)
        (copy.partial / lost).unlink()

    monkeypatch.setattr("bench.files.fcntl.flock", no_lock)
    monkeypatch.setattr(staging, "_copy_all", disturbed)
    same, said = ask(site)
    assert same == site
    assert re.search(r"is read from its original place: the copy in .* is not whole: another process", said[-1])
    assert ask(site, copies=False)[0] == site
    monkeypatch.setattr(staging, "_copy_all", copied)
    near, _ = ask(site)
    assert near != site
    assert len(open_splits("imagenet", 32, near)["train"]) == 59


def test_a_copy_of_which_files_are_gone_or_cut_is_made_anew(site: Site) -> None:
    ask(site)
    (copy,) = copies_on(site)
    (copy / "images-0001.pack").unlink()
    (copy / "splits.json").write_text("{}")
    near, said = ask(site)
    assert "staging: copying" in said[0]
    assert open_splits("imagenet", 32, near)["train"].labels.shape == (59,)


def test_another_pack_under_the_same_name_has_a_copy_of_its_own(site: Site, tmp_path: Path, here: Site) -> None:
    ask(site)
    trees.save(tmp_path / "imagenet" / "train" / "auk" / "new.JPEG")
    folders._image_folder.cache_clear()
    source = trees.site_with(here, "imagenet", tmp_path / "imagenet")
    pack_as_is("imagenet", source, out=tmp_path / "pack", say=lambda line: None)
    ask(site)
    assert len(copies_on(site)) == 2


@pytest.mark.parametrize("value", ["3", "true", '""'])
def test_staging_is_a_path(tmp_path: Path, value: str) -> None:
    (tmp_path / "bench.toml").write_text(f"[local]\nstaging = {value}\n")
    with pytest.raises(BenchError, match=r"local.staging is .*, expected a path"):
        find_site(tmp_path)


def test_doctor_says_where_copies_would_lie(here: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def state(text: str) -> tuple[str, str]:
        return memory.staging(replace(here, staging=text))

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, int(2e12)))
    assert state(f"{tmp_path}/new/disk") == ("ok", f"2000 GB free for copies of packs in {tmp_path}/new/disk")
    kind, text = state("$NO_SUCH_PLACE")
    assert kind == "off"
    assert "there is no variable NO_SUCH_PLACE on this node" in text
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert state(str(tmp_path))[0] == "off"
    (shown,) = (check for check in doctor.checks(replace(here, staging=str(tmp_path))) if "staging" in check.text)
    assert (shown.topic, shown.state) == ("disk", "off")
