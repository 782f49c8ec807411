"""`bench status --watch`: it stays while a `bench run` is at work, and ends with it."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.bench_toml import find_site
from bench.commands import watching
from bench.commands.jobs import Standing
from bench.files import write_json
from bench.planning.graph import plan
from bench.runs import drivers, plans
from bench.runs.folder import Runs
from bench.settings.site import Site
from bench.spec import Resources
from tests.conftest import BENCH, tiny_pretrain

PLAN = "simclr_table6@smoke"


@pytest.fixture
def site(workplace: Path) -> Site:
    """Two jobs of a remembered plan, none done."""
    made = find_site(workplace)
    graph = plan([("a", tiny_pretrain(0)), ("b", tiny_pretrain(1))])
    for job in graph:
        Runs(made.runs)[job.id].create(job, Resources())
    plans.write(Runs(made.runs), plans.StoredPlan("simclr_table6", "smoke", 1, (), (), plans.of_graph(graph)))
    return made


def finish(runs: Runs, number: int) -> None:
    job = plans.read_all(runs)[0].jobs[number]
    write_json(runs[job.id].result_file, {})


def shown(site: Site, monkeypatch: pytest.MonkeyPatch, *between: object) -> list[Standing]:
    """All rounds of watching; `between` is done after one each, in order."""
    steps: Iterator[object] = iter(between)

    def sleep(_: float) -> None:
        step = next(steps, None)
        assert step is not None, "it goes on although nothing is at work"
        if callable(step):
            step()

    monkeypatch.setattr("bench.commands.watching.time.sleep", sleep)
    return list(watching._rounds(Runs(site.runs), ["simclr_table6"]))


def test_it_goes_on_between_two_jobs_while_a_driver_is_alive(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(site.runs)
    driver = drivers.at_work(runs, [PLAN])
    driver.__enter__()
    found = shown(
        site,
        monkeypatch,
        lambda: finish(runs, 0),
        lambda: finish(runs, 1),
    )
    assert [standing.lines[0] for standing in found] == [
        f"{PLAN}: 2 pending",
        f"{PLAN}: 1 pending, 1 done",
        f"{PLAN}: 2 done",
    ]
    driver.__exit__(None, None, None)
    assert len(shown(site, monkeypatch)) == 1


def test_it_ends_with_the_driver_whatever_is_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = drivers.at_work(Runs(site.runs), [PLAN])
    driver.__enter__()
    found = shown(site, monkeypatch, lambda: driver.__exit__(None, None, None))
    assert [standing.lines[0] for standing in found] == [f"{PLAN}: 2 pending"] * 2


def test_a_driver_of_another_table_keeps_nobody_watching(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with drivers.at_work(Runs(site.runs), ["vicreg_table2@smoke"]):
        assert len(shown(site, monkeypatch)) == 1


def test_a_table_that_a_driver_is_still_planning_is_starting(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = find_site(workplace)
    driver = drivers.at_work(Runs(site.runs), [PLAN])
    driver.__enter__()
    empty = plans.StoredPlan("simclr_table6", "smoke", 1, (), (), ())
    found = shown(site, monkeypatch, lambda: plans.write(Runs(site.runs), empty))
    assert found[0].lines == (f"{PLAN}: starting",)
    assert f"{PLAN}: starting" not in found[1].lines
    driver.__exit__(None, None, None)


def test_a_driver_leaves_nothing_behind(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs")
    with drivers.at_work(runs, [PLAN]):
        assert drivers.working_on(runs) == {PLAN}
    assert drivers.working_on(runs) == set()
    assert not runs.root.exists()


def test_drivers_of_two_containers_with_equal_names_and_numbers_know_nothing_of_each_other(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs")
    with drivers.at_work(runs, ["a@smoke"]):
        with drivers.at_work(runs, ["b@smoke"]):
            assert drivers.working_on(runs) == {"a@smoke", "b@smoke"}
        assert drivers.working_on(runs) == {"a@smoke"}


def test_a_killed_driver_is_not_at_work(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    with drivers.at_work(runs, [PLAN]):
        (claim,) = tmp_path.glob("drivers/*/state/claim")
        claim.write_text(re.sub(r'"born": \d+', '"born": 1', claim.read_text()))
        assert drivers.working_on(runs) == set()


def test_where_it_cannot_be_written_down_a_run_goes_on_unseen(tmp_path: Path) -> None:
    (tmp_path / "drivers").write_text("a file where the folder belongs")
    with drivers.at_work(Runs(tmp_path), [PLAN]):
        assert drivers.working_on(Runs(tmp_path)) == set()


def test_in_a_pipe_a_block_is_printed_when_a_state_has_changed(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = ({PLAN: {"a": "pending"}}, {PLAN: {"a": "running"}})
    blocks = [
        Standing(("1 pending",), one),
        Standing(("1 pending",), one),
        Standing(("1 running, step 1",), two),
        Standing(("1 running, step 2",), two),
    ]
    watching._append(iter(blocks))
    assert capsys.readouterr().out == "1 pending\n1 running, step 1\n"


def test_ctrl_c_on_a_terminal_ends_with_a_clean_line(site: Site) -> None:
    with drivers.at_work(Runs(site.runs), [PLAN]):
        ours, theirs = pty.openpty()
        watcher = subprocess.Popen(
            [*BENCH, "status", "--watch"], cwd=site.root, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        out = b""
        while b"jobs done" not in out:
            out += os.read(ours, 4096)
        watcher.send_signal(signal.SIGINT)
        while True:
            try:
                more = os.read(ours, 4096)
            except OSError:  # its end is closed
                break
            if not more:
                break
            out += more
        assert watcher.wait(timeout=60) == 130
    assert b"[------------------------------] 0 of 2 jobs done" in out
    assert b"Traceback" not in out
    assert out.replace(b"\r", b"").rstrip().endswith(b"no longer watching; what runs goes on")
