"""Which folder a report may replace.

Apart from reports/build.py, so that `bench run` can ask before it draws anything.
"""

from __future__ import annotations

from pathlib import Path

from bench.errors import BenchError

MARKER = ".bench-report"  # says that a folder is a report and may be replaced


def check_target(target: Path) -> None:
    """Raises BenchError when `target` is something that a report must not replace."""
    if target.exists() and not target.is_dir():
        raise BenchError(f"{target} is a file, expected a folder for the report: give another --out.")
    if target.is_dir() and any(target.iterdir()) and not (target / MARKER).exists():
        raise BenchError(
            f"{target} holds files that are no report, and a report replaces its folder: give another --out."
        )
