"""Writes a TensorFlow checkpoint byte by byte, for tests: an uncompressed table of one data block and one data file."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def crc32c(data: bytes) -> int:
    """Bit by bit."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 * (value & 1))
    return value ^ 0xFFFFFFFF


def varint(value: int) -> bytes:
    groups = []
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """With keys cut to what differs from the key before, and a restart every 16."""
    body, restarts, before = b"", [], b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % 16 == 0:
            restarts.append(len(body))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    body += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts)) + b"\0"
    crc = crc32c(body)
    return body + struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def write(prefix: Path, arrays: Mapping[str, NDArray[np.float32]], blocks: int = 1) -> Path:
    """`prefix.index` and `prefix.data-00000-of-00001`; returns the index."""
    data, entries = b"", []
    for name, values in sorted(arrays.items()):
        raw = values.astype("<f4").tobytes()
        shape = b"".join(field(2, field(1, size)) for size in values.shape)
        place = field(4, len(data)) if data else b""  # zeros are not written
        entries.append(
            (
                name.encode(),
                field(1, 1) + field(2, shape) + place + field(5, len(raw)) + varint(6 << 3 | 5) + b"\0\0\0\0",
            )
        )
        data += raw
    entries.insert(0, (b"", field(1, 1) + field(3, field(1, 1))))
    index, handles = b"", []
    step = -(-len(entries) // blocks)
    for start in range(0, len(entries), step):
        part = entries[start : start + step]
        made = block(part)
        handles.append((part[-1][0], varint(len(index)) + varint(len(made) - 5)))
        index += made
    empty = block([])
    meta = varint(len(index)) + varint(len(empty) - 5)
    index += empty
    last = block(handles)
    footer = meta + varint(len(index)) + varint(len(last) - 5)
    index += last + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(data)
    made_index = prefix.with_name(f"{prefix.name}.index")
    made_index.write_bytes(index)
    return made_index


def simclr_names(state: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    """A ResNet-50 under SimCLR's names, typed from the order in its resnet.py: shortcut, 1x1, 3x3, 1x1."""
    order = [("conv1", "bn1")]
    for stage, count in enumerate((3, 4, 6, 3), start=1):
        for number in range(count):
            place = f"layer{stage}.{number}"
            order += [(f"{place}.downsample.0", f"{place}.downsample.1")] if number == 0 else []
            order += [(f"{place}.conv{k}", f"{place}.bn{k}") for k in (1, 2, 3)]
    found: dict[str, NDArray[np.float32]] = {}
    for number, (convolution, norm) in enumerate(order):
        suffix = "" if number == 0 else f"_{number}"
        found[f"base_model/conv2d{suffix}/kernel"] = state[f"{convolution}.weight"].permute(2, 3, 1, 0).numpy()
        for theirs, ours in (
            ("gamma", "weight"),
            ("beta", "bias"),
            ("moving_mean", "running_mean"),
            ("moving_variance", "running_var"),
        ):
            found[f"base_model/batch_normalization{suffix}/{theirs}"] = state[f"{norm}.{ours}"].numpy()
    found["base_model/conv2d/kernel/Momentum"] = np.ones_like(found["base_model/conv2d/kernel"])
    found["ema_model/base_model/conv2d/kernel"] = np.ones_like(found["base_model/conv2d/kernel"])
    found["head_supervised/linear_layer/dense/kernel"] = torch.ones(8, 10).numpy()
    return found
