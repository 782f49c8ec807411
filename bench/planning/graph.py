"""Specs -> JobGraph: every job once, parents before children."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from bench import plugins
from bench.identity import job_id
from bench.spec import Evaluate, Pretrain, Spec


@dataclass(frozen=True)
class Job:
    """One unit of work. `needs` are the job ids that must be done before it."""

    id: str
    spec: Spec
    needs: tuple[str, ...]
    label: str  # what a human calls it, e.g. "simclr resnet10 4x"; the first table that asked names it

    @property
    def kind(self) -> str:
        """`pretrain` or `evaluate`."""
        return type(self.spec).__name__.lower()

    @property
    def resources_as(self) -> str:
        """Whose resources it gets: `pretrain`, `evaluate`, or `cpu`."""
        return resources_kind(self.spec)


def resources_kind(spec: Spec) -> str:
    """Whose resources a job gets: an evaluation that trains over all ranks (USES_RANKS) needs a pretraining's.

    One that no GPU would help (ON_CPU) gets `cpu`.
    """
    if isinstance(spec, Pretrain):
        return "pretrain"
    evaluation = plugins.evaluation_of(spec.protocol)
    return "pretrain" if evaluation.uses_ranks else "cpu" if evaluation.on_cpu else "evaluate"


@dataclass(frozen=True)
class JobGraph:
    """Jobs by id in topological order; `asked` counts how many were asked for before deduplication."""

    jobs: Mapping[str, Job]
    asked: int

    def __iter__(self) -> Iterator[Job]:
        return iter(self.jobs.values())

    def __len__(self) -> int:
        return len(self.jobs)

    def without(self, left_out: Container[str]) -> JobGraph:
        """The graph without these jobs, all that depend on them among them."""
        return replace(self, jobs={name: job for name, job in self.jobs.items() if name not in left_out})

    def dependents(self, job: str) -> list[str]:
        """All jobs that cannot run when `job` fails, direct and indirect, in topological order."""
        lost = {job}
        for other in self:
            if lost.intersection(other.needs):
                lost.add(other.id)
        return [other for other in self.jobs if other in lost - {job}]


def plan(asked: Iterable[tuple[str, Spec]]) -> JobGraph:
    """The graph of (label, spec) pairs. Same content, same job, whoever asked for it."""
    jobs: dict[str, Job] = {}
    count = 0

    def add(label: str, spec: Spec) -> str:
        nonlocal count
        count += 1
        key = job_id(spec)
        parent = spec.encoder if isinstance(spec, Evaluate) else spec.start
        name = label.rpartition(" | ")[0] or label if isinstance(spec, Evaluate) else f"{label}, first stage"
        needs = (add(name, parent),) if isinstance(parent, Pretrain) else ()
        if key not in jobs:
            jobs[key] = Job(id=key, spec=spec, needs=needs, label=label)
        return key

    for label, spec in asked:
        add(label, spec)
    return JobGraph(jobs=jobs, asked=count)
