"""The real command line in an empty folder, with real worker processes, at the `smoke` scale."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest

from bench.runs.folder import Runs, State
from tests.conftest import BENCH

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


def run(folder: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, *extra], cwd=folder, capture_output=True, text=True, timeout=600, check=False)


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(RUN, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def table_of(folder: Path) -> str:
    return (folder / "results/out/smoke/simclr_table6.csv").read_text()


def cells(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    return {(line["row"], line["column"]): line for line in csv.DictReader(table_of(folder).splitlines())}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    found = run(folder)
    assert found.returncode == 0, found.stdout + found.stderr
    return folder


def test_a_run_prints_the_table_and_writes_everything(undisturbed: Path) -> None:
    found = cells(undisturbed)
    assert len({row for row, _ in found}) == 16  # 13 printed rows and 3 references
    measured = found["SimCLR (ours), ResNet-50", "Top-1, 1 % labels"]
    assert measured["status"] == "done"
    assert 0 < float(measured["measured_mean"]) < 100
    assert measured["n"] == "1"
    assert measured["job_ids"].startswith("evaluate-")
    assert found["SimCLR (ours), ResNet-50", "Top-1"]["published"] == "69.3"
    assert found["SimCLR (ours), ResNet-50", "Top-1"]["status"] == "not asked"
    assert found["PIRL, ResNet-50", "Top-1"]["status"] == "not implemented"
    for name in ("results/out/smoke/simclr_table6.md", "results/out/smoke/simclr_table6.tex", "reports/out/index.html"):
        assert (undisturbed / name).stat().st_size > 500


def test_the_second_run_computes_nothing_and_says_so(undisturbed: Path) -> None:
    before = table_of(undisturbed)
    results = {path: path.stat().st_mtime_ns for path in undisturbed.glob("runs/*/result.json")}
    found = run(undisturbed)
    assert found.returncode == 0
    assert "jobs are done already: nothing to compute" in found.stdout
    assert "| SimCLR (ours) | ResNet-50 |" in found.stdout
    assert {path: path.stat().st_mtime_ns for path in undisturbed.glob("runs/*/result.json")} == results
    assert table_of(undisturbed) == before


def test_status_and_logs_tell_what_happened(undisturbed: Path) -> None:
    def ask(*arguments: str) -> str:
        return subprocess.run(
            [*BENCH, *arguments], cwd=undisturbed, capture_output=True, text=True, timeout=60, check=True
        ).stdout

    assert ask("status") == "simclr_table6@smoke: 5 done\n"
    lines = ask("status", "--table", "simclr_table6").splitlines()
    assert len(lines) == 6
    job = next(line.split()[1] for line in lines if "pretrain-" in line)
    assert ask("logs", job).endswith("done\n")


def test_the_same_command_elsewhere_gives_the_same_digits(undisturbed: Path, workplace: Path) -> None:
    found = run(workplace, "--executor", "inline")
    assert found.returncode == 0, found.stdout + found.stderr
    assert table_of(workplace) == table_of(undisturbed)


@contextmanager
def _held(undisturbed: Path, workplace: Path) -> Iterator[None]:
    """Have one evaluation as another process would, so that no run comes to an end before it is killed."""
    job = min(path.name for path in undisturbed.glob("runs/evaluate-*"))
    run = Runs(workplace / "runs")[job]
    assert run.claim("held by a test")
    try:
        yield
    finally:
        run.release()


def _kill_driver(driver: subprocess.Popen[str], folder: Path, wait: Callable[[], float]) -> None:
    time.sleep(1.5 + wait())
    assert driver.poll() is None, "the run was over, though a job of it is held"
    driver.kill()
    driver.wait()


def _kill_worker(driver: subprocess.Popen[str], folder: Path, wait: Callable[[], float]) -> None:
    """Kill the first worker that is still running a random moment after it was seen."""
    runs = Runs(folder / "runs")
    delay = wait() / 10
    while driver.poll() is None:
        for path in folder.glob("runs/*-*"):
            claim = runs[path.name].claim_holder()
            if claim is not None and claim.pid != driver.pid and runs[path.name].state() is State.RUNNING:
                time.sleep(delay)
                with suppress(ProcessLookupError):  # it has ended
                    os.kill(claim.pid, signal.SIGSTOP)  # what is stopped cannot end between the look and the kill
                    if runs[path.name].state() is State.RUNNING:
                        os.kill(claim.pid, signal.SIGKILL)
                        driver.communicate(timeout=300)
                        assert driver.returncode == 1
                        return
                    os.kill(claim.pid, signal.SIGCONT)
                delay /= 2  # the job was quicker
        time.sleep(0.005)
    raise AssertionError("no worker was seen running")


@pytest.mark.parametrize("kill", [_kill_driver, _kill_worker])
def test_killed_at_three_random_moments_the_same_command_goes_on(
    undisturbed: Path, workplace: Path, kill: Callable[[subprocess.Popen[str], Path, Callable[[], float]], None]
) -> None:
    seed = random.randrange(1 << 32)
    print(f"moments drawn with seed {seed}")  # shown when the test fails, to replay it
    rng = random.Random(seed)
    with _held(undisturbed, workplace) if kill is _kill_driver else nullcontext():
        for _ in range(3):
            with start(workplace) as driver:
                kill(driver, workplace, lambda: rng.uniform(0, 2))
    found = run(workplace)
    assert found.returncode == 0, found.stdout + found.stderr
    assert table_of(workplace) == table_of(undisturbed)


def test_ctrl_c_saves_and_says_how_to_go_on(undisturbed: Path, workplace: Path) -> None:
    with start(workplace) as driver:
        while not list(workplace.glob("runs/pretrain-*/state/claim")):
            assert driver.poll() is None
            time.sleep(0.02)
        driver.send_signal(signal.SIGINT)
        out, _ = driver.communicate(timeout=120)
    assert driver.returncode == 130, out
    assert "the same command goes on where" in out
    assert run(workplace).returncode == 0
    assert table_of(workplace) == table_of(undisturbed)


def test_ctrl_c_right_after_a_start_is_no_crash(workplace: Path) -> None:
    with start(workplace) as driver:
        assert driver.stdout is not None
        while not driver.stdout.readline().startswith("started"):
            assert driver.poll() is None
        driver.send_signal(signal.SIGINT)  # the workers cannot listen yet: they are importing torch
        out, _ = driver.communicate(timeout=120)
    assert driver.returncode == 130, out
    assert "failed" not in out
    assert not list(workplace.glob("runs/*/error.json"))


def test_two_runs_at_once_share_the_work_and_both_print_the_table(undisturbed: Path, workplace: Path) -> None:
    with start(workplace) as one, start(workplace) as two:
        outputs = [driver.communicate(timeout=300)[0] for driver in (one, two)]
    assert (one.returncode, two.returncode) == (0, 0), outputs
    assert all("| SimCLR (ours) | ResNet-50 |" in out for out in outputs)
    assert table_of(workplace) == table_of(undisturbed)
    finished = {path.parent.name: path.read_text().count("\ndone\n") for path in workplace.glob("runs/*/log.txt")}
    assert len(finished) == 5
    assert set(finished.values()) == {1}


def test_a_corrupt_result_is_named_set_aside_and_run_again(undisturbed: Path, workplace: Path) -> None:
    assert run(workplace).returncode == 0
    victim = next(workplace.glob("runs/evaluate-*/result.json"))
    others = {p: p.stat().st_mtime_ns for p in workplace.glob("runs/*/result.json") if p != victim}
    victim.write_text('{"format": 1, "metr')
    found = run(workplace)
    assert found.returncode == 0
    assert "set aside" in found.stdout
    assert str(victim) in found.stdout
    assert victim.with_name("result.json.corrupt-1").exists()
    assert {p: p.stat().st_mtime_ns for p in others} == others
    assert table_of(workplace) == table_of(undisturbed)


BROKEN = '''"""A method whose worker dies: {how}."""
from dataclasses import dataclass, field, replace
import os, signal
from methods import simclr

@dataclass(frozen=True, kw_only=True)
class Config(simclr.Config):
    VERSION: int = field(default=1, init=False)

class Method(simclr.Method):
    def after_step(self, progress):
        {code}

RECIPES = {{name: replace(recipe, method=Config(hidden=16)) for name, recipe in simclr.RECIPES.items()}}
'''
TABLE = '''"""A table with one broken row."""
from results.table import Column, Row, Table
TABLE = Table(id="broken", paper="none", arxiv="0000.00000", number="1", title="A broken row",
    columns=(Column(name="Top-1", metric="top1", protocol="knn"),),
    rows=(Row(label="Broken", method="broken", printed={"Top-1": "50.0"}),
        Row(label="Random", method="random", printed={"Top-1": "40.0"})))
'''


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL (out of memory, or killed by hand)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV (segmentation fault)"),
        ("raise ValueError('no luck')", "ValueError: no luck"),
        ("[p.data.fill_(float('nan')) for p in self.parameters()]", "diverged: loss"),
    ],
    ids=["killed", "segfault", "exception", "nan"],
)
def test_a_worker_that_dies_fails_its_row_and_nothing_else(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    for folder, name, text in (
        ("methods", "broken", BROKEN.format(how="on purpose", code=code)),
        ("tables", "broken", TABLE),
    ):
        (workplace / "plugins" / folder).mkdir(parents=True)
        (workplace / "plugins" / folder / f"{name}.py").write_text(text)
    monkeypatch.setenv("BENCH_PLUGINS", str(workplace / "plugins"))
    found = subprocess.run(
        [*BENCH, "run", "--table", "broken", "--scale", "smoke"],
        cwd=workplace,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 1, found.stdout + found.stderr
    assert words in found.stdout
    assert "blocked by that: 1 job\n" in found.stdout
    failed = [path.parent for path in workplace.glob("runs/pretrain-*/error.json")]
    assert len(failed) == 1
    assert str(failed[0] / "log.txt") in found.stdout
    lines = {
        line["row"]: line
        for line in csv.DictReader((workplace / "results/out/smoke/broken.csv").read_text().splitlines())
    }
    assert lines["Broken"]["status"] == "blocked"
    assert lines["Random"]["status"] == "done"
    assert json.loads((failed[0] / "error.json").read_text())["kind"] in ("crashed", "error", "diverged")


def test_a_full_disk_is_one_line_and_leaves_no_half_result(workplace: Path) -> None:
    disk = workplace / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("needs root and mount to make a small disk")
    try:
        (workplace / "bench.toml").write_text('[paths]\nruns = "disk/runs"\n')
        found = run(workplace)
        assert found.returncode == 2
        assert found.stderr.count("\n") == 1
        assert "the disk is too full for this plan" in found.stderr
        # With the check before the start out of the way, the write itself must say it.
        (disk / "ballast").write_bytes(b"x" * 200_000)
        small = [
            "bench",
            "run",
            "--table",
            "simclr_table6",
            "--scale",
            "smoke",
            "--rows",
            "random",
            "--columns",
            "kNN Top-1",
        ]
        code = (
            "import sys; from bench import cli; from bench.execution import readiness; "
            f"readiness.free_space = lambda *_: None; sys.argv = {small!r}; cli.main()"
        )
        found = subprocess.run(
            [sys.executable, "-P", "-c", code], cwd=workplace, capture_output=True, text=True, timeout=300, check=False
        )
        assert found.returncode in (1, 2)
        assert "the disk is full" in found.stdout + found.stderr
        assert not list(disk.glob("runs/*/result.json"))
        assert not list(disk.glob("runs/**/.*.tmp"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
