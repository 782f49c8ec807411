"""TensorFlow checkpoints without TensorFlow: a reader of the tensor bundle, and the names of SimCLR's ResNets.

A bundle is `<prefix>.index`, a sorted table of name -> BundleEntryProto in LevelDB's format, and data files
`<prefix>.data-00000-of-0000N` that hold the raw little-endian values (tensorflow/core/util/tensor_bundle and
tensorflow/core/lib/io/table_format.txt; messages in tensorflow/core/protobuf/tensor_bundle.proto). The index is not
compressed by any TensorFlow so far; its blocks are checked by their CRC-32C, the values by their sizes.
A bundle may also lie in a zip, as the released SimCLR files do.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.errors import BenchError, first_words
from bench.networks.encoders import RESNETS
from bench.weights.released import tensorflow_index

MAGIC = 0xDB4775248B80FB57  # last eight bytes of every table
FOOTER = 48  # bytes: two block handles, padding, magic
TRAILER = 5  # bytes after each block: compression, CRC
FLOATS: Mapping[int, str] = {1: "<f4", 2: "<f8", 19: "<f2"}  # DataType of types.proto; other types are no weights
LEAVES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
SCOPE = "base_model/"


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor is: data file, byte range, type, shape."""

    shape: tuple[int, ...]
    dtype: int
    shard: int
    offset: int
    size: int


class Bundle:
    """A checkpoint by its index file, its prefix, or a zip that holds one.

    Raises BenchError for everything that is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if zipfile.is_zipfile(path):
            with _opened(path) as archive:
                self.prefix = _index_in(path, archive.namelist()).removesuffix(".index")
                index = archive.read(f"{self.prefix}.index")
        else:
            self.prefix = str(tensorflow_index(path)).removesuffix(".index")
            index = Path(f"{self.prefix}.index").read_bytes()
        try:
            table = dict(_table(index))
            header = {number: value for number, value in _fields(table.pop(b"")) if isinstance(value, int)}
            self.entries = {name.decode(): _entry(value) for name, value in table.items()}
        except (KeyError, IndexError, ValueError, TypeError, struct.error) as error:
            raise BenchError(
                f"{path} is no whole TensorFlow checkpoint: its index cannot be read ({error})."
            ) from error
        if header.get(2, 0) != 0:
            raise BenchError(f"{path} was written on a big-endian machine, which is not supported.")
        self.shards = header.get(1, 1)
        self._unpacked: dict[str, bytes] = {}  # data files of a zip: its members cannot be read from the middle

    def read(self, name: str) -> NDArray[np.float32]:
        """One tensor as float32. Raises BenchError when its bytes are not all there."""
        entry = self.entries[name]
        raw = self._bytes(entry)
        kind = np.dtype(FLOATS[entry.dtype])
        if len(raw) != entry.size or entry.size != prod(entry.shape) * kind.itemsize:
            raise BenchError(
                f"{self.path}: {name} has {len(raw)} of {prod(entry.shape) * kind.itemsize} bytes: the data file is "
                "cut off."
            )
        return np.frombuffer(raw, kind).reshape(entry.shape).astype(np.float32)

    def _bytes(self, entry: StoredTensor) -> bytes:
        name = f"{self.prefix}.data-{entry.shard:05}-of-{self.shards:05}"
        try:
            if zipfile.is_zipfile(self.path):
                if name not in self._unpacked:
                    with _opened(self.path) as archive:
                        self._unpacked[name] = archive.read(name)
                return self._unpacked[name][entry.offset : entry.offset + entry.size]
            with Path(name).open("rb") as file:
                file.seek(entry.offset)
                return file.read(entry.size)
        except (KeyError, FileNotFoundError) as error:
            raise BenchError(f"{self.path}: the data file {Path(name).name} is missing beside the index.") from error


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive. Raises BenchError for a damaged list of members, or a member that cannot be unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise BenchError(f"{path} is damaged: {first_words(error)}.") from error


def torchvision_arrays(bundle: Bundle, network: str) -> dict[str, NDArray[np.float32]]:
    """The values of a SimCLR or FNC checkpoint under torchvision's names.

    What fits no layer keeps its own name and is not read: empty.

    google-research/simclr, resnet.py: layers are numbered as they are made, the shortcut of a block before its other
    convolutions. Kernels are (height, width, in, out).
    """
    wanted: dict[str, str] = {}
    for number, (convolution, norm) in enumerate(_layers(network)):
        suffix = f"_{number}" if number else ""
        wanted[f"{SCOPE}conv2d{suffix}/kernel"] = f"{convolution}.weight"
        for leaf, name in LEAVES.items():
            wanted[f"{SCOPE}batch_normalization{suffix}/{leaf}"] = f"{norm}.{name}"
    found = {}
    for name, entry in bundle.entries.items():
        if name in wanted and entry.dtype in FLOATS:
            values = bundle.read(name)
            found[wanted[name]] = np.ascontiguousarray(values.transpose(3, 2, 0, 1)) if values.ndim == 4 else values
        else:
            found[name] = np.empty(0, np.float32)  # heads, optimizer slots, FNC's averaged network: named in the report
    return found


def is_layer(name: str) -> bool:
    """Whether a variable belongs to the backbone itself."""
    return name.startswith(SCOPE) and name.rpartition("/")[2] in {"kernel", *LEAVES}


def _layers(network: str) -> Iterator[tuple[str, str]]:
    """Torchvision names of (convolution, batch norm) in the order in which SimCLR's code makes them."""
    yield "conv1", "bn1"
    layers = RESNETS[network]
    for stage, blocks in enumerate(layers.blocks, start=1):
        for block in range(blocks):
            place = f"layer{stage}.{block}"
            # block_group: a projection shortcut in the first block of every stage, also of a basic block's
            if block == 0:
                yield f"{place}.downsample.0", f"{place}.downsample.1"
            for part in range(1, 4 if layers.bottleneck else 3):
                yield f"{place}.conv{part}", f"{place}.bn{part}"


def _index_in(path: Path, names: list[str]) -> str:
    found = sorted((name for name in names if name.endswith(".index")), key=lambda name: ("ckpt" not in name, name))
    if not found:
        raise BenchError(f"{path} is a zip without a TensorFlow checkpoint (.index) in it.")
    return found[0]  # a TF-Hub module in the same zip has another one, variables.index


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All keys and values of a sorted table."""
    if len(data) < FOOTER or struct.unpack("<Q", data[-8:])[0] != MAGIC:
        raise ValueError("it does not end as a table does: cut off, or another kind of file")
    place = len(data) - FOOTER
    for _ in range(2):  # the handle of the meta index, which is empty
        _, place = _varint(data, place)
    offset, place = _varint(data, place)
    size, _ = _varint(data, place)
    for _, handle in _block(data, offset, size):
        start, after = _varint(handle, 0)
        yield from _block(data, start, _varint(handle, after)[0])


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of one block; a key gives only what differs from the one before it."""
    body, trailer = data[offset : offset + size], data[offset + size : offset + size + TRAILER]
    if len(body) < size or len(trailer) < TRAILER:
        raise ValueError("a block is cut off")
    if trailer[0] != 0:
        raise ValueError("it is compressed")
    if struct.unpack("<I", trailer[1:])[0] != masked_crc(body + trailer[:1]):
        raise ValueError("a block has another checksum: the file is damaged")
    end = size - 4 * (struct.unpack("<I", body[-4:])[0] + 1)  # restart points, and their number
    place, key = 0, b""
    while place < end:
        shared, place = _varint(body, place)
        own, place = _varint(body, place)
        length, place = _varint(body, place)
        key = key[:shared] + body[place : place + own]
        place += own
        yield key, body[place : place + length]
        place += length


def _entry(message: bytes) -> StoredTensor:
    """BundleEntryProto: 1 dtype, 2 shape, 3 shard, 4 offset, 5 size, 7 slices."""
    values: dict[int, int] = {}
    shape: tuple[int, ...] = ()
    for number, value in _fields(message):
        if number == 7:
            raise ValueError("it holds a partitioned variable")
        if isinstance(value, int):
            values[number] = value
        elif number == 2:  # TensorShapeProto: 2 dim, of which 1 is the size
            sizes = [
                [size for field, size in _fields(dim) if field == 1 and isinstance(size, int)]
                for part, dim in _fields(value)
                if part == 2
            ]
            shape = tuple(size[0] if size else 0 for size in sizes)  # a zero is not written
    return StoredTensor(shape, values.get(1, 0), values.get(3, 0), values.get(4, 0), values.get(5, 0))


def _fields(message: bytes | int) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a protocol-buffer message: integers, or the bytes of what has a length."""
    if isinstance(message, int):
        raise ValueError("a message is missing")
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield number, value
        elif kind == 2:
            length, place = _varint(message, place)
            yield number, message[place : place + length]
            place += length
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            yield number, int.from_bytes(message[place : place + width], "little")
            place += width
        else:
            raise ValueError(f"wire type {kind} in a message")


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A base-128 integer, least significant group first, and the place after it."""
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)  # Castagnoli, reflected
        table.append(value)
    return tuple(table)


_CRC = _crc_table()


def masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and shifted by a constant, as LevelDB stores it."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC[(value ^ byte) & 0xFF] ^ (value >> 8)
    value ^= 0xFFFFFFFF
    return (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF
