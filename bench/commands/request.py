"""What `bench plan` and `bench run` are asked for, worked out: the tables, planned, and the graph of all their jobs."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

from bench.errors import BenchError
from bench.planning import graph
from bench.planning.graph import Job, JobGraph
from bench.planning.scales import scale_of
from bench.runs.folder import Runs
from bench.settings.site import Site
from bench.weights import released
from results.cells import PlannedTable, check_released, chosen_rows, load_table, plan_table


@dataclass(frozen=True)
class TableRequest:
    """Which part of which tables, at which scale."""

    site: Site
    tables: tuple[str, ...]
    scale: str
    seeds: int
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    released: bool = False  # take the authors' weights instead of pretraining
    everything: bool = False  # --all: what cannot run here does not stop the rest


@dataclass(frozen=True)
class PlannedRequest:
    """A request, worked out."""

    request: TableRequest
    tables: tuple[PlannedTable, ...]
    graph: JobGraph  # of all tables together
    absent: tuple[BenchError, ...] = ()  # released weights that are not here

    @property
    def runs(self) -> Runs:
        """Where its jobs lie."""
        return Runs(self.request.site.runs)


def plan_request(request: TableRequest, *, download: bool = False) -> PlannedRequest:
    """Work a request out; `download` gets released weights that are not here, else they are only named."""
    scale = scale_of(request.scale, request.site.overrides)
    tables = tuple(load_table(name) for name in request.tables)
    hashes: dict[str, str] | None = None
    absent: list[BenchError] = []
    if request.released:
        check_released(scale)
        hashes = {}
        rows = (row.released for table in tables for row in chosen_rows(table, request.rows))
        for name in dict.fromkeys(filter(None, rows)):
            try:
                hashes[name] = (released.fetch if download else released.locate)(name, request.site).sha256
            except BenchError as error:
                if download:
                    raise
                hashes[name] = ""
                absent.append(error)
        if not hashes:
            raise BenchError(f"--released: no chosen row of {', '.join(request.tables)} names released weights.")
    asked = {"rows": request.rows, "columns": request.columns}
    planned = tuple(plan_table(table, scale, request.seeds, **asked, released=hashes) for table in tables)
    jobs = graph.plan((cell.label, cell.spec) for table in planned for cell in table.asked)
    return PlannedRequest(request, planned, jobs, tuple(absent))


def skipped(planned: PlannedRequest) -> list[str]:
    """A line a table for the rows that --released leaves out, and for what is not at the size of the data."""
    lines = []
    for table in planned.tables:
        large = {row: why for (row, column), why in table.too_large.items() if (row, column) in table.asked_cells}
        lines += [f"{table.table.id}: not at this size: {row}: {why}" for row, why in large.items()]
    for table in planned.tables if planned.request.released else ():
        rows = [row.name for row in chosen_rows(table.table, table.rows) if not row.released]
        if rows:
            lines.append(f"{table.table.id}: no released weights, skipped: {'; '.join(rows)}")
    return lines


def asked_for(planned: PlannedRequest, among: Container[str]) -> list[Job]:
    """Jobs as often as they are asked for: every cell with an encoder of its own, as if nothing were shared."""
    chains = (_chain(cell.job, planned.graph) for table in planned.tables for cell in table.asked)
    return [planned.graph.jobs[name] for chain in chains for name in chain if name in among]


def _chain(job: str, jobs: JobGraph) -> Iterator[str]:
    """A job and all that it needs."""
    yield job
    for need in jobs.jobs[job].needs:
        yield from _chain(need, jobs)


def forced_jobs(prefixes: Iterable[str], jobs: JobGraph) -> frozenset[str]:
    """Jobs by id or beginning of it; what depends on them is run again too."""
    found: set[str] = set()
    for prefix in prefixes:
        hits = [job for job in jobs.jobs if job.startswith(prefix) or job.partition("-")[2].startswith(prefix)]
        if len(hits) != 1:
            raise BenchError(f"--force {prefix!r} fits {len(hits)} jobs of this plan; `bench plan` lists them.")
        found |= {hits[0], *jobs.dependents(hits[0])}
    return frozenset(found)
