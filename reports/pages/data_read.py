"""Which data the jobs of a page read, and a warning where those of one table read different ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.data.fingerprint import Fingerprint
from bench.runs.result import Result
from reports.job_view import JobView

UNKNOWN = "not recorded: the result is older than fingerprints"


def of_job(result: Result | None) -> list[tuple[str, str]]:
    """(data set, its fingerprint in words) of a finished job, and for which other data it was kept on purpose."""
    if result is None:
        return []
    read = result.provenance.inputs
    lines = [(name, one.words()) for name, one in read.data.items()] or [("Data", UNKNOWN)]
    lines += [(f"{name}, accepted", f"kept on purpose for {one.words()}") for name, one in read.accepted.items()]
    return lines + ([("Weights below", f"sha256 {read.encoder[:12]}")] if read.encoder else [])


def of_all(job_views: Sequence[JobView]) -> list[tuple[str, str]]:
    """("Data: imagenet", in words) of all finished jobs of a page."""
    found = _counted(job_views)
    return [(f"Data: {name}", _words(counts)) for name, counts in sorted(found.items())]


def warnings(job_views: Sequence[JobView]) -> list[str]:
    """Sentences for a table whose numbers are not all of the same data, or were kept though their data changed."""
    said = [
        f"The jobs of this table read {len(counts)} different states of {name}, so their numbers do not compare: "
        f"{_words(counts)}."
        for name, counts in sorted(_counted(job_views).items())
        if len(counts) > 1
    ]
    kept = Counter(
        name
        for job_view in job_views
        if job_view.result is not None
        for name in job_view.result.provenance.inputs.accepted
    )
    return said + [
        f"{name} changed after {count:,} {'job' if count == 1 else 'jobs'} of this table had read it; "
        f"{'its result was' if count == 1 else 'their results were'} kept on purpose (--accept-data)."
        for name, count in sorted(kept.items())
    ]


def _counted(job_views: Sequence[JobView]) -> dict[str, Counter[Fingerprint]]:
    found: dict[str, Counter[Fingerprint]] = {}
    for job_view in job_views:
        if job_view.result is not None:
            for name, one in job_view.result.provenance.inputs.data.items():
                found.setdefault(name, Counter())[one] += 1
    return found


def _words(counts: Counter[Fingerprint]) -> str:
    if len(counts) == 1:
        return next(iter(counts)).words()
    return "; ".join(
        f"{one.words()} ({count:,} {'job' if count == 1 else 'jobs'})" for one, count in counts.most_common()
    )
