"""Data sets of smaller images in a few large files: `bench data pack imagenet --size 256` makes `imagenet-256`.

Every image whose shorter side is longer than the size is resized (bicubic with antialiasing) and encoded as JPEG of
quality 90; others, and damaged ones, are stored as they are. That changes the data: small crops are enlarged from fewer
pixels and every image is compressed twice. So it is a data set of its own name, which is in every job id, table and
protocol that uses it. The splits are those of the source, in the same order.

    pack.json          what it is made of and how many images it holds; written last, so a pack without it is not whole
    train-0000.json    the images of a shard, their labels, and its settings; written after the shard
    train-0000.pack    the encoded images one after another

An image is named SHARD/OFFSET-LENGTH-CRC32/NAME, like a file below the shard: bench/data/decoding.py reads it from
there with one call and compares its checksum. So everything that works with `Files` works with a pack.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch

from bench.data.location import root_of
from bench.data.names import SHARD
from bench.data.splits import SPLITS, Files, Paths, Split, SplitData
from bench.errors import BenchError, InputCorrupt
from bench.files import read_json
from bench.settings.site import Site

FORMAT = 1
QUALITY = 90
PACKS: Mapping[str, tuple[str, int]] = {"imagenet-256": ("imagenet", 256)}  # name -> source, shorter side in pixels


def load_pack(name: str, site: Site, size: int) -> Mapping[Split, SplitData]:
    """The splits of a pack. Raises BenchError when it is of another format, or a shard is missing or cut short."""
    return _load(root_of(name, site), name)


@lru_cache(maxsize=2)
def _load(root: Path, name: str) -> Mapping[Split, SplitData]:
    again = "`bench data pack {} --size {}` makes what is missing anew".format(*PACKS[name])
    about = _described(root / "pack.json", again)
    if (about.get("format"), about.get("source"), about.get("size"), about.get("quality")) != (
        FORMAT,
        *PACKS[name],
        QUALITY,
    ):
        raise BenchError(f"{root / 'pack.json'} describes another pack or another format of it than {name}: {again}.")
    shards, classes = about["shards"], about["classes"]
    assert isinstance(shards, dict)
    assert isinstance(classes, int)
    return {split: _joined([root / f"{stem}{SHARD}" for stem in shards[split]], classes, again) for split in SPLITS}


def _joined(shards: list[Path], classes: int, again: str) -> Files:
    names: list[str] = []
    labels: list[object] = []
    for shard in shards:
        body = _described(shard.with_suffix(".json"), again)
        there = shard.stat().st_size if shard.is_file() else None
        if there != body["bytes"]:
            found = "is missing" if there is None else f"has {there:,} bytes, expected {body['bytes']:,}"
            raise BenchError(f"{shard} {found}: {again}.")
        names += [f"{shard}/{place}" for place in list_in(body, "images")]
        labels += list_in(body, "labels")
    return Files(Paths(names), torch.tensor(labels), classes)


def _described(file: Path, again: str) -> dict[str, object]:
    try:
        return read_json(file)
    except (OSError, InputCorrupt) as error:
        raise BenchError(f"{file} cannot be read ({error}): {again}.") from error


def list_in(body: Mapping[str, object], name: str) -> list[object]:
    """The list under a name of a shard's description."""
    found = body[name]
    assert isinstance(found, list)
    return found
