"""What a job reads besides its spec: the data, the weights below it, the code of its plug-in.

Taken by the worker when it opens them, kept in its run folder while it works (for its checkpoint) and in its result.

    state/inputs.json    those of the newest attempt
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.data.fingerprint import DataHere, Fingerprint
from bench.errors import BenchError, InputCorrupt
from bench.files import read_json, write_json
from bench.identity import job_id
from bench.runs.sources import Source, sources_of
from bench.spec import Evaluate, Pretrain, Spec


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Empty where nothing is known: the job ran before results carried them."""

    data: Mapping[str, Fingerprint] = field(default_factory=dict)  # by data set
    encoder: str = ""  # sha256 of the weights of the pretraining that it stands on; "" without one
    code: Mapping[str, Source] = field(default_factory=dict)  # the plug-in's file, and what it imports beside it
    # Other data than it read, for which it was kept on purpose (`--accept-data`).
    accepted: Mapping[str, Fingerprint] = field(default_factory=dict)


def inputs_from(body: Mapping[str, Any]) -> Inputs:
    """From JSON. Raises TypeError, ValueError, KeyError or AttributeError for something else."""
    groups = {name: dict(body.get(name) or {}) for name in ("data", "accepted", "code")}
    return Inputs(
        encoder=str(body.get("encoder") or ""),
        data={name: _fingerprint(**value) for name, value in groups["data"].items()},
        accepted={name: _fingerprint(**value) for name, value in groups["accepted"].items()},
        code={name: Source(str(value["text"]), str(value["tree"])) for name, value in groups["code"].items()},
    )


def _fingerprint(*, digest: object, files: Any, bytes: Any) -> Fingerprint:
    return Fingerprint(digest=str(digest), files=int(files), bytes=int(bytes))


def take(spec: Spec, folder: Path, here: DataHere) -> Inputs:
    """Those of a job that begins now, and of its data the listing is remembered."""
    found = here.fingerprint(spec.data.name)
    here.remember(spec.data.name)
    parent = spec.encoder if isinstance(spec, Evaluate) else spec.start
    return Inputs(
        data={} if found is None else {spec.data.name: found},
        encoder=weights_of(folder.parent / job_id(parent)) if isinstance(parent, Pretrain) else "",
        code=sources_of(spec),
    )


def weights_of(folder: Path) -> str:
    """The sha256 of a finished pretraining's weights, as its result has it; "" when that says nothing."""
    try:
        details = read_json(folder / "result.json").get("details")
    except (OSError, InputCorrupt):
        return ""
    return str(details.get("weights_sha256", "")) if isinstance(details, dict) else ""


_TOLD: dict[Path, Inputs] = {}  # of jobs of this process: on another node the file may be late


def note(inputs: Inputs, folder: Path, *, writes: bool = True) -> None:
    """Write down what this attempt reads, before it goes on from a checkpoint; `writes`: the first rank."""
    _TOLD[folder] = inputs
    if writes:
        write_json(_file(folder), asdict(inputs), durable=False)


def noted(folder: Path) -> Inputs:
    """What the newest attempt read; empty where nobody wrote it down."""
    if folder in _TOLD:
        return _TOLD[folder]
    try:
        return inputs_from(read_json(_file(folder)))
    except (OSError, BenchError, TypeError, AttributeError, ValueError, KeyError):
        return Inputs()


def mark_of(inputs: Inputs) -> dict[str, str]:
    """What a checkpoint carries: digests by what they are of."""
    found = {name: one.digest for name, one in inputs.data.items()}
    return found | ({"weights below": inputs.encoder} if inputs.encoder else {})


def other(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What both know and is not the same."""
    return sorted(name for name in then.keys() & now.keys() if then[name] != now[name])


def _file(folder: Path) -> Path:
    return folder / "state" / "inputs.json"
