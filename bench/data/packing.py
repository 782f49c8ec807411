"""Making a pack: smaller images of a data set in a few large files, as sets/packed.py reads them.

Goes on after a stop.
"""

from __future__ import annotations

import io
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from bench.data.as_is import names_of
from bench.data.decoding import decode_bytes, read_bytes
from bench.data.location import fetch_folder, root_of
from bench.data.names import SHARD
from bench.data.sets import packed
from bench.data.sets.packed import FORMAT, QUALITY, list_in
from bench.data.splits import SPLITS, Files, Split, SplitData, compact
from bench.errors import BenchError, InputCorrupt
from bench.files import atomic_path, make_folder, read_json, write_json
from bench.identity import digest
from bench.machine import cores
from bench.seeding import generator
from bench.settings.site import Site

IMAGES = 10_000  # of a shard: about 300 MB, a few minutes of a core
SAMPLE = 64  # images of the training split from which the size is estimated


@dataclass(frozen=True)
class _Shard:
    """Some images of a split, and where they go."""

    file: Path
    source: str
    size: int
    root: Path  # of the source
    images: Files

    @property
    def index(self) -> Path:
        return self.file.with_suffix(".json")

    @property
    def key(self) -> str:
        """Of everything that its content depends on, but for the source's pixels."""
        return digest((FORMAT, self.source, self.size, QUALITY, tuple(self.names())))

    def names(self) -> list[str]:
        """Paths below the source's root."""
        return names_of(compact(self.images.paths).names(), self.root)


@dataclass(frozen=True)
class Packed:
    """What packing came to."""

    folder: Path
    images: int
    bytes: int
    damaged: tuple[str, ...]  # stored as they are


def pack(
    source: str,
    size: int,
    site: Site,
    *,
    out: Path | None = None,
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> Packed:
    """Make a pack, or go on with one: shards that are whole and of the same images are kept.

    Raises BenchError when the catalogue has no such pack, the source is not there, or the disk cannot hold it.
    """
    from bench.data.datasets import open_splits

    name = f"{source}-{size}"
    if name not in packed.PACKS:
        known = ", ".join(f"{source} --size {size}" for source, size in packed.PACKS.values())
        raise BenchError(f"there is no packed data set {name}; what can be packed: {known}.")
    folder = out or fetch_folder(name, site)
    make_folder(folder)
    splits = open_splits(source, size, site)
    shards = list(_shards(source, size, folder, root_of(source, site), splits))
    todo = [shard for shard in shards if not _whole(shard)]
    if todo:
        (folder / "pack.json").unlink(missing_ok=True)
    if len(todo) < len(shards):
        say(f"{len(shards) - len(todo)} of {len(shards)} shards are there and whole")
    _check_space(todo, folder, say)
    for shard, count, damaged in _written(todo, workers or cores()):
        say(
            f"{shard.file.name}: {len(shard.images):,} images, {count / 1e6:.0f} MB"
            + (f", {damaged} damaged ones as they are" if damaged else "")
        )
    bodies = [read_json(shard.index) for shard in shards]
    found = Packed(
        folder,
        images=sum(len(shard.images) for shard in shards),
        bytes=sum(shard.file.stat().st_size for shard in shards),
        damaged=tuple(str(name) for body in bodies for name in list_in(body, "damaged")),
    )
    about = {
        "format": FORMAT,
        "source": source,
        "size": size,
        "quality": QUALITY,
        "images": found.images,
        "bytes": found.bytes,
    }
    write_json(
        folder / "pack.json",
        about
        | {
            "classes": splits["train"].classes,
            "shards": {
                split: [shard.file.stem for shard in shards if shard.file.name.startswith(f"{split}-")]
                for split in SPLITS
            },
            "damaged": list(found.damaged),
        },
    )
    return found


def _shards(source: str, size: int, folder: Path, root: Path, splits: Mapping[Split, SplitData]) -> Iterator[_Shard]:
    for split in SPLITS:
        data = splits[split]
        assert isinstance(data, Files)  # as all sources of packed.PACKS
        for number, start in enumerate(range(0, len(data), IMAGES)):
            rows = torch.arange(start, min(start + IMAGES, len(data)))
            yield _Shard(folder / f"{split}-{number:04}{SHARD}", source, size, root, data.rows(rows))


def _written(todo: list[_Shard], workers: int) -> Iterator[tuple[_Shard, int, int]]:
    """Each shard with its bytes and its number of damaged images, as they get done."""
    if workers == 1 or len(todo) < 2:
        yield from ((shard, *_write(shard)) for shard in todo)
        return
    with ProcessPoolExecutor(
        min(workers, len(todo)), mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        try:
            yield from ((shard, *result) for shard, result in zip(todo, pool.map(_write, todo), strict=True))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _write(shard: _Shard) -> tuple[int, int]:
    """The shard, then its index."""
    shard.index.unlink(missing_ok=True)
    places, damaged, offset, checksum = [], [], 0, 0
    with atomic_path(shard.file) as temporary, temporary.open("wb") as file:
        for path, name in zip(shard.images.paths, shard.names(), strict=True):
            content, whole = _encoded(path, shard.size)
            if not whole:
                damaged.append(name)
            file.write(content)
            places.append(f"{offset}-{len(content)}-{zlib.crc32(content):08x}/{name}")
            offset, checksum = offset + len(content), zlib.crc32(content, checksum)
    body = {"format": FORMAT, "key": shard.key, "bytes": offset, "crc32": checksum, "damaged": damaged}
    write_json(shard.index, body | {"images": places, "labels": shard.images.labels.tolist()})
    return offset, len(damaged)


def _encoded(path: Path, size: int) -> tuple[bytes | bytearray, bool]:
    """What is stored for a file, and whether it could be decoded."""
    content = read_bytes(path)
    try:
        image = decode_bytes(content)
    except MemoryError:
        raise
    except Exception:  # as decoding.read_image: Pillow raises many kinds
        return content, False
    if min(image.shape[1:]) <= size:
        return content, True
    buffer = io.BytesIO()
    Image.fromarray(_resized(image, size).permute(1, 2, 0).contiguous().numpy()).save(
        buffer, "JPEG", quality=QUALITY, optimize=True
    )
    return buffer.getvalue(), True


def _resized(image_CHW: Tensor, size: int) -> Tensor:
    from torchvision.transforms.v2 import functional as T  # imported when used: slow to import

    resized: Tensor = T.resize(image_CHW, [size], interpolation=T.InterpolationMode.BICUBIC, antialias=True)
    return resized


def _whole(shard: _Shard) -> bool:
    """Whether the shard is there, made of the same images with the same settings, and undamaged."""
    try:
        body = read_json(shard.index)
        if body["key"] != shard.key or body["bytes"] != shard.file.stat().st_size:
            return False
        checksum = 0
        with shard.file.open("rb") as file:
            while part := file.read(1 << 24):
                checksum = zlib.crc32(part, checksum)
    except (OSError, InputCorrupt, KeyError):
        return False
    return checksum == body["crc32"]


def _check_space(todo: list[_Shard], folder: Path, say: Callable[[str], None]) -> None:
    """Say how large it will be. Raises BenchError when the disk has less."""
    if not todo:
        return
    images, count = todo[0].images, sum(len(shard.images) for shard in todo)
    chosen = torch.randperm(len(images), generator=generator(0, "pack"))[:SAMPLE].tolist()
    need = sum(len(_encoded(images.paths[index], todo[0].size)[0]) for index in chosen) / len(chosen) * count
    free = shutil.disk_usage(folder).free
    say(f"{count:,} images to pack into {folder}: about {need / 1e9:.2g} GB, estimated from {len(chosen)} of them")
    if need > free:
        raise BenchError(
            f"{folder}: the pack needs about {need / 1e9:.2g} GB, {free / 1e9:.2g} GB are free. Choose another "
            "folder with --out."
        )
