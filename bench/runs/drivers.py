"""Which `bench run` is at work, so that whoever watches knows between two jobs that more is to come.

runs/drivers/<host>-<pid>-<random>/   a claim and a heartbeat as those of a job; in plans.json the names of its plans
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.errors import BenchError, InputCorrupt
from bench.files import own_suffix, read_json, write_json
from bench.runs.folder import RunFolder, Runs, State
from bench.runs.heartbeat import beating

_OLD_SECONDS = 3600.0  # what a killed driver left is removed after that


@contextmanager
def at_work(runs: Runs, plans: Iterable[str]) -> Iterator[None]:
    """This process brings these plans to done. Where that cannot be written down, it does so unseen."""
    root, here = runs.root.is_dir(), runs.root / "drivers" / f"{socket.gethostname()}-{own_suffix()}"
    run = RunFolder(here)
    try:
        run.claim()
        write_json(here / "plans.json", {"plans": list(plans)}, durable=False)
        _sweep(here.parent)
    except (OSError, BenchError):
        _remove(here, runs.root, root=root)
        yield
        return
    try:
        with beating(run):
            yield
    finally:
        _remove(here, runs.root, root=root)


def working_on(runs: Runs) -> set[str]:
    """Names of the plans, `table@scale`, that living drivers bring to done."""
    found: set[str] = set()
    for path in (runs.root / "drivers").glob("*/plans.json"):
        if RunFolder(path.parent).state() is State.RUNNING:
            with suppress(FileNotFoundError, InputCorrupt, KeyError, TypeError):  # it has just ended
                found.update(read_json(path)["plans"])  # type: ignore[arg-type]
    return found


def _remove(here: Path, runs: Path, *, root: bool) -> None:
    """Leave nothing, nor a runs folder that was not there before and that nothing was written to."""
    shutil.rmtree(here, ignore_errors=True)
    with suppress(OSError):  # others are at work
        here.parent.rmdir()
        if not root:
            runs.rmdir()


def _sweep(folder: Path) -> None:
    for other in folder.iterdir():
        with suppress(OSError):
            if time.time() - other.stat().st_mtime > _OLD_SECONDS and RunFolder(other).state() is not State.RUNNING:
                shutil.rmtree(other, ignore_errors=True)
