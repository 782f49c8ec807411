"""The two newest checkpoints of a job on disk: sealed with a checksum, checked, rotated.

checkpoint.pt is what torch writes, and a seal behind it, which torch.load does not look at: JSON, its length, two check
sums and a word to know it by. One file, so that no kill parts a checkpoint from its checksum. Files without a seal are
of older versions: torch writes zip files, whose parts have check sums too.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from bench.files import atomic_path
from bench.runs.folder import RunFolder

CHUNK = 1 << 23
_WORD = b"bench checkpoint"
_FOOT = struct.Struct(f"<II{len(_WORD)}s")  # length and check sum of the JSON, the word

_checked: dict[Path, tuple[int, int, int]] = {}  # files found whole by this process: inode, time, bytes


@dataclass(frozen=True)
class Seal:
    """What stands behind a checkpoint: known without reading its tensors, also when those are damaged."""

    step: int
    steps: int  # of the whole job
    attempts: Mapping[str, Any] = field(default_factory=dict)
    reads: Mapping[str, str] = field(default_factory=dict)  # digests of the data and weights that led to it
    bytes: int = 0  # of torch's part
    crc32: int = 0  # of torch's part: 3.3 GB/s on one core where sha256 has 1.8, and it guards against no attacker


class _Summing:
    """A file that is written once from its beginning to its end, with the check sum of what passes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.bytes, self.crc32 = file, 0, 0

    def write(self, data: Any) -> int:
        """Pass it on."""
        view = memoryview(data).cast("B")
        self.crc32 = zlib.crc32(view, self.crc32)
        self.bytes += view.nbytes
        return self.file.write(view)

    def flush(self) -> None:
        """Pass it on."""
        self.file.flush()


def save(run: RunFolder, state: Mapping[str, Any], about: Seal, *, other_data: bool = False) -> None:
    """Write the newest checkpoint; what was the newest becomes the previous one.

    Of `other_data`, what is there is kept under another name instead, which nothing deletes. At each moment one of the
    two names has a whole file.
    """
    with atomic_path(run.checkpoint) as temporary:
        with temporary.open("wb") as file:
            summing = _Summing(file)
            torch.save(dict(state), cast("BinaryIO", summing))
            body = json.dumps(asdict(about) | {"bytes": summing.bytes, "crc32": summing.crc32}).encode()
            file.write(body + _FOOT.pack(len(body), zlib.crc32(body), _WORD))
            file.flush()
            os.fsync(file.fileno())  # before the newest that there is gives up its name
        run.check_claim()  # to write it may have taken long
        if other_data:
            _keep_apart(run)
        else:
            with suppress(FileNotFoundError):
                run.checkpoint.rename(run.previous)


def _keep_apart(run: RunFolder) -> None:
    name, number = f"{run.checkpoint.name}.other-data", 1
    while (apart := run.path / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    for file in (run.checkpoint, run.previous):
        if is_there(file):
            if apart.exists():
                file.unlink()  # the older of the two
            else:
                file.rename(apart)


def drop_leftovers(run: RunFolder) -> None:
    """Remove what a process left that was killed while it wrote a checkpoint; for the holder of the claim."""
    for file in run.path.glob(f".{run.checkpoint.name}.*.tmp"):
        file.unlink(missing_ok=True)


def is_there(file: Path) -> bool:
    """Whether there is such a file; an error of the file system is raised, as it does not say that there is none."""
    try:
        file.stat()
    except FileNotFoundError:
        return False
    return True


def seal_of(path: Path) -> Seal | None:
    """What stands behind the checkpoint; None for one of an older version, or one that is cut off."""
    with path.open("rb") as file:
        return _seal(file)


def _seal(file: BinaryIO) -> Seal | None:
    size = file.seek(0, os.SEEK_END)
    if size < _FOOT.size:
        return None
    file.seek(size - _FOOT.size)
    length, crc32, word = _FOOT.unpack(file.read(_FOOT.size))
    if word != _WORD or length > size - _FOOT.size:
        return None
    file.seek(size - _FOOT.size - length)
    body = file.read(length)
    if zlib.crc32(body) != crc32:
        return None
    seal = Seal(**json.loads(body))
    return seal if seal.bytes == size - _FOOT.size - length else None


def is_whole(path: Path) -> bool:
    """Whether the check sum is right; a wrong one is looked at twice, as what was read may be at fault, not the file.

    Raises OSError and MemoryError, which say nothing about the file. A file is read once by a process: what follows
    finds it in memory.
    """
    found = path.stat()
    stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
    if _checked.get(path) == stamp:
        return True
    for _ in range(2):
        with path.open("rb") as file:
            seal = _seal(file)
            if _sums(file, seal.bytes) == seal.crc32 if seal is not None else _is_whole_zip(file):
                _checked[path] = stamp
                return True
            with suppress(OSError, AttributeError):  # the second time from the disk; not every system can be told to
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return False


def _sums(file: BinaryIO, length: int) -> int:
    """The check sum of so many bytes from the beginning."""
    file.seek(0)
    crc32, chunk = 0, memoryview(bytearray(CHUNK))
    while length > 0:
        with chunk[: min(CHUNK, length)] as part:
            count = file.readinto(part)  # type: ignore[attr-defined]
            if not count:
                return -1
            crc32 = zlib.crc32(part[:count], crc32)
            length -= count
    return crc32


def _is_whole_zip(file: BinaryIO) -> bool:
    """Of an older version, by the check sums of torch's own parts."""
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as parts:
            return parts.testzip() is None
    except MemoryError:
        raise
    except OSError as error:
        if error.errno == errno.EINVAL:  # a damaged list of parts leads to places that no file has
            return False
        raise
    except Exception:  # zipfile raises many kinds for damage
        return False
