"""What has no data or package here: `--all` runs the rest and says why, a table by name is refused in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.bench_toml import find_site
from bench.commands import driver
from bench.commands.request import TableRequest, plan_request
from bench.execution.events import Summary
from bench.planning.graph import JobGraph
from bench.runs.folder import Runs, State
from bench.settings.site import Site
from evals.detection import compat
from tests.bench.test_scheduler import finish

REQUEST = '("vicreg_table2",), "smoke", 1, ("MoCo v2",), ("VOC07", "COCO det")'


@pytest.fixture
def site(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A machine without Detectron2."""
    monkeypatch.setattr(compat, "PACKAGES", ("detectron2_that_is_not_there",))
    return find_site(workplace)


def asked(site: Site, scale: str = "smoke") -> JobGraph:
    """A pretraining, an SVM and a detection."""
    return plan_request(TableRequest(site, ("vicreg_table2",), scale, 1, ("MoCo v2",), ("VOC07", "COCO det"))).graph


def test_only_what_needs_the_package_cannot_run(site: Site) -> None:
    jobs = asked(site)
    pretraining, svm, detection = jobs
    why = driver.cannot_run(jobs, site)
    assert list(why) == [detection.id]
    assert str(why[detection.id]).startswith("detection needs detectron2_that_is_not_there, not installed here: ")
    assert list(jobs.without(why)) == [pretraining, svm]
    finish(Runs(site.runs)[detection.id])
    assert driver.cannot_run(jobs, site) == {}  # what is done needs nothing
    assert list(driver.cannot_run(jobs, site, frozenset({detection.id}))) == [detection.id]


def test_what_waits_for_a_job_without_data_cannot_run_for_the_same_reason(site: Site) -> None:
    jobs = asked(site, "paper")
    pretraining, _, detection = jobs
    why = driver.cannot_run(jobs, site)
    assert set(why) == set(jobs.jobs)
    assert "data set 'imagenet' needs a folder" in str(why[pretraining.id])
    assert "detection needs detectron2_that_is_not_there" in str(why[detection.id])  # its own reason first
    finish(Runs(site.runs)[pretraining.id])
    assert pretraining.id not in driver.cannot_run(jobs, site)


def test_the_folder_says_why_and_the_next_run_tries_again(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = asked(site)
    why = driver.cannot_run(jobs, site)
    (job,) = why
    driver.prepare(jobs.without(why), site, driver.Again())
    driver.set_apart(jobs, why, site, "local")
    run = Runs(site.runs)[job]
    assert run.state() is State.FAILED
    assert (run.failure().kind, run.failure().message) == ("blocked", str(why[job]))
    assert capsys.readouterr().out == f"1 job cannot run here: {why[job]}\n"
    driver.prepare(jobs, site, driver.Again())  # Detectron2 has been installed
    assert run.state() is State.PENDING


def test_the_result_of_other_data_stays_where_the_job_cannot_run_again(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs, runs = asked(site), Runs(site.runs)
    for job in jobs:
        finish(runs[job.id])
    _, svm, detection = jobs
    outdated = {job.id: runs[job.id].result() for job in (svm, detection)}
    repeated = driver.without_what_stays(driver.Again(outdated=outdated), jobs, site)
    assert list(repeated.outdated) == [svm.id]
    said = "1 of these cannot run again here, the old results stay: detection needs detectron2_that_is_not_there"
    assert capsys.readouterr().out.startswith(said)


def test_a_run_that_left_something_out_is_not_complete(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = asked(site)
    summary = Summary(done=2, already=0, failed=(), blocked=(), stopped=(), missing=("a",))
    assert not summary.complete
    assert driver.closing(summary, jobs, site) == 1
    assert capsys.readouterr().out == "cannot run here, as said above: 1 job\n"


def test_every_reason_is_named_once_packages_first(site: Site) -> None:
    found = [str(problem) for problem in driver.missing_data(asked(site, "paper"), site)]
    assert [text.split(" needs ")[0] for text in found] == [
        "detection",
        "data set 'imagenet'",
        "data set 'voc2007'",
        "data set 'coco'",
    ]


WITHOUT_DETECTRON2 = """
import sys
from bench.bench_toml import find_site
from bench.commands.request import TableRequest
from bench.commands.run import run
from bench.errors import BenchError
from evals.detection import compat

compat.PACKAGES = ("detectron2_that_is_not_there",)
try:
    code = run(TableRequest(find_site(), {request}, everything={everything}), "inline", ())
except BenchError as error:
    print(error, file=sys.stderr)
    code = 2
sys.exit(code)
"""


def run_without(*, everything: bool, request: str = REQUEST) -> subprocess.CompletedProcess[str]:
    code = WITHOUT_DETECTRON2.format(request=request, everything=everything)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("everything", [True, False])
def test_without_a_package_the_rest_runs_and_the_cells_say_what_is_missing(workplace: Path, everything: bool) -> None:
    found = run_without(everything=everything)
    assert found.returncode == 1, found.stderr
    reason = "detection needs detectron2_that_is_not_there, not installed here"
    assert f"1 job cannot run here: {reason}" in found.stdout
    assert "2 jobs" in found.stdout
    assert "cannot run here, as said above: 1 job" in found.stdout
    runs = Runs(workplace / "runs")
    states = sorted(runs[path.parent.name].state() for path in runs.root.glob("*-*/job.json"))
    assert states == [State.DONE, State.DONE, State.FAILED]
    pages = [page.read_text(encoding="utf-8") for page in (workplace / "reports" / "out").rglob("*vicreg_table2*.html")]
    assert any(reason in page for page in pages)


@pytest.mark.parametrize("everything", [True, False])
def test_without_data_a_table_by_name_is_refused_and_so_is_an_all_of_which_nothing_can_run(
    workplace: Path, everything: bool
) -> None:
    nothing = run_without(everything=everything, request=REQUEST.replace("smoke", "paper"))
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert nothing.stderr.startswith("detection needs" if everything else "data set 'imagenet' needs a folder")
    assert not (workplace / "runs").exists()
