"""Weights from elsewhere into a network here: recognise the file's layout, report every key, refuse what does not fit.

Layouts seen in the authors' files (their repositories' READMEs, main and evaluate scripts):
    torchvision names alone                 Barlow Twins, VICReg, TWIST "backbone only", torchvision (with `fc`)
    "model": module.backbone.*              training checkpoints under DDP: Barlow Twins, VICReg *_fullckpt, DirectCLR
    "backbone", "model": backbone.*         TWIST full checkpoints
    "state_dict" (with "author")            truncated triplet, extracted by OpenSelfSup
    "state_dict": online_net.0.*            its training checkpoints; backbone.* are the same tensors again
    "state_dict": module.encoder_q.*        MoCo and what descends from it
    "state_dict": module.base_encoder.*     MoCo v3, beside module.momentum_encoder.*
    "student", "teacher"                    DINO; the teacher is what it evaluates
    "state_dict", "state_dict_ema"          timm, raw and averaged
    backbone.0.*, 0.*                       lightly and others: the children of a ResNet by their numbers
    "encoder"                               weights.pt of this project
    a TensorFlow bundle                     SimCLR, FNC: bench/weights/tensorflow.py
Any other prefix is read too (bench/weights/candidates.py): the report names it.
"""

from __future__ import annotations

import argparse
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from bench import authors
from bench.errors import BenchError, unknown_name
from bench.files import Json
from bench.networks import encoders
from bench.networks.network import Network
from bench.spec import Backbone, Released
from bench.weights.candidates import Candidate, candidates
from bench.weights.recognise import damage, no_checkpoint, resnet
from bench.weights.released import OWN, find, folder_of, tensorflow_index
from bench.weights.tensorflow import Bundle, is_layer, torchvision_arrays

COUNTER = "num_batches_tracked"  # of a batch norm; evaluation does not use it and old or TensorFlow files lack it
SHOWN = 3  # keys in an error
KEPT = 30  # keys in a result
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # smaller ones need scales that lie elsewhere
# Parts of transformers that those here do not have. Others beside the network's own are heads and are left out.
FOREIGN = frozenset({"dist_token", "reg_token", "register_tokens", "norm_pre", "ln_pre", "rel_pos_bias"})


@dataclass(frozen=True, kw_only=True)
class KeyReport:
    """What became of every key."""

    layout: str
    matched: int
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]  # "name is (...), expected (...)"
    unusable: tuple[str, ...]  # "name is int8, expected ..."
    unexpected: tuple[str, ...]  # under the backbone's prefix, but not in the network: heads, mostly
    outside: tuple[str, ...]  # not under that prefix: projectors, second networks
    prefix: str = ""
    part: str = "."  # what `--part` calls the network that was taken
    others: tuple[str, ...] = ()  # and those that fit as well, with other values

    def line(self) -> str:
        """In one line, for logs."""
        left = (*self.unexpected, *self.outside)
        return (
            f"layout {self.layout}: {self.matched} keys matched, {len(self.missing)} missing, {len(left)} left out"
            + (f" ({_some(left)})" if left else "")
            + (f"; {self.part} is taken, --part takes another network of the file: " if self.others else "")
            + ", ".join(_plain(part) for part in self.others)
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
            "part": self.part,
            "other_networks": [*self.others],
        }


def load_released(spec: Released, runs: Path) -> tuple[Network, dict[str, Json]]:
    """The network of a spec, and what a result says about it.

    Raises BenchError when the file is gone, changed or does not fit.
    """
    path = find(spec.sha256, folder_of(runs))
    network, report = load(spec.backbone, path, spec.part)
    assumed = encoders.assumptions(spec.backbone)
    print(f"weights {spec.name} from {path}: {report.line()}; assumed: {assumed}", flush=True)
    details: dict[str, Json] = {"weights": spec.name, "file": path.name, "sha256": spec.sha256, **report.details()}
    details["assumed"] = assumed
    if spec.name != OWN:
        entry = authors.weights(spec.name)
        details |= {"paper": entry.paper, "source": entry.url or entry.by_hand}
        if entry.top1 is not None:
            details["linear_top1_by_authors"] = entry.top1
    return network, details


def load(backbone: Backbone, path: Path, part: str = "") -> tuple[Network, KeyReport]:
    """A network with the weights of a file, of its `part` where several networks lie in it.

    Raises BenchError that names the first keys when its backbone is not fully matched, and the parts to choose from
    when two networks fit and nothing in their names says which one is evaluated.
    """
    network = encoders.build(backbone, seed=0)
    own = network.state_dict()
    found = _candidates(path, backbone, own)
    if part:
        chosen = [one for one in found if one.part == part] or [one for one in found if one.part.startswith(f"{part}.")]
        if not chosen:
            raise unknown_name(f"--part of {path}", part, {_plain(one.part) for one in found})
        found = chosen
    tried = [(_compare(own, one), one) for one in found]
    fitting = [pair for pair in tried if _fits(pair[0], own)]
    report, taken = fitting[0] if fitting else max(tried, key=lambda pair: pair[0].matched)
    _refuse(report, backbone, path, own, _likeness(taken.tensors, backbone))
    values = {name: _value(name, ours, taken) for name, ours in own.items()}
    others = [one for _, one in fitting[1:] if not all(_value(n, own[n], one).equal(v) for n, v in values.items())]
    rivals = [one.part for one in others if one.rank == taken.rank]
    if rivals:
        raise BenchError(
            f"{path} holds {len(rivals) + 1} networks that fit and differ: give --part "
            f"{' or '.join(_plain(one) for one in (taken.part, *rivals))}."
        )
    for name, theirs in values.items():
        if theirs.is_floating_point() and not theirs.isfinite().all():
            raise BenchError(f"{path}: {_plain(taken.prefix)}{name} holds values that are not finite.")
    network.load_state_dict(values)
    return network, replace(report, others=tuple(dict.fromkeys(one.part for one in others)))


def is_tensorflow(path: Path) -> bool:
    """Whether a path names a TensorFlow checkpoint: its index, its prefix, or a zip with one."""
    if path.suffix == ".index" or (not path.exists() and tensorflow_index(path).is_file()):
        return True
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".index") for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError):  # of a damaged list of members
        return False  # torch says what is wrong with it


def _candidates(path: Path, backbone: Backbone, own: Iterable[str]) -> list[Candidate]:
    """Every place of the file that may hold the network, the preferred ones first."""
    if is_tensorflow(path):
        if backbone.name not in encoders.RESNETS:
            raise BenchError(f"{path} is a TensorFlow checkpoint, of which only ResNets are read, not {backbone.name}.")
        arrays = torchvision_arrays(Bundle(path), backbone.name)
        state = {name: torch.from_numpy(values) for name, values in arrays.items()}
        return [Candidate((), "", state, title="TensorFlow, base_model/conv2d_k")]
    content = _read(path)
    if not isinstance(content, Mapping):
        raise BenchError(f"{path} holds a {type(content).__name__}, expected a dictionary of tensors.")
    found = candidates(content, own)
    if not found:
        raise BenchError(f"{path} holds no tensors by name; its keys are {_some(str(key) for key in content)}.")
    return found


def _read(path: Path) -> Any:
    """The content of a torch file.

    Nothing in it is executed, and of foreign classes only argparse.Namespace is rebuilt.
    """
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):  # TWIST's "args"
            warnings.simplefilter("ignore")  # of torch about sparse and old tensors: what it reads is checked here
            return torch.load(path, map_location="cpu", weights_only=True)
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
        if other := no_checkpoint(path):
            raise BenchError(f"{path} is {other}.") from error
        raise BenchError(
            f"{path} cannot be read as a checkpoint, it is cut off or another kind of file ({damage(path, error)})."
        ) from error


def _compare(own: Mapping[str, Tensor], one: Candidate) -> KeyReport:
    missing, misshapen, unusable, matched = [], [], [], 0
    theirs = one.tensors
    for name, ours in own.items():
        values = theirs.get(name)
        if name.endswith(COUNTER):
            matched += values is not None
        elif values is None:
            missing.append(name)
        elif fault := _fault(values):
            unusable.append(f"{name} {fault}")
        elif values.shape != ours.shape:
            misshapen.append(f"{name} is {tuple(values.shape)}, expected {tuple(ours.shape)}")
        else:
            matched += 1
    return KeyReport(
        layout=one.layout,
        matched=matched,
        missing=tuple(missing),
        misshapen=tuple(misshapen),
        unusable=tuple(unusable),
        unexpected=tuple(one.prefix + name for name in theirs if name not in own),
        outside=one.outside,
        prefix=one.prefix,
        part=one.part,
    )


def _fault(values: Tensor) -> str:
    """Why a tensor holds no weights that could be taken, "" where it does."""
    if values.is_meta:
        return "has a shape but no values (a meta tensor): save the network after its values are there"
    if values.is_nested or values.layout != torch.strided or values.dtype not in FLOATS:
        kind = "nested" if values.is_nested else f"{values.layout} {values.dtype}".replace("torch.", "")
        return f"is {kind}, expected float16 to float64: save the weights as they were before they were quantised"
    return ""


def _value(name: str, ours: Tensor, one: Candidate) -> Tensor:
    """A tensor of the file as the network takes it; a batch norm's counter is the network's own, nothing reads it."""
    return ours if name.endswith(COUNTER) else one.tensors[name].to(ours.dtype)


def _fits(report: KeyReport, own: Iterable[str]) -> bool:
    return not (report.missing or report.misshapen or report.unusable or _larger(report, own))


def _larger(report: KeyReport, own: Iterable[str]) -> list[str]:
    """Keys that a head does not have: the network in the file goes on where the one here ends."""
    stems = {name.partition(".")[0] for name in own} | FOREIGN
    return [
        name
        for name in report.unexpected
        if name.removeprefix(report.prefix).partition(".")[0] in stems or is_layer(name)
    ]


def _likeness(tensors: Mapping[str, Tensor], backbone: Backbone) -> str:
    """What the network in a file looks like, "" where that is not known or is the one asked for."""
    found = resnet(tensors)
    if found is None or (*found, 64, "imagenet") == (
        backbone.name,
        backbone.width,
        backbone.base_channels,
        backbone.stem,
    ):
        return ""
    return f" It looks like a {found[0]} {found[1]}x: --scale paper --network {found[0]} --width {found[1]}."


def _refuse(report: KeyReport, backbone: Backbone, path: Path, own: Mapping[str, Tensor], like: str) -> None:
    """Raises BenchError unless the backbone is matched in full and is not part of a larger one."""
    what = f"{backbone.name} {backbone.width}x"
    if report.unusable:
        raise BenchError(f"{path} ({report.layout}): {report.unusable[0]}; so {len(report.unusable)} tensors.")
    if not report.matched and not report.misshapen:
        raise BenchError(
            f"{path} holds no {what}: not one of its {len(own)} keys ({_some(own)}), but "
            f"{_some((*report.unexpected, *report.outside))}."
        )
    if report.misshapen:
        raise BenchError(
            f"{path} ({report.layout}) is not a {what}: {report.misshapen[0]}; {len(report.misshapen)} tensors "
            f"differ.{like or ' Another width?'}"
        )
    if report.missing:
        raise BenchError(
            f"{path} ({report.layout}) holds no whole {what}: {len(report.missing)} keys are missing, "
            f"{_some(report.missing)}.{like}"
        )
    larger = _larger(report, own)
    if larger:
        raise BenchError(
            f"{path} ({report.layout}) holds another network than {what}: {len(larger)} keys too many, {_some(larger)}."
            f"{like}"
        )


def _plain(name: str) -> str:
    """A key as it can stand in a line: in a file it may hold anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def _some(names: Iterable[str]) -> str:
    """The first few, and how many more."""
    listed = [_plain(name) for name in names]
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more
