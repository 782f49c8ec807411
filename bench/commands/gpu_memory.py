"""Jobs that would not fit into the memory of their GPUs: named by `bench plan`, refused by `bench run`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby

from bench import plugins
from bench.costs.fit import SAFE, Fit, Memory, advice, describe, fits
from bench.errors import BenchError
from bench.execution.gpu_memory import memory_of
from bench.planning.graph import Job, JobGraph
from bench.runs.folder import Runs, State
from bench.settings.site import Site
from bench.spec import Pretrain
from bench.wording import counted


def check(jobs: JobGraph, site: Site, executor: str, *, ignore: bool = False) -> None:
    """Raises BenchError for a job to run that is predicted to take more than a GPU has; close ones are warned of.

    `ignore`: say it, and go on.
    """
    runs = Runs(site.runs)
    todo = [job for job in jobs if runs[job.id].state() is not State.DONE]
    memory = memory_of(site, executor) if todo else {}  # a finished table needs no driver
    if not memory:
        return
    found = fits(todo, site, executor, memory)
    large = [job for job in todo if job.id in found and found[job.id].share > 1]
    if large and not ignore:
        more = f" ({counted(len(large) - 1, 'job')} more like this: `bench plan` names them.)" if large[1:] else ""
        raise BenchError(
            f"{sentence(large[0], found[large[0].id], site, executor)}; or add --ignore-memory to start it all the "
            f"same.{more}"
        )
    for line in lines(todo, found, site, executor):
        print(line, flush=True)


def lines(todo: Sequence[Job], found: Mapping[str, Fit], site: Site, executor: str) -> Iterator[str]:
    """What `bench plan` says of memory; jobs that say the same share a line."""
    for why, group in groupby(sorted(todo, key=_unknown(found)), key=_unknown(found)):
        if why:
            yield f"memory not predicted, as it does not run on tensors without numbers: {_labels([*group])} ({why})"
    known = [job for job in todo if job.id in found and found[job.id].predicted is not None]
    if not known:
        return
    most = max(known, key=lambda job: found[job.id].share)
    yield f"memory of a GPU: predicted at most {describe(found[most.id])} ({most.label})"
    twice = [job for job in known if found[job.id].resources.checkpoint_activations]
    if twice:
        yield (
            f"activations computed twice to fit, about a third more work: {counted(len(twice), 'job')}: "
            f"{_labels(twice)}"
        )
    for least, most_, words in ((1.0, float("inf"), "does not fit"), (SAFE, 1.0, "may not fit")):
        chosen = [job for job in known if least < found[job.id].share <= most_]
        said = {job.id: _what(job, found[job.id], site, executor) for job in chosen}
        for text, group in groupby(sorted(chosen, key=lambda job: said[job.id]), key=lambda job: said[job.id]):
            yield f"{words}: {_labels(list(group))}: {text}"


def _unknown(found: Mapping[str, Fit]) -> Callable[[Job], str]:
    return lambda job: found[job.id].why if job.id in found else ""


def sentence(job: Job, fitted: Fit, site: Site, executor: str) -> str:
    """Why one job cannot run, and what would help."""
    return f"{job.label} does not fit: {_what(job, fitted, site, executor)}"


def _what(job: Job, fitted: Fit, site: Site, executor: str) -> str:
    name = plugins.name_of(job.spec.method if isinstance(job.spec, Pretrain) else job.spec.protocol)
    ranks = fitted.resources.ranks
    on = f" on each of {ranks} GPUs" if ranks > 1 else " on one GPU"
    return f"{name} is predicted to take {describe(fitted)}{on}; what helps: {advice(job.spec, fitted, site, executor)}"


def _labels(jobs: Sequence[Job]) -> str:
    return ", ".join(dict.fromkeys(job.label for job in jobs))


def on(jobs: Sequence[Job], site: Site, executor: str, memory: Memory) -> Iterator[str]:
    """Of GPUs with this memory, as `bench plan` looks at them; and that nothing is known where nothing is."""
    if executor == "slurm" and not site.slurm.evaluate.gpus and any(job.resources_as == "evaluate" for job in jobs):
        yield "evaluations get no GPU: gpus = 1 under [slurm.evaluate] gives each of them one"
    if memory:
        yield from lines(jobs, fits(jobs, site, executor, memory), site, executor)
    elif executor == "slurm" and site.slurm.pretrain.gpus:
        yield "memory of the GPUs is not known: gpu_memory = 80 (GiB) under [slurm] lets it be compared with the jobs"
