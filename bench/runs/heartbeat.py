"""The heartbeat of whoever works on a run folder, from a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from bench.errors import one_line
from bench.runs.claims import HEARTBEAT_SECONDS
from bench.runs.folder import RunFolder


@contextmanager
def beating(run: RunFolder) -> Iterator[threading.Event]:
    """Touch the heartbeat until the work is over, or the job is another's: then the event is set."""
    over, lost = threading.Event(), threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_SECONDS):
            try:
                if run.has_lost_claim():
                    lost.set()
                    return
                run.beat()
            except OSError as error:  # a full disk or a lost mount must not kill the work
                print(f"heartbeat: {one_line(error)}", flush=True)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        over.set()
        thread.join()
