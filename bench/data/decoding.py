"""From a file, or from a place in a packed shard, to pixels.

JPEGs are decoded by torchvision, which takes less time than Pillow for the same pixels (both use libjpeg-turbo); other
formats, and what torchvision refuses, such as colour spaces that its build does not know (CMYK in some), go to Pillow.
So an image is damaged when Pillow cannot read it either, and only then. PNGs go to Pillow too: torchvision 0.29.1
crashes on a damaged one. An image is not turned as its EXIF entry says: the published loaders did not do so either.
"""

from __future__ import annotations

import io
import mmap
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from bench.errors import BenchError

SHARD = ".pack"  # an image of a packed data set has the path SHARD_FILE/OFFSET-LENGTH-CRC32/NAME
_JPEG = b"\xff\xd8\xff"
_RGB = 3  # torchvision.io.ImageReadMode.RGB


class UnreadableImageError(BenchError):
    """A file is there but its content is no whole image."""


def read_image(path: Path, *, pillow: bool = False) -> Tensor:
    """The image as uint8 (3, H, W), RGB; with `pillow` decoded by Pillow whatever it is.

    Raises UnreadableImageError that names a damaged file, BenchError when the file system cannot give it: a lost mount
    must not look like damaged images.
    """
    content = read_bytes(path)
    try:
        return decode_pillow(content) if pillow else decode_bytes(content)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise UnreadableImageError(f"{path} cannot be decoded ({error}): replace the file.") from error


def read_bytes(path: Path) -> bytearray:
    """The encoded image. Raises as `read_image`; an image of a shard also when its checksum is another."""
    shard, mark, place = str(path).partition(f"{SHARD}/")
    try:
        return _read_packed(shard + SHARD, place) if mark else _read_file(path)
    except OSError as error:
        raise BenchError(f"{path} cannot be read ({error.strerror or error}).") from error


def _read_file(path: Path) -> bytearray:
    """In one copy, into memory that torch may have."""
    with path.open("rb", buffering=0) as file:
        content = bytearray(os.fstat(file.fileno()).st_size)
        view = memoryview(content)
        done = 0
        while done < len(content) and (count := file.readinto(view[done:])):
            done += count
    return content


def _read_packed(shard: str, place: str) -> bytearray:
    where, _, _ = place.partition("/")
    offset, length, checksum = where.split("-")
    content = bytearray(memoryview(_mapped(shard))[int(offset) : int(offset) + int(length)])
    if zlib.crc32(content) != int(checksum, 16):
        raise UnreadableImageError(
            f"{shard}/{place} is damaged (its checksum is another): `bench data pack` makes this shard anew."
        )
    return content


@lru_cache(maxsize=1024)
def _mapped(shard: str) -> mmap.mmap:
    """A whole shard, read only: processes share its pages, and a forked one may go on using the parent's."""
    with open(shard, "rb") as file:  # noqa: PTH123 (once a shard and process)
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def decode_bytes(content: bytearray) -> Tensor:
    """uint8 (3, H, W), RGB. Raises whatever Pillow raises for a damaged image."""
    decoder = _torchvision()
    if decoder is not None and content.startswith(_JPEG):
        with suppress(RuntimeError):
            return decoder(torch.frombuffer(content, dtype=torch.uint8), _RGB, False)
    return decode_pillow(content)


@lru_cache(maxsize=1)
def _torchvision() -> Callable[[Tensor, int, bool], Tensor] | None:
    """The operator behind `torchvision.io.decode_image`, None in a build or version without it.

    The function itself warns at every image that TorchCodec will replace it; once it is gone, everything goes to
    Pillow.
    """
    try:
        import torchvision.io  # noqa: F401 (registers the operator; imported when used: slow)

        operator: Callable[[Tensor, int, bool], Tensor] = torch.ops.image.decode_image.default
    except (AttributeError, ImportError):
        return None
    return operator


def decode_pillow(content: bytearray) -> Tensor:
    """The same by Pillow."""
    try:
        with Image.open(io.BytesIO(content)) as file:
            pixels = np.array(file.convert("RGB"))
    except UnidentifiedImageError:  # its message names the buffer
        raise ValueError("its beginning is that of no image format") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)
