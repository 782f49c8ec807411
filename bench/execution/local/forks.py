"""Workers that a fork server starts, handled like subprocess.Popen."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

from bench.execution.exits import LOST
from bench.execution.local.fork_server import PACKET


class ForkServer:
    """One fork server and its workers; it ends with this object.

    Linux only: elsewhere to fork after such imports is not safe.

    `log`: an open file for what goes wrong before it can start workers.
    """

    def __init__(self, environment: Mapping[str, str], folder: Path, log: int) -> None:
        self._socket, its_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its_end:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.execution.local.fork_server", str(its_end.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment,
                cwd=folder,
                start_new_session=True,
                pass_fds=(its_end.fileno(),),
            )
        self._numbers = count()
        self._workers: dict[int, Forked] = {}
        self.alive = True
        weakref.finalize(self, _end, self._socket, self._process)

    def start(self, run: Path, log: int, slots: Sequence[int]) -> Forked:
        """A worker on a run folder that writes to `log` and keeps the `slots` open until it is gone."""
        number = next(self._numbers)
        worker = self._workers[number] = Forked(self)
        try:
            socket.send_fds(self._socket, [json.dumps({"number": number, "folder": str(run)}).encode()], [log, *slots])
        except OSError:  # the server has just gone; the worker is lost
            self.alive = False
        return worker

    def read(self, *, wait: bool = False) -> None:
        """Take the answers that have come; `wait` for one."""
        while self.alive:
            if wait:
                select.select([self._socket], [], [])
                wait = False
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


class Forked:
    """A worker process."""

    def __init__(self, server: ForkServer) -> None:
        self._server = server
        self.known_pid: int | None = None
        self.code: int | None = None

    @property
    def pid(self) -> int:
        """Waits until the server has answered. Raises ProcessLookupError when it is gone."""
        while self.known_pid is None and self._server.alive:
            self._server.read(wait=True)
        if self.known_pid is None:
            raise ProcessLookupError("the fork server ended before it started this worker")
        return self.known_pid

    def poll(self) -> int | None:
        """The exit code once the worker is gone, negative for a signal."""
        self._server.read()
        if self.code is None and not self._server.alive and not _is_running(self.known_pid):
            self.code = LOST
        return self.code

    def send_signal(self, number: int) -> None:
        """Nothing when the worker is gone."""
        if self.poll() is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

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
    ended, _, _ = select.select([process], [], [], 0)
    os.close(process)
    return not ended


def _end(driver: socket.socket, process: subprocess.Popen[bytes]) -> None:
    driver.close()
    process.kill()  # at once, also where it imports still; its workers are no part of it
    process.wait()
