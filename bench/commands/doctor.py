"""`bench doctor`: what works on this machine and site, what does not, and what to do about it. Changes nothing.

Each check is one line: `ok` works, `off` is not there and nothing of the site asks for it, `broken` is something that
the site asks for (bench.toml names it, or a driver is installed) and that does not work.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from bench import ROOT, packages
from bench.authors import catalogue
from bench.commands import memory
from bench.data.catalogue import CATALOGUE
from bench.data.location import check_present
from bench.data.sets.lists import PUBLISHED, list_file, read_list
from bench.errors import BenchError, one_line
from bench.execution.environment import THREADS
from bench.execution.executors import default_slots
from bench.machine import cores
from bench.runs.commit import commit, installed
from bench.settings.site import Site
from bench.settings.slurm import SlurmSettings
from bench.weights import released
from bench.wording import counted

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "pandas", "matplotlib", "submitit")
LEAST_DISK = 2e9  # bytes: an embedded table with three seeds takes about one
SECONDS = 10.0  # that a command of the system may take


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, how it is, and what to do when it is not well."""

    topic: str
    state: Literal["ok", "off", "broken"]
    text: str
    advice: str = ""

    def line(self) -> str:
        """As printed."""
        return f"{self.state:<7} {self.topic:<12} {self.text}" + (f" -> {self.advice}" if self.advice else "")


def checks(site: Site) -> Iterator[Check]:
    """All of them, in the order in which a new user needs them.

    A check that fails itself becomes a line, not a traceback.
    """
    for topic, look in (
        ("versions", _versions),
        ("packages", _packages),
        ("processor", _processor),
        ("workers", lambda: _workers(site)),
        ("memory", lambda: _memory(site)),
        ("GPU", _gpu),
        ("site", lambda: _site(site)),
        ("disk", lambda: _disk(site)),
        ("data", lambda: _data(site)),
        ("lists", lambda: _lists(site)),
        ("weights", lambda: _weights(site)),
        ("Slurm", lambda: _slurm(site)),
        ("Detectron2", _detection),
    ):
        yield from _guarded(topic, look)


def _guarded(topic: str, look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from look()
    except Exception as error:  # whatever is wrong here must not hide the other checks
        yield Check(topic, "broken", f"could not be looked at: {one_line(error)}")


def _versions() -> Iterator[Check]:
    found, lost = [f"Python {platform.python_version()}"], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lost.append(name)
    found.append(f"commit {commit()}")
    yield Check("versions", "ok", ", ".join(found))
    if lost:
        yield Check("versions", "broken", f"not installed: {', '.join(lost)}", _how_to_install(*lost))


def _how_to_install(*packages: str) -> str:
    return f"`pip install {' '.join(packages)}`" if installed() else "`pip install --editable .` in the checkout"


def _packages() -> Iterator[Check]:
    found = packages.foreign()
    for sentence in found:
        yield Check("packages", "broken", sentence)
    if not found:
        yield Check("packages", "ok", f"{', '.join(packages.PACKAGES)} are those of {ROOT}")


def _processor() -> Iterator[Check]:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    yield Check("processor", "ok", f"{cores()} cores, {platform.machine()}, {capability}")
    inherited = [f"{name}={os.environ[name]}" for name in THREADS if os.environ.get(name, "1") != "1"]
    if inherited:
        yield Check(
            "processor",
            "off",
            f"{', '.join(inherited)} of this shell: workers set their own from bench.toml, so it does no harm",
        )


def _workers(site: Site) -> Iterator[Check]:
    for found in memory.decodings(site):
        yield Check("workers", "off" if found.advice else "ok", found.text, found.advice)


def _memory(site: Site) -> Iterator[Check]:
    available = memory.available_bytes()
    if available is not None:
        few = available < 2e9
        advice = "close something, or set [local] slots = 1" if few else ""
        yield Check("memory", "broken" if few else "ok", f"{available / 1e9:.1f} GB available", advice)
    for shared in memory.shared_memory(site):
        state: Literal["ok", "off", "broken"] = "ok" if shared.enough else "broken" if shared.wanted else "off"
        yield Check("memory", state, f"shared: {shared.text}", shared.advice)


def _gpu() -> Iterator[Check]:
    import torch

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            old = torch.cuda.get_device_capability(number) < (8, 0)
            half = 'no bf16 and no TF32: set precision = "fp16" under [recipe]' if old else "bf16, TF32"
            yield Check(
                "GPU",
                "ok",
                f"{number}: {torch.cuda.get_device_name(number)}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free, "
                f"{half}",
            )
        return
    if shutil.which("nvidia-smi") is None:
        yield Check("GPU", "off", "none: the embedded scale needs none, `paper` does")
        return
    built = torch.version.cuda
    reason = (
        "this torch was built without CUDA" if built is None else f"torch (CUDA {built}) does not see the driver's GPUs"
    )
    yield Check(
        "GPU", "broken", f"nvidia-smi is here, but {reason}", "install the torch build for the driver's CUDA version"
    )


def _site(site: Site) -> Iterator[Check]:
    where = str(site.file) if site.file else f"no bench.toml at or above {site.root}: defaults"
    yield Check(
        "site",
        "ok",
        f"{where}; {counted(default_slots(site), 'slot')}, {counted(site.threads, 'thread')} and "
        f"{counted(site.ranks, 'rank')} a job",
    )
    for name, folder in (("runs", site.runs), ("output", site.output), ("report", site.report)):
        near = next((f for f in (folder, *folder.parents) if f.exists()), Path("/"))
        if not os.access(near, os.W_OK):
            yield Check(
                "site", "broken", f"[paths] {name}: {near} cannot be written to", "name another folder in bench.toml"
            )


def _disk(site: Site) -> Iterator[Check]:
    near = next((f for f in (site.runs, *site.runs.parents) if f.exists()), Path("/"))
    free = shutil.disk_usage(near).free
    few = free < LEAST_DISK
    advice = "`bench plan` says what a table takes; name another place under [paths] runs" if few else ""
    yield Check("disk", "broken" if few else "ok", f"{free / 1e9:.0f} GB free for {site.runs}", advice)
    if site.staging:
        yield Check("disk", *memory.staging(site))


def _data(site: Site) -> Iterator[Check]:
    here, absent = [], []
    for name in CATALOGUE:
        try:
            check_present(name, site)
            here.append(name)
        except BenchError as error:
            if name in site.data:
                yield Check("data", "broken", one_line(error), f"`bench data check {name}` looks closer")
            else:
                absent.append(name)
    yield Check("data", "ok", f"here: {', '.join(here) or 'none'}")
    if absent:
        yield Check(
            "data",
            "off",
            f"not here: {', '.join(absent)}",
            "`bench data fetch NAME`, or its folder under [data] in bench.toml",
        )


def _lists(site: Site) -> Iterator[Check]:
    for name in PUBLISHED:
        try:
            file = list_file(name, site)
        except BenchError:
            yield Check(
                "lists",
                "off",
                f"{name}: SimCLR's list is not here",
                f"`bench data fetch {name}`; only ImageNet's semi-supervised tables need it",
            )
            continue
        try:
            read_list(name, file)
        except BenchError as error:
            yield Check("lists", "broken", one_line(error))
        else:
            yield Check("lists", "ok", f"{name}: {file}")


def _weights(site: Site) -> Iterator[Check]:
    absent = 0
    for name in catalogue():
        try:
            found = released.locate(name, site)
        except BenchError as error:
            if name in site.released:
                yield Check("weights", "broken", one_line(error))
            absent += 1
        else:
            yield Check("weights", "ok", f"{name}: {found.path}")
    if absent:
        yield Check(
            "weights",
            "off",
            f"{absent} of {len(catalogue())} files of authors' weights are not here",
            "only --released needs them",
        )


def _slurm(site: Site) -> Iterator[Check]:
    if shutil.which("sbatch") is None:
        yield Check("Slurm", "off", "sbatch is not on PATH: jobs run on this machine")
        return
    found = _output("scontrol", "ping")
    if found is None or "is UP" not in found:
        asked = site.slurm != SlurmSettings()  # without a [slurm] section Slurm may be installed and asleep
        advice = "`scontrol ping` should say UP; is SLURM_CONF right?"
        yield Check(
            "Slurm",
            "broken" if asked else "off",
            f"slurmctld does not answer: {' '.join((found or 'nothing').split())}",
            advice,
        )
        return
    # A site's own programs may greet first: a line that is one word with a letter in it is a partition.
    partitions = re.findall(r"^(?=.*\w)\S+$", _output("sinfo", "--noheader", "--format=%P") or "", re.MULTILINE)
    says = re.search(r"^slurm \S+$", _output("sbatch", "--version") or "", re.MULTILINE)
    yield Check(
        "Slurm",
        "ok",
        f"{says[0] if says else 'Slurm'}, partitions: {', '.join(partitions) or 'none shown'}",
    )
    if shutil.which("sacct") is None or _output("sacct", "--noheader", "--format=JobID") is None:
        yield Check(
            "Slurm", "off", "no accounting (sacct): states come from squeue and the run folders, which is enough"
        )
    names = {name.rstrip("*") for name in partitions}
    for kind in ("pretrain", "evaluate"):
        wanted = site.slurm.request(kind).partition
        if wanted and names and not set(wanted.split(",")) & names:
            yield Check(
                "Slurm",
                "broken",
                f"[slurm] asks for partition {wanted!r} for {kind}",
                f"there are {', '.join(sorted(names))}",
            )


def _detection() -> Iterator[Check]:
    from evals.detection import compat

    reason = compat.missing()
    yield Check("Detectron2", "off" if reason else "ok", reason or compat.describe())


def _output(*command: str) -> str | None:
    """What a command prints; None when it fails, is not there or takes too long."""
    try:
        found = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout if found.returncode == 0 else None


def show(site: Site) -> int:
    """Print all checks; 1 when something is broken."""
    if importlib.util.find_spec("torch") is None:
        raise BenchError(f"torch is not installed: {_how_to_install('torch')}.")
    broken = 0
    for check in checks(site):
        print(check.line(), flush=True)
        broken += check.state == "broken"
    print(f"\n{broken} {'thing is' if broken == 1 else 'things are'} broken" if broken else "\nnothing is broken")
    return int(bool(broken))
