"""Making a pack of the files of a data set as they are, as bench/data/as_is.py reads it. Goes on after a stop.

Threads copy, a shard each. A shard is written under another name and renamed when it is whole; the one that goes on
keeps those whose images have the names, sizes and times of before, and that are byte for byte what it would write.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, cast

from bench.data import as_is
from bench.data.as_is import AsIs, checksum_of, names_of
from bench.data.catalogue import entry
from bench.data.contents import Contents
from bench.data.decoding import read_bytes
from bench.data.fingerprint import scopes_of
from bench.data.listing import Listing, look
from bench.data.location import check_present, root_of
from bench.data.names import SHARD, portable
from bench.data.packable import why_not_packed
from bench.data.splits import SPLITS, Files, Split, SplitData, compact
from bench.errors import BenchError, Stopped
from bench.files import alone, atomic_path, make_folder, read_json, write_atomic
from bench.settings.site import Site
from bench.wording import counted, size

SHARD_BYTES = 1 << 30  # of images, unless one alone is larger
THREADS, CHUNK = 8, 256
LOCK = "as-is.lock"
_LEFT = re.compile(r"images-\d{4,}\.(pack|json)|\.(images-\d{4,}|as-is|splits|listing)\.(pack|json)\.[0-9a-f-]+\.tmp")
BESIDE = 1.02  # the descriptions of the images beside the images


@dataclass(frozen=True)
class _Image:
    """A file of the data set when packing began."""

    name: str  # below its folder
    bytes: int
    changed: int  # its time, in ns


@dataclass(frozen=True)
class _Shard:
    """Some images, and where they go."""

    file: Path
    root: Path
    images: Sequence[_Image]

    @property
    def index(self) -> Path:
        return self.file.with_suffix(".json")

    @cached_property
    def bytes(self) -> int:
        return sum(image.bytes for image in self.images)

    @property
    def key(self) -> str:
        """Of everything that its content depends on, as far as a look without reading tells."""
        told = "".join(f"{portable(image.name)}\0{image.bytes}\0{image.changed}\0" for image in self.images)
        return sha256(f"{as_is.FORMAT}\0{told}".encode("utf-8", "surrogateescape")).hexdigest()


def pack_as_is(
    name: str,
    site: Site,
    *,
    out: Path | None = None,
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> AsIs:
    """Make a pack, or go on with one. `workers`: threads that copy.

    Raises BenchError when the data set has nothing to pack or is not there, a file cannot be read or changes meanwhile,
    the disk cannot hold it, or another process makes the same pack.
    """
    root = _source(name, site)
    folder = out or site.root / "data" / f"{name}-as-is"
    if folder.resolve() == root.resolve() or root.resolve() in folder.resolve().parents:
        raise BenchError(f"{folder} is in the folder of the images, {root}: choose another one with --out.")
    make_folder(folder)
    if (held := as_is.data_of(folder)) not in (name, ""):
        raise BenchError(f"{folder} holds a pack of {held}: choose another folder with --out.")
    other = next((file.name for file in folder.iterdir() if file.name != LOCK), "")
    if other and not as_is.is_pack(folder):
        raise BenchError(f"{folder} holds other files, e.g. {other}: choose an empty or a new folder with --out.")

    def busy() -> None:
        raise BenchError(f"another process is packing into {folder}: wait for it, or choose another folder with --out.")

    with alone(folder / LOCK, busy):
        before = listing_of(name, root)
        return _packed(name, root, before, _splits(name, site), folder, workers or THREADS, say)


def _source(name: str, site: Site) -> Path:
    """The folder of the images. Raises BenchError where there is none, or nothing to pack."""
    if why := why_not_packed(name):
        raise BenchError(f"{name} cannot be packed: {why}.")
    check_present(name, site)
    root = root_of(name, site)
    if as_is.is_pack(root):
        raise BenchError(
            f"{root} is a pack of {name} as it is: `bench data check {name}` compares its checksums. To make one anew, "
            "name the folder of the images under [data] in bench.toml."
        )
    return root


def _splits(name: str, site: Site) -> Mapping[Split, Files]:
    """What the reader makes of the folder."""
    from bench.data.datasets import LOADERS

    found: Mapping[Split, SplitData] = LOADERS[name](site, entry(name).pixels)
    return cast(Mapping[Split, Files], found)  # as the catalogue says


def _packed(
    name: str,
    root: Path,
    before: Listing,
    splits: Mapping[Split, Files],
    folder: Path,
    threads: int,
    say: Callable[[str], None],
) -> AsIs:
    """`before`: the listing from before the splits were opened; that of the end must be the same."""
    names = {split: names_of(compact(files.paths).names(), root) for split, files in splits.items()}
    images = _images(root, sorted({name for part in names.values() for name in part}))
    shards = list(_shards(images, root, folder))
    with ThreadPoolExecutor(threads) as pool:
        todo = [shard for shard, whole in zip(shards, pool.map(_is_whole, shards), strict=True) if not whole]
    if len(todo) < len(shards):
        say(f"{len(shards) - len(todo)} of {counted(len(shards), 'shard')} are there and whole")
    if todo or not (folder / as_is.MARK).exists():
        (folder / as_is.UNFINISHED).touch()
        (folder / as_is.MARK).unlink(missing_ok=True)
    _tidy(folder, shards)
    _check_space(todo, folder, say)
    _write_all(todo, threads, say)
    if listing_of(name, root).digest() != before.digest():
        raise BenchError(f"{root} changed while it was packed: the same command packs what changed.")
    rows = {image.name: row for row, image in enumerate(images)}
    body = {
        split: {
            "rows": [rows[name] for name in names[split]],
            "labels": files.labels.tolist(),
            "several": files.labels.ndim > 1,
            "classes": files.classes,
            "left_out": [portable(sentence) for sentence in files.left_out],
        }
        for split, files in splits.items()
    }
    assert set(body) == set(SPLITS)
    folders = {portable(where): portable(files) for where, files in before.folders.items()}
    texts = {
        as_is.SPLITS_FILE: _compact_json(body),
        as_is.LISTING: _compact_json({"files": before.files, "bytes": before.bytes, "folders": folders}),
    }
    found: dict[str, list[int]] = {}
    for shard in shards:
        about = read_json(shard.index)
        found[shard.file.name] = [shard.bytes, int(str(about["crc32"]))]
        found[shard.index.name] = [shard.index.stat().st_size, checksum_of(shard.index)]
    found |= {file: [len(text), zlib.crc32(text.encode())] for file, text in texts.items()}
    mark = _compact_json(
        {
            "format": as_is.FORMAT,
            "data": name,
            "images": len(images),
            "bytes": sum(image.bytes for image in images),
            "fingerprint": before.digest(),
            "files": found,
        }
    )
    wrong = {file: text for file, text in texts.items() if not _holds(folder / file, text)}
    if wrong or not _holds(folder / as_is.MARK, mark):
        (folder / as_is.UNFINISHED).touch()
        (folder / as_is.MARK).unlink(missing_ok=True)  # also where it was right: whoever read it reads the others anew
        for file, text in wrong.items():
            write_atomic(folder / file, text)
        write_atomic(folder / as_is.MARK, mark)
    (folder / as_is.UNFINISHED).unlink(missing_ok=True)
    return as_is.described(folder, name)


def listing_of(name: str, root: Path) -> Listing:
    """What the fingerprint of a folder is made of."""
    return look(root, scopes_of(name, entry(name), root), Contents(None))


def _compact_json(body: object) -> str:
    return json.dumps(body, separators=(",", ":")) + "\n"  # ASCII, whatever the names are


def _images(root: Path, names: Sequence[str]) -> list[_Image]:
    """Sizes and times, asked by several threads: of a network drive each answer takes its time."""

    def look(part: Sequence[str]) -> list[_Image]:
        found = []
        for name in part:
            try:
                state = Path(f"{root}/{name}").stat()
            except OSError as error:
                raise BenchError(f"{root}/{name} cannot be read ({error.strerror or error}).") from error
            found.append(_Image(name, state.st_size, state.st_mtime_ns))
        return found

    with ThreadPoolExecutor(2 * THREADS) as pool:
        parts = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]
        return [image for part in pool.map(look, parts) for image in part]


def _shards(images: Sequence[_Image], root: Path, folder: Path) -> Iterator[_Shard]:
    start = count = number = 0
    for row, image in enumerate(images):
        if row > start and count + image.bytes > SHARD_BYTES:
            yield _Shard(folder / f"images-{number:04}{SHARD}", root, images[start:row])
            start, count, number = row, 0, number + 1
        count += image.bytes
    yield _Shard(folder / f"images-{number:04}{SHARD}", root, images[start:])


def _is_whole(shard: _Shard) -> bool:
    """Whether the shard is there, made of the same files, and undamaged, and its index is what belongs to it."""
    try:
        there = shard.index.read_bytes()
        if shard.file.stat().st_size != shard.bytes or shard.key.encode() not in there:
            return False
        with shard.file.open("rb") as file:
            return _index(shard, (file.read(image.bytes) for image in shard.images)).encode() == there
    except OSError:
        return False


def _holds(file: Path, text: str) -> bool:
    try:
        return file.read_bytes() == text.encode()
    except OSError:
        return False


def _tidy(folder: Path, shards: Sequence[_Shard]) -> None:
    """Remove what a killed process left half written, and shards of more images than there are now."""
    ours = {file.name for shard in shards for file in (shard.file, shard.index)}
    for file in folder.iterdir():
        if file.name not in ours and _LEFT.fullmatch(file.name):
            file.unlink(missing_ok=True)


def _check_space(todo: Sequence[_Shard], folder: Path, say: Callable[[str], None]) -> None:
    """Say how large it will be. Raises BenchError when the disk has less."""
    if not todo:
        return
    count, free = sum(len(shard.images) for shard in todo), shutil.disk_usage(folder).free
    there = sum(shard.file.stat().st_size for shard in todo if shard.file.exists())
    need = int(BESIDE * sum(shard.bytes for shard in todo))
    say(f"{counted(count, 'image')} to pack into {folder}: {size(need)} in {counted(len(todo), 'shard')}")
    if need > free + there:
        raise BenchError(
            f"{folder}: the pack needs {size(need)}, {size(free + there)} are free. Choose another folder with --out."
        )


def _write_all(todo: Sequence[_Shard], threads: int, say: Callable[[str], None]) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for shard, _ in zip(todo, pool.map(lambda shard: _write(shard, stop), todo), strict=True):
                say(f"{shard.file.name}: {counted(len(shard.images), 'image')}, {size(shard.bytes)}")
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _write(shard: _Shard, stop: threading.Event) -> None:
    """The shard, then its index."""
    shard.index.unlink(missing_ok=True)
    shard.file.unlink(missing_ok=True)

    def written(file: BinaryIO) -> Iterator[bytes | bytearray]:
        for image in shard.images:
            if stop.is_set():
                raise Stopped("another shard could not be written")
            content = read_bytes(Path(f"{shard.root}/{image.name}"))
            if len(content) != image.bytes:
                raise BenchError(
                    f"{shard.root}/{image.name} changed while it was packed: the same command packs what changed."
                )
            file.write(content)
            yield content

    with atomic_path(shard.file) as temporary, temporary.open("wb") as file:
        text = _index(shard, written(file))
    write_atomic(shard.index, text)


def _index(shard: _Shard, contents: Iterable[bytes | bytearray]) -> str:
    """What lies beside a shard with these images."""
    places, offset, checksum = [], 0, 0
    for image, content in zip(shard.images, contents, strict=True):
        places.append(f"{offset}-{len(content)}-{zlib.crc32(content):08x}/{portable(image.name)}")
        offset, checksum = offset + len(content), zlib.crc32(content, checksum)
    about: dict[str, Any] = {"key": shard.key, "bytes": offset, "crc32": checksum, "images": places}
    return _compact_json(about)
