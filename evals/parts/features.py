"""Features of a frozen encoder, computed once per (weights, images, crop, split, size), for every evaluation.

A cache entry is a folder with `features.npy` (N, D) in float32, `labels.npy` and their checksums, opened memory-mapped:
evaluations that run side by side share one copy in memory. It is written batch by batch: of a wide network the features
of ImageNet's images are 42 GB, which are never in memory at once. Concurrent writers each write a folder of their own
and the first rename wins.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.contracts import Context, Subject
from bench.data.datasets import open_split
from bench.data.loader import eval_batches
from bench.data.splits import SPLITS, Split, SplitData
from bench.errors import BenchError
from bench.files import as_full_disk, make_folder, read_json, write_json
from bench.runs.features import entry_name
from bench.spec import CENTRE, Crop
from evals.parts.slices import features_in_slices

BATCH = 250
_KEPT_BYTES = 1 << 28  # up to so many the one who computes features has them in memory, not from the file


def features_of(
    subject: Subject, context: Context, *, splits: Iterable[Split] = SPLITS, crop: Crop = CENTRE
) -> Mapping[Split, tuple[Tensor, Tensor]]:
    """For each split, features (N, D) in float32 and labels, on the CPU.

    Memory-mapped, copied where somebody writes to them.

    "trainval" is made of the entries of its two parts, without another pass over the backbone.
    """
    return {split: _split_features(subject, context, split, crop) for split in splits}


def classes_of(context: Context) -> int:
    """Number of classes of the data set, as it is on disk."""
    return open_split(context.data, "train", context.site).classes


def _split_features(subject: Subject, context: Context, split: Split, crop: Crop) -> tuple[Tensor, Tensor]:
    if split == "trainval":
        train, val = (_split_features(subject, context, part, crop) for part in SPLITS[:2])
        return torch.cat([train[0], val[0]]), torch.cat([train[1], val[1]])
    folder = context.features / entry_name(subject.key, context.data, split, crop, context.fingerprint)
    cached = _read(folder)
    if cached is not None:
        return cached
    data = open_split(context.data, split, context.site)
    _write(folder, _extract(subject, context, data, split, crop), data)
    features, labels = _mapped(folder)
    return (features, labels) if features.nbytes > _KEPT_BYTES else (features.clone(), labels.clone())


def _extract(
    subject: Subject, context: Context, data: SplitData, split: Split, crop: Crop
) -> Iterator[NDArray[np.float32]]:
    """One pass over the backbone, a batch of features (B, D) at a time."""
    workers = context.site.loader_workers(context.device.type)
    done = 0
    for images, _ in eval_batches(data, context.data.size, BATCH, context.device, workers, crop):
        with torch.inference_mode():
            part = features_in_slices(subject, images).float().cpu()
        if not part.isfinite().all():
            raise BenchError(
                f"the encoder gives features that are not finite on the {split} split of {context.data.name}."
            )
        done += len(part)
        yield part.numpy()
    if not done or done != len(data):
        raise BenchError(f"the {split} split of {context.data.name} gave {done} of {len(data)} images.")


class _Stream:
    """Hides from numpy that it writes to a file: its own way of writing loses the reason when the disk is full."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def write(self, data: bytes) -> int:
        """All of it."""
        return self.file.write(data)


def _write(folder: Path, parts: Iterable[NDArray[np.float32]], data: SplitData) -> None:
    make_folder(folder.parent)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    labels = data.labels.cpu().numpy()
    try:
        with (temporary / "features.npy").open("wb") as file:
            checksum = _write_rows(file, parts, len(data))
            _flush(file)
        with (temporary / "labels.npy").open("wb") as file:
            np.save(_Stream(file), labels, allow_pickle=False)
            _flush(file)
        write_json(temporary / "checksums.json", {"features": checksum, "labels": _checksum(labels)})
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:  # another process was faster: its entry holds the same
            if not folder.is_dir():
                raise
    except OSError as error:
        raise as_full_disk(error, folder) or error from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_rows(file: BinaryIO, parts: Iterable[NDArray[np.float32]], rows: int) -> int:
    """What np.save writes of all parts together, and their checksum."""
    checksum = 0
    for number, part in enumerate(parts):
        if number == 0:
            shape = (rows, *part.shape[1:])
            np.lib.format.write_array_header_1_0(
                file, {"descr": np.lib.format.dtype_to_descr(part.dtype), "fortran_order": False, "shape": shape}
            )
        checksum = _checksum(part, checksum)
        file.write(np.ascontiguousarray(part).data)
    return checksum


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """Memory-mapped; what is written to them stays in this process."""
    return {name: np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False) for name in ("features", "labels")}


def _mapped(folder: Path) -> tuple[Tensor, Tensor]:
    found = _arrays(folder)
    return torch.from_numpy(found["features"]), torch.from_numpy(found["labels"])


def _read(folder: Path) -> tuple[Tensor, Tensor] | None:
    """None when there is no entry, or it is damaged: it is then put away and written anew."""
    if not folder.is_dir():
        return None
    try:
        known = read_json(folder / "checksums.json")
        found = _arrays(folder)
        for name, values in found.items():
            if _checksum(values) != known[name]:
                raise ValueError(f"{name} have another checksum")
        return torch.from_numpy(found["features"]), torch.from_numpy(found["labels"])
    except Exception as error:  # numpy raises many kinds for a damaged file
        print(f"cached features {folder.name} are damaged ({type(error).__name__}): computing them anew", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _checksum(values: NDArray[Any], before: int = 0) -> int:
    return zlib.crc32(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data, before)
