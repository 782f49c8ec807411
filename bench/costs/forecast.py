"""How long a plan takes here, and on a cluster that is not at hand.

The latter is `bench plan --nodes N --time-limit H --preemption-rate p`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench import plugins
from bench.costs.estimates import Costs, Where
from bench.costs.simulation import Cluster, Simulated, Work, simulate
from bench.errors import BenchError
from bench.planning.graph import Job
from bench.settings.site import Site
from bench.spec import Pretrain
from bench.wording import duration

GPUS_PER_NODE = 8  # where bench.toml does not say what a pretraining gets
IMAGES_PER_GPU = 64  # at least: more GPUs than that would be of no use


@dataclass(frozen=True)
class Imagined:
    """The cluster that the options describe."""

    nodes: int
    hours: float | None = None  # time limit of an attempt
    preemptions: float = 0.0  # an hour of a running job
    seed: int = 0


def on_slots(todo: Sequence[Job], costs: Costs, slots: int) -> float:
    """Seconds until `todo` is done on so many slots here, longest chain first as bench/execution/scheduler.py does."""
    work = []
    for job in todo:
        ranks = costs.ranks(job)
        alone = 1 if costs.device.counted_as == "core" else min(ranks, slots)  # ranks on CPUs share a slot
        work.append(Work(job.id, costs.estimate(job).seconds / ranks, job.needs, slots=alone))
    return simulate(work, Cluster(nodes=1, slots=slots, startup=0)).seconds  # an estimate has its start-up


def check(asked: Imagined) -> None:
    """Raises BenchError for options that describe no cluster."""
    for option, value, allowed, good in (
        ("--nodes", asked.nodes, "at least 1", asked.nodes >= 1),
        ("--time-limit", asked.hours, "more than 0 hours", asked.hours is None or 0 < asked.hours < math.inf),
        ("--preemption-rate", asked.preemptions, "at least 0 an hour", 0 <= asked.preemptions < math.inf),
    ):
        if not good:
            raise BenchError(f"{option} must be {allowed}, not {value:g}.")


def assumed(site: Site) -> Site:
    """A site whose jobs have GPUs: where bench.toml gives none, nodes of eight, of which a job takes what it can."""
    if site.slurm.pretrain.gpus or site.ranks > 1:
        return site
    return replace(site, ranks=GPUS_PER_NODE, images_per_gpu=IMAGES_PER_GPU)


def lines(todo: Sequence[Job], costs: Costs, site: Site, asked: Imagined) -> list[str]:
    """The forecast in words. Raises BenchError for impossible options and for a job that could never finish."""
    check(asked)
    slots = max(site.slurm.pretrain.gpus, site.slurm.evaluate.gpus) or GPUS_PER_NODE
    limit = asked.hours * 3600 if asked.hours is not None else float("inf")
    cluster = Cluster(nodes=asked.nodes, slots=slots, limit=limit, preemptions=asked.preemptions)
    found = simulate([work_of(job, costs, site) for job in todo], cluster, asked.seed)
    return [_sentence(found, cluster, asked)]


def work_of(job: Job, costs: Costs, site: Site) -> Work:
    """A job on the ranks that it gets, as bench.toml says or as `assumed` does: its seconds are divided by them.

    One that needs no GPU takes a slot all the same: nodes have as many as GPUs.
    """
    seconds = costs.estimate(job).seconds
    keeps = isinstance(job.spec, Pretrain) or plugins.evaluation_of(job.spec.protocol).resumes
    cluster = bool(site.slurm.pretrain.gpus)
    ranks = Where(site=assumed(site), executor="slurm" if cluster else "local").ranks(job.spec)
    nodes, each = site.slurm.pretrain.shapes.get(ranks, (1, ranks)) if cluster else (1, ranks)
    return Work(job.id, seconds / ranks, job.needs, nodes=nodes, slots=each, keeps=keeps)


def _sentence(found: Simulated, cluster: Cluster, asked: Imagined) -> str:
    share = found.useful_gpu_seconds / found.gpu_seconds if found.gpu_seconds else 1.0
    limit = f"a time limit of {asked.hours:g} h" if asked.hours is not None else "no time limit"
    busy = found.gpu_seconds / (found.seconds * cluster.nodes * cluster.slots) if found.seconds else 0.0
    return (
        f"simulated on {cluster.nodes} nodes of {cluster.slots} GPUs, {limit}, {asked.preemptions:g} preemptions an "
        "hour of a running job: "
        f"{duration(found.seconds)}, {found.gpu_seconds / 3600:,.0f} GPU-hours ({share:.1%} of them work), "
        f"{found.attempts} attempts, "
        f"{found.preempted} preempted, GPUs busy {busy:.0%} of the time (all of the cluster is ours)"
    )
