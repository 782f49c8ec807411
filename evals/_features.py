"""Features of a frozen encoder, computed once per (weights, split, size) and shared by every evaluation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.contracts import Context, Subject
from bench.data.datasets import SPLITS, Split, open_split
from bench.data.loader import eval_batches
from bench.errors import BenchError
from bench.files import atomic_path

BATCH = 250
VERSION = 1  # raised when the transform or the precision of extraction changes


def features_of(subject: Subject, context: Context) -> Mapping[Split, tuple[Tensor, Tensor]]:
    """For each split, features (N, D) in float32 and labels (N,), on the CPU."""
    return {split: _split_features(subject, context, split) for split in SPLITS}


def classes_of(context: Context) -> int:
    """Number of classes of the data set, as it is on disk."""
    return open_split(context.data, "train", context.site).classes


def _split_features(subject: Subject, context: Context, split: Split) -> tuple[Tensor, Tensor]:
    """From the cache, or by one pass over the backbone. Concurrent writers write the same bytes to names of their own."""
    name = f"{subject.key}-{context.data.name}-{context.data.size}-{split}-v{VERSION}.npz"
    path = context.features / name
    cached = _read(path)
    if cached is not None:
        return cached
    data = open_split(context.data, split, context.site)
    workers = 0 if context.device.type == "cpu" else 8
    parts: list[Tensor] = []
    labels: list[Tensor] = []
    with torch.inference_mode():
        for images, targets in eval_batches(data, context.data.size, BATCH, context.device, workers):
            parts.append(subject.network(images).float().cpu())
            labels.append(targets.cpu())
    features, targets = torch.cat(parts), torch.cat(labels)
    if not features.isfinite().all():
        raise BenchError(f"the encoder gives features that are not finite on the {split} split of {context.data.name}.")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, features=features.numpy(), labels=targets.numpy())
        file.flush()
        os.fsync(file.fileno())
    return features, targets


def _read(path: Path) -> tuple[Tensor, Tensor] | None:
    """None when there is no cached file or it is damaged (it is then written anew)."""
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:  # given a path, numpy leaves a damaged file open
            return torch.from_numpy(file["features"]), torch.from_numpy(file["labels"])
    except FileNotFoundError:
        return None
    except Exception as error:  # zipfile and numpy raise many kinds for a damaged file
        print(f"cached features {path.name} are damaged ({type(error).__name__}): computing them anew", flush=True)
        return None
