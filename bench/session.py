"""One `bench plan`, `bench run` or `bench report`: from the request to the printed table. Imported by the command line alone."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench import executors, graph, manifest, progress, scheduler
from bench.cost import Costs, disk_bytes
from bench.data.catalogue import check_present
from bench.errors import BenchError, one_line, unknown_name
from bench.files import make_folder
from bench.graph import JobGraph
from bench.runs import Runs, State
from bench.scales import Scale, scale_of
from bench.site import Site
from bench.spec import Pretrain
from results.store import Store
from results.table import CellJob, Table, cell_jobs, load_table
from results.view import TableView, view

REBUILD_SECONDS = 5.0


@dataclass(frozen=True)
class Request:
    """Which part of which tables, at which scale."""

    site: Site
    tables: tuple[str, ...]
    scale: str
    seeds: int
    rows: tuple[str, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True)
class _Planned:
    """A request, worked out."""

    scale: Scale
    tables: tuple[Table, ...]
    cells: tuple[tuple[CellJob, ...], ...]  # per table
    graph: JobGraph
    runs: Runs


def run(request: Request, executor: str, force: Sequence[str]) -> int:
    """Bring the tables to done and write everything; 0 when every job is done, 1 when one failed, 130 when interrupted."""
    if executor not in executors.NAMES:
        raise unknown_name("executor", executor, executors.NAMES)
    planned = _plan(request)
    runs, jobs = planned.runs, planned.graph
    for name in missing_data(jobs, request.site):
        raise name
    forced = _forced(force, jobs)
    _check_folders(request.site)
    scheduler.free_space(runs, sum(disk_bytes(job) for job in jobs if runs[job.id].state() is not State.DONE))
    for event in scheduler.verify(jobs, runs, forced):
        print(f"{event.what}: {jobs.jobs[event.job].label}: {event.message}", flush=True)
    scheduler.prepare(jobs, runs, request.site, scheduler.RetryRules(), forced)
    for table, cells in zip(planned.tables, planned.cells, strict=True):
        part = graph.plan((cell.label, cell.spec) for cell in cells)
        asked = (request.seeds, request.rows, request.columns, request.site.chunks)
        manifest.write(runs, manifest.Manifest(table.id, planned.scale.name, *asked, manifest.of_graph(part)))
    todo = [job for job in jobs if runs[job.id].state() is not State.DONE]
    if todo:
        saved = f" ({jobs.asked} asked for, each job once)" if jobs.asked > len(jobs) else ""
        print(f"{len(jobs)} jobs{saved}, {len(jobs) - len(todo)} done already, {len(todo)} to run", flush=True)
        place = executors.make(executor, request.site)
        with progress.shown(jobs, runs) as shown:
            summary = scheduler.drive(jobs, runs, place, Costs(runs, jobs), shown)
    else:
        print(f"all {len(jobs)} jobs are done already: nothing to compute", flush=True)
        summary = scheduler.Summary(done=len(jobs), already=len(jobs), failed=(), blocked=(), stopped=())
    _publish(planned, request)
    return _closing(summary, jobs, runs)


def show_plan(request: Request) -> None:
    """Print the jobs and what they cost."""
    planned = _plan(request)
    runs, jobs = planned.runs, planned.graph
    costs = Costs(runs, jobs)
    todo = []
    width = max((len(job.label) for job in jobs), default=4)
    print(f"{'job':<26} {'kind':<9} {'about':>12}  {'what':<{width}} state")
    for job in jobs:
        state = runs[job.id].state()
        estimate = costs.estimate(job)
        if state is not State.DONE:
            todo.append(job)
        cost = "" if state is State.DONE else progress.duration(estimate.seconds)
        print(f"{job.id:<26} {job.kind:<9} {cost:>12}  {job.label:<{width}} {scheduler.describe(job, state, runs)}")
        if isinstance(job.spec, Pretrain):
            print(f"{'':<26} {_recipe(job.spec)}")
    edges = sum(len(job.needs) for job in jobs)
    print(f"\n{jobs.asked} jobs asked for, {len(jobs)} after each is taken once, {edges} edges; {len(jobs) - len(todo)} done, {len(todo)} to run")
    if todo:
        estimates = [costs.estimate(job) for job in todo]
        for device in sorted({e.device for e in estimates}):
            hours = sum(e.seconds for e in estimates if e.device == device) / 3600
            print(f"about {hours:,.2f} {device}-hours")
        slots = executors.default_slots(request.site)
        print(f"about {progress.duration(costs.wall_clock(jobs, todo, slots))} on {slots} slots of this machine, nothing else running")
        for source in sorted({e.source for e in estimates}):
            print(f"  rates: {source}")
        print(f"about {sum(disk_bytes(job) for job in todo) / 1e9:.2f} GB on disk under {runs.root}")
    for table in planned.tables:
        rows = [row.name for row in table.rows if row.method is None]
        if rows:
            print(f"{table.id}: not implemented: {'; '.join(rows)}")
    for problem in missing_data(jobs, request.site):
        print(f"missing: {problem}")


def report(site: Site, out: Path | None, serve: int | None) -> None:
    """Build the report of every table that was run here; optionally serve it until interrupted."""
    runs = Runs(site.runs)
    index = build_report(site, runs, out)
    print(f"report: {index}")
    if serve is not None:
        _serve(site, runs, out, index.parent, serve)


def build_report(site: Site, runs: Runs, out: Path | None) -> Path:
    """The HTML of all remembered runs. Raises BenchError when there is none."""
    from reports.build import build

    known = manifest.read_all(runs)
    if not known:
        raise BenchError(f"nothing was run under {runs.root}: `bench run --table simclr_table6` first.")
    views = []
    for m in known:
        try:
            views.append(_view(load_table(m.table), replace(scale_of(m.scale), chunks=m.chunks), runs, m.seeds, m.rows, m.columns))
        except BenchError as error:  # a table of a plug-in folder that is not there today, say
            print(f"left out of the report: {m.name}: {one_line(error)}", flush=True)
    if not views:
        raise BenchError(f"no table under {runs.root} can be shown.")
    return build(views, runs, out or site.report)


def missing_data(jobs: JobGraph, site: Site) -> list[BenchError]:
    """One error per data set that is not there."""
    found = []
    for name in dict.fromkeys(job.spec.data.name for job in jobs):
        try:
            check_present(name, site)
        except BenchError as error:
            found.append(error)
    return found


def _plan(request: Request) -> _Planned:
    scale = replace(scale_of(request.scale), chunks=request.site.chunks)
    tables = tuple(load_table(name) for name in request.tables)
    cells = tuple(tuple(cell_jobs(table, scale, request.seeds, rows=request.rows, columns=request.columns)) for table in tables)
    jobs = graph.plan((cell.label, cell.spec) for part in cells for cell in part)
    return _Planned(scale, tables, cells, jobs, Runs(request.site.runs))


def _check_folders(site: Site) -> None:
    """Everything that will be written to, before anything runs."""
    from reports.build import check_target

    for folder in (site.runs, site.output):
        make_folder(folder)
    make_folder(site.report.parent)
    check_target(site.report)


def _forced(prefixes: Iterable[str], jobs: JobGraph) -> frozenset[str]:
    """Jobs by id or beginning of it; what depends on them is run again too."""
    found: set[str] = set()
    for prefix in prefixes:
        hits = [job for job in jobs.jobs if job.startswith(prefix) or job.partition("-")[2].startswith(prefix)]
        if len(hits) != 1:
            raise BenchError(f"--force {prefix!r} fits {len(hits)} jobs of this plan; `bench plan` lists them.")
        found |= {hits[0], *jobs.dependents(hits[0])}
    return frozenset(found)


def _publish(planned: _Planned, request: Request) -> None:
    """Print the tables; write CSV, Markdown, LaTeX and HTML."""
    from reports.text import to_markdown, write_outputs

    for table in planned.tables:
        shown = _view(table, planned.scale, planned.runs, request.seeds, request.rows, request.columns)
        print("\n" + to_markdown(shown))
        for path in write_outputs(shown, request.site.output):
            print(f"wrote {path}")
    if _report_is_current(request.site, planned):
        print(f"report: {request.site.report / 'index.html'} (up to date)", flush=True)
    else:
        print(f"report: {build_report(request.site, planned.runs, None)}", flush=True)


def _report_is_current(site: Site, planned: _Planned) -> bool:
    """Whether the report is newer than every result and plan, and than the code and tables that make it."""
    index = site.report / "index.html"
    if not index.is_file():
        return False
    runs = planned.runs
    made_from = [file for job in planned.graph for file in (runs[job.id].result_file, runs[job.id].error_file)]
    made_from += [*(runs.root / "plans").glob("*.json")]
    for package in ("reports", "results", "bench"):
        made_from += [file for file in (Path(__file__).parents[1] / package).rglob("*") if file.suffix in {".py", ".j2", ".css"}]
    newest = max((file.stat().st_mtime for file in made_from if file.exists()), default=0.0)
    return newest < index.stat().st_mtime and all(runs[job.id].result_file.exists() for job in planned.graph)


def _view(table: Table, scale: Scale, runs: Runs, seeds: int, rows: Sequence[str], columns: Sequence[str]) -> TableView:
    return view(table, scale, Store(runs), seeds, rows=rows, columns=columns)


def _closing(summary: scheduler.Summary, jobs: JobGraph, runs: Runs) -> int:
    for job in summary.failed:
        print(f"failed: {jobs.jobs[job].label}: {runs[job].failure().message}\n        log: {runs[job].log}")
    if summary.blocked:
        print(f"blocked by that: {len(summary.blocked)} jobs")
    if summary.stopped:
        print(f"stopped: {len(summary.stopped)} jobs; the same command goes on where they stopped")
        return 130
    return 0 if summary.complete else 1


def _recipe(spec: Pretrain) -> str:
    """The hyperparameters that a reader checks against the paper."""
    network = f"{spec.backbone.name} {spec.backbone.width}x"
    vectors = "" if spec.optim.vector_lr is None else f" (biases and norms {spec.optim.vector_lr:g})"
    return (
        f"{network}, {spec.data.name}, batch {spec.batch_size}, {spec.optim.name} lr {spec.optim.lr:g}{vectors}, "
        f"weight decay {spec.optim.weight_decay:g}, {spec.epochs:g} epochs, warm-up {spec.optim.warmup_epochs:g}, {spec.precision}, seed {spec.seed}"
        + (f", {spec.chunks} chunks a step" if spec.chunks > 1 else "")
    )


def _serve(site: Site, runs: Runs, out: Path | None, folder: Path, port: int) -> None:
    """A static server on the loopback interface; the folder is rebuilt every few seconds while jobs change."""
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    except OSError as error:
        raise BenchError(f"cannot serve on port {port}: {error.strerror}.") from error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"serving on http://127.0.0.1:{server.server_port}/ until Ctrl-C", flush=True)
    before = _fingerprint(runs)
    pause = threading.Event()
    while not pause.wait(REBUILD_SECONDS):
        now = _fingerprint(runs)
        if now != before:
            build_report(site, runs, out)
            before = now


def _fingerprint(runs: Runs) -> list[tuple[str, State]]:
    return [(job, state) for m in manifest.read_all(runs) for job, state in manifest.states(m, runs).items()]
