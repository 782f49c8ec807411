from __future__ import annotations

import os
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bench.bench_toml import find_site, read_site
from bench.commands import doctor
from bench.commands.doctor import Check, checks
from bench.settings.site import Site
from tests.conftest import BENCH


@pytest.fixture
def site(workplace: Path) -> Site:
    return find_site(workplace)


def found(site: Site, topic: str) -> list[Check]:
    return [check for check in checks(site) if check.topic == topic]


def test_a_fresh_place_is_well_and_says_what_is_not_there(site: Site) -> None:
    everything = list(checks(site))
    assert [check for check in everything if check.state == "broken"] == []
    assert {
        "versions",
        "processor",
        "memory",
        "GPU",
        "site",
        "disk",
        "data",
        "lists",
        "weights",
        "Slurm",
        "Detectron2",
    } <= {c.topic for c in everything}
    here, absent = found(site, "data")
    assert "mnist5k" in here.text
    assert "imagenet" in absent.text
    assert absent.advice.startswith("`bench data fetch NAME`")


def test_a_data_set_that_bench_toml_names_and_that_is_not_whole_is_broken(workplace: Path) -> None:
    (workplace / "imagenet" / "train").mkdir(parents=True)
    (workplace / "bench.toml").write_text('[data]\nimagenet = "imagenet"\n')
    broken, *_ = found(read_site(workplace / "bench.toml"), "data")
    assert broken.state == "broken"
    assert "imagenet" in broken.text
    assert broken.advice == "`bench data check imagenet` looks closer"


def test_a_full_disk_is_seen_before_it_is_met(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 1e8})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    (disk,) = found(site, "disk")
    assert (disk.state, disk.text.startswith("0 GB free")) == ("broken", True)


def executable(folder: Path, name: str, script: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def test_slurm_is_looked_at_through_its_own_commands(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = workplace / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}/usr/bin{os.pathsep}/bin")
    executable(tools, "sbatch", "echo slurm 22.05.8")
    executable(tools, "scontrol", "exit 1")
    site = find_site(workplace)
    (asleep,) = found(site, "Slurm")
    assert asleep.state == "off"
    (workplace / "bench.toml").write_text('[slurm]\npartition = "gpu"\n')
    (down,) = found(read_site(workplace / "bench.toml"), "Slurm")
    assert down.state == "broken"
    executable(tools, "scontrol", "echo 'Slurmctld(primary) at node is UP'")
    executable(tools, "sinfo", "printf 'cpu*\\ngpu\\n'")
    executable(tools, "sacct", "exit 0")
    (up,) = found(site, "Slurm")
    assert (up.state, up.text) == ("ok", "slurm 22.05.8, partitions: cpu*, gpu")
    (workplace / "bench.toml").write_text('[slurm]\npartition = "gpus"\n')
    wrong = [check for check in found(read_site(workplace / "bench.toml"), "Slurm") if check.state == "broken"]
    assert "asks for partition 'gpus' for pretrain" in wrong[0].text


def test_a_check_that_fails_itself_hides_no_other(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(site: Site) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(doctor, "_disk", fail)
    everything = list(checks(site))
    assert [check.text for check in everything if check.topic == "disk"] == [
        "could not be looked at: RuntimeError: no such luck"
    ]
    assert everything[-1].topic == "Detectron2"


def test_a_folder_that_cannot_be_written_to_is_named(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    real = os.access
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != closed and real(path, mode))
    broken = [check for check in found(replace(site, runs=closed / "runs"), "site") if check.state == "broken"]
    assert [check.text for check in broken] == [f"[paths] runs: {closed} cannot be written to"]


def test_the_command_prints_a_line_each_and_fails_when_something_is_broken(workplace: Path) -> None:
    well = subprocess.run([*BENCH, "doctor"], capture_output=True, text=True, timeout=120, check=False)
    assert well.returncode == 0, well.stdout + well.stderr
    assert well.stdout.rstrip().endswith("nothing is broken")
    (workplace / "bench.toml").write_text('[data]\ncifar10 = "nowhere"\n')
    ill = subprocess.run([*BENCH, "doctor"], capture_output=True, text=True, timeout=120, check=False)
    assert ill.returncode == 1
    assert "cifar10" in ill.stdout
    assert "1 thing is broken" in ill.stdout


@pytest.mark.parametrize("wheel", [True, False])
def test_what_is_not_installed_comes_with_a_command_for_it(monkeypatch: pytest.MonkeyPatch, wheel: bool) -> None:
    monkeypatch.setattr(doctor, "installed", lambda: wheel)
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    (lost,) = [check for check in doctor._versions() if check.state == "broken"]
    assert lost.text == "not installed: no-such-package"
    assert ("--editable" in lost.advice, "no-such-package" in lost.advice) == (not wheel, wheel)
