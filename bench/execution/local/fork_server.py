"""A process that has imported what workers need and forks one a job, so that jobs start in milliseconds, not seconds.

`python -m bench.execution.local.fork_server SOCKET`, started by bench/execution/local/forks.py. Each packet asks for a
worker: its number and its run folders, with the open files of its log and its slots. Answers: the number with the
worker's process id, and later with its exit code. It ends when the driver is gone; its workers go on. Made for
OMP_NUM_THREADS=1, with which it has no second thread.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import select
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress

from bench import ROOT
from bench.execution.exits import NOT_STARTED
from bench.runs.commit import commit

PACKET = 65536  # bytes at most
FILES = 256  # open files at most with a packet
POLL_SECONDS = 0.05


def preloading() -> Iterator[str]:
    """Import what jobs import, what all of them need first, and yield after each part.

    The project's own modules only: a user's plug-in belongs to the jobs that name it. What cannot be imported is left
    to the workers, which fail with it in their own logs.
    """
    commit()  # of the code that is imported now, for all the results that it makes
    own = (
        f"{package}.{module.name}"
        for package in ("methods", "evals")
        for module in pkgutil.iter_modules([str(ROOT / package)])
        if module.name[0] != "_" and not module.ispkg
    )
    for name in ("bench.execution.worker", "bench.execution.together", *own, "sklearn.linear_model", "sklearn.svm"):
        with suppress(Exception):
            importlib.import_module(name)
        yield name


def serve(driver: socket.socket) -> list[str]:
    """Fork workers until the driver is gone, then return nothing; in each worker, return its run folders.

    What waits is served between two parts of the imports: scikit-learn takes a second that no pretraining needs.
    """
    workers: dict[int, int] = {}  # number by process id
    parts = preloading()
    next(parts)
    loading = True
    while True:
        readable, _, _ = select.select([driver], [], [], 0 if loading else POLL_SECONDS if workers else None)
        for pid in list(workers):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                _answer(driver, number=workers.pop(pid), code=os.waitstatus_to_exitcode(status))
        if not readable:
            loading = loading and next(parts, None) is not None
            continue
        packet, files, _, _ = socket.recv_fds(driver, PACKET, FILES)
        if not packet:
            return []
        asked = json.loads(packet)
        gc.freeze()  # a collection in a worker would copy every page that it shares with the others
        try:
            log = files[0]  # fewer arrive than were sent where this process may open no more
            pid = os.fork()
        except (OSError, IndexError) as error:  # of this job alone: its log says it, and the others go on
            _refuse(files, error)
            _answer(driver, number=asked["number"], code=NOT_STARTED)
            continue
        if pid == 0:
            driver.close()
            _become_worker(log)
            return list(map(str, asked["folders"]))
        for file in files:  # the worker keeps its copies
            os.close(file)
        workers[pid] = asked["number"]
        _answer(driver, number=asked["number"], pid=pid)


def _refuse(files: Sequence[int], error: OSError | IndexError) -> None:
    reason = error.strerror if isinstance(error, OSError) else "too many open files"
    for log in files[:1]:
        os.write(log, f"no process could be started: {reason}\n".encode())
    for file in files:
        os.close(file)


def _answer(driver: socket.socket, **message: int) -> None:
    try:
        driver.send(json.dumps(message).encode())
    except OSError:
        return  # the driver is gone, which the next read says too


def _become_worker(log: int) -> None:
    """A session of its own, and the log where a terminal would be."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(nothing)
    os.close(log)


def main(descriptor: int) -> int:
    """The server's exit code, 0; a worker's is that of bench.execution.worker."""
    folders = serve(socket.socket(fileno=descriptor))
    if not folders:
        return 0
    from bench.execution import together, worker

    return worker.main(folders[0]) if len(folders) == 1 else together.main(folders)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
