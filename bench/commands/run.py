"""One `bench plan`, `bench run` or `bench report`: from the request to the printed table. Imported by the command line alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

from bench import ROOT, plugins
from bench.commands import driver as driving
from bench.commands.driver import missing_data
from bench.costs.estimates import Costs, disk_total
from bench.costs.forecast import Imagined, on_slots
from bench.costs.forecast import lines as forecast
from bench.costs.rates import Kind
from bench.errors import BenchError
from bench.execution import executors, readiness
from bench.files import make_folder
from bench.planning import graph
from bench.planning.graph import Job, JobGraph
from bench.planning.scales import Scale, scale_of
from bench.runs import features, plans
from bench.runs.commit import installed
from bench.runs.folder import Runs, State
from bench.settings.site import Site
from bench.spec import Evaluate, Pretrain
from bench.weights import released
from bench.wording import duration
from results.cells import CellJob, cell_jobs, check_released, chosen_rows, load_table
from results.store import Store
from results.table import Table
from results.view import view


@dataclass(frozen=True)
class Request:
    """Which part of which tables, at which scale."""

    site: Site
    tables: tuple[str, ...]
    scale: str
    seeds: int
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    released: bool = False  # take the authors' weights instead of pretraining


@dataclass(frozen=True)
class _Planned:
    """A request, worked out."""

    scale: Scale
    tables: tuple[Table, ...]
    cells: tuple[tuple[CellJob, ...], ...]  # per table
    graph: JobGraph
    runs: Runs
    released: Mapping[str, str] | None  # of --released: sha256 by name, "" for a file that is not here yet
    absent: tuple[BenchError, ...] = ()  # weights that are not here


def run(request: Request, executor: str, force: Sequence[str], *, watch: bool = False) -> int:
    """Bring the tables to done and write everything; 0 when every job is done, 1 when one failed, 130 when interrupted.

    On Slurm the jobs are only submitted, and the tables come with `watch` or when the same request finds all jobs done.
    """
    driving.check_executor(executor)
    if watch and executor != "slurm":
        raise BenchError("--watch goes with --executor slurm: the other executors are watched anyway.")
    place = None if executor == "slurm" else executors.make(executor, request.site)
    if place is not None and not all(plans.is_known(Runs(request.site.runs), table, request.scale) for table in request.tables):
        place.get_ready()  # a table that never ran here has something to run
    planned = _plan(request)
    for problem in missing_data(planned.graph, request.site):
        raise problem
    forced = _forced(force, planned.graph) if not request.released else frozenset()
    _check_folders(request.site)
    if request.released:  # now that all else is in order: their hashes make the job ids
        planned = _plan(request, download=True)
        forced = _forced(force, planned.graph)
        for line in _skipped(planned, request):
            print(line, flush=True)
    runs, jobs = planned.runs, planned.graph
    driving.prepare(jobs, request.site, forced, executor)
    for table, cells in zip(planned.tables, planned.cells, strict=True):
        part = graph.plan((cell.label, cell.spec) for cell in cells)
        asked = (request.seeds, request.rows, request.columns)
        plans.write(runs, plans.Manifest(table.id, planned.scale.name, *asked, plans.of_graph(part), request.site.overrides, planned.released))
    if place is None:
        titles = [f"{table.id}@{planned.scale.name}" for table in planned.tables]
        summary = driving.drive_slurm(jobs, request.site, forced, titles, watch=watch)
        if summary.queued:
            return driving.closing(summary, jobs, request.site)
    else:
        summary = driving.drive(jobs, request.site, place)
    _publish(planned, request)
    return driving.closing(summary, jobs, request.site)


def show_plan(request: Request, imagined: Imagined | None = None) -> None:
    """Print the jobs and what they cost, here and on an `imagined` cluster."""
    planned = _plan(request)
    runs, jobs = planned.runs, planned.graph
    # On a cluster this machine, its login node, is not where jobs run.
    costs = Costs(runs, jobs, here="cuda" if request.site.slurm.pretrain.gpus else None)
    todo = []
    width = max((len(job.label) for job in jobs), default=4)
    print(f"{'job':<26} {'kind':<9} {'about':>12}  {'what':<{width}} state")
    for job in jobs:
        state = runs[job.id].state()
        estimate = costs.estimate(job)
        if state is not State.DONE:
            todo.append(job)
        cost = "" if state is State.DONE else duration(estimate.seconds)
        print(f"{job.id:<26} {job.kind:<9} {cost:>12}  {job.label:<{width}} {readiness.describe(job, state, runs)}")
        if isinstance(job.spec, Pretrain):
            print(f"{'':<26} {_recipe(job.spec)}")
        elif summary := plugins.evaluation_of(job.spec.protocol).summary(job.spec.protocol):
            print(f"{'':<26} {summary}")
    for line in _cached(todo, runs):
        print(line)
    edges = sum(len(job.needs) for job in jobs)
    print(f"\n{jobs.asked} jobs asked for, {len(jobs)} after each is taken once, {edges} edges; {len(jobs) - len(todo)} done, {len(todo)} to run")
    for line in _costs(todo, jobs, costs, request.site, imagined) if todo else ():
        print(line)
    for table in planned.tables:
        rows = [row.name for row in table.rows if row.method is None]
        if rows and not request.released:
            print(f"{table.id}: not implemented: {'; '.join(rows)}")
    for line in _skipped(planned, request) if request.released else ():
        print(line)
    for problem in (*missing_data(jobs, request.site), *planned.absent):
        print(f"missing: {problem}")


def _costs(todo: Sequence[Job], jobs: JobGraph, costs: Costs, site: Site, imagined: Imagined | None) -> Iterator[str]:
    """What is left to run costs: hours by device, time here, time on an imagined cluster, sources, disk."""
    estimates = [costs.estimate(job) for job in todo]
    for device in sorted({e.device for e in estimates}):
        hours = sum(e.seconds for e in estimates if e.device == device) / 3600
        yield f"about {hours:,.2f} {device}-hours"
    slots = executors.default_slots(site)
    yield f"about {duration(on_slots(todo, costs, slots))} on {slots} slots of this machine, nothing else running"
    if imagined is not None:
        yield from forecast(todo, costs, site, imagined)
    by_source: dict[tuple[str, str, str], list[float]] = {}
    for e in estimates:
        by_source.setdefault((e.kind, e.device, e.source), []).append(e.seconds / 3600)
    kinds = get_args(Kind)
    for (kind, device, source), part in sorted(by_source.items(), key=lambda item: (kinds.index(item[0][0]), -sum(item[1]))):
        yield f"  {kind}: {sum(part):,.2f} {device}-hours of {len(part)} {'jobs' if len(part) > 1 else 'job'}: {source}"
    yield f"about {disk_total(todo) / 1e9:.2f} GB on disk under {Runs(site.runs).root}"


def _cached(todo: Sequence[Job], runs: Runs) -> Iterator[str]:
    """For how many of the evaluations left the features of the encoder are there already, so that they need no pass over the backbone."""
    here, readers = features.counted((job.spec for job in todo if isinstance(job.spec, Evaluate)), runs.features)
    if readers:
        yield f"\nfeatures are cached for {here} of the {readers} evaluations to run that read them"


def report(site: Site, out: Path | None, serve: int | None, *, recorded: bool = False) -> None:
    """Build the report of every table that was run here; optionally serve it until interrupted, rebuilt as jobs change.

    `recorded`: of the project's committed results instead.
    """
    from reports import serve as reporting
    from reports.memory import Memory

    if recorded:
        if serve is not None:
            raise BenchError("--records are results that do not change: build the report without --serve and open it.")
        _report_records(site, out)
        return
    runs, memory = Runs(site.runs), Memory()
    index = reporting.build_site(site, runs, out, memory)
    print(f"report: {index}")
    if serve is not None:
        rebuild = partial(reporting.build_site, site, runs, out, memory)
        reporting.serve(index.parent, serve, rebuild, partial(reporting.fingerprint, runs))


def _report_records(site: Site, out: Path | None) -> None:
    from reports.serve import build_site
    from results.regression import kept

    with TemporaryDirectory() as folder:
        runs = Runs(Path(folder))
        count = kept.unpack(runs)
        print(f"report of {count} committed results: {build_site(site, runs, out)}")


def check(request: Request, junit: Path | None, references: Path | None, *, update: bool, everything: bool) -> int:
    """`bench check`: print what became of each cell, or make the results the reference; 1 when a cell fails.

    Tables without results or without a reference are named; with `everything` (--all) they are left out, else they fail too.
    """
    from results.regression import check, reference

    root = references or reference.ROOT
    if update:
        if references is None and installed():
            advice = "give --references FOLDER, or run it in a checkout"
            raise BenchError(f"--update would write into {root}, which the next installation replaces: {advice}.")
        lines = check.update_all(request.tables, request.scale, request.site, root=root)
        print("\n".join(lines))
        return int(not everything and any(line.startswith(check.NOT_WRITTEN) for line in lines))
    found = check.check_all(request.tables, request.scale, request.site, root=root)
    print(found.text)
    if junit is not None:
        check.write_junit(junit, request.scale, found.reports, found.left_out)
        print(f"wrote {junit}")
    return int(bool(found.failures) or (bool(found.left_out) and not everything))


def build_report(site: Site, runs: Runs, out: Path | None) -> Path:
    """The HTML of all remembered runs. Raises BenchError when there is none."""
    from reports.serve import build_site

    return build_site(site, runs, out)


def _plan(request: Request, *, download: bool = False) -> _Planned:
    """Work a request out; `download` gets released weights that are not here, else they are only named."""
    scale = scale_of(request.scale, request.site.overrides)
    tables = tuple(load_table(name) for name in request.tables)
    hashes: dict[str, str] | None = None
    absent: list[BenchError] = []
    if request.released:
        check_released(scale)
        hashes = {}
        for name in dict.fromkeys(row.released for table in tables for row in chosen_rows(table, request.rows) if row.released):
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
    cells = tuple(tuple(cell_jobs(table, scale, request.seeds, **asked, released=hashes)) for table in tables)
    jobs = graph.plan((cell.label, cell.spec) for part in cells for cell in part)
    return _Planned(scale, tables, cells, jobs, Runs(request.site.runs), hashes, tuple(absent))


def _skipped(planned: _Planned, request: Request) -> list[str]:
    """A line a table for the rows that --released leaves out."""
    lines = []
    for table in planned.tables:
        rows = [row.name for row in chosen_rows(table, request.rows) if not row.released]
        if rows:
            lines.append(f"{table.id}: no released weights, skipped: {'; '.join(rows)}")
    return lines


def _check_folders(site: Site) -> None:
    """Everything that will be written to, before anything runs."""
    from reports.target import check_target

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
    from reports.text.tables import to_markdown, write_outputs

    for table in planned.tables:
        asked = {"rows": request.rows, "columns": request.columns}
        shown = view(table, planned.scale, Store(planned.runs), request.seeds, **asked, released=planned.released)
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
    made_from += ROOT.glob("ssl_tables-*.dist-info")  # new with each installation, whose files may be dated before it
    for package in ("reports", "results", "bench"):
        made_from += [file for file in (ROOT / package).rglob("*") if file.suffix in {".py", ".j2", ".css"}]
    newest = max((file.stat().st_mtime for file in made_from if file.exists()), default=0.0)
    return newest < index.stat().st_mtime and all(runs[job.id].result_file.exists() for job in planned.graph)


def _recipe(spec: Pretrain) -> str:
    """The hyperparameters that a reader checks against the paper."""
    network = f"{spec.backbone.name} {spec.backbone.width}x"
    vectors = "" if spec.optim.vector_lr is None else f" (biases and norms {spec.optim.vector_lr:g})"
    return (
        f"{network}, {spec.data.name}, batch {spec.batch_size}, {spec.optim.name} lr {spec.optim.lr:g}{vectors}, "
        f"weight decay {spec.optim.weight_decay:g}, {spec.epochs:g} epochs, warm-up {spec.optim.warmup_epochs:g}, {spec.precision}, seed {spec.seed}"
        + (f", {spec.chunks} chunks a step" if spec.chunks > 1 else "")
        + (", compiled" if spec.compile else "")
        + (", views by Pillow" if any(view.exact for view in spec.views) else "")
    )
