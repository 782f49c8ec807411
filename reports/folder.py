"""The folder of a report: whether it may be replaced, and whether it still shows what is there.

Apart from what draws it, so that `bench run` can ask at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bench import ROOT, plugins
from bench.errors import BenchError
from bench.runs import plans
from bench.runs.folder import RunFolder, Runs

MARKER = ".bench-report"  # says that a folder is a report and may be replaced


def check_target(target: Path) -> None:
    """Raises BenchError when `target` is something that a report must not replace."""
    if target.exists() and not target.is_dir():
        raise BenchError(f"{target} is a file, expected a folder for the report: give another --out.")
    if target.is_dir() and any(target.iterdir()) and not (target / MARKER).exists():
        raise BenchError(
            f"{target} holds files that are no report, and a report replaces its folder: give another --out."
        )


def is_current(index: Path, runs: Runs, jobs: Iterable[str]) -> bool:
    """Whether the report is newer than every result and plan, and than the code and tables that make it."""
    if not index.is_file():
        return False
    ids = list(jobs)
    made_from = [file for job in ids for file in (runs[job].result_file, runs[job].error_file)]
    made_from += [*(runs.root / "plans").glob("[!.]*.json")]
    made_from += ROOT.glob("ssl_tables-*.dist-info")  # new with each installation, whose files may be dated before it
    for package in ("reports", "results", "bench"):
        made_from += [file for file in (ROOT / package).rglob("*") if file.suffix in {".py", ".j2", ".css"}]
    made_from += [file for _, file in plugins.files("method", ".toml")]  # rows name the authors' weights
    newest = max((file.stat().st_mtime for file in made_from if file.exists()), default=0.0)
    return newest < index.stat().st_mtime and all(runs[job].result_file.exists() for job in ids)


def fingerprint(runs: Runs) -> list[tuple[object, ...]]:
    """What a report depends on: the state of every job, and how far those that run have come."""
    found: list[tuple[object, ...]] = []
    for m in plans.read_all(runs):
        for job, state in plans.states(m, runs).items():
            found.append((m.name, job, state, _how_far(runs[job]) if state == "running" else 0))
    return found


def _how_far(run: RunFolder) -> tuple[int, int]:
    """What changes as a job goes on: the size of its metrics, and when it last said where it stands."""
    return _stat(run.metrics)[0], _stat(run.now)[1]


def _stat(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
