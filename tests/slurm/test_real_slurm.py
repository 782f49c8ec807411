"""The whole way on a real Slurm: two simulated nodes on this machine, no accounting."""

from __future__ import annotations

import os
import random
import re
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.commands import jobs as monitor
from bench.execution import worker
from bench.execution.slurm import submit
from bench.execution.slurm.journal import Journal, look
from bench.execution.slurm.watch import watch
from bench.planning.graph import JobGraph, plan
from bench.runs import plans
from bench.runs.folder import RunFolder, Runs, State
from bench.spec import Pretrain, Random
from tests.conftest import BENCH, TINY, knn_of, tiny_pretrain
from tests.slurm.conftest import Place, RealSlurm, wait_until
from tests.slurm.test_fake_cluster import Silent

pytestmark = pytest.mark.slow

PART = [
    "--rows",
    "SimCLR (ours), ResNet-50",
    "--rows",
    "random",
    "--columns",
    "Param (M)",
    "--columns",
    "Top-1, 1 % labels",
    "--columns",
    "kNN Top-1",
]
RUN = [*BENCH, "run", "--table", "simclr_table6", "--scale", "smoke", *PART]
SLEEPY = '''"""SimCLR that takes its time until it was requeued twice.

Two slices hold fewer than its 52 steps, however late Slurm's signals come.
"""

import os
import time
from dataclasses import dataclass, field, replace
from methods import simclr

@dataclass(frozen=True, kw_only=True)
class Config(simclr.Config):
    VERSION: int = field(default=1, init=False)

RECIPES = {
    name: replace(recipe, method=Config(hidden=16), epochs=4 * recipe.epochs)
    for name, recipe in simclr.RECIPES.items()
}

class Method(simclr.Method):
    def loss(self, embeddings, labels):
        if int(os.environ.get("SLURM_RESTART_COUNT", "0")) < 2:
            time.sleep(5)
        return super().loss(embeddings, labels)
'''
STUCK = '''"""An evaluation that never ends and keeps no state."""

import time
from dataclasses import dataclass, field
from bench.contracts import Metric

METRICS = {"top1": Metric("%", higher_is_better=True)}

@dataclass(frozen=True, kw_only=True)
class Config:
    VERSION: int = field(default=1, init=False)

RECIPES = {"embedded": Config()}

def evaluate(config, subject, context):
    time.sleep(1000)
'''
SLOW = '''"""A slow row and one that hangs."""

from results.table import Column, Row, Table

TABLE = Table(id="slow", paper="none", arxiv="0000.00000", number="1", title="Time limits",
    columns=(Column(name="Param (M)", metric="parameters_million", unit="M", higher_is_better=None),
        Column(name="Top-1", metric="top1", protocol="stuck")),
    rows=(Row(label="Sleepy", method="sleepy", printed={"Param (M)": "1"}),
        Row(label="Random", method="random", printed={"Top-1": "1"})))
'''


@pytest.fixture(scope="module")
def limited(real_slurm: RealSlurm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Jobs with a time limit of a minute, which Slurm ends after half of it; they go on while the other tests run."""
    folder = tmp_path_factory.mktemp("limited")
    for name, text in (("methods/sleepy", SLEEPY), ("evals/stuck", STUCK), ("tables/slow", SLOW)):
        path = folder / "plugins" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "bench.toml").write_text('[slurm]\ntime = "00:01:00"\nsignal = 10\n')
    found = subprocess.run(
        [
            *BENCH,
            "run",
            "--table",
            "slow",
            "--scale",
            "smoke",
            "--rows",
            "Sleepy",
            "--rows",
            "Random",
            "--executor",
            "slurm",
        ],
        cwd=folder,
        env=os.environ | {"BENCH_PLUGINS": str(folder / "plugins"), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    for path in (folder / "plugins").rglob("*.py"):
        path.write_text("raise RuntimeError('a queued job reads the checkout')\n")
    return folder


def wait_for(run: RunFolder, state: State) -> None:
    wait_until(lambda: run.state() is state, lambda: f"{run.state()} instead of {state}: {run.log_tail()}")


def wait_for_steps(run: RunFolder, more_than: float) -> float:
    wait_until(lambda: run.last_metrics().get("step", 0) > more_than, run.log_tail)
    return run.last_metrics()["step"]


def only(graph: JobGraph, place: Place) -> RunFolder:
    return place.runs[next(iter(graph)).id]


def diverging() -> Pretrain:
    spec = tiny_pretrain(epochs=0.3)
    return replace(spec, optim=replace(spec.optim, lr=1e25, warmup_epochs=0.0))


def test_the_table_from_slurm_is_the_local_one_digit_for_digit(
    limited: Path, workplace: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The first command only submits.

    The second finds the jobs in the queue, watches, prints the table; the third finds all done.
    """
    local = tmp_path_factory.mktemp("local")
    (workplace / "bench.toml").write_text(
        '[slurm]\ntime = "01:00:00"\n[notify]\ncommand = "echo \\"$BENCH_MESSAGE, $BENCH_FAILED not\\" >> said"\n'
    )
    submitting = subprocess.run(
        [*RUN, "--executor", "slurm"], cwd=workplace, capture_output=True, text=True, timeout=120, check=False
    )
    assert submitting.returncode == 0, submitting.stdout + submitting.stderr
    # the pretraining, two arrays of evaluations, the notify command
    assert "5 submitted now (4 sbatch calls)" in submitting.stdout
    watching = subprocess.run(
        [*RUN, "--executor", "slurm", "--watch"],
        cwd=workplace,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert watching.returncode == 0, watching.stdout + watching.stderr
    assert "0 submitted now (0 sbatch calls)" in watching.stdout
    table = workplace / "results/out/smoke/simclr_table6.csv"
    again = subprocess.run(
        [*RUN, "--executor", "local"], cwd=local, capture_output=True, text=True, timeout=300, check=False
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert table.read_text() == (local / "results/out/smoke/simclr_table6.csv").read_text()
    wait_until((workplace / "said").exists)
    assert (workplace / "said").read_text() == "simclr_table6@smoke: 5 done, 0 not\n"
    run = next(path for path in (workplace / "runs").glob("pretrain-*"))
    result = Runs(workplace / "runs")[run.name].result()
    assert result.provenance.threads == 1
    assert result.provenance.commit != "unknown" or not (Path(__file__).parents[2] / ".git").exists()


def test_a_failing_parent_ends_its_dependents_and_nothing_else(
    limited: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(workplace)
    graph = plan([("bad | kNN", knn_of(diverging())), ("good | kNN", knn_of(Random(backbone=TINY)))])
    place.submit(graph)
    plans.write(place.runs, plans.StoredPlan("tests", "tiny", 1, (), (), plans.of_graph(graph)))
    summary = watch(graph, place.runs, Silent(), poll=0.5)
    assert (summary.done, len(summary.failed), len(summary.blocked)) == (1, 1, 1)
    assert place.runs[summary.failed[0]].failure().kind == "diverged"
    row = look(Journal(place.runs)).row(summary.blocked[0])
    assert row is not None
    assert row.state == "CANCELLED"  # kill-on-invalid-dep: not pending for ever
    assert place.submit(graph).new == ()  # it would diverge again
    monitor.show_status(place.site, ["tests"])
    assert f"needs {summary.failed[0]}, which failed" in capsys.readouterr().out
    monitor.retry(place.site, summary.failed[0], [])  # unless one insists
    assert "2 jobs submitted again" in capsys.readouterr().out
    monitor.cancel(place.site, None, ["tests"])


def test_a_signal_requeues_but_scancel_and_bench_cancel_do_not(
    limited: Path, real_slurm: RealSlurm, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(workplace)
    graph = plan([("long | kNN", knn_of(tiny_pretrain(epochs=500)))])
    place.submit(graph)
    plans.write(place.runs, plans.StoredPlan("tests", "tiny", 1, (), (), plans.of_graph(graph)))
    run, child = (place.runs[job.id] for job in graph)
    wait_for_steps(run, 2)
    row = look(Journal(place.runs)).row(run.job_id)
    assert row is not None
    # all that a preempted job gets where the user signal is not sent
    real_slurm.ask("scancel", "--signal=TERM", row.id)
    wait_until(lambda: "requeueing" in run.log.read_text(), run.log_tail)
    wait_for_steps(run, run.last_metrics()["step"])
    real_slurm.ask("scancel", row.id)
    wait_until(lambda: set(look_states(place, graph)) == {"CANCELLED"}, lambda: look_states(place, graph))
    capsys.readouterr()
    monitor.show_status(place.site, ["tests"])
    out = capsys.readouterr().out
    # a requeued job may start on the other node
    said = r"ended on 127\.0\.0\.[12] as CANCELLED: it was cancelled from outside \(scancel\); it goes on from its"
    assert re.search(f"{said} checkpoint", out), out
    assert f"can never start, needs {run.job_id}" in out
    assert len(place.submit(graph).new) == 2  # the same command goes on
    wait_for_steps(run, run.last_metrics()["step"])
    monitor.cancel(place.site, None, ["tests"])
    wait_until(lambda: run.state() is State.CANCELLED and set(look_states(place, graph)) == {"CANCELLED"}, run.log_tail)
    assert child.state() is State.CANCELLED
    assert "going on after step" in run.log.read_text()


def look_states(place: Place, graph: JobGraph) -> list[str]:
    view = look(Journal(place.runs))
    return [row.state for row in (view.row(job.id) for job in graph) if row is not None]


def test_two_drivers_at_once_submit_each_job_once(limited: Path, real_slurm: RealSlurm, workplace: Path) -> None:
    place = Place(workplace, '[slurm]\noptions = { begin = "now+1hour" }\n')
    graph = plan([(f"s{seed} | kNN", knn_of(tiny_pretrain(seed))) for seed in range(3)])
    found: list[submit.Submitted] = []
    drivers = [threading.Thread(target=lambda: found.append(place.submit(graph))) for _ in range(2)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert sorted(len(one.new) for one in found) == [0, 6]
    tokens = {path.name for path in (place.runs.root / "slurm").iterdir() if path.is_dir()}
    assert len([name for _, _, name in real_slurm.queue() if name.rpartition("~")[2] in tokens]) == 6
    submit.cancel(place.runs, graph.jobs)


def test_a_driver_killed_right_after_sbatch_finds_its_jobs_again(
    limited: Path, real_slurm: RealSlurm, workplace: Path
) -> None:
    (workplace / "bench.toml").write_text('[slurm]\noptions = { begin = "now+1hour" }\n')
    (workplace / "bin").mkdir()
    wrapper = workplace / "bin" / "sbatch"  # submits, then kills the driver before it can read the answer
    wrapper.write_text(f'#!/bin/sh\n{real_slurm.ask("which", "sbatch")} "$@" >/dev/null\nkill -9 $PPID\n')
    wrapper.chmod(0o755)
    command = [*RUN, "--executor", "slurm"]
    path = f"{wrapper.parent}:{os.environ['PATH']}"
    killed = subprocess.run(
        command,
        cwd=workplace,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert killed.returncode == -9
    again = subprocess.run(command, cwd=workplace, capture_output=True, text=True, timeout=120, check=False)
    assert "found again: Slurm job" in again.stdout, again.stdout + again.stderr
    tokens = {file.name for file in (workplace / "runs" / "slurm").iterdir() if file.is_dir()}
    rows = [name for _, _, name in real_slurm.queue() if name.rpartition("~")[2] in tokens]
    assert len(rows) == 5
    runs = Runs(workplace / "runs")
    submit.cancel(runs, [job.id for job in plans.read_all(runs)[0].jobs])


def test_two_nodes_train_what_one_process_trains(limited: Path, workplace: Path) -> None:
    place = Place(workplace, "[slurm.pretrain]\nnodes = 2\n")
    graph = plan([("two", tiny_pretrain(epochs=0.5))])
    place.submit(graph)
    run = only(graph, place)
    alone = _undisturbed(graph, workplace)
    wait_for(run, State.DONE)
    assert run.result().provenance.ranks == 2
    assert "rank 1" in run.log.read_text()
    both = zip(run.curves(), alone.curves(), strict=True)
    assert all(a["loss"] == pytest.approx(b["loss"], rel=1e-3) for a, b in both)


def _undisturbed(graph: JobGraph, folder: Path) -> RunFolder:
    """The same job in this process, in another folder."""
    place = Place(folder / "undisturbed") if (folder / "undisturbed").is_dir() else Place(_made(folder / "undisturbed"))
    job = next(iter(graph))
    run = place.runs[job.id]
    run.create(job, place.site.resources(job.kind))
    assert worker.main(str(run.path)) == 0
    return run


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_preempted_three_times_and_moved_off_a_node_the_digits_are_the_same(
    real_slurm: RealSlurm, workplace: Path
) -> None:
    place = Place(workplace)
    graph = plan([("low | kNN", knn_of(tiny_pretrain(epochs=60)))])  # far more than four slices hold, on any machine
    place.submit(graph)
    run, child = (place.runs[job.id] for job in graph)
    moments = random.Random(6)
    step = 0.0
    for _ in range(3):
        wait_for_steps(run, step)
        time.sleep(moments.uniform(0.0, 1.0))
        real_slurm.ask(
            "sbatch",
            "--wait",
            "--partition=high",
            "--nodes=2",
            "--ntasks-per-node=1",
            "--cpus-per-task=4",
            "--output=/dev/null",
            "--wrap=true",
        )
        assert not run.result_file.exists(), "the training was over before it could be preempted"
        step = run.last_metrics()["step"]
    wait_for_steps(run, step)
    node = next(
        line.split()[6].rstrip(",")
        for line in reversed(run.log.read_text().splitlines())
        if line.startswith("--- slurm")
    )
    # the node fails, and comes back by itself
    real_slurm.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    alone = _undisturbed(graph, workplace)
    wait_for(run, State.DONE)
    wait_for(child, State.DONE)  # afterok outlives requeues
    assert run.log.read_text().count("requeueing") >= 3
    assert run.result().provenance.resumed >= 3
    assert run.result().metrics == alone.result().metrics
    one, other = (torch.load(r.weights, weights_only=True) for r in (run, alone))
    assert all(torch.equal(one[part][name], other[part][name]) for part in one for name in one[part])


def test_slurmctld_may_go_and_come_back(real_slurm: RealSlurm, workplace: Path) -> None:
    place = Place(workplace)
    graph = plan([("a | kNN", knn_of(tiny_pretrain(epochs=3)))])
    place.submit(graph)
    wait_for_steps(only(graph, place), 1)
    real_slurm.script("stop_slurm.sh", "slurmctld")
    try:
        message = place.error(graph)
        assert "Unable to contact slurm controller" in message
        assert "\n" not in message
    finally:
        real_slurm.script("start_slurm.sh", "slurmctld")
    found = place.submit(graph)
    assert found.new == ()
    assert watch(graph, place.runs, Silent(), poll=0.5).complete


def test_time_limits_cut_a_training_into_slices_and_end_what_makes_no_progress(limited: Path) -> None:
    """Both were submitted first, from plug-ins broken right after: queued jobs run the code of their submission."""
    runs = Runs(limited / "runs")
    (trained,) = (runs[path.name] for path in (limited / "runs").glob("pretrain-*"))
    evaluations = [runs[path.name] for path in (limited / "runs").glob("evaluate-*")]
    stuck = next(run for run in evaluations if not run.needs)
    wait_until(
        lambda: trained.state() is State.DONE and stuck.state() is State.FAILED,
        lambda: trained.log_tail() + stuck.log_tail(),
        300,
    )
    assert trained.log.read_text().count("requeueing") >= 2
    assert trained.result().provenance.resumed >= 2
    assert [line["step"] for line in trained.curves()] == sorted({line["step"] for line in trained.curves()})
    assert "2 time limits of 1:00 in a row passed without progress: raise `time`" in stuck.failure().message
