"""What one waits for before anything is computed and after: commands, plans, first step, finished tables, reports."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import plugins
from bench.costs.estimates import Costs
from bench.costs.forecast import on_slots
from bench.planning import graph
from bench.planning.graph import Job
from bench.planning.scales import SCALES
from bench.runs import plans
from bench.runs.folder import Runs
from bench.runs.result import Result
from bench.settings.site import Site
from bench.spec import Evaluate, Pretrain, Resources, Spec
from reports.serve import build_site
from results.cells import load_table, plan_table
from tests.conftest import BENCH, knn_of, linear_of, tiny_pretrain
from tests.perf.pairs import Side, alone
from tests.perf.test_training_speed import SETTING_B
from tests.reports.conftest import finish

TABLE, SCALE = "simclr_table6", "embedded"
AT_ONCE: dict[Side, float] = {"value at most": 0.3}


def call(*command: str, within: Path) -> str:
    """Raises with the output when the command fails."""
    found = subprocess.run(
        command, cwd=within, env=environment(within), capture_output=True, text=True, timeout=600, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout + found.stderr


def environment(within: Path) -> dict[str, str]:
    """Without settings of this machine, and with slots of its own: what else runs here must not be waited for."""
    (within / "tmp").mkdir(exist_ok=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("BENCH_")}
    return kept | {"CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(within / "tmp")}


def site_of(root: Path) -> Site:
    return Site(root=root, runs=root / "runs", output=root / "results/out", report=root / "reports/out")


def fill(site: Site, tables: Iterable[str], seeds: int) -> int:
    """Run folders, results and plans of tables that are done, as `bench run` leaves them; the number of jobs."""
    runs, known = Runs(site.runs), set()
    for name in tables:
        jobs = graph.plan((cell.label, cell.spec) for cell in plan_table(load_table(name), SCALES[SCALE], seeds).cells)
        for job in jobs:
            if job.id not in known:
                known.add(job.id)
                runs[job.id].create(job, Resources())
                end(runs, job)
        plans.write(runs, plans.StoredPlan(name, SCALE, seeds, (), (), plans.of_graph(jobs)))
    return len(known)


def end(runs: Runs, job: Job) -> None:
    """A result with all metrics that the job's evaluation names."""
    finish(runs, job, 70 + int(job.id[-3:], 16) / 200)
    if isinstance(job.spec, Pretrain):
        runs[job.id].weights.touch()
        return
    named = plugins.load("evaluation", type(job.spec.protocol).__module__.rpartition(".")[2]).METRICS
    result = runs[job.id].result()
    metrics = {name: result.metrics.get(name, 50.0) for name in named}
    Result(job=job.id, metrics=metrics, details=result.details, provenance=result.provenance).write(
        runs[job.id].result_file
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which a table is up to date, its report too."""
    root = tmp_path_factory.mktemp("done")
    fill(site_of(root), [TABLE], seeds=1)
    call(*BENCH, "run", "--table", TABLE, within=root)
    return root


@pytest.mark.benchmark(group="start-up")
@pytest.mark.parametrize("name", ["--help", "status", "logs", "list"])
def test_commands_that_answer_at_once(benchmark: Any, done: Path, rounds: int, name: str) -> None:
    job = next(path.name for path in (done / "runs").glob("evaluate-*"))
    arguments = [name, job] if name == "logs" else [name]
    imported = call(sys.executable, "-X", "importtime", "-m", "bench.cli", *arguments, within=done)
    modules = {line.rpartition("|")[2].strip() for line in imported.splitlines() if line.startswith("import time:")}
    assert "bench.errors" in modules
    assert "torch" not in modules
    alone(
        benchmark,
        f"`bench {name}`",
        lambda: call(*BENCH, *arguments, within=done),
        rounds=rounds,
        goals=AT_ONCE,
        note="imports no torch",
    )


@pytest.mark.benchmark(group="start-up")
def test_plan_of_everything(benchmark: Any, tmp_path: Path, rounds: int) -> None:
    told = call(*BENCH, "plan", "--all", "--scale", "paper", within=tmp_path)
    jobs = (
        next(line for line in told.splitlines() if "after each is taken once" in line)
        .split(" jobs asked for, ")[1]
        .split()[0]
    )
    goals: dict[Side, float] = {"value at most": 3.0}
    alone(
        benchmark,
        "`bench plan --all --scale paper`",
        lambda: call(*BENCH, "plan", "--all", "--scale", "paper", within=tmp_path),
        rounds=min(rounds, 3),
        goals=goals,
        note=f"{jobs} jobs, the imports of all methods and evaluations included",
        warm=False,
    )


@pytest.mark.benchmark(group="start-up")
def test_planning_of_ten_thousand_jobs(benchmark: Any, tmp_path: Path, rounds: int) -> None:
    def specs() -> Iterable[tuple[str, Spec]]:
        for seed in range(2000):
            encoder = tiny_pretrain(seed)
            knn, linear = knn_of(encoder), linear_of(encoder)
            found: tuple[Evaluate, ...] = (knn, linear, replace(knn, seed=1), replace(linear, seed=1))
            yield from ((f"seed {seed} | {number}", spec) for number, spec in enumerate(found))

    def planned() -> None:
        jobs = graph.plan(specs())
        assert len(jobs) == 10_000
        assert on_slots(list(jobs), Costs(Runs(tmp_path), jobs), 64) > 0

    goals: dict[Side, float] = {"value at most": 2.0}
    alone(
        benchmark,
        "planning 10,000 jobs",
        planned,
        rounds=min(rounds, 3),
        goals=goals,
        note="specs, identities, edges, costs, order on 64 slots",
        warm=False,
    )


@pytest.mark.benchmark(group="start-up")
def test_first_step_of_a_worker(benchmark: Any, tmp_path: Path, rounds: int) -> None:
    """A job of one step, from start to end of its process: what follows the step (weights and result) is in it."""
    job = next(iter(graph.plan([("one step", replace(SETTING_B, epochs=1e-3, precision="bf16"))])))
    run = Runs(tmp_path / "runs")[job.id]
    run.create(job, Resources())

    def once() -> None:
        run.forget_result()
        call(sys.executable, "-m", "bench.execution.worker", str(run.path), within=tmp_path)

    goals: dict[Side, float] = {"wall at most": 3.0}
    note = (
        "`python -m bench.execution.worker` on a job of one step of setting B, bfloat16; to the end of the "
        "process, so weights and result are in it"
    )
    alone(
        benchmark,
        "process start to the end of the first step",
        once,
        rounds=min(rounds, 3),
        goals=goals,
        note=note,
        warm=False,
    )
    assert [line["step"] for line in run.curves()] == [1]


@pytest.mark.benchmark(group="start-up")
def test_first_step_after_bench_run(benchmark: Any, tmp_path_factory: pytest.TempPathFactory, rounds: int) -> None:
    """From the command to the first line of metrics.jsonl: the driver starts, plans, and starts the worker."""
    what = ("run", "--table", TABLE, "--scale", "smoke", "--rows", "SimCLR (ours), ResNet-50", "--columns", "Param (M)")

    def once() -> None:
        root = tmp_path_factory.mktemp("first")
        with subprocess.Popen(
            [*BENCH, *what], cwd=root, env=environment(root), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        ) as process:
            wait(lambda: any((root / "runs").glob("*/metrics.jsonl")), process)
            first.append(time.monotonic() - begun[-1])

    begun: list[float] = []
    first: list[float] = []

    def measured() -> None:
        begun.append(time.monotonic())
        once()

    alone(benchmark, "`bench run` to the first step of its worker", measured, rounds=min(rounds, 3), warm=False)
    benchmark.extra_info["wall"] = sorted(first)[len(first) // 2]
    benchmark.extra_info["goals"] = {"wall at most": 3.0}
    benchmark.extra_info["note"] = (
        "a smoke job; the clock stops at its first step, CPU time is that of the whole command: driver, job, table "
        "and report"
    )


def wait(there: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not there():
        assert process.poll() is None, f"ended with {process.returncode} before the first step"
        time.sleep(0.01)


@pytest.mark.benchmark(group="start-up")
def test_a_table_that_is_up_to_date(benchmark: Any, done: Path, rounds: int) -> None:
    def again() -> None:
        told = call(*BENCH, "run", "--table", TABLE, within=done)
        assert "jobs are done already: nothing to compute" in told

    goals: dict[Side, float] = {"value at most": 3.0}
    note = "every result verified, the table printed and written"
    alone(
        benchmark,
        f"`bench run --table {TABLE}` once more",
        again,
        rounds=min(rounds, 3),
        goals=goals,
        note=note,
        warm=False,
    )


@pytest.mark.benchmark(group="start-up")
def test_report_of_two_thousand_jobs(benchmark: Any, tmp_path: Path, short: bool) -> None:
    site = site_of(tmp_path)
    tables = [TABLE] if short else plugins.names("table")
    jobs = fill(site, tables, seeds=5)
    assert short or jobs >= 2000
    goals: dict[Side, float] = {} if short else {"value at most": 20.0}
    note = f"tables: {len(tables)}; from nothing"
    alone(
        benchmark,
        f"report of {jobs:,} jobs",
        lambda: build_site(site, Runs(site.runs), None),
        rounds=1,
        goals=goals,
        note=note,
        warm=False,
    )
