"""The project installed from its wheel, outside any checkout: all files are there, and the commands work.

The new environment sees the packages of this one through a .pth file. Those that lie there are not processed in turn,
so an editable installation of the checkout is none in the new environment.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest

from bench import __version__
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

PACKAGES = ("bench", "evals", "methods", "reports", "results")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
PART = ["--rows", "SimCLR (ours), ResNet-50", "--columns", "kNN Top-1"]
RUN = ["bench", "run", "--table", "simclr_table6", "--scale", "smoke", *PART]

OURS = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("GIT_")}
OURS["PIP_NO_INDEX"] = "1"  # nothing is fetched


def output(*command: str, folder: Path, environment: dict[str, str], code: int = 0) -> str:
    found = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == code, found.stdout
    return found.stdout


def git(*arguments: str, folder: Path = ROOT) -> str:
    return output("git", *arguments, folder=folder, environment=OURS)


def sources() -> list[Path]:
    """What git tracks, or would if it were added now."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs the git checkout: it says which files are the project's")
    names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return [Path(name) for name in names if name and (ROOT / name).is_file()]


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and an empty folder to work in."""

    wheel: Path
    environment: Path
    folder: Path

    @property
    def site_packages(self) -> Path:
        return next(self.environment.glob("lib/python*/site-packages"))

    def ask(self, *command: str, code: int = 0, **variables: str) -> str:
        """What a command prints there, its path and home apart without any variable of this process."""
        clean = {"PATH": f"{self.environment / 'bin'}:/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}
        clean |= {"TMPDIR": str(self.folder.parent / "tmp"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return output(*command, folder=self.folder, environment=clean | variables, code=code)

    def python(self, code: str) -> str:
        return self.ask("python", "-c", code).strip()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Built from a copy, which leaves the checkout without build/; the environment lies in somebody's repository."""
    base = tmp_path_factory.mktemp("install")
    for name in sources():
        (base / "source" / name.parent).mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, base / "source" / name)

    def run(*command: str) -> None:
        output(*command, folder=base, environment=OURS)

    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "./source")
    (wheel,) = (base / "dist").iterdir()
    theirs = base / "theirs"
    run(sys.executable, "-m", "venv", "--without-pip", str(theirs / "venv"))
    run(*PIP, "--python", str(theirs / "venv" / "bin" / "python"), "install", "--no-deps", str(wheel))
    for part in ("folder", "tmp"):
        (theirs / part).mkdir()
    found = Installed(wheel, theirs / "venv", theirs / "folder")
    seen = [folder for folder in sys.path if Path(folder).name in ("site-packages", "dist-packages")]
    (found.site_packages / "packages_of_the_tests.pth").write_text("".join(f"{folder}\n" for folder in seen))
    git("init", "--quiet", folder=theirs)
    git("add", "--force", "venv/pyvenv.cfg", folder=theirs)
    identity = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false")
    git(*identity, "commit", "--quiet", "--message", "their own work", folder=theirs)
    return found


def test_the_wheel_has_every_file_of_the_packages_and_no_other(installed: Installed) -> None:
    with ZipFile(installed.wheel) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == {name.as_posix() for name in sources() if name.parts[0] in (*PACKAGES, "ssl_tables.py")}
    assert {f"{package}/py.typed" for package in PACKAGES} <= held


def test_what_is_imported_is_what_was_installed(installed: Installed) -> None:
    names = ", ".join(PACKAGES)
    found = installed.python(f"import {names}; print(*(package.__file__ for package in ({names})), sep='\\n')")
    assert found.splitlines() == [str(installed.site_packages / package / "__init__.py") for package in PACKAGES]
    others = "import importlib.util as u, sys; sys.path.remove(sys.argv[1]); print(u.find_spec('bench'))"
    assert str(ROOT / "bench") not in installed.ask("python", "-c", others, str(installed.site_packages))


def test_tables_are_listed_and_planned(installed: Installed) -> None:
    names = {name.stem for name in sources() if name.parent == Path("results/tables") and name.stem[0] != "_"}
    assert {line.split()[0] for line in installed.ask("bench", "list").splitlines()} >= names
    assert "3 after each is taken once" in installed.ask("bench", "plan", *RUN[2:], "--columns", "Top-1")


def test_plug_ins_are_found(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    shutil.copy(installed.site_packages / "results" / "tables" / "simclr_table6.py", tmp_path / "tables" / "own.py")
    assert "own " in installed.ask("bench", "list", BENCH_PLUGINS=str(tmp_path))
    assert "own " not in installed.ask("bench", "list")


def test_a_run_has_workers_and_writes_table_and_report(installed: Installed) -> None:
    installed.ask(*RUN)
    lines = (installed.folder / "results/out/smoke/simclr_table6.csv").read_text().splitlines()
    cells = {(line["row"], line["column"]): line["status"] for line in csv.DictReader(lines)}
    assert cells["SimCLR (ours), ResNet-50", "kNN Top-1"] == "done"
    assert "SimCLR" in (installed.folder / "reports/out/smoke/simclr_table6.html").read_text()
    results = [json.loads(path.read_text()) for path in installed.folder.glob("runs/*/result.json")]
    versions = {result["provenance"]["commit"] for result in results}
    assert versions == {f"ssl-tables {__version__}"}  # not the commit of the repository that the environment lies in
    assert "(up to date)" in installed.ask(*RUN)
    os.utime(next(installed.site_packages.glob("ssl_tables-*.dist-info")))  # as another installation does
    assert "(up to date)" not in installed.ask(*RUN)


def test_slurm_jobs_get_a_copy_of_the_packages_and_of_nothing_beside_them(installed: Installed) -> None:
    taking = "from pathlib import Path; from bench.runs.commit import commit; from bench.runs.folder import Runs"
    taking += "; from bench.execution.slurm import snapshot"
    code = Path(installed.python(f"{taking}; print(snapshot.take(Runs(Path('queued').resolve()), commit()).code)"))
    assert {path.name for path in code.iterdir()} == {*PACKAGES, "COMMIT"}
    asked = "import bench; from bench.runs.commit import commit; print(bench.__file__, commit())"
    expected = f"{code / 'bench' / '__init__.py'} ssl-tables {__version__}\n"
    assert installed.ask("python", "-P", "-c", asked, PYTHONPATH=str(code)) == expected


def test_the_packaged_records_give_the_packaged_references_and_the_report(installed: Installed) -> None:
    assert "no results" in installed.ask("bench", "check", "--all", "--scale", "embedded", code=2)
    installed.ask("bench", "report", "--records", "--out", "recorded")
    assert "Barlow" in (installed.folder / "recorded/embedded/barlow_table1.html").read_text()

    packaged = installed.site_packages / "results" / "reference"
    of_one_table = installed.folder / "one"  # is enough, and quicker than all
    for source in (packaged.parent / "records/embedded.jsonl", packaged / "embedded/barlow_table1.csv"):
        (of_one_table / source.parent.name).mkdir(parents=True)
        shutil.copy(source, of_one_table / source.parent.name)
    unpacking = "from pathlib import Path; from bench.runs.folder import Runs; from results.regression import kept"
    installed.python(f"{unpacking}; kept.unpack(Runs(Path('unpacked')), Path('one'))")
    site = installed.folder / "unpacked.toml"
    site.write_text('[paths]\nruns = "unpacked"\n')

    def check(*extra: str, code: int = 0) -> str:
        return installed.ask("bench", "check", "--table", "barlow_table1", *extra, code=code, BENCH_SITE=str(site))

    assert re.fullmatch(r"barlow_table1 at embedded: \d+ unchanged\n", check())
    before = {path: path.read_bytes() for path in packaged.rglob("*") if path.is_file()}
    refused = f"error: --update would write into {packaged}, which the next installation replaces: "
    assert refused in check("--update", code=2)
    assert "wrote mine/embedded/barlow_table1.csv" in check("--update", "--references", "mine")
    assert {path: path.read_bytes() for path in packaged.rglob("*") if path.is_file()} == before
