"""Who works on a job: a claim in its run folder, so that one folder never has two workers, wherever they run.

A process number means something on one machine, since it started, and in one namespace of processes: two containers
with the network of their host have its name and the same small numbers. Where all of that is equal to ours the process
decides at once; elsewhere the heartbeat does, by the clock of the file system, as two machines' clocks differ.

A worker that was silent for too long (a suspended laptop, a frozen container) loses its claim, and finds that out by
its token before it writes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

from bench.errors import ClaimLost, InputCorrupt
from bench.files import own_suffix, read_json, write_json

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 60.0  # a claim from elsewhere without a heartbeat for so long is dead
CLOCK_SECONDS = 30.0  # for so long the difference between two clocks is taken as known
TOGETHER = "together"  # place in the claims of a process with several jobs: `bench cancel` sends it no signal
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

_held: dict[Path, str] = {}  # token of each claim of this process, by its file
_ahead: dict[int, tuple[float, float]] = {}  # by file system: when it was looked at, seconds before our clock


@dataclass(frozen=True)
class Claim:
    """Who works on a job. `born` is the process start time, so that a recycled pid is not taken for the owner.

    Claims of older versions have neither `namespace` nor `boot` nor `token`.
    """

    host: str
    pid: int
    born: int
    slot: str = ""
    namespace: str = ""  # of processes; "" where the system has none
    boot: str = ""  # of the machine, another after each start
    token: str = ""  # of this claim alone

    @property
    def is_here(self) -> bool:
        """Whether its process number means something to this process."""
        namespace, boot = _whereabouts()
        if self.host != socket.gethostname() or namespace is None:
            return False
        return (self.namespace, self.boot) in ((namespace, boot), ("", ""))

    @property
    def where(self) -> str:
        """The machine, in words."""
        if self.is_here or self.host != socket.gethostname():
            return self.host
        same = self.boot == _whereabouts()[1]
        return f"{self.host} ({'in another container' if same else 'another of this name, or before its restart'})"


class Claims:
    """The claim on one run folder, in its folder `state`."""

    def __init__(self, state: Path) -> None:
        self._file = state / "claim"
        self._heartbeat = state / "heartbeat"
        self._clock = state / "clock"
        self._mutex = state / "mutex"
        self._taking = state / "taking"

    def holder(self) -> Claim | None:
        """Who claimed the job, dead or alive."""
        return _read(self._file)

    def living(self) -> bool:
        """Whether somebody works on the job."""
        claim = self.holder()
        return claim is not None and self.is_alive(claim)

    def is_alive(self, claim: Claim) -> bool:
        """By its process where that can be seen, else by its heartbeat."""
        if claim.is_here:
            runs = _runs(claim)
            if runs is not None:
                return runs
        return self._is_young(self._heartbeat)

    def _is_young(self, file: Path) -> bool:
        """Whether it was touched in the last STALE_SECONDS, by the clock of its file system."""
        try:
            with file.open("rb") as opened:  # as NFS may remember the time of a file for a minute
                touched = os.fstat(opened.fileno()).st_mtime
        except OSError:
            return False
        return abs(self._now() - touched) < STALE_SECONDS  # one from the future is of a clock that was put right

    def take(self, slot: str, dead: Claim | None) -> bool:
        """Claim for this process; the caller has the `mutex`, and has found that the holder, if any, is dead.

        False when another process was faster, which takes a file system on which locks do not work.
        """
        self.beat()
        namespace, boot = _whereabouts()
        claim = Claim(
            host=socket.gethostname(),
            pid=os.getpid(),
            born=_born(os.getpid()),
            slot=slot,
            namespace="unseen" if namespace is None else namespace,
            boot=boot,
            token=os.urandom(8).hex(),
        )
        prepared = self._file.with_name(f".claim.{own_suffix()}")
        write_json(prepared, asdict(claim))
        try:
            with self._turn() as ours:
                if not ours or self.holder() != dead:
                    return False
                prepared.rename(self._file)
        finally:
            prepared.unlink(missing_ok=True)
        _held[self._file] = claim.token
        return True

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """Whether it is this process that may replace the claim now: a file that only one can create.

        Beside the lock, which does not work on every file system. One that a crash left counts for STALE_SECONDS.
        """
        try:
            os.close(os.open(self._taking, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            if not self._is_young(self._taking):
                self._taking.unlink(missing_ok=True)  # the next try has it
            yield False
            return
        try:
            yield True
        finally:
            self._taking.unlink(missing_ok=True)

    def release(self) -> None:
        """Give the job back, unless another process has it by now."""
        if not self.is_lost():
            self._file.unlink(missing_ok=True)
            self._heartbeat.unlink(missing_ok=True)
        _held.pop(self._file, None)

    def is_lost(self) -> bool:
        """Whether this process had the job, and another has taken it over (or somebody removed the claim)."""
        token = _held.get(self._file)
        if token is None:
            return False
        claim = self.holder()
        return claim is None or claim.token != token

    def check(self) -> None:
        """Raises ClaimLost: for a process that is about to write. One that never claimed the job may."""
        if self.is_lost():
            claim = self.holder()
            raise ClaimLost(
                "this process gave no sign of life for so long that its job was taken over"
                + (f" by process {claim.pid} on {claim.where}" if claim else "")
                + ": it stops and writes nothing"
            )

    def beat(self) -> None:
        """Say that the holder is alive."""
        self._heartbeat.parent.mkdir(parents=True, exist_ok=True)
        self._heartbeat.touch()

    @contextmanager
    def mutex(self) -> Iterator[None]:
        """Serialises the few lines that read a claim and replace it. The kernel frees it when its holder dies."""
        self._mutex.parent.mkdir(parents=True, exist_ok=True)
        with self._mutex.open("wb") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX)
            except OSError as error:  # a file system without locks: `take` is exclusive without it
                if error.errno not in NO_LOCKS:
                    raise
            yield

    def _now(self) -> float:
        """The time by the clock that stamps the heartbeat: that of the file system's server."""
        try:
            system = self._clock.parent.stat().st_dev
            looked, ahead = _ahead.get(system, (-CLOCK_SECONDS, 0.0))
            if time.monotonic() - looked >= CLOCK_SECONDS:
                self._clock.touch()
                looked, ahead = time.monotonic(), self._clock.stat().st_mtime - time.time()
                _ahead[system] = looked, ahead
        except OSError:  # of somebody else, or read only
            return time.time()
        return time.time() + ahead


def _read(file: Path) -> Claim | None:
    known = {field.name for field in fields(Claim)}
    try:
        claim = Claim(**{key: value for key, value in read_json(file).items() if key in known})  # type: ignore[arg-type]
    except (FileNotFoundError, InputCorrupt, TypeError):
        return None
    # number 0 would be all processes of our group, -1 all of ours: alive for ever
    return claim if isinstance(claim.pid, int) and claim.pid > 0 else None


@cache
def _whereabouts() -> tuple[str | None, str]:
    """The namespace of processes and the start of the machine, each "" on a system that does not say.

    The namespace is None where /proc shows another one's processes.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        boot = ""
    own = Path("/proc/self")
    try:
        if not own.exists():
            return "", boot
        return str((own / "ns" / "pid").readlink()) if str(own.readlink()) == str(os.getpid()) else None, boot
    except OSError:
        return "", boot


def _runs(claim: Claim) -> bool | None:
    """Whether the process of a claim runs; None where this process may not see it."""
    born = _born(claim.pid)
    if not born:
        try:
            os.kill(claim.pid, 0)
        except PermissionError:  # it is there, of another user, and /proc hides those
            return None
        except (ProcessLookupError, OverflowError):
            return False
    return born == claim.born


def _born(pid: int) -> int:
    """Start time of a process in clock ticks since boot, 0 when it does not run (or is a zombie)."""
    try:
        tail = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return 0 if tail[0] == "Z" else int(tail[19])
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return 0
    except (IndexError, ValueError, ProcessLookupError):
        return 0
    try:  # no /proc (macOS): the pid alone has to do
        os.kill(pid, 0)
    except ProcessLookupError:
        return 0
    except PermissionError:
        return 1
    return 1
