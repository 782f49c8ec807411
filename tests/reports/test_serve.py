"""The report of a site: what is rebuilt when, what a running job shows, and what a server survives."""

from __future__ import annotations

import contextlib
import threading
import urllib.request
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.planning.scales import scale_of
from bench.runs import plans
from reports import build as building
from reports import folder
from reports import serve as reporting
from reports.build import build
from reports.job_view import JobView
from reports.memory import Memory
from reports.pages.job import job_page
from reports.pages.related import Related
from results.cells import plan_table
from results.store import Store
from results.view import TableView, view
from tests.reports.conftest import TABLE, Demo, curve_line
from tests.reports.test_build import Page


def looked_at(demo: Demo) -> TableView:
    return view(plan_table(TABLE, scale_of("embedded"), 2), Store(demo.runs))


def test_only_what_has_changed_is_made_again_and_the_bytes_are_those_of_a_fresh_build(
    own_demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(job_view: JobView, related: Related) -> str:
        made.append(job_view.id)
        return job_page(job_view, related)

    monkeypatch.setattr(building, "job_page", counted)
    memory = Memory()
    build([looked_at(own_demo)], own_demo.runs, tmp_path / "live", memory=memory)
    first = len(made)
    assert first > 10
    made.clear()
    build([looked_at(own_demo)], own_demo.runs, tmp_path / "live", memory=memory)
    assert made == []
    evaluation = own_demo.embedded.cells["SimCLR, ResNet-50", "Top-1"].jobs[0]
    parent = own_demo.embedded.cells["SimCLR, ResNet-50", "Param (M)"].jobs[0]
    own_demo.runs[evaluation].log.write_text("another end\n")
    build([looked_at(own_demo)], own_demo.runs, tmp_path / "live", memory=memory)
    assert set(made) == {evaluation, parent}  # the parent's page lists its evaluations
    build([looked_at(own_demo)], own_demo.runs, tmp_path / "fresh")
    files = sorted(path.relative_to(tmp_path / "fresh") for path in (tmp_path / "fresh").rglob("*") if path.is_file())
    assert [
        str(name)
        for name in files
        if (tmp_path / "fresh" / name).read_bytes() != (tmp_path / "live" / name).read_bytes()
    ] == []


def test_a_running_job_shows_how_far_it_is(own_demo: Demo, tmp_path: Path) -> None:
    job = own_demo.embedded.cells["SimCLR, ResNet-50 (4x)", "Param (M)"].jobs[0]
    run = own_demo.runs[job]
    run.forget_failure()
    for cell in own_demo.embedded.cells.values():
        for waiting in cell.jobs:
            if not own_demo.runs[waiting].result_file.exists():
                own_demo.runs[waiting].forget_failure()
    assert run.claim()
    run.metrics.write_text(curve_line(45, None))
    out = build([looked_at(own_demo)], own_demo.runs, tmp_path / "out").parent
    assert "step 45 of 180 running" in Page(out / "embedded" / "demo_table1.html").text
    assert "Progress step 45 of 180" in Page(out / "jobs" / f"{job}.html").text
    assert "1 running now" in Page(out / "index.html").text


def test_a_fingerprint_changes_with_states_and_with_the_steps_of_running_jobs(
    own_demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Known:
        name = "demo_table1@embedded"

    job = own_demo.embedded.cells["SimCLR, ResNet-50 (4x)", "Param (M)"].jobs[0]
    run = own_demo.runs[job]
    monkeypatch.setattr(plans, "read_all", lambda _: [Known()])
    monkeypatch.setattr(plans, "states", lambda *_: {job: run.state()})
    failed = folder.fingerprint(own_demo.runs)
    run.forget_failure()
    run.claim()
    running = folder.fingerprint(own_demo.runs)
    with run.metrics.open("a") as file:
        file.write(curve_line(99, None))
    later = folder.fingerprint(own_demo.runs)
    assert failed != running != later
    assert later == folder.fingerprint(own_demo.runs)


def test_a_build_that_fails_leaves_the_server_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reporting, "REBUILD_SECONDS", 0.05)
    (tmp_path / "index.html").write_text("as it was")
    stop, looks, tried = threading.Event(), iter(range(10**6)), threading.Event()

    def fails() -> None:
        tried.set()
        raise BenchError("the disk is full")

    server = threading.Thread(target=reporting.serve, args=(tmp_path, 0, fails, lambda: next(looks), stop))
    server.start()
    try:
        assert tried.wait(10)
        address = capsys.readouterr().out.split()[2]
        with urllib.request.urlopen(f"{address}index.html", timeout=10) as answer:
            assert answer.read() == b"as it was"
            assert answer.headers[reporting.LIVE] == "1"
    finally:
        stop.set()
        server.join(10)
    assert not server.is_alive()


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BenchError, match=f"cannot serve on port {port}"):
            reporting.serve(tmp_path, port, lambda: None, lambda: None)


def test_nothing_was_run(tmp_path: Path) -> None:
    from bench.runs.folder import Runs

    with pytest.raises(BenchError, match="nothing was run under"):
        reporting.views_of(Runs(tmp_path / "runs"))


def test_a_table_whose_file_is_not_here_is_left_out_in_one_short_line(
    own_demo: Demo, capsys: pytest.CaptureFixture[str]
) -> None:
    plans.write(own_demo.runs, plans.StoredPlan("worked_example", "smoke", 1, (), (), ()))
    with contextlib.suppress(BenchError):  # no other table can be shown either
        reporting.views_of(own_demo.runs)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "worked_example" in line)
    assert line == (
        "left out of the report: worked_example@smoke: no file of tables/ has this name, here or in a folder of "
        "BENCH_PLUGINS"
    )
