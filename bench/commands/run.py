"""`bench run`: from the request to the printed table and its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.commands import driver, gpu_memory
from bench.commands import on_cpu as on_cpus
from bench.commands.request import PlannedRequest, TableRequest, forced_jobs, plan_request, skipped
from bench.data.fingerprint import DataHere
from bench.errors import BenchError
from bench.execution import executors
from bench.files import make_folder
from bench.planning.scales import scale_of
from bench.runs import drivers, plans
from bench.runs.folder import Runs
from bench.settings.site import Site
from results.store import Store
from results.view import view


@dataclass(frozen=True)
class Allowed:
    """What is refused unless it is asked for."""

    accept_data: bool = False  # keep what other data gave
    restart: bool = False  # begin anew where no checkpoint can be read
    on_cpu: bool = False  # pretrain for more than a day without a GPU
    any_memory: bool = False  # start what is predicted to take more memory than a GPU has


def run(
    request: TableRequest,
    executor: str,
    force: Sequence[str],
    *,
    watch: bool = False,
    allowed: Allowed | None = None,
) -> int:
    """Bring the tables to done and write everything; 0 when every job is done, 1 when one failed, 130 when interrupted.

    On Slurm the jobs are only submitted, and the tables come with `watch` or when the same request finds all jobs done.
    """
    driver.check_executor(executor)
    with drivers.at_work(Runs(request.site.runs), [f"{table}@{request.scale}" for table in request.tables]):
        return _run(request, executor, force, allowed or Allowed(), watch=watch)


def _run(request: TableRequest, executor: str, force: Sequence[str], allowed: Allowed, *, watch: bool) -> int:
    if watch and executor != "slurm":
        raise BenchError("--watch goes with --executor slurm: the other executors are watched anyway.")
    site = request.site
    place = None if executor == "slurm" else executors.make(executor, site)
    if place is not None and not all(plans.is_known(Runs(site.runs), table, request.scale) for table in request.tables):
        place.get_ready()  # a table that never ran here has something to run
    planned = plan_request(request)
    forced = forced_jobs(force, planned.graph) if not request.released else frozenset()
    _check_needs(planned, forced)
    _check_folders(site)
    if request.released:  # now that all else is in order: their hashes make the job ids
        planned = plan_request(request, download=True)
        forced = forced_jobs(force, planned.graph)
    for line in skipped(planned):
        print(line, flush=True)
    apart = driver.cannot_run(planned.graph, site, forced)
    jobs = planned.graph.without(apart)
    driver.check_ranks(jobs, site, executor)
    gpu_memory.check(jobs, site, executor, ignore=allowed.any_memory)
    if not allowed.on_cpu and scale_of(request.scale).published:
        on_cpus.check(jobs, site, executor)
    here = DataHere(site)
    repeated = driver.again(jobs, here, forced, accept_data=allowed.accept_data)
    repeated = driver.without_what_stays(replace(repeated, restart=allowed.restart), jobs, site)
    driver.prepare(jobs, site, repeated, executor)
    driver.set_apart(planned.graph, apart, site, executor)
    for table in planned.tables:
        plans.write(
            planned.runs,
            plans.StoredPlan(
                table=table.table.id,
                scale=table.scale.name,
                seeds=table.seeds,
                rows=table.rows,
                columns=table.columns,
                jobs=plans.of_graph(table.graph),
                overrides=site.overrides,
                released=table.released,
            ),
        )
    if place is None:
        summary = driver.drive_slurm(jobs, site, repeated, [table.name for table in planned.tables], watch=watch)
        if summary.queued:
            return driver.closing(replace(summary, missing=tuple(apart)), jobs, site)
    else:
        summary = driver.drive(jobs, here, place)
        overtaken = driver.overtaken(jobs, here)
        if overtaken.outdated:  # or the table would mix numbers of two trainings
            driver.prepare(jobs, site, overtaken, executor)
            summary = driver.drive(jobs, here, place)
    _publish(planned)
    return driver.closing(replace(summary, missing=tuple(apart)), jobs, site)


def _check_needs(planned: PlannedRequest, forced: frozenset[str]) -> None:
    """Refuse what cannot run here.

    Tables by name for data that they lack, as a wrong path is mended first; for a package, and with --all, the rest
    runs, if there is any.
    """
    site = planned.request.site
    problems = driver.missing_data(planned.graph, site)
    if not problems:
        return
    without_data = driver.missing_data(planned.graph, site, packages=False)
    if without_data and not planned.request.everything:
        raise without_data[0]
    apart = driver.cannot_run(planned.graph, site, forced)
    todo = {job for job in planned.graph.jobs if job in forced or not planned.runs[job].result_file.exists()}
    if apart and todo == apart.keys():
        raise problems[0]


def _check_folders(site: Site) -> None:
    """Everything that will be written to, before anything runs."""
    from reports.folder import check_target

    for folder in (site.runs, site.output):
        make_folder(folder)
    make_folder(site.report.parent)
    check_target(site.report)


def _publish(planned: PlannedRequest) -> None:
    """Write CSV, Markdown, LaTeX and HTML, then print the tables: what is printed may be lost, the files are not."""
    from reports.text.tables import to_markdown, write_outputs

    site = planned.request.site
    shown = [view(table, Store(planned.runs)) for table in planned.tables]
    written = [write_outputs(each, site.output) for each in shown]
    try:
        report = _report(planned)
    finally:
        for each, paths in zip(shown, written, strict=True):
            print("\n" + to_markdown(each))
            for path in paths:
                print(f"wrote {path}")
    print(f"report: {report}", flush=True)


def _report(planned: PlannedRequest) -> str:
    """Build the report unless it is up to date; where it is."""
    from reports.folder import is_current

    site = planned.request.site
    index = site.report / "index.html"
    if is_current(index, planned.runs, planned.graph.jobs):
        return f"{index} (up to date)"
    from reports.serve import build_site

    return str(build_site(site, planned.runs, None, planned={table.name: table for table in planned.tables}))
