"""Which commit of the project this code is."""

from __future__ import annotations

import subprocess
from functools import cache

from bench import ROOT


@cache
def commit() -> str:
    """Twelve digits, with "+dirty" when the checkout was edited; "unknown" outside a checkout.

    Asked once a process: what it has imported stays as it was.
    A snapshot (bench/execution/slurm/snapshot.py) carries the answer of the checkout that it was taken from.
    """
    pinned = ROOT / "COMMIT"
    if pinned.is_file():
        return pinned.read_text()

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
