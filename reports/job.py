"""Everything a page shows of one run folder, read tolerantly: a damaged or foreign file is named, it breaks nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.errors import BenchError, one_line
from bench.files import read_json
from bench.identity import Json, job_id
from bench.result import Result
from bench.runs import Failure, RunFolder, State
from bench.spec import Evaluate, Pretrain, Spec

LOG_LINES = 60
_JOB_ID = re.compile(r"[a-z]+-[0-9a-f]{16}")  # job ids become file names: nothing else is taken from a job.json
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """One job as its folder tells it. `problems` names what could not be read."""

    id: str
    state: State
    label: str
    spec: Spec | None  # None when another version of the project wrote it
    spec_text: str  # job.json, readable; as it stands when it is not JSON
    parent: str  # the pretraining it waits for, "" when there is none
    result: Result | None
    failure: Failure | None
    curves: tuple[Mapping[str, float], ...]
    log: str
    problems: tuple[str, ...] = field(default=())
    scenes: tuple[Mapping[str, Json], ...] = field(default=())  # of a detection job: test images with truth and predictions

    @property
    def seed(self) -> str:
        """The seed, "" when the spec cannot be read."""
        return "" if self.spec is None else str(self.spec.seed)

    @property
    def protocol(self) -> str:
        """The evaluation's protocol in a sentence, "" for a pretraining."""
        describe = getattr(self.spec.protocol, "describe", None) if isinstance(self.spec, Evaluate) else None
        return str(describe()) if callable(describe) else ""


def read_job(run: RunFolder) -> JobRecord | None:
    """The record of a run folder; None while there is no folder."""
    if not run.path.is_dir():
        return None
    problems: list[str] = []
    body = _job_json(run, problems)
    spec = _spec(run, problems) if body else None
    label = body.get("label")
    return JobRecord(
        id=run.job_id,
        state=run.state(),
        label=label if isinstance(label, str) and label.strip() else run.job_id,
        spec=spec,
        spec_text=json.dumps(body, indent=2, ensure_ascii=False) if body else _text(run),
        parent=_parent(spec, body),
        result=_result(run, problems),
        failure=run.failure() if run.error_file.exists() and not run.result_file.exists() else None,
        curves=tuple(run.curves()),
        log=_TERMINAL_CODES.sub("", run.log_tail(LOG_LINES)),
        scenes=_scenes(run, problems),
        problems=tuple(problems),
    )


def _job_json(run: RunFolder, problems: list[str]) -> dict[str, object]:
    try:
        return read_json(run.job_file)
    except (OSError, BenchError) as error:
        problems.append(f"job.json cannot be read: {one_line(error)}")
        return {}


def _spec(run: RunFolder, problems: list[str]) -> Spec | None:
    try:
        spec: object = run.read_spec()
        if isinstance(spec, Pretrain | Evaluate):
            return spec
        problems.append(f"the spec is a {type(spec).__name__}, expected Pretrain or Evaluate.")
    except (OSError, BenchError, KeyError, TypeError, ValueError, AttributeError) as error:
        problems.append(f"the spec cannot be rebuilt and is shown as it was written: {one_line(error)}")
    return None


def _parent(spec: Spec | None, body: Mapping[str, object]) -> str:
    if spec is not None:
        return job_id(spec.encoder) if isinstance(spec, Evaluate) and isinstance(spec.encoder, Pretrain) else ""
    needs = body.get("needs")
    found = [need for need in needs if isinstance(need, str) and _JOB_ID.fullmatch(need)] if isinstance(needs, list) else []
    return found[0] if found else ""


def _result(run: RunFolder, problems: list[str]) -> Result | None:
    if not run.result_file.exists():
        return None
    try:
        return run.result()
    except (OSError, BenchError) as error:
        problems.append(f"the result cannot be read: {one_line(error)}")
        return None


def _scenes(run: RunFolder, problems: list[str]) -> tuple[Mapping[str, Json], ...]:
    file = run.path / "pictures.json"
    if not file.is_file():
        return ()
    try:
        found = read_json(file).get("scenes")
        return tuple(scene for scene in found if isinstance(scene, dict)) if isinstance(found, list) else ()
    except (OSError, BenchError) as error:
        problems.append(f"pictures.json cannot be read: {one_line(error)}")
        return ()


def _text(run: RunFolder) -> str:
    return run.job_file.read_text(errors="replace") if run.job_file.is_file() else ""
