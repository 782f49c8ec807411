"""What a file is that is no checkpoint of the network asked for: in a few words, for the one line that refuses it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import first_words
from bench.networks.encoders import RESNETS

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN = 40  # characters of a text
_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.")


def no_checkpoint(path: Path) -> str:
    """What a file is by its beginning, when it is something well known that holds no weights; else ""."""
    with path.open("rb") as file:
        head = file.read(512)
    low = head.lstrip().lower()
    if low.startswith((b"<!doctype", b"<html")):
        return "a web page, not a checkpoint: a download that asked for a confirmation. Get it again in a browser"
    if low.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the checkpoint itself: `git lfs pull` gets it"
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        text = head[: error.start].decode() if error.start > len(head) - 4 else ""  # cut within a character
    if text and all(letter.isprintable() or letter.isspace() for letter in text):
        line = text.strip().partition("\n")[0]
        return f"a text file, not a checkpoint; it begins with {line[:_SHOWN]!r}"
    return ""


def damage(path: Path, error: BaseException) -> str:
    """Why a file that should be a checkpoint cannot be read, where the library that failed says `error`."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head.strip(b"\0"):
        return "it begins with zeros" if head else "it is empty"
    return first_words(error)


def resnet(tensors: Mapping[str, Tensor]) -> tuple[str, int] | None:
    """Name and width of the papers' ResNet whose layers these are; None for any other network."""
    stem = tensors.get("conv1.weight")
    if stem is None or stem.ndim != 4 or stem.shape[2:] != (7, 7) or stem.shape[0] % 64 or not stem.shape[0]:
        return None
    blocks = {(int(found[1]), int(found[2])) for name in tensors if (found := _BLOCK.match(name))}
    counts = tuple(sum(stage == number for stage, _ in blocks) for number in (1, 2, 3, 4))
    for name, layers in RESNETS.items():
        if (layers.blocks, layers.bottleneck) == (counts, "layer1.0.conv3.weight" in tensors):
            return name, stem.shape[0] // 64
    return None
