"""Checkpoints to go on from, and the weights that a finished pretraining leaves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import file_digest
from pathlib import Path

import torch
from torch import nn

from bench.errors import BenchError, InputCorrupt, one_line
from bench.files import atomic_path
from bench.identity import job_id
from bench.runs.folder import RunFolder
from bench.spec import Pretrain


@dataclass(frozen=True)
class Progress:
    """The part of a checkpoint that is plain data."""

    step: int = 0
    resumed: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def save_checkpoint(run: RunFolder, network: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Everything that a bit-identical resume needs; random draws are functions of the step and need no state."""
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "progress": vars(progress)}
    with atomic_path(run.checkpoint) as temporary:
        torch.save(state, temporary)


def load_checkpoint(run: RunFolder, network: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> Progress:
    """Restore and say where to go on; a damaged checkpoint is set aside and the run starts anew."""
    if not run.checkpoint.exists():
        return Progress()
    try:
        state = torch.load(run.checkpoint, map_location=device, weights_only=True)
        progress = Progress(**state["progress"])
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        for group in optimizer.param_groups:  # a state from a GPU asks for fused kernels, which are for GPUs only
            group |= {key: optimizer.defaults[key] for key in ("fused", "foreach") if key in group}
    except Exception as error:  # torch raises many kinds for a damaged file
        aside = run.set_aside(run.checkpoint)
        print(f"checkpoint.pt is damaged ({one_line(error)[:200]}); set aside as {aside and aside.name}, starting anew", flush=True)
        raise InputCorrupt(f"{run.checkpoint} was damaged and is set aside") from error
    print(f"going on after step {progress.step}", flush=True)
    return replace(progress, resumed=progress.resumed + 1)


def save_weights(path: Path, method: nn.Module, encoder: nn.Module) -> str:
    """What evaluations read: the encoder, and the whole method for those that look at the embedding. Returns the sha256."""
    # Through a handle: given a path, torch writes the temporary name into the file, and equal weights would differ in their hash.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save({"encoder": encoder.state_dict(), "method": method.state_dict()}, file)
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def load_start(network: nn.Module, start: Pretrain, run: RunFolder) -> None:
    """Put the weights that another pretraining left into the method. Raises InputCorrupt, BenchError when they do not fit."""
    path = run.path.parent / job_id(start) / "weights.pt"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["method"]
    except Exception as error:  # torch raises many kinds for a damaged file
        raise BenchError(f"{path} cannot be read ({one_line(error)[:200]}): the same command trains it again.") from error
    found = network.load_state_dict(state, strict=False)
    if found.missing_keys or found.unexpected_keys:
        raise BenchError(f"{path} does not fit: missing {found.missing_keys[:3]}, unexpected {found.unexpected_keys[:3]}.")
