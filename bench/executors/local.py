"""A queue over the CPU slots or GPUs of this machine: one process a job, one slot a process.

A slot is a lock on a file of this machine (not of the shared file system). The driver takes it and hands the open file
to the worker, so the slot is free exactly when the worker is gone, however it went, even if the driver was killed
before; and several `bench run` on one machine share its slots instead of fighting over cores.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.errors import BenchError
from bench.executors import Ended, NoSlotError
from bench.runs import RunFolder
from bench.site import NAME as SITE_FILE
from bench.site import Site
from bench.spec import Resources


class LocalExecutor:
    """Starts workers while slots are free. Slots: `[local] slots` of bench.toml, else one a GPU, else one a core."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._names = slot_names(site)
        self._on_gpus = bool(_gpus())
        self._folder = Path(tempfile.gettempdir()) / f"bench-slots-{os.getuid()}"
        self._workers: dict[str, subprocess.Popen[bytes]] = {}

    def room(self) -> bool:
        """Whether a slot is free: of one process, or of as many GPUs as a pretraining takes."""
        needed = self._site.ranks if self._on_gpus else 1
        locks = [lock for name in self._names if (lock := self._lock(name)) is not None]
        for lock in locks:
            os.close(lock)
        return len(locks) >= needed

    def submit(self, run: RunFolder) -> None:
        """Start the worker in a process group of its own. Raises BenchError when another driver took the last slot."""
        resources = run.resources
        held = self._take(resources.ranks if self._on_gpus else 1)
        if not held:
            raise NoSlotError
        command = [sys.executable, "-m", "bench.worker", str(run.path)]
        if resources.ranks > 1:
            torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={resources.ranks}"]
            command = [sys.executable, *torchrun, "-m", "bench.worker", str(run.path)]
        run.path.mkdir(parents=True, exist_ok=True)
        try:
            with run.log.open("ab") as log:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment(resources, list(held)),
                    cwd=self._site.root,
                    start_new_session=True,
                    pass_fds=tuple(held.values()),
                )
        finally:
            for lock in held.values():  # the worker keeps its copy
                os.close(lock)
        self._workers[run.job_id] = process

    def ended(self) -> list[Ended]:
        """Reap."""
        found = []
        for job, process in list(self._workers.items()):
            code = process.poll()
            if code is not None:
                del self._workers[job]
                found.append(Ended(job, code))
        return found

    def running(self) -> list[str]:
        """Jobs of this driver's living workers."""
        return list(self._workers)

    def stop(self, jobs: list[str]) -> None:
        """SIGTERM to the worker (torchrun passes it on): it saves its state at the next step and exits."""
        for job in jobs:
            if job in self._workers:
                try:
                    self._workers[job].send_signal(signal.SIGTERM)
                except ProcessLookupError:
                    continue

    def _take(self, count: int) -> dict[str, int]:
        """Lock `count` slots, all or none."""
        held: dict[str, int] = {}
        for name in self._names:
            lock = self._lock(name)
            if lock is not None:
                held[name] = lock
            if len(held) == count:
                return held
        for lock in held.values():
            os.close(lock)
        return {}

    def _lock(self, name: str) -> int | None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(self._folder / name, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def _environment(self, resources: Resources, slots: list[str]) -> dict[str, str]:
        """Threads as many as the slot has cores, the slot's GPU and no other, the same site and plug-ins."""
        threads = str(resources.threads)
        root = str(Path(__file__).parents[2])
        environment = dict(os.environ)
        environment |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
        environment["PYTHONSAFEPATH"] = "1"  # a folder `results` or `reports` in the working folder must not hide ours
        environment |= {"CUDA_VISIBLE_DEVICES": ",".join(slots) if self._on_gpus else ""}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH", "")]))
        if (self._site.root / SITE_FILE).is_file():
            environment["BENCH_SITE"] = str(self._site.root / SITE_FILE)
        return environment


def slot_names(site: Site) -> list[str]:
    """`cpu0`, `cpu1`, ... or the indices of the GPUs. Raises BenchError when bench.toml asks for more than there is."""
    gpus = _gpus()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = site.slots or (len(gpus) or max(1, cores // (site.threads * site.ranks)))
    if gpus and count > len(gpus):
        raise BenchError(f"[local] slots is {count}, but this machine has {len(gpus)} GPUs.")
    if gpus and site.ranks > count:
        raise BenchError(f"[local] ranks is {site.ranks}, but there are {count} GPU slots.")
    return gpus[:count] if gpus else [f"cpu{i}" for i in range(count)]


def _gpus() -> list[str]:
    """Indices of the GPUs that this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    found = subprocess.run([tool, "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=30, check=False)
    return found.stdout.split() if found.returncode == 0 else []
