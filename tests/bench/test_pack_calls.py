"""How often an image of a pack asks the system: one call each, and one open file a shard and process."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from zlib import crc32

import pytest

from bench.data import decoding
from bench.data.decoding import read_bytes
from bench.errors import BenchError

IMAGES = 40  # of a shard


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Of images in two shards, in turn."""
    made: list[Path] = []
    for number in range(2):
        shard, offset = tmp_path / f"images-{number:04}.pack", 0
        with shard.open("wb") as file:
            for image in range(IMAGES):
                content = bytes([number, image]) * (50 + image)
                file.write(content)
                made.append(Path(f"{shard}/{offset}-{len(content)}-{crc32(content):08x}/train/a/{image}.JPEG"))
                offset += len(content)
    decoding._shard.cache_clear()
    return [path for pair in zip(made[:IMAGES], made[IMAGES:], strict=True) for path in pair]


def counted(paths: list[Path]) -> Counter[str]:
    """What the reading of all of them asks for; each must have its content."""
    calls: Counter[str] = Counter()
    opened, read = os.open, os.preadv

    def opens(path: str, flags: int) -> int:
        calls[f"open {Path(path).name}"] += 1
        return opened(path, flags)

    def reads(number: int, buffers: list[memoryview], offset: int) -> int:
        calls["read"] += 1
        return read(number, buffers, offset)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "open", opens)
        patched.setattr(os, "preadv", reads)
        patched.setattr("builtins.open", lambda *_, **__: pytest.fail("a file was opened for one image"))
        for number, path in enumerate(paths):
            assert read_bytes(path) == bytes([number % 2, number // 2]) * (50 + number // 2)
    return calls


ONCE = {"open images-0000.pack": 1, "open images-0001.pack": 1}


def test_each_image_is_one_call_and_each_shard_is_opened_once(paths: list[Path]) -> None:
    assert counted(paths) == {"read": 2 * IMAGES, **ONCE}
    assert counted(paths) == {"read": 2 * IMAGES}


def in_child(paths: list[Path], answers: Connection) -> None:
    answers.send(counted(paths))


@pytest.mark.parametrize(("way", "opens"), [("fork", {}), ("spawn", ONCE)])
def test_workers_read_with_what_they_inherit_or_open_each_shard_once(
    way: str, opens: dict[str, int], paths: list[Path]
) -> None:
    read_bytes(paths[0])
    read_bytes(paths[1])
    context = multiprocessing.get_context(way)
    ours, theirs = context.Pipe()
    workers = [context.Process(target=in_child, args=(paths, theirs)) for _ in range(2)]  # type: ignore[attr-defined]
    for worker in workers:
        worker.start()
    found = [ours.recv() for _ in workers]
    assert counted(paths) == {"read": 2 * IMAGES}  # meanwhile the parent's position moves nobody's
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert found == [{"read": 2 * IMAGES, **opens}] * 2


def test_few_files_are_open_at_once_however_many_shards_there_are(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    decoding._shard.cache_clear()
    limited = lru_cache(maxsize=1)(decoding._shard.__wrapped__)
    monkeypatch.setattr(decoding, "_shard", limited)
    for path in paths:
        read_bytes(path)
    assert limited.cache_info().misses == 2 * IMAGES
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


def test_a_shard_that_ends_too_early_is_a_damaged_image(paths: list[Path]) -> None:
    shard = paths[-1].parents[3]
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size - 3)
    with pytest.raises(decoding.UnreadableImageError, match="is damaged"):
        read_bytes(paths[-1])
    shard.unlink()
    decoding._shard.cache_clear()
    with pytest.raises(BenchError, match=r"cannot be read \(No such file or directory\)"):
        read_bytes(paths[-1])
