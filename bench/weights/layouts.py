"""Weights from elsewhere into a network here: recognise the file's layout, report every key, refuse what does not fit.

Layouts seen in the authors' files (their repositories' READMEs, main and evaluate scripts):
    torchvision names alone                 Barlow Twins, VICReg, TWIST "backbone only", torchvision (with `fc`)
    "model": module.backbone.*              training checkpoints under DDP: Barlow Twins, VICReg *_fullckpt, DirectCLR
    "backbone", "model": backbone.*         TWIST full checkpoints
    "state_dict" (with "author")            truncated triplet, extracted by OpenSelfSup
    "state_dict": online_net.0.*            its training checkpoints; backbone.* are the same tensors again
    "state_dict": module.encoder_q.*        MoCo and what descends from it
    "encoder"                               weights.pt of this project
    a TensorFlow bundle                     SimCLR, FNC: bench/weights/tensorflow.py
"""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from bench import authors
from bench.errors import BenchError, one_line
from bench.files import Json
from bench.networks import encoders
from bench.networks.network import Network
from bench.spec import Backbone, Released
from bench.weights.released import OWN, find, folder_of, tensorflow_index
from bench.weights.tensorflow import Bundle, is_layer, torchvision_arrays

# In the order of preference: where several fit, the first does (they hold the same network in all files known).
# "": the file's top level
CONTAINERS = (
    "",
    "backbone",
    "encoder",
    "state_dict",
    "model",
    "model_state_dict",
    "network",
)
PREFIXES = (
    "",
    "module.",
    "module.backbone.",
    "backbone.",
    "online_net.0.",
    "module.online_net.0.",
    "module.encoder_q.",
    "encoder_q.",
    "module.encoder.",
    "encoder.",
    "model.",
)
COUNTER = "num_batches_tracked"  # of a batch norm; evaluation does not use it and old or TensorFlow files lack it
SHOWN = 3  # keys in an error
KEPT = 30  # keys in a result


@dataclass(frozen=True, kw_only=True)
class KeyReport:
    """What became of every key."""

    layout: str
    matched: int
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]  # "name is (...), expected (...)"
    unexpected: tuple[str, ...]  # under the backbone's prefix, but not in the network: heads, mostly
    outside: tuple[str, ...]  # not under that prefix: projectors, second networks

    def line(self) -> str:
        """In one line, for logs."""
        left = (*self.unexpected, *self.outside)
        return (
            f"layout {self.layout}: {self.matched} keys matched, {len(self.missing)} missing, {len(left)} left out"
            + (f" ({_some(left)})" if left else "")
        )

    def details(self) -> dict[str, Json]:
        """For a result."""
        left = [*self.unexpected, *self.outside]
        kept: list[Json] = [*left[:KEPT]]
        return {
            "layout": self.layout,
            "matched": self.matched,
            "missing": [*self.missing],
            "unexpected": kept,
            "unexpected_count": len(left),
        }


def load_released(spec: Released, runs: Path) -> tuple[Network, dict[str, Json]]:
    """The network of a spec, and what a result says about it.

    Raises BenchError when the file is gone, changed or does not fit.
    """
    path = find(spec.sha256, folder_of(runs))
    network, report = load(spec.backbone, path)
    print(f"weights {spec.name} from {path}: {report.line()}", flush=True)
    details: dict[str, Json] = {"weights": spec.name, "file": path.name, "sha256": spec.sha256, **report.details()}
    if spec.name != OWN:
        entry = authors.weights(spec.name)
        details |= {"paper": entry.paper, "source": entry.url or entry.by_hand}
        if entry.top1 is not None:
            details["linear_top1_by_authors"] = entry.top1
    return network, details


def load(backbone: Backbone, path: Path) -> tuple[Network, KeyReport]:
    """A network with the weights of a file.

    Raises BenchError that names the first keys when its backbone is not fully matched.
    """
    network = encoders.build(backbone, seed=0)
    own = network.state_dict()
    found = _candidates(path, backbone)
    tried = [(_compare(own, state, layout, prefix), state, prefix) for layout, prefix, state in found]
    report, state, prefix = next((one for one in tried if _fits(one[0])), max(tried, key=lambda one: one[0].matched))
    _refuse(report, backbone, path, prefix, own)
    chosen = {name: state.get(prefix + name, values) for name, values in own.items()}
    for name, values in chosen.items():
        if values.is_floating_point() and not values.isfinite().all():
            raise BenchError(f"{path}: {prefix}{name} holds values that are not finite.")
    network.load_state_dict(chosen)
    return network, report


def is_tensorflow(path: Path) -> bool:
    """Whether a path names a TensorFlow checkpoint: its index, its prefix, or a zip with one."""
    if path.suffix == ".index" or (not path.exists() and tensorflow_index(path).is_file()):
        return True
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(".index") for name in archive.namelist())


def _candidates(path: Path, backbone: Backbone) -> list[tuple[str, str, Mapping[str, Tensor]]]:
    """Every (layout, prefix, tensors) that the file offers."""
    if is_tensorflow(path):
        if backbone.name not in encoders.RESNETS:
            raise BenchError(f"{path} is a TensorFlow checkpoint, of which only ResNets are read, not {backbone.name}.")
        arrays = torchvision_arrays(Bundle(path), backbone.name)
        return [
            ("TensorFlow, base_model/conv2d_k", "", {name: torch.from_numpy(values) for name, values in arrays.items()})
        ]
    content = _read(path)
    if not isinstance(content, Mapping):
        raise BenchError(f"{path} holds a {type(content).__name__}, expected a dictionary of tensors.")
    found: list[tuple[str, str, Mapping[str, Tensor]]] = []
    for container in CONTAINERS:
        part = content if not container else content.get(container)
        if not isinstance(part, Mapping):
            continue
        state = {name: value for name, value in part.items() if isinstance(name, str) and isinstance(value, Tensor)}
        for prefix in PREFIXES:
            if state and (not prefix or any(name.startswith(prefix) for name in state)):
                words = " ".join(
                    filter(None, (f"[{container}]" if container else "", f"{prefix}*" if prefix else "plain names"))
                )
                found.append((words, prefix, state))
    if not found:
        raise BenchError(f"{path} holds no tensors by name; its keys are {_some(str(key) for key in content)}.")
    return found


def _read(path: Path) -> Any:
    """The content of a torch file.

    Nothing in it is executed, and of foreign classes only argparse.Namespace is rebuilt.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512).lstrip().lower()
        if head.startswith((b"<!doctype", b"<html")):
            raise BenchError(
                f"{path} is a web page, not a checkpoint: a download that asked for a confirmation. Get it again in "
                "a browser."
            )
        with torch.serialization.safe_globals([argparse.Namespace]):  # TWIST keeps its command line under "args"
            return torch.load(path, map_location="cpu", weights_only=True)
    except BenchError:
        raise
    except FileNotFoundError as error:
        raise BenchError(f"{path} is not there.") from error
    except Exception as error:  # torch raises many kinds for a damaged file
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, UnpicklingError) else None
        if foreign:
            raise BenchError(
                f"{path} holds objects of {foreign[1]}, which are not rebuilt here because that could run foreign "
                "code: "
                "save its tensors alone, torch.save(state_dict, file), where you trust it."
            ) from error
        raise BenchError(
            f"{path} cannot be read as a checkpoint, it is cut off or another kind of file ({one_line(error)[:120]})."
        ) from error


def _compare(own: Mapping[str, Tensor], state: Mapping[str, Tensor], layout: str, prefix: str) -> KeyReport:
    missing, misshapen, matched = [], [], 0
    for name, values in own.items():
        theirs = state.get(prefix + name)
        if theirs is None:
            missing += [] if name.endswith(COUNTER) else [name]
        elif theirs.shape != values.shape:
            misshapen.append(f"{name} is {tuple(theirs.shape)}, expected {tuple(values.shape)}")
        else:
            matched += 1
    under = [name for name in state if name.startswith(prefix)]
    return KeyReport(
        layout=layout,
        matched=matched,
        missing=tuple(missing),
        misshapen=tuple(misshapen),
        unexpected=tuple(name for name in under if name.removeprefix(prefix) not in own),
        outside=tuple(name for name in state if not name.startswith(prefix)),
    )


def _fits(report: KeyReport) -> bool:
    return not report.missing and not report.misshapen


def _refuse(report: KeyReport, backbone: Backbone, path: Path, prefix: str, own: Mapping[str, Tensor]) -> None:
    """Raises BenchError unless the backbone is matched in full and is not part of a larger one."""
    what = f"{backbone.name} {backbone.width}x"
    if not report.matched and not report.misshapen:
        raise BenchError(
            f"{path} holds no {what}: not one of its {len(own)} keys ({_some(own)}), but "
            f"{_some((*report.unexpected, *report.outside))}."
        )
    if report.misshapen:
        raise BenchError(
            f"{path} ({report.layout}) is not a {what}: {report.misshapen[0]}; {len(report.misshapen)} tensors "
            "differ. Another width?"
        )
    if report.missing:
        raise BenchError(
            f"{path} ({report.layout}) holds no whole {what}: {len(report.missing)} keys are missing, "
            f"{_some(report.missing)}."
        )
    stems = {name.partition(".")[0] for name in own}
    larger = [
        name for name in report.unexpected if name.removeprefix(prefix).partition(".")[0] in stems or is_layer(name)
    ]
    if larger:
        raise BenchError(
            f"{path} ({report.layout}) holds another network than {what}: {len(larger)} keys too many, {_some(larger)}."
        )


def _some(names: Iterable[str]) -> str:
    """The first few, and how many more."""
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more
