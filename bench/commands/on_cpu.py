"""Pretrainings of the published scale on CPUs alone are refused unless they are asked for: nobody waits for years."""

from __future__ import annotations

from bench.costs.estimates import Costs
from bench.errors import BenchError
from bench.execution.local import gpus
from bench.machine import cores
from bench.planning.graph import JobGraph
from bench.runs.folder import Runs, State
from bench.settings.site import Site
from bench.spec import Pretrain
from bench.wording import counted, duration

CORES_A_GPU = 40  # of those GPUs that published hours are about (V100): a guess, and low, so that less is refused
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
    costs = Costs(runs, jobs, forked=("pretrain",))
    estimates = [costs.estimate(job) for job in todo]
    taken = [each.seconds * (CORES_A_GPU if each.device == "GPU" else 1) for each in estimates]
    request = site.slurm.pretrain
    if on_slurm:
        seconds, what = max(taken) / (request.ranks * request.cpus), "the longest pretraining"
        where = f"the {counted(request.ranks * request.cpus, 'core')} that [slurm.pretrain] asks for with gpus = 0"
        mend = "set gpus under [slurm.pretrain]"
    else:
        seconds, what = sum(taken) / cores(), counted(len(todo), "pretraining")
        where = f"the {counted(cores(), 'core')} of this machine, on which no GPU is seen"
        mend = "run where there are GPUs (`bench doctor` says what is seen here)"
    if seconds > MOST_SECONDS:
        raise BenchError(
            f"{what} would take about {duration(seconds)} on {where}: {mend}, or add --on-cpu to run them all the same."
        )
