"""A queue over the CPU slots or GPUs of this machine: one process a job, one slot a process.

Jobs of one rank and one thread on CPUs are forked from a process that has imported torch already; others are started
from nothing, each with the GPUs, the rank and the threads that it has from the beginning.

A slot is a lock on a file of this machine (not of the shared file system). The driver takes it and hands the open file
to the worker, so the slot is free exactly when the worker is gone, however it went, even if the driver was killed
before; and several `bench run` on one machine share its slots instead of fighting over cores.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from site import getsitepackages, getusersitepackages
from typing import IO
from urllib.parse import quote

from bench import ROOT
from bench.errors import BenchError
from bench.execution import environment, exits
from bench.execution.local import gpus
from bench.execution.local.forks import Forked, ForkServer, fits
from bench.execution.protocol import Ended, NoSlotError
from bench.machine import BESIDE, DEVICE, cores
from bench.runs.folder import RunFolder, State
from bench.settings.site import Site
from bench.spec import Resources

CORES_BESIDE_GPUS = 8  # for each job that wants no GPU on a machine that has some
LOOK_SECONDS = 1.0  # between two looks at the files of jobs that share a worker
SAID_BYTES = 1 << 20  # at most, of what a server printed, into one log


class _NotStarted:
    """Stands for a process that the machine would not start."""

    pid = 0

    def poll(self) -> int:
        return exits.NOT_STARTED

    def send_signal(self, number: int) -> None:
        """Nobody hears it."""

    def kill(self) -> None:
        """Nothing is there."""


_Process = subprocess.Popen[bytes] | Forked | _NotStarted


@dataclass
class _Worker:
    """The processes of one job, one a rank, or the one of several jobs."""

    processes: Sequence[_Process]
    log: Path
    runs: Mapping[str, RunFolder]
    first_failure: int = 0
    looked: float = field(default_factory=time.monotonic)

    def poll(self) -> int | None:
        """The job's exit code once all ranks are gone: 0, or that of the rank that failed first."""
        codes = [process.poll() for process in self.processes]
        if not self.first_failure:
            self.first_failure = next((code for code in codes if code), 0)
            if self.first_failure not in (exits.DONE, exits.STOPPED):  # stopped ranks all end by themselves
                for process in self.processes:
                    process.kill()
        return None if None in codes else self.first_failure

    def is_over(self, job: str) -> bool:
        """Whether one of several jobs has ended before the others, which go on.

        It was neither done nor failed when it was given to this worker.
        """
        return self.runs[job].state() in (State.DONE, State.FAILED, State.CANCELLED)

    def look(self) -> bool:
        """Whether it is time to look at the files of several jobs."""
        due = len(self.runs) > 1 and time.monotonic() - self.looked >= LOOK_SECONDS
        if due:
            self.looked = time.monotonic()
        return due


class LocalExecutor:
    """Starts workers while slots are free. Slots: `[local] slots` of bench.toml, else one a GPU, else one a core."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._folder = Path(tempfile.gettempdir()) / f"bench-slots-{os.getuid()}"
        self._workers: dict[str, _Worker] = {}
        self._server: ForkServer | None = None
        self._ahead: int | None = None  # file of what a server prints that was started before there was a job's log
        self._handed_over = 0  # bytes of it

    @cached_property
    def _gpus(self) -> list[str]:
        return gpus.visible()  # asked when a job is to start: a finished table needs no driver

    @cached_property
    def _names(self) -> list[str]:
        return _slot_names(self._site, self._gpus)

    def get_ready(self) -> None:
        """Start the process that forks workers: its imports take as long as the caller's own."""
        resources = Resources(threads=self._site.threads)
        if self._forks(resources):
            with suppress(OSError):  # should it not start, or end, the first job starts another one
                self._ahead, name = tempfile.mkstemp()
                weakref.finalize(self, os.close, self._ahead)
                Path(name).unlink()
                self._living_server(self._environment(resources, []), self._ahead)

    def room(self, run: RunFolder) -> bool:
        """Whether as many slots are free as the job takes: one, or on a GPU machine one a rank."""
        held = self._take(run.resources)
        for lock in held.values():
            os.close(lock)
        return bool(held)

    def most(self, run: RunFolder) -> int:
        """As many as the machine's slots make."""
        names, count = self._names_for(run.resources)
        return len(names) // count

    def has_gpu(self, run: RunFolder) -> bool:
        """Where this machine has one, unless the job wants none."""
        return run.resources.gpu and bool(self._gpus)

    def submit(self, run: RunFolder, beside: Sequence[RunFolder] = ()) -> None:
        """Start the job's ranks, each a process in a session of its own. Raises NoSlotError when the slots are gone.

        With others `beside` it, one process for all of them.
        """
        resources = run.resources
        held = self._take(resources)
        if not held:
            raise NoSlotError
        try:
            port = _free_port() if resources.ranks > 1 else 0
            processes = [self._start([run, *beside], resources, rank, port, held) for rank in range(resources.ranks)]
        finally:
            for lock in held.values():  # the workers keep their copies
                os.close(lock)
        runs = {one.job_id: one for one in (run, *beside)}
        self._workers |= dict.fromkeys(runs, _Worker(processes, run.log, runs))

    def ended(self) -> list[Ended]:
        """Reap. When one rank of a job is gone without success, the others cannot go on and are ended too."""
        found = []
        looking = {id(worker) for worker in self._distinct() if worker.look()}
        for job, worker in list(self._workers.items()):
            code = worker.poll()
            if code is None and id(worker) in looking and worker.is_over(job):
                code = exits.DONE  # its run folder says how it ended
            if code is not None:
                del self._workers[job]
                if code == exits.LOST and worker.log.parent.is_dir():
                    with worker.log.open("ab") as log:
                        self._hand_over(log)
                found.append(Ended(job, code))
        return found

    def running(self) -> list[str]:
        """Jobs of this driver's living workers."""
        return list(self._workers)

    def stop(self, jobs: list[str]) -> None:
        """SIGTERM to every rank: they save the state together at the next step and exit."""
        for worker in self._distinct():
            if not worker.runs.keys().isdisjoint(jobs):
                for process in worker.processes:
                    process.send_signal(signal.SIGTERM)

    def _distinct(self) -> list[_Worker]:
        """Each worker once, however many jobs it has."""
        return list({id(worker): worker for worker in self._workers.values()}.values())

    def _start(
        self, runs: Sequence[RunFolder], resources: Resources, rank: int, port: int, held: dict[str, int]
    ) -> _Process:
        run, folders = runs[0], [str(run.path) for run in runs]
        run.path.mkdir(parents=True, exist_ok=True)
        made = self._environment(resources, list(held))
        if resources.ranks > 1:  # the variables that torchrun would set
            world = str(resources.ranks)
            made |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
            made |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        with run.log.open("ab") as log:
            try:
                if self._forks(resources) and fits(folders):
                    server = self._living_server(made, log.fileno())
                    self._hand_over(log)
                    return server.start(folders, log.fileno(), list(held.values()))
                module = "bench.execution.together" if len(folders) > 1 else "bench.execution.worker"
                return subprocess.Popen(
                    [sys.executable, "-m", module, *folders],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=made,
                    cwd=self._site.root,
                    start_new_session=True,
                    pass_fds=tuple(held.values()),
                )
            except OSError as error:
                log.write(f"no process could be started: {error}\n".encode())
                return _NotStarted()

    def _hand_over(self, log: IO[bytes]) -> None:
        """Put into a job's log what the server that was started ahead has printed since the last time."""
        if self._ahead is not None:
            said = os.pread(self._ahead, SAID_BYTES, self._handed_over)
            self._handed_over += len(said)
            log.write(said)
            log.flush()

    def _forks(self, resources: Resources) -> bool:
        return forks(resources, self._gpus)

    def _living_server(self, environment: dict[str, str], log: int) -> ForkServer:
        """The fork server; a new one where the last has ended."""
        if self._server is not None:
            self._server.read()
        if self._server is None or not self._server.alive:
            self._server = ForkServer(environment, self._site.root, log)
        return self._server

    def _take(self, resources: Resources) -> dict[str, int]:
        """Lock one slot, or a GPU for each rank; all or none. Beside GPUs a job that wants none takes some cores."""
        names, count = self._names_for(resources)
        held: dict[str, int] = {}
        for name in names:
            lock = self._lock(name)
            if lock is not None:
                held[name] = lock
            if len(held) == count:
                return held
        for lock in held.values():
            os.close(lock)
        return {}

    def _names_for(self, resources: Resources) -> tuple[list[str], int]:
        """The slots that such a job can have, and how many of them it takes."""
        if resources.gpu or not self._gpus:
            return self._names, resources.ranks if self._gpus else 1
        return [f"cpu{number}" for number in range(max(1, cores() // CORES_BESIDE_GPUS))], 1

    def _lock(self, name: str) -> int | None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(self._folder / quote(name, safe=""), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def _environment(self, resources: Resources, slots: list[str]) -> dict[str, str]:
        """Threads as many as the slot has cores, the slot's GPU and no other, the same site and plug-ins."""
        made = environment.of_worker(os.environ, resources.threads)
        made["PYTHONSAFEPATH"] = "1"  # a folder `results` or `reports` in the working folder must not hide ours
        on_gpu = bool(self._gpus) and resources.gpu
        made[BESIDE] = str(len(self._names) * (1 if self._gpus else self._site.ranks))
        made["CUDA_VISIBLE_DEVICES"] = ",".join(slots) if on_gpu else ""
        if on_gpu and slots:
            made[DEVICE] = "cuda"
        made["PYTHONPATH"] = environment.searched(os.environ.get("PYTHONPATH", ""), _searched())
        if self._site.file is not None:
            made["BENCH_SITE"] = str(self._site.file)
        plugins = filter(None, os.environ.get("BENCH_PLUGINS", "").split(os.pathsep))
        made["BENCH_PLUGINS"] = os.pathsep.join(str(Path(folder).resolve()) for folder in plugins)
        return made


def _searched() -> str:
    """What PYTHONPATH must name: the checkout; of a wheel nothing, or site-packages would hide standard modules."""
    found = {Path(folder).resolve() for folder in (*getsitepackages(), getusersitepackages())}
    return "" if ROOT in found else str(ROOT)


def _free_port() -> int:
    """A port on which the ranks can meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def forks(resources: Resources, devices: Collection[str]) -> bool:
    """Whether a worker is forked: with more threads imports start some (NumPy's BLAS), and to fork them is not safe."""
    return resources.ranks == resources.threads == 1 and not devices and sys.platform == "linux"


def slot_names(site: Site) -> list[str]:
    """`cpu0`, `cpu1`, ... or the names of the GPUs. Raises BenchError when bench.toml asks for more than there is."""
    return _slot_names(site, gpus.visible())


def _slot_names(site: Site, found: list[str]) -> list[str]:
    count = site.slots or (len(found) or max(1, cores() // (site.threads * site.ranks)))
    if found and count > len(found):
        raise BenchError(f"[local] slots is {count}, but this machine has {len(found)} GPUs.")
    if found and site.ranks > count:
        raise BenchError(f"[local] ranks is {site.ranks}, but there are {count} GPU slots.")
    return found[:count] if found else [f"cpu{i}" for i in range(count)]
