"""Workers that a fork server starts, handled like subprocess.Popen."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

from bench.execution.exits import LOST
from bench.execution.local.fork_server import PACKET

POLL_SECONDS = 0.1
START_SECONDS = 120.0  # that whoever must know a worker's process waits for it
STOP_SECONDS = 30.0  # for the first import of the server of a worker that shall stop: half of what the scheduler waits


def fits(folders: Sequence[str]) -> bool:
    """Whether a packet has room for the names of these run folders; a cut one would end the server."""
    return len(_asked(2**63, folders)) <= PACKET


def _asked(number: int, folders: Sequence[str]) -> bytes:
    return json.dumps({"number": number, "folders": list(folders)}).encode()


class ForkServer:
    """One fork server and its workers; it ends with this object.

    Linux only: elsewhere to fork after such imports is not safe.

    `log`: an open file for what it prints itself.
    """

    def __init__(self, environment: Mapping[str, str], folder: Path, log: int) -> None:
        self._socket, its_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with its_end:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "bench.execution.local.fork_server", str(its_end.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    cwd=folder,
                    start_new_session=True,
                    pass_fds=(its_end.fileno(),),
                )
        except OSError:
            self._socket.close()
            raise
        self._numbers = count()
        self._workers: dict[int, Forked] = {}
        self.alive = True
        weakref.finalize(self, _end, self._socket, self._process)

    def start(self, folders: Sequence[str], log: int, slots: Sequence[int]) -> Forked:
        """A worker on one run folder or several that writes to `log` and keeps the `slots` open until it is gone.

        Their names must fit into a packet: `fits`.
        """
        number = next(self._numbers)
        worker = self._workers[number] = Forked(self)
        try:
            socket.send_fds(self._socket, [_asked(number, folders)], [log, *slots])
        except OSError:  # the server has just gone; the worker is lost
            self.alive = False
        return worker

    def read(self, wait: float = 0.0) -> None:
        """Take the answers that have come; `wait` so many seconds for one."""
        while self.alive:
            if wait:
                select.select([self._socket], [], [], wait)
                wait = 0.0
            try:
                packet = self._socket.recv(PACKET, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self.alive = False
                return
            answer = json.loads(packet)
            if "pid" in answer:
                self._workers[answer["number"]].known_pid = answer["pid"]
            else:
                self._workers.pop(answer["number"]).code = answer["code"]

    def end(self) -> None:
        """End the server, also where it hangs in an import; take what it has answered. Its workers go on."""
        self._process.kill()
        self._process.wait()
        while self.alive:  # to the end of the socket
            self.read(POLL_SECONDS)


class Forked:
    """A worker process."""

    def __init__(self, server: ForkServer) -> None:
        self._server = server
        self.known_pid: int | None = None
        self.code: int | None = None
        self._asked: int | None = None  # a signal for when it is there
        self._deadline = 0.0

    @property
    def pid(self) -> int:
        """Waits until the server has answered. Raises ProcessLookupError when it is gone, or does not answer."""
        deadline = time.monotonic() + START_SECONDS
        while self.known_pid is None and self._server.alive and time.monotonic() < deadline:
            self._server.read(POLL_SECONDS)
        if self.known_pid is None:
            raise ProcessLookupError("the fork server did not start this worker")
        return self.known_pid

    def poll(self) -> int | None:
        """The exit code once the worker is gone, negative for a signal."""
        self._server.read()
        if self._asked is not None:
            if self.known_pid is not None or not self._server.alive:
                self._deliver()
            elif time.monotonic() > self._deadline:
                self._server.end()
        if self.code is None and not self._server.alive and not _is_running(self.known_pid):
            self.code = LOST
        return self.code

    def send_signal(self, number: int) -> None:
        """Nothing when the worker is gone; to one that is not there yet when it is.

        A server that starts no worker in STOP_SECONDS is ended: then there is none to stop.
        """
        if self.poll() is None:
            self._asked, self._deadline = number, time.monotonic() + STOP_SECONDS
            self._deliver()

    def _deliver(self) -> None:
        if self.known_pid is None or self._asked is None:
            return
        number, self._asked = self._asked, None
        with suppress(ProcessLookupError):
            os.kill(self.known_pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def _is_running(pid: int | None) -> bool:
    """Not by a signal 0: a worker whose server is gone stays a zombie where nobody adopts it, as in many containers."""
    if pid is None:
        return False
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except (AttributeError, OSError):  # not in this Python or kernel, or a sandbox forbids it
        return _is_listed(pid)
    ended, _, _ = select.select([process], [], [], 0)
    os.close(process)
    return not ended


def _is_listed(pid: int) -> bool:
    """The same, from /proc: a zombie is listed but does not run."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in (b"Z", b"X")


def _end(driver: socket.socket, process: subprocess.Popen[bytes]) -> None:
    driver.close()
    process.kill()  # at once, also where it imports still; its workers are no part of it
    process.wait()
