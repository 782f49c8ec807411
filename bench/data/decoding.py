"""From a file, or from a place in a packed shard, to pixels.

JPEGs are decoded by torchvision, which takes less time than Pillow for the same pixels (both use libjpeg-turbo); other
formats, and what torchvision refuses, such as colour spaces that its build does not know (CMYK in some), go to Pillow.
So an image is damaged when Pillow cannot read it either, and only then. PNGs go to Pillow too: torchvision 0.29.1
crashes on a damaged one. An image is not turned as its EXIF entry says: the published loaders did not do so either.

Whatever the file holds ends as the 8-bit RGB picture of the same look. Palettes, 1 bit, gray, CMYK, YCbCr and LAB are
Pillow's conversion; alpha is dropped, as the published loaders do (what lies under a transparent pixel is seen). Of 16
bits the upper eight count, as Pillow does where there are three channels; its own conversion would cut at 255, which
makes gray pictures white. Numbers whose white nobody knows are refused.
"""

from __future__ import annotations

import io
import os
import re
import stat
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from bench.data.names import PACKED, SHARD
from bench.errors import BenchError

OPEN_SHARDS = 256  # descriptors of a process: a thousand is a usual limit (`ulimit -n`)
_JPEG = b"\xff\xd8\xff"
_RGB = 3  # torchvision.io.ImageReadMode.RGB
_TIFF_PHOTOMETRIC, _TIFF_BITS = 262, 258  # tags: 0 is "white is zero"; bits of a sample


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
    text = str(path)
    place = PACKED.search(text)
    try:
        return _read_file(path) if place is None else _read_packed(text, place)
    except OSError as error:
        raise BenchError(f"{path} cannot be read ({error.strerror or error}).") from error


def _read_file(path: Path) -> bytearray:
    """In one copy, into memory that torch may have."""
    with open(path, "rb", buffering=0, opener=_without_waiting) as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise BenchError(f"{path} cannot be read (it is no file but a pipe, a socket or a device).")
        content = bytearray(state.st_size)
        view = memoryview(content)
        done = 0
        while done < len(content) and (count := file.readinto(view[done:])):
            done += count
    return content


def _without_waiting(path: str, flags: int) -> int:
    """Opening a pipe would wait for somebody who writes into it; for files the flag means nothing."""
    return os.open(path, flags | os.O_NONBLOCK)


def _read_packed(path: str, place: re.Match[str]) -> bytearray:
    """One image of a shard: a single call of the system, and none that opens a file."""
    content = bytearray(int(place[2]))
    view, offset, done = memoryview(content), int(place[1]), 0
    number = _shard(path[: place.start()] + SHARD).number
    while done < len(content) and (count := os.preadv(number, [view[done:]], offset + done)):
        done += count
    if done < len(content) or zlib.crc32(content) != int(place[3], 16):
        raise UnreadableImageError(
            f"{path} is damaged (its checksum is another): `bench data pack` makes this shard anew; where it is a copy "
            "that [local] staging made, remove that copy."
        )
    return content


class _Shard:
    """An open shard. Reading with an offset moves no position, so a forked process may go on with its parent's."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):  # it could be opened
            os.close(self.number)


@lru_cache(maxsize=OPEN_SHARDS)
def _shard(path: str) -> _Shard:
    """Each shard is opened once by a process, and once more when many others came between."""
    return _Shard(path)


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
            pixels = rgb(file)
    except UnidentifiedImageError:  # its message names the buffer
        raise ValueError("its beginning is that of no image format") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


def rgb(file: Image.Image) -> NDArray[np.uint8]:
    """An opened image as (H, W, 3), RGB. Raises what Pillow raises for a damaged one, ValueError for unknown whites."""
    if file.mode == "I" or file.mode.startswith("I;"):
        gray = _upper_bits(file)
    elif file.mode == "F":
        gray = _of_floats(file)
    else:
        return np.array(file.convert("RGB"))
    return np.repeat(gray[..., None], 3, axis=2)


def _upper_bits(file: Image.Image) -> NDArray[np.uint8]:
    """Gray of 9 to 16 bits. Mode I is 32 signed bits, of which only PNG and PPM say where white is: at 65535."""
    known = file.format in {"PNG", "PPM"} if file.mode == "I" else file.format != "FITS"  # FITS: signed measurements
    if not known:
        raise ValueError(f"nobody says which of its integers is white (mode {file.mode}); save it with 8 or 16 bits")
    bits = _tag(file, _TIFF_BITS) or 16
    gray = (np.asarray(file).astype(np.int64) >> (bits - 8)).clip(0, 255).astype(np.uint8)
    return _inverted(gray) if _white_is_zero(file) else gray


def _of_floats(file: Image.Image) -> NDArray[np.uint8]:
    """Gray from 0 to 1, as TIFF and PFM mean it."""
    values = np.asarray(file)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (low >= 0 and high <= 1):  # so that NaN is refused as well
        raise ValueError(f"it has floats from {low:g} to {high:g}, expected 0 (black) to 1; save it with 8 bits")
    gray = (values * 255).round().astype(np.uint8)
    return _inverted(gray) if _white_is_zero(file) else gray


def _inverted(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.uint8(255) - gray


def _white_is_zero(file: Image.Image) -> bool:
    """Pillow inverts such TIFFs of 8 bits and fewer itself."""
    return _tag(file, _TIFF_PHOTOMETRIC) == 0


def _tag(file: Image.Image, number: int) -> int | None:
    """A whole number of a TIFF's header; None where there is none, and in other formats."""
    found = getattr(file, "tag_v2", {}).get(number)
    value = found[0] if isinstance(found, tuple) else found
    return int(value) if value is not None else None
