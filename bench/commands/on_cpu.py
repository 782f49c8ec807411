"""Pretrainings of the published scale on CPUs alone are refused unless they are asked for: nobody waits for years."""

from __future__ import annotations

from functools import cache

from bench.costs.devices import DEVICES
from bench.costs.estimates import Costs, Where
from bench.data.catalogue import entry
from bench.errors import BenchError
from bench.execution.local import gpus
from bench.machine import cores
from bench.planning.graph import JobGraph
from bench.runs.folder import Runs, State
from bench.settings.site import Site
from bench.spec import Data, Pretrain
from bench.wording import counted, duration

MOST_SECONDS = 24 * 3600.0


def check(jobs: JobGraph, site: Site, executor: str) -> None:
    """Raises BenchError where the pretrainings to run have no GPU and would keep all cores busy for more than a day."""
    on_slurm = executor == "slurm"
    if site.slurm.pretrain.gpus if on_slurm else gpus.visible():
        return
    runs = Runs(site.runs)
    todo = [job for job in jobs if isinstance(job.spec, Pretrain) and runs[job.id].state() is not State.DONE]
    if not todo:
        return
    costs = Costs(runs, jobs, forked=("pretrain",), where=Where(DEVICES["cpu"]), runs_code=False)
    taken = {job.id: costs.estimate(job).seconds for job in todo}
    request = site.slurm.pretrain
    count = request.ranks * request.cpus if on_slurm else cores()
    whole = max if on_slurm else sum  # there they run side by side
    if whole(taken.values()) / count <= MOST_SECONDS:
        return
    here = cache(lambda data: _images_here(data, site))
    seconds = (
        whole(taken[job.id] * here(job.spec.data) / entry(job.spec.data.name).train_images for job in todo) / count
    )
    if seconds <= MOST_SECONDS:
        return
    if on_slurm:
        what, mend = "the longest pretraining", "set gpus under [slurm.pretrain]"
        where = f"the {counted(count, 'core')} that [slurm.pretrain] asks for with gpus = 0"
    else:
        what, mend = (
            counted(len(todo), "pretraining"),
            "run where there are GPUs (`bench doctor` says what is seen here)",
        )
        where = f"the {counted(count, 'core')} of this machine, on which no GPU is seen"
    raise BenchError(
        f"{what} would take about {duration(seconds)} on {where}: {mend}, or add --on-cpu to run them all the same."
    )


def _images_here(data: Data, site: Site) -> int:
    """Of the training split: a folder may hold a few, to try things out. Looked at last, as many take a while."""
    from bench.data.datasets import open_split  # brings torch, which a start does without

    try:
        return len(open_split(data, "train", site))
    except BenchError:  # what is wrong with them is said elsewhere
        return entry(data.name).train_images
