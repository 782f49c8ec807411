from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.runs.result import Provenance
from reports.build import build
from reports.pages import totals
from tests.reports.conftest import Demo
from tests.reports.test_build import Page

MADE = Provenance(
    started="", seconds=1.0, cpu_seconds=1.0, host="h", device="cpu: x", ranks=1, threads=1, commit="c", versions={}
)
WHOLE = "whole processor packages, with all that ran on them meanwhile"


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([{}], "not known: no counter was read"),
        ([{"gpus": 1800.0}], "0.50 Wh of GPUs"),
        ([{"gpus": 5.04e6}], "1.4 kWh of GPUs"),
        (
            [{"gpus": 7200.0, "packages": 3600.0}, {"packages": 7200.0}, {}],
            f"2.0 Wh of GPUs (1 of 3 jobs); 3.0 Wh of {WHOLE}; jobs side by side each count the whole (2 of 3 jobs)",
        ),
        ([{"packages": "many", "gpus": float("nan")}], "not known: no counter was read"),  # of another program
    ],
)
def test_energy_in_words(parts: list[dict[str, Any]], words: str) -> None:
    assert totals.energy([replace(MADE, energy_parts=one) for one in parts]) == words


def test_of_a_job_that_went_on_the_reason_is_told() -> None:
    assert totals.energy([replace(MADE, resumed=1)]) == totals.RESUMED
    assert totals.energy([replace(MADE, resumed=1), MADE]) == totals.NO_ENERGY


def test_pages_say_what_a_job_used_or_that_it_cannot_be_read(own_demo: Demo, tmp_path: Path) -> None:
    job, other = (own_demo.embedded.cells["SimCLR, ResNet-50", "Top-1"].jobs[seed] for seed in (0, 1))
    file = own_demo.runs[job].result_file
    body = json.loads(file.read_text())
    body["provenance"] |= {"energy_joules": 5400.0, "energy_parts": {"gpus": 5400.0}, "deterministic": False}
    file.write_text(json.dumps(body))
    out = tmp_path / "out"
    index = build([own_demo.embedded], own_demo.runs, out)
    assert "Energy1.5 Wh of GPUs" in Page(out / "jobs" / f"{job}.html").text.replace("Energy ", "Energy")
    assert "need not be deterministic" in Page(out / "jobs" / f"{job}.html").text
    assert totals.RESUMED in Page(out / "jobs" / f"{other}.html").text
    assert "Computed with" not in Page(out / "jobs" / f"{other}.html").text  # not known
    assert "one process worked on" not in Page(out / "jobs" / f"{job}.html").text
    assert "1.5 Wh of GPUs (1 of " in Page(index).text
    assert "1.5 Wh of GPUs (1 of " in Page(out / "embedded" / "demo_table1.html").text


def test_the_page_of_a_job_says_that_its_times_are_a_share(own_demo: Demo, tmp_path: Path) -> None:
    job = own_demo.embedded.cells["SimCLR, ResNet-50", "Top-1"].jobs[0]
    file = own_demo.runs[job].result_file
    body = json.loads(file.read_text())
    body["provenance"] |= {"together": 3}
    file.write_text(json.dumps(body))
    build([own_demo.embedded], own_demo.runs, tmp_path / "out")
    assert "one process worked on 3 jobs" in Page(tmp_path / "out" / "jobs" / f"{job}.html").text
