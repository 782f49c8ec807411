"""Copying the packs of a data set to a node's own disk before it is read: `[local] staging` of bench.toml.

One process of a node copies, holding a lock, and the others wait for it: the ranks of a job, and jobs side by side. A
copy is a folder named by what the pack holds. It gets its name when all of it is written and every checksum is right,
so an interrupted one is never read; the next one to copy goes on with its whole files. Later jobs compare sizes, and
whoever reads an image its checksum.

Whatever goes wrong is said in the job's log, and the job reads from the original place: the data are the same.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.data import as_is
from bench.data.as_is import PART, Stored, checksum_of
from bench.data.catalogue import entry
from bench.data.location import root_of
from bench.data.names import SHARD
from bench.errors import BenchError, Stopped, one_line
from bench.files import alone, atomic_path, make_folder, read_json
from bench.identity import digest
from bench.settings.site import Site
from bench.wording import duration, size

COPIERS = 4  # files that are copied at once
SPARE = 64_000_000  # bytes that a disk keeps
POLL = 0.5  # seconds between two looks at a lock that another process has
LOSSY = "pack.json"  # of bench/data/sets/packed.py


@dataclass(frozen=True)
class _Copy:
    """A pack, and where its copy belongs on this node."""

    source: Path
    folder: Path
    files: dict[str, Stored]

    @property
    def partial(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.partial")

    @property
    def bytes(self) -> int:
        return sum(stored.bytes for stored in self.files.values())


def staged(
    name: str, site: Site, *, copies: bool, should_stop: Callable[[], bool] = bool, say: Callable[[str], None] = print
) -> Site:
    """The site with this data set on the node's own disk, where bench.toml asks for it; else the site as it is.

    `copies`: also where no copy is there yet. Raises Stopped when asked to stop while it copies or waits.
    """
    if not site.staging or entry(name).package:
        return site
    try:
        root = root_of(name, site)
        files = _files(root, name)
        if files is None:
            from bench.data.packable import why_not_packed  # brings torch

            makes = "" if why_not_packed(name) else f" (`bench data pack {name} --as-is` makes one)"
            say(f"staging: {name} is read from {root}: it is no pack{makes}")
            return site
        place = place_of(site)
        mark = digest(tuple(sorted((file, stored.bytes, stored.crc32) for file, stored in files.items())))
        copy = _Copy(root, place / f"{name}-{mark[:12]}", files)
        if not _is_whole(copy):
            if not copies:
                say(f"staging: {name} is read from {root}: no copy is in {place}, and this job reads its images once")
                return site
            make_folder(place)
            _make(copy, should_stop, say)
            if not _is_whole(copy):  # where the file system knows no locks, several copy to one place
                raise BenchError(f"the copy in {copy.folder} is not whole: another process works there too.")
        say(f"staging: {name} is read from {copy.folder}")
        return replace(site, data={**site.data, name: copy.folder})
    except (BenchError, OSError, RuntimeError) as error:  # RuntimeError: no home folder
        say(f"staging: {name} is read from its original place: {one_line(error)}")
        return site


def place_of(site: Site) -> Path:
    """The folder on this node: a variable such as $SLURM_TMPDIR has its value here, not where `bench` was started."""
    text = os.path.expandvars(site.staging)
    unknown = re.search(r"\$(\w+|\{[^}]*\})", text, re.ASCII)
    if unknown:
        raise BenchError(
            f"[local] staging is {site.staging!r}, but there is no variable {unknown[1].strip('{}')} on this node."
        )
    return site.root / Path(text).expanduser()


def _files(root: Path, name: str) -> dict[str, Stored] | None:
    """Every file of a pack with its size and checksum; None for a folder of images."""
    if as_is.is_pack(root):
        return {**as_is.described(root, name).files, as_is.MARK: _stored(root / as_is.MARK)}
    if not (root / LOSSY).exists():
        return None
    found = {LOSSY: _stored(root / LOSSY)}
    try:
        about: dict[str, Any] = read_json(root / LOSSY)
        for stem in (stem for split in about["shards"].values() for stem in split):
            shard: dict[str, Any] = read_json(root / f"{stem}.json")
            found[f"{stem}{SHARD}"] = Stored(int(shard["bytes"]), int(shard["crc32"]))
            found[f"{stem}.json"] = _stored(root / f"{stem}.json")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BenchError(f"the descriptions of the pack {root} are damaged: `bench data check {name}`.") from error
    return found


def _stored(file: Path) -> Stored:
    return Stored(file.stat().st_size, checksum_of(file))


def _is_whole(copy: _Copy) -> bool:
    """Whether the copy is there: it has its name only since every checksum was right."""
    try:
        return all((copy.folder / file).stat().st_size == stored.bytes for file, stored in copy.files.items())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _make(copy: _Copy, should_stop: Callable[[], bool], say: Callable[[str], None]) -> None:
    """Copy, or wait for another process that does. Raises BenchError or OSError when there will be no copy."""
    waiting = False

    def busy() -> None:
        nonlocal waiting
        if not waiting:
            say(f"staging: another process copies to {copy.folder}: waiting for it")
        waiting = True
        if should_stop():
            raise Stopped("stopped while another process copied the data to this node")
        time.sleep(POLL)

    with alone(copy.folder.with_name(f"{copy.folder.name}.lock"), busy):
        if _is_whole(copy):
            return
        if copy.folder.exists():  # files are gone or cut short, by somebody who tidied up
            shutil.rmtree(copy.folder)
        there = sum(file.stat().st_size for file in copy.partial.glob("*"))
        free = shutil.disk_usage(copy.folder.parent).free
        if copy.bytes + SPARE > free + there:
            raise BenchError(f"{copy.folder.parent} has {size(free + there)} free, the pack takes {size(copy.bytes)}.")
        copy.partial.mkdir(exist_ok=True)
        begun = time.monotonic()
        say(f"staging: copying {size(copy.bytes)} from {copy.source} to {copy.folder}")
        try:
            _copy_all(copy, should_stop)
        except (BenchError, OSError):
            shutil.rmtree(copy.partial, ignore_errors=True)  # nobody else shall want for the room
            raise
        copy.partial.rename(copy.folder)
        say(f"staging: copied in {duration(time.monotonic() - begun)}")


def _copy_all(copy: _Copy, should_stop: Callable[[], bool]) -> None:
    for file in copy.partial.iterdir():  # what a killed process left half written
        if file.name not in copy.files:
            file.unlink()
    ended = threading.Event()
    with ThreadPoolExecutor(COPIERS) as pool:
        try:
            for _ in pool.map(partial(_copy_one, copy, lambda: should_stop() or ended.is_set()), copy.files):
                pass
        except BaseException:
            ended.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _copy_one(copy: _Copy, should_stop: Callable[[], bool], file: str) -> None:
    """One file, unless it is there and right. Raises BenchError when what was read is not what was packed."""
    wanted, target = copy.files[file], copy.partial / file
    if target.exists() and target.stat().st_size == wanted.bytes and checksum_of(target) == wanted.crc32:
        return
    checksum = count = 0
    with (
        (copy.source / file).open("rb") as source,
        atomic_path(target) as temporary,
        temporary.open("wb") as written,
    ):
        while part := source.read(PART):
            if should_stop():
                raise Stopped("stopped while the data were copied to this node")
            written.write(part)
            count, checksum = count + len(part), zlib.crc32(part, checksum)
        if (count, checksum) != (wanted.bytes, wanted.crc32):
            raise BenchError(f"{copy.source / file} is damaged: its checksum is another than when it was packed.")
