"""What a finished job says: its metrics and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import BenchError, InputCorrupt
from bench.files import Json, read_json, write_json
from bench.runs.inputs import Inputs, inputs_from

FORMAT = 1  # raised when result.json changes shape


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where and how a result was made."""

    started: str  # ISO 8601, UTC
    seconds: float  # wall clock, summed over all interruptions
    cpu_seconds: float  # of the process, likewise
    host: str
    device: str  # "cpu: <model name>" or "cuda: <name>"
    ranks: int
    threads: int
    commit: str  # of the project, with "+dirty" when the checkout was edited; "unknown" outside a checkout
    versions: Mapping[str, str]  # python, torch, ...
    resumed: int = 0  # how often the job went on from a checkpoint
    # Jobs that one process worked on together, this one among them, seeing each batch of images decoded once: seconds,
    # cpu_seconds and energy are this job's share, less than it would have taken alone.
    together: int = 1
    # Of an evaluation that reads features: whether it found them all in the cache, else it extracted them. None: it
    # reads none, or it is not known (older results).
    features_cached: bool | None = None
    # What the counters in energy_parts say; None: no counter could be read, or the job went on from a checkpoint.
    energy_joules: float | None = None
    # "gpus": those of the job alone. "packages": the processor packages of its node while it ran, everything on them
    # included; jobs side by side each count the whole, so their sum is more than what was used.
    energy_parts: Mapping[str, float] = field(default_factory=dict)
    inputs: Inputs = field(default_factory=Inputs)  # empty: it was made before results carried them
    # How it was computed, as bench.toml and the device have it and no id says. None or "": older results, and where it
    # is no question.
    deterministic: bool | None = None  # whether a GPU's kernels had to be; a CPU's are
    layout: str = ""  # of images and weights in memory: "channels_last" or "contiguous"
    checkpoint_activations: bool | None = None  # of a pretraining: whether its blocks computed them twice

    @property
    def computed(self) -> str:
        """That in words; "" where nothing is known."""
        said = []
        if isinstance(self.deterministic, bool):
            said += ["deterministic kernels" if self.deterministic else "kernels that need not be deterministic"]
        if self.layout:
            said += [f"{self.layout} in memory"]
        if isinstance(self.checkpoint_activations, bool):
            said += ["activations computed twice" if self.checkpoint_activations else "activations kept"]
        return ", ".join(said)


@dataclass(frozen=True, kw_only=True)
class Result:
    """Metrics (percent unless the name says otherwise) of one finished job, with what a report page shows beside."""

    job: str
    metrics: Mapping[str, float]
    provenance: Provenance
    details: Mapping[str, Json] = field(default_factory=dict)  # sweep tables, chosen values, notes on the protocol

    def write(self, path: Path) -> None:
        """Write atomically; a result exists when this has returned."""
        write_json(path, {"format": FORMAT, **asdict(self)})


def provenance_from(body: Mapping[str, Any]) -> Provenance:
    """From JSON. Raises TypeError, ValueError or AttributeError for something else."""
    return Provenance(**{**body, "inputs": inputs_from(body.get("inputs") or {})})


def read_result(path: Path) -> Result:
    """Raises InputCorrupt for a damaged file, BenchError for one of another FORMAT."""
    data = read_json(path)
    found = data.pop("format", None)
    if found != FORMAT:
        if not isinstance(found, int):
            raise InputCorrupt(f"{path} has no format number.")
        advice = "update the project" if found > FORMAT else "run the job anew with --force"
        raise BenchError(f"{path} has format {found}, this version reads {FORMAT}: {advice}.")
    try:
        provenance = provenance_from(data.pop("provenance"))  # type: ignore[arg-type]
        result = Result(provenance=provenance, **data)  # type: ignore[arg-type]
        if not all(isinstance(value, int | float) for value in result.metrics.values()):
            raise TypeError("metrics must be numbers")
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        raise InputCorrupt(f"{path} does not hold a result ({error}).") from error
    return result
