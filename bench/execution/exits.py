"""Exit codes of bench.execution.worker, and what those who start it make of them.

Small numbers and sysexits.h; Python's own error is 1.

A negative code, as subprocess has it, is the signal that ended a worker.
"""

from __future__ import annotations

from typing import Final

DONE: Final = 0  # result.json is there
FAILED: Final = 1  # error.json says why
TAKEN: Final = 3  # another process has the job, or it was done already
NOT_STARTED: Final = 69  # EX_UNAVAILABLE: the machine starts no further process; the log says why
LOST: Final = 71  # EX_OSERR: of a worker whose fork server is gone, and with it the true code
STOPPED: Final = 75  # EX_TEMPFAIL: the job was asked to stop and can go on later
