"""What each job is given so that it fits into the memory of a GPU: more ranks, checkpointed activations, or a refusal.

Ranks are those of bench/planning/resources.py where they fit. Nothing here changes a job's id or a digit of its result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

from bench import plugins
from bench.costs.known_peaks import is_known
from bench.costs.memory import GIB, predicted
from bench.costs.steps import Network, Training
from bench.errors import BenchError, first_words
from bench.planning.graph import Job, resources_kind
from bench.planning.resources import resources_of, valid_ranks
from bench.settings.site import Site
from bench.spec import Backbone, Pixels, Pretrain, Resources, Spec
from bench.wording import counted

SAFE = 0.92  # of a GPU's memory: above it a job is warned of, as predictions err by some percent and memory is cut up
MOST_CHUNKS = 64  # looked at when a job does not fit
# A job that was never counted, which takes seconds, is not looked at where even a rough guess is a tenth of a GPU: the
# pixels of its images in float32, so many times at 64 channels. Counted: 145 for a ResNet-50 of the imagenet stem.
_TIMES = {
    "imagenet": 200,
    "small": 150,
    "cifar": 450,
}  # of basic blocks; bottlenecks behind other stems _DEEPER as much
_DEEPER = 6
_TENTH = 0.1

Memory = Mapping[str, float | None]  # GiB of a GPU by the kind of job (`Job.resources_as`); None: none, or not known
UNKNOWN: Memory = {}


@dataclass(frozen=True)
class Fit:
    """What a job is given, the bytes predicted at its peak on each GPU, and those of the GPU; None: not known."""

    resources: Resources
    predicted: float | None = None
    there: float | None = None
    why: str = ""  # nothing is predicted, though the GPU's memory is known

    @property
    def share(self) -> float:
        """Of the GPU's memory; 0 where nothing is known."""
        return self.predicted / self.there if self.predicted is not None and self.there else 0.0


def resources_for(spec: Spec, site: Site, executor: str, memory: Memory) -> Resources:
    """What a job is given. Raises BenchError for a batch that does not divide, as `resources_of`."""
    return fit(spec, site, executor, memory).resources


def fit(spec: Spec, site: Site, executor: str, memory: Memory) -> Fit:
    """The resources of bench.toml, or the nearest to them with which a pretraining fits.

    First its activations are checkpointed, where bench.toml leaves that open, then it gets more ranks, where
    images_per_gpu chooses them: each GPU has fewer images then than it asks for.
    """
    given = resources_of(spec, site, executor)
    setting = site.checkpoint_activations
    given = replace(given, checkpoint_activations=_recomputes(spec) and setting is True)
    gib = memory.get(resources_kind(spec)) if given.gpu else None
    if gib is None or _is_small(spec, given.ranks, gib * GIB):
        return Fit(given)
    found = [_with(spec, given, gib)]
    if isinstance(spec, Pretrain) or _recomputes(spec):
        ways = (False, True) if setting == "auto" and _recomputes(spec) else (given.checkpoint_activations,)
        for ranks in _more(spec, given, site, executor):
            for way in ways:
                if found[-1].share <= SAFE:
                    return found[-1]
                found.append(_with(spec, replace(given, ranks=ranks, checkpoint_activations=way), gib))
    return min(found, key=lambda each: (max(each.share, SAFE), each.resources.ranks))


def _with(spec: Spec, resources: Resources, gib: float) -> Fit:
    try:
        bytes_ = predicted(spec, resources.ranks, recompute=resources.checkpoint_activations)
    except BenchError:
        raise
    except Exception as error:  # a method of one's own need not run on tensors without numbers
        return Fit(resources, why=f"{type(error).__name__}: {first_words(error)}")
    return Fit(resources, bytes_, gib * GIB)


def _recomputes(spec: Spec) -> bool:
    """Whether a job can compute its activations twice; a compiled encoder chooses for itself what it keeps."""
    if isinstance(spec, Pretrain):
        return not spec.compile
    return plugins.evaluation_of(spec.protocol).recomputes


def _more(spec: Spec, given: Resources, site: Site, executor: str) -> list[int]:
    """Numbers of ranks from the given one on, ascending, that the batch and bench.toml allow."""
    if not isinstance(spec, Pretrain) or not site.images_per_gpu_of(executor):
        return [given.ranks]
    possible = site.possible_ranks(executor)
    valid = valid_ranks(spec.batch_size, spec.chunks, spec.norm_group)
    return [ranks for ranks in valid if ranks >= given.ranks and ranks in possible]


def _is_small(spec: Spec, ranks: int, there: float) -> bool:
    """Whether a job that was never counted need not be: it would take a small part of the memory."""
    if isinstance(spec, Pretrain):
        counted = is_known(Training(spec, recompute=False))
    elif isinstance(spec.encoder, Pixels):
        return True
    else:
        counted = is_known(Network(spec.encoder.backbone, spec.data.size, "fp32", trains=True))
    return not counted and roughly(spec, ranks) < _TENTH * there


def roughly(spec: Spec, ranks: int = 1) -> float:
    """Bytes of a job's activations, guessed at once and rather too high."""
    if isinstance(spec, Pretrain):
        return spec.batch_size / ranks * sum(_pixels(view.size) for view in spec.views) * _times(spec.backbone)
    return 0.0 if isinstance(spec.encoder, Pixels) else 256 * _pixels(spec.data.size) * _times(spec.encoder.backbone)


def _pixels(size: int) -> float:
    return 12.0 * size**2


def _times(backbone: Backbone) -> float:
    """What a network keeps of the pixels of an image, roughly and rather too much."""
    if not backbone.name.startswith("resnet"):
        return _TIMES["imagenet"]
    shallow = backbone.stem == "imagenet" or backbone.name in ("resnet10", "resnet18")
    return _TIMES[backbone.stem] * (1 if shallow else _DEEPER) * backbone.base_channels * backbone.width / 64


# -- What does not fit ---------------------------------------------------------------------------------------------


def fits(jobs: Iterable[Job], site: Site, executor: str, memory: Memory) -> dict[str, Fit]:
    """Of the jobs whose batches divide among their ranks."""
    found = {}
    for job in jobs:
        try:
            found[job.id] = fit(job.spec, site, executor, memory)
        except BenchError:  # said by bench/planning/resources.py
            continue
    return found


def describe(fitted: Fit) -> str:
    """Predicted against there, in words: "143.2 GiB of 80"."""
    return f"{(fitted.predicted or 0) / GIB:,.1f} GiB of {(fitted.there or 0) / GIB:,.0f}"


def advice(spec: Spec, fitted: Fit, site: Site, executor: str) -> str:
    """What would let a job fit that does not."""
    there = (fitted.there or 0.0) * SAFE
    if not isinstance(spec, Pretrain):
        return "take a GPU with more memory"
    section = "slurm.pretrain" if executor == "slurm" else "local"
    said = list(_changes(spec, fitted.resources, site, there, section))
    return "; or ".join(said) or "take GPUs with more memory"


def _changes(spec: Pretrain, given: Resources, site: Site, there: float, section: str) -> Iterator[str]:
    """Settings of bench.toml, each alone, but that all but the first checkpoint activations."""

    @cache
    def taken(ranks: int, chunks: int, recompute: bool) -> float:
        return predicted(replace(spec, chunks=chunks), ranks, recompute=recompute)

    twice = not spec.compile
    if site.checkpoint_activations is False and twice and taken(given.ranks, spec.chunks, True) <= there:
        yield 'checkpoint_activations = "auto" under [local]'
    more = (r for r in valid_ranks(spec.batch_size, spec.chunks, spec.norm_group) if r > given.ranks)
    ranks = next((r for r in more if taken(r, spec.chunks, twice) <= there), None)
    if ranks is not None:
        yield f"{ranks} GPUs ([{section}] {'nodes x gpus' if section != 'local' else 'ranks'})"
    each = spec.batch_size // given.ranks
    numbers = range(spec.chunks + 1, min(MOST_CHUNKS, each // 2) + 1)
    valid = (c for c in numbers if given.ranks in valid_ranks(spec.batch_size, c, spec.norm_group))
    chunks = next((c for c in valid if taken(given.ranks, c, twice) <= there), None)
    if chunks is not None:
        seen = spec.norm_group or spec.batch_size // chunks
        yield f"chunks = {chunks} under [recipe], with which batch norm sees {counted(seen, 'image')}"
    if spec.precision in ("fp32", "tf32") and taken(given.ranks, spec.chunks, twice) / 2 <= there:
        yield "a half precision under [recipe], which takes about half"
