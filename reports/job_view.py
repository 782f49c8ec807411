"""Everything a page shows of one run folder, read tolerantly: a damaged or foreign file is named, it breaks nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench import plugins
from bench.errors import BenchError, one_line
from bench.files import Json, read_json
from bench.identity import from_json
from bench.runs.folder import FORMAT, Failure, RunFolder, State
from bench.runs.metrics import waiting
from bench.runs.result import Result
from bench.spec import Evaluate, Pretrain, Spec
from bench.wording import counted
from reports.words import is_number

LOG_LINES = 60
_JOB_ID = re.compile(r"[a-z]+-[0-9a-f]{16}")  # job ids become file names: nothing else is taken from a job.json
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, kw_only=True)
class JobView:
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
    last: Mapping[str, float] = field(default_factory=dict)  # the newest that the job said of itself
    log: str
    problems: tuple[str, ...] = field(default=())
    # of a detection job: test images with truth and predictions
    scenes: tuple[Mapping[str, Json], ...] = field(default=())

    @property
    def seed(self) -> str:
        """The seed, "" when the spec cannot be read."""
        return "" if self.spec is None else str(self.spec.seed)

    @property
    def progress(self) -> str:
        """Of a job that runs: "step 120 of 480", "" before its first line."""
        done, total = self.last.get("step"), self.last.get("steps")
        running = self.state is State.RUNNING and is_number(done) and is_number(total)
        return f"step {done:g} of {total:g}" if running else ""

    @property
    def waiting(self) -> str:
        """Of a job that runs on images from files: how much of a step it waits for them."""
        numbers = {name: value for name, value in self.last.items() if is_number(value)}
        return waiting(numbers) if self.state is State.RUNNING else ""

    @property
    def protocol(self) -> str:
        """What was done in a sentence; "" when the evaluation's file cannot be read any more."""
        if isinstance(self.spec, Pretrain):
            length = counted(self.spec.epochs, "epoch")
            group = self.spec.norm_group
            norms = "" if group is None else f", batch norm over groups of {group} images"
            return f"pretraining in {self.spec.precision}, batch {self.spec.batch_size}{norms}, {length}"
        if self.spec is None:
            return ""
        try:
            return plugins.evaluation_of(self.spec.protocol).describe(self.spec.protocol)
        except BenchError:
            return ""


def details_of(job_view: JobView | None) -> Mapping[str, Json]:
    """What its evaluation left beside the metrics; nothing without a result."""
    details = job_view.result.details if job_view is not None and job_view.result is not None else {}
    return details if isinstance(details, Mapping) else {}


def read_job(run: RunFolder) -> JobView | None:
    """The record of a run folder; None while there is no folder."""
    if not run.path.is_dir():
        return None
    problems: list[str] = []
    body, text = _job_json(run, problems)
    spec = _spec(body, problems) if body else None
    label = body.get("label")
    return JobView(
        id=run.job_id,
        state=run.state(),
        label=label if isinstance(label, str) and label.strip() else run.job_id,
        spec=spec,
        spec_text=text,
        parent=_parent(spec, body),
        result=_result(run, problems),
        failure=run.failure() if run.error_file.exists() and not run.result_file.exists() else None,
        curves=tuple(run.curves()),
        last=run.last_metrics(),
        log=_TERMINAL_CODES.sub("", run.log_tail(LOG_LINES)),
        scenes=_scenes(run, problems),
        problems=tuple(problems),
    )


def _job_json(run: RunFolder, problems: list[str]) -> tuple[dict[str, object], str]:
    """job.json as data, empty when it cannot be read, and as the text that the page shows."""
    try:
        text = run.job_file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        problems.append(f"job.json cannot be read: {one_line(error)}")
        return {}, ""
    try:
        body = json.loads(text)
    except ValueError as error:
        problems.append(f"job.json cannot be read: {run.job_file} is not valid JSON ({one_line(error)}).")
        return {}, text
    if not isinstance(body, dict):
        problems.append(f"job.json cannot be read: it holds {type(body).__name__}, expected a JSON object.")
        return {}, text
    # The engine writes it line by line; only what somebody else wrote, or letters beyond ASCII, need another form.
    readable = text if "\n" in text.strip() and "\\u" not in text else json.dumps(body, indent=1, ensure_ascii=False)
    return body, readable


def _spec(body: Mapping[str, object], problems: list[str]) -> Spec | None:
    try:
        if body.get("format") != FORMAT:
            raise BenchError(f"job.json has format {body.get('format')}, this version reads {FORMAT}")
        spec: object = from_json(body["spec"])  # type: ignore[arg-type]
        if isinstance(spec, Pretrain | Evaluate):
            return spec
        problems.append(f"the spec is a {type(spec).__name__}, expected Pretrain or Evaluate.")
    except (BenchError, KeyError, TypeError, ValueError, AttributeError) as error:
        problems.append(f"the spec cannot be rebuilt and is shown as it was written: {one_line(error)}")
    return None


def _parent(spec: Spec | None, body: Mapping[str, object]) -> str:
    if spec is not None and not (isinstance(spec, Evaluate) and isinstance(spec.encoder, Pretrain)):
        return ""
    needs = body.get("needs")
    found = (
        [need for need in needs if isinstance(need, str) and _JOB_ID.fullmatch(need)] if isinstance(needs, list) else []
    )
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
