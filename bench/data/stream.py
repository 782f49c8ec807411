"""Batches of random views that several evaluations may see together: decoded and augmented once for all of them.

An evaluation in steps is a generator: it yields the batch that it wants next, and is sent it. Whoever drives it opens
the images: `alone` for one, bench/execution/together.py for several, each with the digits that it has alone, as a batch
is a function of (seed, step).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar
from weakref import WeakValueDictionary

import torch

from bench.contracts import Batch, Context
from bench.data.datasets import open_split
from bench.data.loader import Plan, train_batches
from bench.data.splits import Split, SplitData
from bench.errors import BenchError
from bench.spec import Augment, Data

Done = TypeVar("Done")


@dataclass(frozen=True)
class Stream:
    """All batches of a training. Equal ones have the same images in them."""

    images: SplitData = field(compare=False, repr=False)
    data: Data
    split: Split
    fingerprint: str  # of the data
    views: tuple[Augment, ...]
    plan: Plan
    steps: int  # of the whole training
    device: torch.device
    workers: int

    def batches(self, begin: int) -> Iterator[Batch]:
        """From step `begin` to the end. Raises BenchError to who asks for more."""
        steps = range(begin, self.steps)
        yield from train_batches(self.images, self.views, self.plan, steps, self.device, workers=self.workers)
        raise BenchError(f"a batch after the last of {self.steps} was asked for: an evaluation counts its steps wrong.")


@dataclass(frozen=True)
class Wanted:
    """One batch. Who asks for the next one of the same stream then, until the last, has it without a new beginning."""

    stream: Stream
    step: int


Steps: TypeAlias = Generator[Wanted, Batch, Done]

_open: WeakValueDictionary[tuple[object, ...], SplitData] = WeakValueDictionary()


def shared_split(context: Context, split: Split) -> SplitData:
    """The split of a context's data, which is listed once for evaluations that have it open at the same time."""
    root = context.site.data.get(context.data.name, context.site.root)
    key = (context.data, split, root, context.fingerprint)
    found = _open.get(key) if context.fingerprint else None  # nothing is known of data without one: it may have changed
    if found is None:
        found = _open[key] = open_split(context.data, split, context.site)
    return found


def alone(steps: Steps[Done]) -> Done:
    """Drive one evaluation to its end. What goes wrong with the images is raised where they are waited for."""
    batches: Iterator[Batch] = iter(())
    comes: Wanted | None = None
    try:
        wanted = next(steps)
        while True:
            if wanted != comes:
                batches = wanted.stream.batches(wanted.step)
            comes = Wanted(wanted.stream, wanted.step + 1)
            try:
                batch = next(batches)
            except BaseException as error:
                comes = None  # a generator that has raised gives nothing any more
                wanted = steps.throw(error)
            else:
                wanted = steps.send(batch)
                del batch  # not to be in memory beside the next one
    except StopIteration as end:
        found: Done = end.value
        return found
