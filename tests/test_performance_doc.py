"""docs/performance.md is made from a run, never typed, and says of each goal whether it is met."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def making() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_performance", ROOT / "docs/make_performance.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def line(**changes: Any) -> dict[str, Any]:
    """What a measurement leaves in `extra_info`."""
    body: dict[str, Any] = {
        "what": "a way",
        "unit": "s",
        "value": 2.5,
        "wall": None,
        "beside": "",
        "beside_value": None,
        "ratio": None,
    }
    return body | {"comparison": "times as fast as", "goals": {}, "published": None, "note": "", "rounds": 3} | changes


PEER = {"peer": "another", "peer_rate": 1000.0, "usual_rate": 1800.0, "at_least": 1.7}
RUN = {
    "datetime": "2026-02-03T04:05:06+00:00",
    "commit_info": {"id": "0123456789abcdef", "dirty": True},
    "machine_info": {
        "node": "a-host",
        "performance": {
            "processor": "a processor",
            "cores": 2,
            "threads": 1,
            "memory_gb": 25,
            "flags": ["avx512_bf16"],
            "system": "Linux 6.1",
            "versions": {"python": "3.11.7", "torch": "2.14.1"},
            "short": False,
        },
    },
    "benchmarks": [
        {"group": "start-up", "extra_info": line(what="slow", goals={"value at most": 2.0})},
        {"group": "start-up", "extra_info": line(what="quick", wall=3.5, goals={"wall at most": 3.5})},
        {
            "group": "loader",
            "extra_info": line(
                what="split", beside="Pillow", beside_value=10.0, ratio=4.0, goals={"ratio at least": 5.0}
            ),
        },
        {
            "group": "probe",
            "extra_info": line(
                what="heads",
                comparison="times the time of",
                ratio=1.1,
                beside="one",
                beside_value=1,
                goals={"ratio at most": 1.2},
            ),
        },
        {
            "group": "training",
            "extra_info": line(
                what="loop",
                unit="images/s",
                value=1234.5,
                beside="bare",
                beside_value=1300.0,
                ratio=0.95,
                published=PEER,
            ),
        },
        {"group": None, "extra_info": {}},
    ],
}


def test_the_page_is_what_the_generator_makes_of_the_committed_run(making: ModuleType) -> None:
    summary = json.loads((ROOT / "docs/performance.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    assert page == making.page(summary), "make perf, or python docs/make_performance.py after a change of the generator"
    assert {one["group"] for one in summary["lines"]} == set(making.GROUPS)
    assert not summary["machine"]["short"], "what is committed comes from a full run: make perf"


def row(page: str, what: str) -> list[str]:
    return next(
        [cell.strip() for cell in found.strip("|").split("|")]
        for found in page.splitlines()
        if found.startswith(f"| {what} |")
    )


def test_each_goal_is_met_or_missed_by_its_own_side(making: ModuleType) -> None:
    page = making.page(making.summary_of(RUN))
    assert row(page, "slow")[-2:] == ["at most 2 s", "**missed**"]
    assert row(page, "quick")[-2:] == ["at most 3.5 s by the clock", "met"]
    assert row(page, "split")[2:] == ["Pillow: 10.0", "4.00 times as fast as it", "at least 5", "**missed**"]
    assert row(page, "heads")[3:] == ["1.10 times the time of it", "at most 1.2", "met"]
    assert "3 of 5 goals met" in page  # with the derived one
    faster: dict[str, Any] = copy.deepcopy(RUN)
    faster["benchmarks"][2]["extra_info"]["ratio"] = 5.0
    assert row(making.page(making.summary_of(faster)), "split")[-1] == "met"


def test_a_ratio_to_a_peer_is_derived_from_the_reference_and_said_to_be(making: ModuleType) -> None:
    page = making.page(making.summary_of(RUN))
    before, _, derived = page.partition("## Against the fastest peer, derived")
    assert "another" not in before.partition("| loop |")[2]
    # 0.95 of the reference here, which is 1800 / 1000 of the peer there.
    assert row(derived, "loop")[1:] == ["another: 1,000", "1,800", "1.71", "at least 1.70", "met"]
    assert "on another machine" in derived


def test_the_page_names_machine_versions_commit_and_date_but_no_host(making: ModuleType) -> None:
    page = making.page(making.summary_of(RUN))
    assert "a processor, 2 cores, 25 GB, Linux 6.1; avx512_bf16" in page
    assert "python 3.11.7, torch 2.14.1; 1 thread" in page
    assert "commit 0123456+changes, 2026-02-03" in page
    assert "a-host" not in json.dumps(making.summary_of(RUN))
    assert "short form" not in page


def test_a_short_run_says_that_its_numbers_are_no_result(
    making: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run: dict[str, Any] = copy.deepcopy(RUN)
    run["machine_info"]["performance"]["short"] = True
    (tmp_path / "run.json").write_text(json.dumps(run))
    monkeypatch.setattr(
        sys, "argv", ["make_performance.py", str(tmp_path / "run.json"), "--out", str(tmp_path / "out")]
    )
    assert making.main() == 0
    page = (tmp_path / "out/performance.md").read_text(encoding="utf-8")
    assert "**The short form" in page
    assert not {"met", "missed", "goals"}.intersection(page.replace("*", " ").split())
    assert page == making.page(json.loads((tmp_path / "out/performance.json").read_text(encoding="utf-8")))
    assert str(tmp_path / "out/performance.md") in capsys.readouterr().out
