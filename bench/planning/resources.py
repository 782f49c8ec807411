"""How many ranks each job gets, within what a site allows. Resources are never part of a job's id.

All ranks of a job have equal parts of its batch, and equal sub-batches where a step is cut into chunks. Groups of batch
norm lie within a rank, or hold whole ranks. Bunches and pools of a method are parts of the global batch, whatever the
ranks: its Config.check holds them.
"""

from __future__ import annotations

from collections.abc import Iterable

from bench import plugins
from bench.errors import BenchError
from bench.planning.graph import Job, resources_kind
from bench.settings.site import Site
from bench.spec import Pretrain, Resources, Spec

SHOWN = 8  # valid numbers in an error


def valid_ranks(batch_size: int, chunks: int = 1, norm_group: int | None = None) -> list[int]:
    """Numbers of ranks among which a batch divides into equal sub-batches and groups of batch norm, ascending."""
    whole = batch_size // chunks
    if batch_size % chunks:
        return []
    found = [ranks for ranks in range(1, whole + 1) if whole % ranks == 0]
    if norm_group is None:
        return found
    return [ranks for ranks in found if _holds_groups(whole // ranks, ranks, norm_group)]


def _holds_groups(images: int, ranks: int, group: int) -> bool:
    """Whether ranks of so many images in a pass hold groups of batch norm, or groups of them are such ones."""
    return images % group == 0 or (group % images == 0 and ranks % (group // images) == 0)


def resources_of(spec: Spec, site: Site, executor: str = "local") -> Resources:
    """What a job is given: of a pretraining what bench.toml says, or what its images_per_gpu makes of that.

    An evaluation that trains over ranks takes as many as its protocol can use. Raises BenchError with the valid numbers
    for a batch that does not divide.
    """
    kind = resources_kind(spec)
    given = site.resources(kind, executor)
    if kind != "pretrain":
        return given
    if isinstance(spec, Pretrain):
        batch, valid = spec.batch_size, valid_ranks(spec.batch_size, spec.chunks, spec.norm_group)
        least = site.images_per_gpu_of(executor)
        if not valid or (not least and given.ranks not in valid):
            raise _does_not_divide(spec, valid, given.ranks, executor)
        if not least:
            return given
    else:
        evaluation = plugins.evaluation_of(spec.protocol)
        batch = evaluation.batch_size(spec.protocol) or given.ranks
        most = evaluation.most_ranks(spec.protocol) or batch
        valid, least = [ranks for ranks in valid_ranks(batch) if ranks <= most], 1
    possible = site.possible_ranks(executor)
    return Resources(
        ranks=max((ranks for ranks in valid if ranks in possible and batch // ranks >= least), default=1),
        threads=given.threads,
    )


def problems(jobs: Iterable[Job], site: Site, executor: str) -> dict[str, BenchError]:
    """Jobs that would fail for their number of ranks, and why."""
    found = {}
    for job in jobs:
        try:
            resources_of(job.spec, site, executor)
        except BenchError as error:
            found[job.id] = error
    return found


def _does_not_divide(spec: Pretrain, valid: list[int], ranks: int, executor: str) -> BenchError:
    section, what = ("slurm.pretrain", "nodes x gpus") if executor == "slurm" else ("local", "ranks")
    parts = f" in {spec.chunks} chunks" if spec.chunks > 1 else ""
    groups = "" if spec.norm_group is None else f" with batch norm over groups of {spec.norm_group} images"
    asked = f"{plugins.name_of(spec.method)}: batch {spec.batch_size}{parts}{groups} does not divide into {ranks} ranks"
    if not valid:
        return BenchError(
            f"{asked}, nor into any other number: a chunk of {spec.batch_size // spec.chunks} images holds no whole "
            "groups. Take fewer chunks ([recipe])."
        )
    here = ", ".join([str(number) for number in valid if number < ranks][-SHOWN:]) or str(valid[0])
    return BenchError(
        f"{asked} ([{section}] {what}); valid: {here}. Change them, or let images_per_gpu = "
        f"{max(1, min(64, spec.batch_size // ranks))} under [{section}] choose for each job."
    )
