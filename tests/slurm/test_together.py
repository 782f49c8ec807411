"""Probes that see the same batches share an element of an array."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.commands import jobs as monitor
from bench.execution import worker
from bench.execution.exits import DONE
from bench.execution.slurm.journal import Journal, look
from bench.execution.slurm.watch import watch
from bench.planning.graph import JobGraph, plan
from bench.runs.folder import State
from bench.spec import Random
from tests.bench.test_together import PROBE, assert_same, folders, photos, probe_of
from tests.conftest import TINY, knn_of
from tests.slurm.conftest import FakeSlurm, Place, RealSlurm, wait_until
from tests.slurm.test_fake_cluster import Silent

__all__ = ["photos"]  # the fixture
TOML = '[data]\nimagenet = "photos"\n'
TWO = f"{TOML}[local]\nprobes_together = 2\n"


def probes(count: int, epochs: int = PROBE.epochs) -> JobGraph:
    protocol = replace(PROBE, epochs=epochs)
    return plan([(f"number {n}", probe_of(Random(backbone=TINY, seed=n), protocol)) for n in range(count)])


def test_an_array_has_an_element_for_every_so_many_probes(photos: Path, fake_slurm: FakeSlurm) -> None:
    fake_slurm.set(seconds=1000)
    place, graph = Place(photos, TWO), probes(5)
    mixed = plan([*((job.label, job.spec) for job in graph), ("kNN", knn_of(Random(backbone=TINY)))])
    assert place.submit(mixed).calls == 1
    assert fake_slurm.submitted()[0]["size"] == 4
    found = look(Journal(place.runs))
    rows = [found.row(job.id) for job in mixed]
    assert [row and row.id.partition("_")[2] for row in rows] == ["0", "0", "1", "1", "2", "3"]
    assert [len(found.beside(job.id)) for job in mixed] == [1, 1, 1, 1, 0, 0]
    assert place.submit(mixed).new == ()  # all are in the queue


def test_without_the_setting_each_probe_has_a_job_of_slurm(photos: Path, fake_slurm: FakeSlurm) -> None:
    place = Place(photos, TOML)
    place.submit(probes(5))
    assert fake_slurm.submitted()[0]["size"] == 5
    assert not any("together" in file.read_text() for file in (place.runs.root / "slurm").rglob("submission.json"))


def test_bench_cancel_of_one_leaves_the_others_their_element(photos: Path, fake_slurm: FakeSlurm) -> None:
    fake_slurm.set(seconds=1000)
    place, graph = Place(photos, TWO), probes(2)
    place.submit(graph)
    first, second = graph.jobs
    monitor.cancel(place.site, first, [])
    assert fake_slurm.calls("scancel") == 0
    assert place.runs[first].state() is State.CANCELLED
    monitor.cancel(place.site, second, [])
    assert fake_slurm.calls("scancel") == 1
    assert place.runs[second].state() is State.CANCELLED


@pytest.mark.slow
def test_on_a_real_slurm_they_are_requeued_and_end_with_the_results_of_one_by_one(
    real_slurm: RealSlurm, photos: Path
) -> None:
    place, graph = Place(photos, TWO), probes(3, epochs=300)
    apart = folders(photos / "apart", 3, replace(PROBE, epochs=300))
    place.submit(graph)
    runs = [place.runs[job.id] for job in graph]
    for run in runs[:2]:
        wait_until(lambda run=run: run.last_metrics().get("step", 0) > 2, run.log_tail)  # type: ignore[misc]
    row = look(Journal(place.runs)).row(runs[0].job_id)
    assert row is not None
    real_slurm.ask("scancel", "--signal=TERM", row.id)
    wait_until(lambda: "requeueing" in runs[0].log.read_text(), runs[0].log_tail)
    assert watch(graph, place.runs, Silent(), poll=0.5).complete, runs[0].log_tail()
    assert [worker.main(str(run.path)) for run in apart] == [DONE] * 3
    for run, expected in zip(runs, apart, strict=True):
        assert_same(run, expected)
    made = [run.result().provenance for run in runs]
    assert [one.together for one in made] == [2, 2, 1]
    assert [one.resumed for one in made] == [1, 1, 0]
    assert all(run.state() is State.DONE and run.claim_holder() is None for run in runs)
