"""`bench plan`: the jobs of tables, what is done and what is not and why, and what the rest costs. Starts nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import get_args

from bench import plugins
from bench.commands import gpu_memory
from bench.commands.driver import missing_data
from bench.commands.request import PlannedRequest, TableRequest, asked_for, plan_request, skipped
from bench.costs.devices import DEVICES, Device
from bench.costs.estimates import Costs, Kind, Where, disk_total
from bench.costs.fit import Memory, fits
from bench.costs.forecast import Imagined, assumed, check, on_slots
from bench.costs.forecast import lines as forecast
from bench.data.fingerprint import DataHere
from bench.execution import executors, readiness
from bench.execution.gpu_memory import memory_of, memory_on
from bench.machine import cores, versions
from bench.planning import resources
from bench.planning.graph import Job
from bench.runs import features, freshness, plans
from bench.runs.folder import Runs, State
from bench.settings.site import Price, Site
from bench.spec import Evaluate, Pretrain
from bench.wording import counted, duration

SMALL_PIXELS = 64  # a side up to which images are for CPUs too


def show_plan(
    request: TableRequest,
    imagined: Imagined | None = None,
    *,
    device: Device | None = None,
    accept_data: bool = False,
) -> None:
    """Print the jobs and what they cost, here or on a `device`, and on an `imagined` cluster.

    `accept_data`: whatever data changed.
    """
    if imagined is not None:
        check(imagined)
    here = DataHere(request.site)
    said_before = _changed_since(request, here, accept_data=accept_data)
    planned = plan_request(request)
    runs, jobs = planned.runs, planned.graph
    # On a cluster this machine, its login node, is not where jobs run.
    cluster = bool(request.site.slurm.pretrain.gpus)
    fresh = freshness.compare(list(jobs), runs, here, accept=accept_data)
    states = {job.id: runs[job.id].state() for job in jobs}
    todo = [job for job in jobs if states[job.id] is not State.DONE or job.id in fresh.outdated]
    forked = executors.forked(request.site) if todo and not cluster else ()
    executor = "slurm" if cluster else "local"
    gpus = device is not None and device.counted_as == "GPU"
    site = assumed(request.site) if gpus else request.site
    memory = memory_of(site, executor) if device is None else memory_on(device)
    # An imagined place whose GPUs nobody counted is priced as if it had as many as the activations need.
    own_cores = max(1, cores() // executors.default_slots(request.site)) if device is None and not cluster else None
    where = Where(device, site, executor, memory if site is request.site else {}, own_cores)
    costs = Costs(runs, jobs, "cuda" if cluster and device is None else None, forked, here.short, where)
    width = max((len(job.label) for job in jobs), default=4)
    print(f"{'job':<26} {'kind':<9} {'about':>12}  {'what':<{width}} state")
    for job in jobs:
        state, why = states[job.id], fresh.outdated.get(job.id)
        cost = "" if state is State.DONE and why is None else duration(costs.estimate(job).seconds)
        words = f"runs again: {why}" if why is not None else readiness.describe(job, state, runs, here)
        print(f"{job.id:<26} {job.kind:<9} {cost:>12}  {job.label:<{width}} {words}")
        if isinstance(job.spec, Pretrain):
            print(f"{'':<26} {_recipe(job.spec)}")
        elif summary := plugins.evaluation_of(job.spec.protocol).summary(job.spec.protocol):
            print(f"{'':<26} {summary}")
    for line in _cached(todo, runs, here.short):
        print(line)
    edges = sum(len(job.needs) for job in jobs)
    print(
        f"\n{counted(jobs.asked, 'job')} asked for, {len(jobs)} after each is taken once, {counted(edges, 'edge')}; "
        f"{len(jobs) - len(todo)} done, {len(todo)} to run"
    )
    said = [*fresh.lines(), *freshness.notes(fresh, versions() if fresh.results else {})]
    for line in (line for line in said if line not in said_before):
        print(line)
    for line in _fitting(todo, site, executor, memory):
        print(line)
    for line in _costs(todo, planned, costs, imagined, here=device is None) if todo else ():
        print(line)
    for table in planned.tables:
        rows = [row.name for row in table.table.rows if row.method is None]
        if rows and not request.released:
            print(f"{table.table.id}: not implemented: {'; '.join(rows)}")
    for line in skipped(planned):
        print(line)
    for problem in (*missing_data(jobs, request.site), *planned.absent):
        print(f"missing: {problem}")


def _changed_since(request: TableRequest, here: DataHere, *, accept_data: bool) -> set[str]:
    """Say at once which data changed since the last run of these tables: to plan anew imports torch, for seconds."""
    runs = Runs(request.site.runs)
    stored = (plans.remembered(runs, table, request.scale) for table in request.tables)
    jobs = list({job.id: job for plan in stored if plan is not None for job in plan.jobs}.values())
    lines = freshness.compare(jobs, runs, here, accept=accept_data).lines() if jobs else ()
    found = [line for line in lines if line.startswith("data changed: ")]
    for line in found:
        print(line, flush=True)
    return set(found)


def _costs(
    todo: Sequence[Job], planned: PlannedRequest, costs: Costs, imagined: Imagined | None, *, here: bool
) -> Iterator[str]:
    """What is left to run costs: hours by device, time here, time on an imagined cluster, sources, disk."""
    site = planned.request.site
    estimates = [costs.estimate(job) for job in todo]
    asked = [costs.estimate(job) for job in asked_for(planned, {job.id for job in todo})]
    for device in sorted({e.device for e in estimates}):
        hours, apart = (sum(e.seconds for e in each if e.device == device) / 3600 for each in (estimates, asked))
        before = f" ({apart:,.2f} before each job is taken once)" if apart > 1.005 * hours else ""
        yield f"about {hours:,.2f} {device}-hours{_price(hours, device, site.price)}{before}"
    yield f"priced for {costs.device.title}: {costs.device.source}; what is reached of it: {costs.device.share_source}"
    if here:
        slots = executors.default_slots(site)
        place = f"{counted(slots, 'slot')} of this machine, nothing else running"
        yield f"about {duration(on_slots(todo, costs, slots))} on {place}"
        if costs.device.counted_as == "core" and any(_is_of_gpus(job) for job in todo):
            yield f"these networks are trained on GPUs: --device prices them for one ({', '.join(DEVICES)})"
    if imagined is not None:
        yield from forecast(todo, costs, site, imagined)
    by_source: dict[tuple[str, str, str], list[float]] = {}
    for e in estimates:
        by_source.setdefault((e.kind, e.device, e.source), []).append(e.seconds / 3600)
    kinds = get_args(Kind)
    for (kind, device, source), part in sorted(
        by_source.items(), key=lambda item: (kinds.index(item[0][0]), -sum(item[1]))
    ):
        yield f"  {kind}: {sum(part):,.2f} {device}-hours of {counted(len(part), 'job')}: {source}"
    yield f"about {disk_total(todo) / 1e9:.2f} GB on disk under {Runs(site.runs).root}"


def _price(hours: float, device: str, price: Price) -> str:
    each = price.gpu_hour if device == "GPU" else price.core_hour
    return f", {hours * each:,.2f} {price.currency}" if each else ""


def _is_of_gpus(job: Job) -> bool:
    return isinstance(job.spec, Pretrain) and job.spec.data.size > SMALL_PIXELS


def _fitting(todo: Sequence[Job], site: Site, executor: str, memory: Memory) -> Iterator[str]:
    """What the jobs are given, and how that fits into the memory of the GPUs."""
    yield from _ranks(todo, site, executor, memory)
    yield from gpu_memory.on(todo, site, executor, memory)


def _ranks(todo: Sequence[Job], site: Site, executor: str, memory: Memory) -> Iterator[str]:
    """How many ranks the jobs get where any gets several, and which cannot start with what bench.toml says."""
    wrong = resources.problems(todo, site, executor)
    given = Counter(found.resources.ranks for found in fits(todo, site, executor, memory).values())
    if max(given, default=1) > 1:
        words = (f"{counted(many, 'job')} on {ranks}" for ranks, many in sorted(given.items()))
        yield f"ranks: {', '.join(words)}"
    labels = {job.id: job.label for job in todo}
    for text, jobs in groupby(sorted(wrong, key=lambda job: str(wrong[job])), key=lambda job: str(wrong[job])):
        yield f"cannot start: {', '.join(labels[job] for job in jobs)}: {text}"


def _cached(todo: Sequence[Job], runs: Runs, fingerprint: Callable[[str], str]) -> Iterator[str]:
    """How many evaluations to run find the encoder's features cached, so that they need no pass over the backbone."""
    specs = (job.spec for job in todo if isinstance(job.spec, Evaluate))
    here, readers = features.counted(specs, runs.features, fingerprint)
    if readers:
        yield f"\nfeatures are cached for {here} of the {readers} evaluations to run that read them"


def _recipe(spec: Pretrain) -> str:
    """The hyperparameters that a reader checks against the paper."""
    network = f"{spec.backbone.name} {spec.backbone.width}x"
    vectors = "" if spec.optim.vector_lr is None else f" (biases and norms {spec.optim.vector_lr:g})"
    return (
        f"{network}, {spec.data.name}, batch {spec.batch_size}, {spec.optim.name} lr {spec.optim.lr:g}{vectors}, "
        f"weight decay {spec.optim.weight_decay:g}, {counted(spec.epochs, 'epoch')}, "
        f"warm-up {spec.optim.warmup_epochs:g}, {spec.precision}, seed {spec.seed}"
        + (f", batch norm over groups of {spec.norm_group}" if spec.norm_group else "")
        + (f", {spec.chunks} chunks a step" if spec.chunks > 1 else "")
        + (", compiled" if spec.compile else "")
        + (", views by Pillow" if any(view.exact for view in spec.views) else "")
    )
