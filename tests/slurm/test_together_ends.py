"""What becomes of an element of an array when one of its jobs ends, and of that job when it is wanted again."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.commands import jobs as monitor
from bench.execution import together
from bench.execution.exits import DONE, FAILED, STOPPED
from bench.execution.slurm import job as element
from bench.execution.slurm import squeue
from bench.execution.slurm.elements import elements_of
from bench.execution.slurm.journal import Journal, look
from bench.execution.slurm.settle import ended_for_sure
from bench.execution.slurm.squeue import QueueRow
from bench.runs.folder import RunFolder, State
from tests.bench.test_together import folders, photos
from tests.slurm.conftest import FakeSlurm, Place
from tests.slurm.test_together import TWO, probes

__all__ = ["photos"]  # the fixture


def test_one_that_was_cancelled_or_failed_is_submitted_again_while_its_element_lives(
    photos: Path, fake_slurm: FakeSlurm
) -> None:
    fake_slurm.set(seconds=1000)
    place, graph = Place(photos, TWO), probes(2)
    place.submit(graph)
    first, second = graph.jobs
    monitor.cancel(place.site, first, [])
    made = place.submit(graph)
    assert (made.new, made.active) == ((first,), (second,))
    assert place.runs[first].state() is State.PENDING
    assert place.submit(graph).new == ()
    assert look(Journal(place.runs)).beside(second) == []
    monitor.cancel(place.site, second, [])  # the only one left in its element
    assert fake_slurm.calls("scancel") == 1


def test_one_that_was_cancelled_before_its_element_started_goes_with_it_after_all(
    photos: Path, fake_slurm: FakeSlurm
) -> None:
    fake_slurm.set(nodes=1, seconds=1000)
    place, graph = Place(photos, TWO), probes(4)
    place.submit(graph)
    third = list(graph.jobs)[2]
    row = look(Journal(place.runs)).row(third)
    assert row is not None
    assert row.state == "PENDING"
    monitor.cancel(place.site, third, [])
    made = place.submit(graph)
    assert (made.new, len(made.active)) == ((), 4)
    assert not place.runs[third].was_cancelled()


def test_an_element_of_which_all_others_failed_is_taken_from_the_queue(photos: Path, fake_slurm: FakeSlurm) -> None:
    fake_slurm.set(seconds=1000)
    place, graph = Place(photos, TWO), probes(2)
    place.submit(graph)
    first, second = graph.jobs
    place.runs[first].fail("error", "no more of this")
    monitor.cancel(place.site, second, [])
    assert fake_slurm.calls("scancel") == 1


def test_one_that_was_cancelled_alone_is_over_for_whoever_watches(photos: Path) -> None:
    run = folders(photos / "runs", 1)[0]
    row = QueueRow("1_0", "RUNNING")
    assert not ended_for_sure(row, run, {})
    run.cancel()
    assert ended_for_sure(row, run, {})


def test_what_ran_when_a_process_died_has_an_element_of_its_own(photos: Path) -> None:
    runs = folders(photos / "runs", 5)
    assert elements_of(runs, 4) == (0, 0, 0, 0, 1)
    assert runs[1].claim("slurm 1 attempt 0")
    assert elements_of(runs, 4) == (0, 1, 0, 0, 0)


def several(runs: Sequence[RunFolder]) -> int:
    signals: Any = SimpleNamespace(asked=threading.Event())
    return element._several(runs, Place(runs[0].path.parents[1]).runs, "7_0", "slurm 7_0 attempt 1", signals)


def test_the_first_start_waits_for_claims_that_a_node_left(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, begun = folders(photos / "runs", 2), list[list[RunFolder]]()
    looks = iter([True, True, True])

    def works(free: Sequence[RunFolder], slot: str) -> list[int]:
        begun.append(list(free))
        for run in free:
            run.result_file.touch()
        return [DONE] * len(free)

    monkeypatch.setattr(element, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(element, "_held_by_another", lambda run: run is runs[1] and next(looks, False))
    monkeypatch.setattr(together, "work", works)
    assert several(runs) == DONE
    assert begun == [runs]


def test_one_that_was_cancelled_and_is_wanted_again_brings_its_element_not_back(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = folders(photos / "runs", 2)

    def works(free: Sequence[RunFolder], slot: str) -> list[int]:
        runs[0].result_file.touch()
        return [DONE, STOPPED]

    monkeypatch.setattr(together, "work", works)
    monkeypatch.setattr(element, "_come_back", lambda *args: pytest.fail("it is requeued"))
    assert several(runs) == FAILED


def test_limits_that_pass_in_vain_are_failures_of_what_the_process_had(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = folders(photos / "runs", 2)

    def refuses(*args: object, **more: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(squeue, "call", lambda command: "RUNNING|10:00|10:00")
    monkeypatch.setattr(subprocess, "run", refuses)
    for expected in (STOPPED, FAILED):
        assert element._come_back(runs[0], "7_0", 0, dict.fromkeys(runs, 0), runs[:1]) == expected
    assert [run.state() for run in runs] == [State.FAILED, State.PENDING]
