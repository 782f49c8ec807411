"""The report names the data that each job read, and warns where the numbers of one table are not of the same data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reports.build import build
from reports.pages import data_read
from tests.reports.conftest import Demo
from tests.reports.test_build import Page

FIRST: dict[str, Any] = {"digest": "0a1b2c3d4e5f" + "0" * 52, "files": 75, "bytes": 174205}
SECOND: dict[str, Any] = {"digest": "f" * 64, "files": 1, "bytes": 9}


def reads(demo: Demo, job: str, **inputs: Any) -> None:
    file = demo.runs[job].result_file
    body = json.loads(file.read_text())
    body["provenance"]["inputs"] = inputs
    file.write_text(json.dumps(body))


def text(path: Path) -> str:
    return " ".join(Page(path).text.split())


def test_a_jobs_page_names_data_set_files_bytes_and_fingerprint(own_demo: Demo, tmp_path: Path) -> None:
    job, other = (own_demo.embedded.cells["SimCLR, ResNet-50", "Top-1"].jobs[seed] for seed in (0, 1))
    reads(own_demo, job, data={"mnist5k": FIRST}, encoder="123456789abcdef", accepted={"mnist5k": SECOND})
    build([own_demo.embedded], own_demo.runs, tmp_path / "out")
    page = text(tmp_path / "out/jobs" / f"{job}.html")
    assert "75 files, 174,205 bytes, fingerprint 0a1b2c3d4e5f" in page
    assert "kept on purpose for 1 file, 9 bytes, fingerprint ffffffffffff" in page
    assert "sha256 123456789abc" in page
    assert data_read.UNKNOWN in text(tmp_path / "out/jobs" / f"{other}.html")


def test_a_tables_page_warns_of_different_data_and_of_accepted_ones(own_demo: Demo, tmp_path: Path) -> None:
    jobs = own_demo.embedded.cells["SimCLR, ResNet-50", "Top-1"].jobs
    for job in jobs:
        reads(own_demo, job, data={"mnist5k": FIRST})
    build([own_demo.embedded], own_demo.runs, tmp_path / "same")
    same = text(tmp_path / "same/embedded/demo_table1.html")
    assert "Not all of these numbers are of the same data" not in same
    assert "fingerprint 0a1b2c3d4e5f" in same
    reads(own_demo, jobs[0], data={"mnist5k": SECOND}, accepted={"mnist5k": FIRST})
    build([own_demo.embedded], own_demo.runs, tmp_path / "other")
    page = text(tmp_path / "other/embedded/demo_table1.html")
    assert "Not all of these numbers are of the same data" in page
    assert "read 2 different states of mnist5k, so their numbers do not compare: " in page
    assert "1 file, 9 bytes, fingerprint ffffffffffff (1 job)" in page
    assert "mnist5k changed after 1 job of this table had read it; its result was kept on purpose" in page
