"""What the committed records took, against what a plan would have said of them without knowing any."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench import ROOT, plugins
from bench.costs.estimates import FORK_SECONDS, Costs
from bench.planning import graph
from bench.planning.graph import Job, JobGraph
from bench.planning.scales import SCALES
from bench.runs.folder import Runs
from bench.spec import Evaluate
from results.cells import load_table, plan_table

FACTOR = 1.5
KINDS = ("pretrain", "evaluate", "cpu")
# Two numbers a machine and none a job: how fast its cores are (CORE_SPEED of bench/costs/devices.py), and what
# evaluations took beside their work: on the other machine, with an older version, a start of Python was in it.
START = {"cpu: AMD EPYC": 0.0, "cpu: Intel(R) Xeon(R) Processor": 1.3}


@pytest.fixture(scope="module")
def ratios(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[float]]:
    """Predicted over measured seconds, by device."""
    lines = (ROOT / "results/records/embedded.jsonl").read_text(encoding="utf-8").splitlines()
    taken = {found["job"]: found["provenance"] for found in map(json.loads, lines)}
    tables = [plan_table(load_table(name), SCALES["embedded"], 3) for name in plugins.names("table")]
    planned = graph.plan((cell.label, cell.spec) for table in tables for cell in table.asked)
    return {
        device: _of_device(
            # as they ran: the first of an encoder extracts the features that the others find
            [
                planned.jobs[job]
                for job, p in sorted(taken.items(), key=lambda item: str(item[1]["started"]))
                if p["device"] == device and job in planned.jobs
            ],
            {job: float(p["seconds"]) for job, p in taken.items()},
            device,
            tmp_path_factory.mktemp("no_results"),
        )
        for device in START
    }


def _of_device(jobs: list[Job], seconds: Mapping[str, float], device: str, nowhere: Path) -> list[float]:
    costs = Costs(Runs(nowhere), JobGraph({job.id: job for job in jobs}, len(jobs)), here=device, forked=KINDS)
    found = []
    for job in jobs:
        start = START[device] if isinstance(job.spec, Evaluate) else 0.0
        found.append((costs.estimate(job).seconds - FORK_SECONDS + start) / seconds[job.id])
    return found


def share(found: list[float], factor: float = FACTOR) -> float:
    return sum(1 / factor < ratio < factor for ratio in found) / len(found)


def test_nine_of_ten_jobs_of_the_records_take_what_is_predicted_within_a_factor_of_one_and_a_half(
    ratios: Mapping[str, list[float]],
) -> None:
    everything = [ratio for found in ratios.values() for ratio in found]
    assert len(everything) >= 1200
    assert share(everything) >= 0.9


def test_on_the_machine_that_had_nothing_else_to_do_nearly_all_do(ratios: Mapping[str, list[float]]) -> None:
    assert share(ratios["cpu: AMD EPYC"]) >= 0.95
