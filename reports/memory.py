"""What one build of a report leaves for the next in its process: a served report is made anew every few seconds."""

from __future__ import annotations

from collections.abc import Callable

from bench.runs.folder import RunFolder
from reports.job_view import JobView, read_job

FILES = ("job.json", "result.json", "error.json", "metrics.jsonl", "log.txt", "pictures.json")


class Memory:
    """Records by the state of their files, pages by what they are made of."""

    def __init__(self) -> None:
        self._records: dict[str, tuple[object, JobView | None]] = {}
        self._pages: dict[str, tuple[tuple[object, ...], str]] = {}

    def job_view(self, run: RunFolder) -> JobView | None:
        """The record of a run folder, read again when a file of it has changed."""
        now = _signature(run)
        before = self._records.get(run.job_id)
        if before is None or before[0] != now:
            before = self._records[run.job_id] = (now, read_job(run))
        return before[1]

    def page(self, name: str, made_from: tuple[object, ...], make: Callable[[], str]) -> str:
        """The text of a page, made again when something that it is made of has changed.

        Records are compared by identity.
        """
        before = self._pages.get(name)
        if before is None or not _same(before[0], made_from):
            before = self._pages[name] = (made_from, make())
        return before[1]


def _same(before: tuple[object, ...], now: tuple[object, ...]) -> bool:
    def equal(a: object, b: object) -> bool:
        return a is b or (not isinstance(a, JobView) and not isinstance(b, JobView) and a == b)

    return len(before) == len(now) and all(map(equal, before, now))


def _signature(run: RunFolder) -> tuple[object, ...]:
    if not run.path.is_dir():
        return ()
    found: list[object] = [run.state()]
    for name in FILES:
        try:
            stat = (run.path / name).stat()
            found.append((stat.st_mtime_ns, stat.st_size))
        except OSError:
            found.append(None)
    return tuple(found)
