"""A pack of the files of a data set as they are: the same data set, read from a few large files. Imports no torch.

`bench data pack NAME --as-is` makes it of a folder in the layout of its makers, and [data] of bench.toml names it in
the place of that folder. Bytes, labels, splits and their order are those of the folder, and so are names and sizes of
the files, of which the fingerprint is made: no job and no result can tell one from the other.

    as-is.json          of which data set it is; size and checksum of every other file; written last, so that a pack
                        without it is not whole
    listing.json        what the fingerprint is made of: names and sizes of all files, digests of lists
    splits.json         which images each split has, in its order, with their labels, as the reader of the folder said
    images-0000.json    the images of a shard, and what it was made of; written after the shard
    images-0000.pack    the images one after another, named as bench/data/sets/packed.py says
    as-is.unfinished    while the pack is not whole

Whoever changes how a reader of folders makes splits raises FORMAT, as packs hold the splits of before.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.data.catalogue import CATALOGUE
from bench.data.names import PACKED, SHARD, native
from bench.errors import BenchError, InputCorrupt
from bench.files import read_json

if TYPE_CHECKING:
    from bench.data.listing import Listing
    from bench.data.splits import Files, Split

FORMAT = 1
MARK, UNFINISHED, LISTING, SPLITS_FILE = "as-is.json", "as-is.unfinished", "listing.json", "splits.json"
PART = 1 << 24  # bytes that are read at once for a checksum
READERS = 8  # files whose checksums are computed at once


@dataclass(frozen=True)
class Stored:
    """A file of a pack: what it should be."""

    bytes: int
    crc32: int


@dataclass(frozen=True)
class AsIs:
    """A pack, as its mark describes it."""

    root: Path
    images: int
    bytes: int  # of the images
    fingerprint: str
    files: Mapping[str, Stored]

    @property
    def shards(self) -> list[Path]:
        """In the order of their images."""
        return [self.root / name for name in sorted(self.files) if name.endswith(SHARD)]


def is_pack(root: Path) -> bool:
    """Whether a folder holds such a pack, whole or not; also one whose mark was lost."""
    if (root / MARK).exists() or (root / UNFINISHED).exists():
        return True
    return (root / LISTING).exists() and (root / SPLITS_FILE).exists()


def data_of(root: Path) -> str:
    """Of which data set a pack is; empty where it is none, or its mark is lost or damaged."""
    try:
        found = str(read_json(root / MARK).get("data", ""))
    except (OSError, InputCorrupt):
        return ""
    return found if found in CATALOGUE else ""


def described(root: Path, name: str) -> AsIs:
    """A pack of this data set whose files all have their sizes.

    Raises BenchError for another data set or format, a pack that is not whole, and a file that is missing or cut short.
    """
    again = f"`bench data pack {name} --as-is --out {root}` makes what is missing, with the images' folder under [data]"
    try:
        body: dict[str, Any] = read_json(root / MARK)
        found = AsIs(
            root,
            int(body["images"]),
            int(body["bytes"]),
            str(body["fingerprint"]),
            {str(file): Stored(int(size), int(crc32)) for file, (size, crc32) in body["files"].items()},
        )
        data, version = str(body["data"]), body["format"]
    except FileNotFoundError as error:
        raise BenchError(f"{root} is a pack that is not whole ({MARK} is missing): {again}.") from error
    except (OSError, InputCorrupt, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BenchError(f"{root / MARK} cannot be read ({error}): {again}.") from error
    if data not in CATALOGUE:
        raise BenchError(f"{root / MARK} is damaged (it names no data set): {again}.")
    if data != name:
        raise BenchError(f"{root} is a pack of {data}, expected one of {name}: name another folder under [data].")
    if version != FORMAT:
        raise BenchError(f"{root} is a pack of format {version}, expected {FORMAT}: {again}.")
    for file, stored in found.files.items():
        try:
            there = (root / file).stat().st_size
        except FileNotFoundError:
            raise BenchError(f"{root / file} is missing: {again}.") from None
        except OSError as error:
            raise BenchError(f"{root / file} cannot be read ({error.strerror or error}).") from error
        if there != stored.bytes:
            raise BenchError(f"{root / file} has {there:,} bytes, expected {stored.bytes:,}: {again}.")
    return found


def listing_of(root: Path, name: str) -> Listing:
    """What the folder listed that the pack was made of: its fingerprint is the pack's."""
    pack = described(root, name)
    found = _listing(_content(pack, LISTING))
    if found.digest() != pack.fingerprint:
        raise BenchError(f"{root / LISTING} is not the listing of this pack: `bench data check {name}` looks closer.")
    return found


def _listing(body: Mapping[str, Any]) -> Listing:
    from bench.data.listing import Listing  # a command that looks at no data needs none of it

    folders = {native(folder): native(files) for folder, files in body["folders"].items()}
    return Listing(folders, int(body["files"]), int(body["bytes"]))


def load(root: Path, name: str) -> Mapping[Split, Files]:
    """The splits of a pack. Raises BenchError as `described`, and when the index is damaged."""
    return _load(root, name, (root / MARK).stat().st_mtime_ns if (root / MARK).exists() else 0)


@lru_cache(maxsize=2)
def _load(root: Path, name: str, stamp: int) -> Mapping[Split, Files]:
    import torch

    from bench.data.splits import SPLITS, Files, Paths

    pack = described(root, name)
    paths: list[str] = []
    for shard in pack.shards:
        index = _content(pack, f"{shard.stem}.json")
        paths += [f"{shard}/{native(place)}" for place in index["images"]]
    made: dict[Split, Files] = {}
    body = _content(pack, SPLITS_FILE)
    for split in SPLITS:
        part = body[split]
        labels = torch.tensor(part["labels"], dtype=torch.int8 if part["several"] else torch.int64)
        rows, left_out = part["rows"], tuple(native(sentence) for sentence in part["left_out"])
        made[split] = Files(Paths(map(paths.__getitem__, rows)), labels, int(part["classes"]), left_out)
    return made


def _content(pack: AsIs, file: str) -> dict[str, Any]:
    """A description of the pack. Raises BenchError when it is not the one that was written."""
    try:
        content = (pack.root / file).read_bytes()
    except OSError as error:
        raise BenchError(f"{pack.root / file} cannot be read ({error.strerror or error}).") from error
    if zlib.crc32(content) != pack.files[file].crc32:
        raise BenchError(
            f"{pack.root / file} is damaged (its checksum is another): `bench data pack --as-is` makes it anew."
        )
    body: dict[str, Any] = json.loads(content)
    return body


def damaged(pack: AsIs) -> Iterator[str]:
    """Which files have another checksum, in words, or whether their mark says something else; reads all of them."""
    from concurrent.futures import ThreadPoolExecutor  # brings logging: only where it is worth it

    whole = True
    with ThreadPoolExecutor(READERS) as pool:
        checksums = pool.map(checksum_of, [pack.root / file for file in pack.files])
        for (file, stored), found in zip(pack.files.items(), checksums, strict=True):
            if found != stored.crc32:
                whole = False
                yield f"{pack.root / file} is damaged: its checksum is another than when it was packed."
    if whole and not _is_told_truly(pack):
        yield f"{pack.root / MARK} is damaged: it describes other files. `bench data pack --as-is` makes it anew."


def _is_told_truly(pack: AsIs) -> bool:
    """Whether undamaged files have the images, bytes and fingerprint of the mark."""
    images = sum(len(_content(pack, f"{shard.stem}.json")["images"]) for shard in pack.shards)
    listing = _listing(_content(pack, LISTING))
    stored = sum(pack.files[shard.name].bytes for shard in pack.shards)
    return (images, stored, listing.digest()) == (pack.images, pack.bytes, pack.fingerprint)


def checksum_of(file: Path) -> int:
    """The crc32 of a whole file. Raises BenchError when it cannot be read."""
    found = 0
    try:
        with file.open("rb") as opened:
            while part := opened.read(PART):
                found = zlib.crc32(part, found)
    except OSError as error:
        raise BenchError(f"{file} cannot be read ({error.strerror or error}).") from error
    return found


def names_of(paths: Iterable[str], root: Path | str) -> list[str]:
    """Names of images below the data set's folder `root`, where the images of a pack have those of their folder."""
    below = (path.removeprefix(f"{root}/") for path in paths)
    return [path[place.end() :] if (place := PACKED.search(path)) else path for path in below]
