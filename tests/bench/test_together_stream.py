"""What several probes in one process leave in memory, and which batches those are sent that ask for others."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench.contracts import Batch
from bench.data import loader, stream
from bench.data.loader import Plan
from bench.data.splits import Arrays
from bench.data.stream import Steps, Stream, Wanted, alone
from bench.errors import BenchError
from bench.execution import together, worker
from bench.execution.exits import DONE, FAILED
from bench.networks import encoders
from bench.spec import Augment
from evals.parts.heads import Heads
from tests.bench.test_together import folders, photos
from tests.conftest import DIGITS

__all__ = ["photos"]  # the fixture


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many of the earlier batches are in memory whenever one is asked for."""
    found: list[int] = []
    made: list[weakref.ref[Batch]] = []
    batches = loader.train_batches

    def noted(*args: Any, **more: Any) -> Iterator[Batch]:
        inner = batches(*args, **more)
        while True:
            found.append(sum(ref() is not None for ref in made))
            kept = [batch for batch in [next(inner, None)] if batch is not None]
            if not kept:
                return
            made.append(weakref.ref(kept[0]))
            yield kept.pop()

    monkeypatch.setattr(stream, "train_batches", noted)
    return found


def test_no_batch_is_kept_while_the_next_one_is_made(photos: Path, beside: list[int]) -> None:
    runs = folders(photos / "runs", 3)
    assert together.work(runs[:2]) == [DONE] * 2
    assert len(beside) == 10
    assert worker.main(str(runs[2].path)) == DONE
    assert beside == [0] * 20


def test_one_that_failed_leaves_nothing_in_memory(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks: list[weakref.ref[nn.Module]] = []
    heads: list[weakref.ref[Heads]] = []
    living: list[tuple[int, int]] = []
    build, step = encoders.build, Heads.step

    def noted(backbone: Any, seed: int) -> Any:
        network = build(backbone, seed)
        networks.append(weakref.ref(network))
        return network

    def failing(self: Heads, *args: Any) -> torch.Tensor:
        if all(ref() is not self for ref in heads):
            heads.append(weakref.ref(self))
        if len(heads) == 3:
            living.append((sum(ref() is not None for ref in networks), sum(ref() is not None for ref in heads)))
        if len(heads) == 2 and heads[1]() is self:
            raise RuntimeError("no more of this")
        return step(self, *args)

    monkeypatch.setattr(encoders, "build", noted)
    monkeypatch.setattr(Heads, "step", failing)
    runs = folders(photos / "runs", 3)
    gc.collect()
    gc.disable()
    try:
        assert together.work(runs) == [DONE, FAILED, DONE]
    finally:
        gc.enable()
    assert len(networks) == 3
    assert set(living[:-1]) == {(2, 2)}
    assert living[-1] == (1, 1)  # the first has ended before the last step of the last


def stream_of(steps: int, seed: int = 0) -> Stream:
    images = Arrays(torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 4, 4), torch.arange(6), 6)
    plan = Plan(images=6, batch_size=2, seed=seed)
    view = Augment(size=4)
    return Stream(images, DIGITS, "train", "", (view,), plan, steps, torch.device("cpu"), 0)


def test_whoever_asks_for_another_batch_than_the_next_is_sent_that_one() -> None:
    one, other = stream_of(5), stream_of(5, seed=1)
    wanted = [Wanted(one, 0), Wanted(one, 1), Wanted(one, 3), Wanted(other, 4), Wanted(one, 0), Wanted(one, 0)]
    sent: list[list[int]] = []

    def asking() -> Steps[str]:
        for want in wanted:
            batch = yield want
            sent.append(batch.indices.tolist())
        return "done"

    assert alone(asking()) == "done"
    assert sent == [want.stream.plan.indices(want.step).tolist() for want in wanted]


def test_whoever_asks_for_more_than_there_is_is_told_so_and_may_go_on() -> None:
    short = stream_of(2)

    def asking() -> Steps[list[str]]:
        said = []
        for step in (1, 2, 7, 0):
            try:
                batch = yield Wanted(short, step)
                said.append(str(batch.indices.tolist()))
            except BenchError as error:
                said.append(str(error).partition(" was")[0])
        return said

    first, last = (str(short.plan.indices(step).tolist()) for step in (1, 0))
    over = "a batch after the last of 2"
    assert alone(asking()) == [first, over, over, last]
