"""A real Slurm for the whole session, and a fake one for tests of scale."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

from bench.bench_toml import read_site
from bench.errors import BenchError
from bench.execution import readiness
from bench.execution.readiness import RetryRules
from bench.execution.slurm import submit
from bench.planning.graph import JobGraph
from bench.runs.folder import Runs
from bench.settings.site import Site

HERE = Path(__file__).parent
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "srun", "scontrol")


class RealSlurm:
    """Two simulated nodes of four CPUs, partitions `low` (preemptable) and `high`; no accounting."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def script(self, name: str, *arguments: str) -> None:
        found = subprocess.run(
            [str(HERE / name), *arguments],
            env=os.environ | {"SLURM_TEST_HOME": str(self.home)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert found.returncode == 0, found.stdout + found.stderr

    def ask(self, *command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()

    def queue(self) -> list[tuple[str, str, str]]:
        """Id, state and name of all jobs that slurmctld remembers."""
        lines = self.ask("squeue", "-h", "-r", "--states=all", "-o", "%i|%T|%j").splitlines()
        return [(a, b, c) for a, b, c in (line.split("|") for line in lines)]

    def states(self, ending: str = "") -> list[str]:
        return [state for _, state, name in self.queue() if name.endswith(ending)]


@pytest.fixture(scope="session")
def real_slurm() -> Iterator[RealSlurm]:
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [name for name in NEEDED if shutil.which(name, path=path) is None]
    if os.geteuid() or missing:
        pytest.skip(
            "needs root and Debian's Slurm packages (tests/system_packages.sh); missing: "
            f"{', '.join(missing) or 'root'}"
        )
    cluster = RealSlurm(Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(cluster.home / "slurm.conf"))
        try:
            cluster.script("start_slurm.sh")
            yield cluster
        finally:
            cluster.script("stop_slurm.sh")
            shutil.rmtree(cluster.home, ignore_errors=True)


class FakeSlurm:
    """Says what a big cluster would."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.set()

    def set(self, **settings: object) -> None:
        (self.home / "settings.json").write_text(json.dumps(settings))

    def calls(self, program: str) -> int:
        path = self.home / "calls"
        return path.read_text().splitlines().count(program) if path.exists() else 0

    def submitted(self) -> list[dict[str, object]]:
        path = self.home / "log"
        entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [entry for entry in entries if entry["what"] == "sbatch"]


@pytest.fixture
def fake_slurm(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    home = workplace / "fake"
    home.mkdir()
    monkeypatch.setenv("FAKE_SLURM", str(home))
    monkeypatch.setenv("PATH", f"{HERE / 'fake'}{os.pathsep}{os.environ['PATH']}")
    return FakeSlurm(home)


class Place:
    """A working folder with a bench.toml and what `bench run --executor slurm` does in it, without the command line."""

    def __init__(self, folder: Path, toml: str = "") -> None:
        self.file = folder / "bench.toml"
        self.file.write_text(toml)
        self.runs = Runs(folder / "runs")

    @property
    def site(self) -> Site:
        return read_site(self.file)

    def submit(self, graph: JobGraph, forced: frozenset[str] = frozenset()) -> submit.Submitted:
        def ready(active: Collection[str]) -> None:
            readiness.prepare(graph, self.runs, self.site, RetryRules(), forced, "slurm", active)

        return submit.submit(list(graph), self.runs, self.site, ready, ["tests@tiny"])

    def error(self, graph: JobGraph) -> str:
        with pytest.raises(BenchError) as found:
            self.submit(graph)
        return str(found.value)


def wait_until(true: Callable[[], bool], what: Callable[[], object] = lambda: "", seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)
