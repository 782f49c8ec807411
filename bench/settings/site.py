"""The place where the harness runs: paths, data sets, local resources, and the sections with files of their own here.

bench/bench_toml.py reads it from bench.toml. Not hashed (but for the overrides): another machine changes no job id.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from bench.errors import BenchError
from bench.machine import cores_of_rank
from bench.settings.overrides import AS_PUBLISHED, Overrides
from bench.settings.slurm import SlurmSettings
from bench.spec import Resources

NAME = "bench.toml"
MOST_WORKERS = 12  # for a GPU: a fast probe takes so many, and each keeps batches in shared memory


class AtMost(int):
    """A number of workers that bench.toml does not ask for: fewer do, where shared memory has no room for so many."""


@dataclass(frozen=True, kw_only=True)
class KnownFile:
    """What bench.toml says about one file of released weights."""

    path: Path | None = None
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Price:
    """What hours cost here; 0: not said."""

    gpu_hour: float = 0.0
    core_hour: float = 0.0
    currency: str = "EUR"


@dataclass(frozen=True, kw_only=True)
class Site:
    """Paths and local resources; read once at start and passed down."""

    root: Path
    file: Path | None = None  # the bench.toml that was read
    runs: Path
    output: Path
    report: Path
    data: Mapping[str, Path] = field(default_factory=dict)
    released: Mapping[str, KnownFile] = field(default_factory=dict)
    slots: int | None = None
    threads: int = 1
    ranks: int = 1
    images_per_gpu: int = 0  # 0: every pretraining has `ranks`; else up to so many, with at least these images each
    workers: int | None = None  # that decode images; see loader_workers
    gpu_memory: int = 0  # GiB of a GPU here; 0: asked of the driver
    staging: str = ""  # a folder of each node, to which packs are copied first; variables have their value there
    checkpoint_activations: bool | Literal["auto"] = "auto"  # of blocks: see bench/training/recompute.py
    deterministic: bool = True  # kernels of GPUs: the same digits twice, or faster ones
    probes_together: int | None = None  # evaluations of one process; None: as the executor has it
    overrides: Overrides = AS_PUBLISHED
    slurm: SlurmSettings = field(default_factory=SlurmSettings)
    notify: str = ""  # a line of shell
    price: Price = Price()

    def data_root(self, name: str) -> Path:
        """Folder of a data set. Raises BenchError when bench.toml does not name it or it is not there."""
        if name not in self.data:
            raise BenchError(
                f'data set {name!r} needs a folder: add `{name} = "/path"` under [data] in '
                f"{self.file or self.root / NAME}."
            )
        if not self.data[name].is_dir():
            raise BenchError(f"data set {name!r}: {self.data[name]} (from {self.file}) is not a folder.")
        return self.data[name]

    def loader_workers(self, device: str, cores: int | None = None) -> int:
        """Processes that decode images on disk for one process of a job on a "cuda" or "cpu" device.

        Where bench.toml does not say, a GPU gets what `cores` (default: this process's) leave beside the job itself,
        AtMost.
        """
        if self.workers is not None:
            return self.workers
        return AtMost(0 if device == "cpu" else min(MOST_WORKERS, max(1, (cores or cores_of_rank()) - 1)))

    def resources(self, kind: str, executor: str = "local") -> Resources:
        """What a job of this kind is given here, or on Slurm's nodes."""
        if executor == "slurm":
            return replace(self.slurm.request(kind).resources, gpu=kind != "cpu")
        return Resources(ranks=self.ranks if kind == "pretrain" else 1, threads=self.threads, gpu=kind != "cpu")

    def images_per_gpu_of(self, executor: str) -> int:
        """Of a pretraining, at least; 0 where bench.toml gives every pretraining the same ranks."""
        return self.slurm.pretrain.images_per_gpu if executor == "slurm" else self.images_per_gpu

    def possible_ranks(self, executor: str) -> Collection[int]:
        """Numbers of ranks that a job can have here: on Slurm equally many on each of its nodes."""
        return self.slurm.pretrain.shapes if executor == "slurm" else range(1, self.ranks + 1)
