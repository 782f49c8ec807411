from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.execution import energy, exits, worker
from bench.execution.energy import Gpus, Packages, metered
from bench.files import write_json
from bench.planning.graph import plan
from bench.runs.folder import RunFolder, Runs
from bench.runs.result import read_result
from bench.spec import Pretrain, Resources
from bench.training import loop
from bench.training.ranks import Ranks
from tests.conftest import tiny_pretrain

CPU = torch.device("cpu")
WRAPS_AT = 65_532_610_987  # microjoules, of a server


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def zone(root: Path, name: str, what: str, joules: float) -> Path:
    """A zone as the kernel shows it; returns its counter."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{what}\n")
    (folder / "max_energy_range_uj").write_text(f"{WRAPS_AT}\n")
    set_joules(folder / "energy_uj", joules)
    return folder / "energy_uj"


def set_joules(counter: Path, joules: float) -> None:
    counter.write_text(f"{round(joules * 1e6) % WRAPS_AT}\n")


@pytest.fixture
def node(tmp_path: Path) -> tuple[Path, list[Path]]:
    """A machine of two packages, 100 J and 200 J, and zones not to be counted: their cores, the whole board, a twin."""
    root = tmp_path / "powercap"
    packages = [zone(root, f"intel-rapl:{number}", f"package-{number}", 100.0 * (number + 1)) for number in (0, 1)]
    for name, what in (("intel-rapl:0:0", "core"), ("intel-rapl:2", "psys"), ("intel-rapl-mmio:0", "package-0")):
        zone(root, name, what, 50.0)
    return root, packages


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A driver with these GPUs, in joules."""
    counters = {"GPU-a": 1000.0, "GPU-b": 5000.0, "GPU-other": 7000.0}

    def handle(uuid: str) -> str:
        if uuid not in counters:
            raise RuntimeError("NVMLError_NotFound")
        return uuid

    fake = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetTotalEnergyConsumption=lambda uuid: round(counters[uuid] * 1000),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return counters


def test_packages_add_up_through_a_wrap(node: tuple[Path, list[Path]]) -> None:
    root, (first, second) = node
    set_joules(first, 65_500.0)
    clock = Clock()
    packages = Packages(root, clock)
    clock.now += 20
    set_joules(first, 65_600.0)  # past the largest value: shown as 67.4 J
    set_joules(second, 250.0)
    for name in ("intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"):
        set_joules(root / name / "energy_uj", 90.0)
    assert packages.read() == pytest.approx(150.0)
    clock.now += 20
    set_joules(first, 65_605.0)
    assert packages.read() == pytest.approx(155.0)


def test_a_gap_in_which_a_counter_may_wrap_twice_is_not_guessed(node: tuple[Path, list[Path]]) -> None:
    clock = Clock()
    packages = Packages(node[0], clock)
    clock.now += 60
    packages.read()
    clock.now += 70  # at 1 kW: more than the counter holds
    with pytest.raises(ValueError, match="70 s between two samples"):
        packages.read()


def test_only_the_gpus_of_the_job_count(nvml: dict[str, float]) -> None:
    gpus = Gpus(["GPU-b", "GPU-a"])
    before = gpus.read()
    nvml.update({"GPU-a": 1010.0, "GPU-b": 5007.5, "GPU-other": 9000.0})
    assert gpus.read() - before == pytest.approx(17.5)


def attempt(run: RunFolder, root: Path, change: Callable[[], None], ranks: Ranks | None = None) -> energy.Joules:
    """One attempt of a job during which counters change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(energy, "POWERCAP", root)
        with metered(run, ranks or Ranks(), CPU) as used:
            change()
    return used()


def test_of_a_job_that_goes_on_from_a_checkpoint_nobody_knows_the_sum(
    runs: Runs, node: tuple[Path, list[Path]]
) -> None:
    root, (package, _) = node
    run = runs["pretrain-0000"]
    run.path.mkdir(parents=True)
    assert attempt(run, root, lambda: set_joules(package, 130.0)) == {"packages": pytest.approx(30.0)}
    assert attempt(run, root, lambda: set_joules(package, 135.0)) == {"packages": pytest.approx(5.0)}  # anew
    run.checkpoint.touch()
    assert attempt(run, root, lambda: set_joules(package, 140.0)) == {}


def test_a_part_that_cannot_be_read_is_left_out_and_never_fails_the_job(
    runs: Runs,
    node: tuple[Path, list[Path]],
    nvml: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, (package, _) = node
    run = runs["pretrain-0000"]
    run.path.mkdir(parents=True)
    monkeypatch.setattr(energy, "_uuid", lambda device: "GPU-a")

    def use() -> None:
        set_joules(package, 130.0)
        nvml["GPU-a"] += 12.0

    assert attempt(run, root, use) == {"packages": pytest.approx(30.0), "gpus": pytest.approx(12.0)}
    assert attempt(run, root, package.unlink) == {"gpus": 0.0}
    assert "energy of packages is not known" in capsys.readouterr().out
    assert attempt(run, root, lambda: nvml.update({"GPU-a": 3.0})) == {}  # the driver was loaded anew
    monkeypatch.setattr(energy, "_uuid", lambda device: "GPU-unknown")
    assert attempt(run, root, lambda: None) == {}


def test_all_ranks_of_a_node_are_read_by_the_first_and_several_nodes_not_at_all(
    runs: Runs, tmp_path: Path, nvml: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs["pretrain-0000"]
    run.path.mkdir(parents=True)

    def use() -> None:
        nvml.update({name: joules + 2.0 for name, joules in nvml.items()})

    def of(*places: tuple[str, str], rank: int = 0) -> energy.Joules:
        monkeypatch.setattr(energy, "_gathered", lambda own, ranks: list(places))
        return attempt(run, tmp_path, use, Ranks(rank=rank, world=2, local=rank))

    assert of(("node", "GPU-a"), ("node", "GPU-b")) == {"gpus": pytest.approx(4.0)}
    assert of(("node", "GPU-a"), ("node", "GPU-b"), rank=1) == {}
    assert of(("node", "GPU-a"), ("another", "GPU-b")) == {}


@pytest.mark.parametrize("known", [True, False])
def test_a_result_says_what_its_job_used_or_that_nobody_knows(
    runs: Runs, node: tuple[Path, list[Path]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, known: bool
) -> None:
    root, (package, _) = node
    monkeypatch.setattr(energy, "POWERCAP", root if known else tmp_path / "none")
    really = loop.pretrain

    def pretrain(spec: Pretrain, place: loop.Place) -> loop.Trained:
        set_joules(package, 142.0)
        return really(spec, place)

    monkeypatch.setattr(loop, "pretrain", pretrain)
    (job,) = plan([("two steps", tiny_pretrain(epochs=0.1))])
    run = runs[job.id]
    run.create(job, Resources(threads=1))
    assert worker.main(str(run.path)) == exits.DONE
    made = run.result().provenance
    assert (made.energy_joules, made.energy_parts) == ((42.0, {"packages": 42.0}) if known else (None, {}))

    # A result from before energy was read still loads.
    body = json.loads(run.result_file.read_text())
    del body["provenance"]["energy_joules"], body["provenance"]["energy_parts"]
    write_json(run.result_file, body)
    assert read_result(run.result_file).provenance.energy_joules is None
