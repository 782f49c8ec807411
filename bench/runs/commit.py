"""Which commit of the project, or which installed version, this code is."""

from __future__ import annotations

import subprocess
from functools import cache

from bench import ROOT, __version__


@cache
def installed() -> bool:
    """Whether a wheel put the code here. What lies around it is then not the project's: Git cannot tell its commit."""
    return any(ROOT.glob("ssl_tables-*.dist-info"))


@cache
def commit() -> str:
    """Twelve digits, with "+dirty" when the checkout was edited; of a wheel the version; "unknown" outside a checkout.

    Asked once a process: what it has imported stays as it was.
    A snapshot (bench/execution/slurm/snapshot.py) carries the answer of the checkout that it was taken from.
    """
    if installed():
        return f"ssl-tables {__version__}"
    pinned = ROOT / "COMMIT"
    if pinned.is_file():
        return pinned.read_text(encoding="utf-8")

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "bench/__init__.py")  # not of a repository that only lies around the code
        return git("rev-parse", "--short=12", "HEAD") + (
            "+dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
