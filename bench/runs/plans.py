"""What `bench run` asked for, written down, so that status, logs and cancel need no plug-in and no torch.

runs/plans/<table>@<scale>.json   jobs in order, with labels, kinds and edges
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import plugins
from bench.errors import BenchError, InputCorrupt, one_line, unknown_name
from bench.files import read_json, write_json
from bench.planning.graph import JobGraph
from bench.runs.folder import Runs, State
from bench.settings.overrides import AS_PUBLISHED, Overrides

FORMAT = 2


@dataclass(frozen=True)
class StoredJob:
    """A job as the plan knows it."""

    id: str
    label: str
    kind: str
    needs: tuple[str, ...]
    resources_as: str = "evaluate"  # kind of job whose resources it is given


@dataclass(frozen=True)
class StoredPlan:
    """The last run of a table at a scale."""

    table: str
    scale: str
    seeds: int
    rows: tuple[str, ...]  # as asked for; empty: all
    columns: tuple[str, ...]
    jobs: tuple[StoredJob, ...]
    overrides: Overrides = AS_PUBLISHED  # section [recipe] of bench.toml when it ran
    released: Mapping[str, str] | None = (
        None  # of a run with --released: the authors' weights and the sha256 of each file
    )

    @property
    def name(self) -> str:
        """`table@scale`."""
        return f"{self.table}@{self.scale}"


def is_known(runs: Runs, table: str, scale: str) -> bool:
    """Whether a run of the table at this scale is remembered, readable or not."""
    return _path(runs, f"{table}@{scale}").is_file()


def remembered(runs: Runs, table: str, scale: str) -> StoredPlan | None:
    """The last run of the table at this scale; None when there is none that can be read."""
    try:
        return _read(_path(runs, f"{table}@{scale}"))
    except (OSError, InputCorrupt, KeyError, TypeError):
        return None


def write(runs: Runs, plan: StoredPlan) -> None:
    """Remember a run; a file that says the same already is left alone."""
    path = _path(runs, plan.name)
    try:
        if _read(path) == plan:
            return
    except (FileNotFoundError, InputCorrupt, KeyError, TypeError):
        pass  # not there, or damaged: written below
    body = asdict(plan)
    body["choices"] = body.pop("overrides")  # as the file has called them from its first day
    write_json(path, {"format": FORMAT, **body})


def of_graph(graph: JobGraph) -> tuple[StoredJob, ...]:
    """The jobs of a graph."""
    return tuple(StoredJob(job.id, job.label, job.kind, job.needs, job.resources_as) for job in graph)


def read_all(runs: Runs) -> list[StoredPlan]:
    """All remembered runs, by name; a file that cannot be read is named on stderr and left out."""
    found = []
    for path in sorted((runs.root / "plans").glob("[!.]*.json")):
        try:
            found.append(_read(path))
        except (InputCorrupt, KeyError, TypeError) as error:
            print(f"{path} cannot be read ({one_line(error)}) and is left out: run its table anew", file=sys.stderr)
    return found


def _path(runs: Runs, name: str) -> Path:
    return runs.root / "plans" / f"{name}.json"


def _read(path: Path) -> StoredPlan:
    data: dict[str, Any] = dict(read_json(path))
    if data.pop("format", None) != FORMAT:
        raise InputCorrupt(f"another version of the project wrote it, this one reads format {FORMAT}")
    jobs = tuple(
        StoredJob(j["id"], j["label"], j["kind"], tuple(j["needs"]), j.get("resources_as", j["kind"]))
        for j in data["jobs"]
    )
    changed = data.pop("choices")
    pairs = {key: tuple((name, other) for name, other in changed.get(key, ())) for key in ("data", "chunks_of")}
    overrides = Overrides(**{**changed, **pairs})
    body = data | {"jobs": jobs, "rows": tuple(data["rows"]), "columns": tuple(data["columns"]), "overrides": overrides}
    return StoredPlan(**body)


def of_table(runs: Runs, tables: Sequence[str]) -> list[StoredPlan]:
    """Manifests of some tables, all without names. Raises BenchError when a table was never run here."""
    found = read_all(runs)
    here = {m.table for m in found}
    for table in tables:
        if table in here:
            continue
        if table in plugins.names("table"):
            others = f"; run here: {', '.join(sorted(here))}" if here else ""
            raise BenchError(
                f"table {table!r} was not run under {runs.root}: `bench run --table {table}` starts it{others}."
            )
        raise unknown_name("table", table, {*here, *plugins.names("table")})
    return [m for m in found if not tables or m.table in tables]


def states(plan: StoredPlan, runs: Runs) -> dict[str, State]:
    """State of every job of a plan."""
    return {job.id: runs[job.id].state() for job in plan.jobs}
