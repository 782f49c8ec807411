"""Where the numbers of a table, or of all of them, come from, summed over their jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from bench.runs.result import Provenance
from reports.job_view import JobView
from reports.pages import data_read
from reports.words import is_number

NOT_MEASURED = "not measured"
NO_ENERGY = "not known: no counter was read"
RESUMED = "not known: what went on from a checkpoint does not add up its attempts"
_ENERGY = {"gpus": "of GPUs", "packages": "of whole processor packages, with all that ran on them meanwhile"}


def provenance(job_views: Sequence[JobView]) -> list[tuple[str, str]]:
    """(what, in words) of the finished jobs among the records; a line without anything known is left out."""
    made = [job_view.result.provenance for job_view in job_views if job_view.result is not None]
    if not made:
        return []
    cpu = sum(_number(one.cpu_seconds) for one in made if not _is_gpu(one.device)) / 3600
    gpu = sum(_number(one.seconds) * max(1, int(_number(one.ranks))) for one in made if _is_gpu(one.device)) / 3600
    seeds = sorted(
        {job_view.spec.seed for job_view in job_views if job_view.result is not None and job_view.spec is not None}
    )
    states = Counter(str(job_view.state) for job_view in job_views)
    resumed = sum(int(_number(one.resumed)) for one in made)
    pretrainings = sum(job_view.result is not None and job_view.id.startswith("pretrain-") for job_view in job_views)
    lines = [
        (
            "Jobs",
            f"{len(made)} done, of them {pretrainings} pretrainings"
            + "".join(f"; {n} {word}" for word, n in states.items() if word != "done"),
        ),
        ("Seeds", ", ".join(map(str, seeds))),
        ("CPU-hours", hours(cpu) if cpu else "0" if gpu else NOT_MEASURED),
        ("GPU-hours", hours(gpu) if gpu else "0, no job ran on a GPU"),
        ("Energy", energy(made)),
        ("Hardware", _counted(one.device for one in made)),
        ("Hosts", _counted(one.host for one in made)),
        ("Commit", _counted(one.commit for one in made)),
        *data_read.of_all(job_views),
        *((f"Version of {package}", text) for package, text in _versions(job_views).items()),
        ("Resumed", f"{resumed} {'time' if resumed == 1 else 'times'}"),
    ]
    return [(key, text) for key, text in lines if text]


def hours(value: float) -> str:
    """Hours for people: 0.03, 1.4, 1,240."""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def energy(made: Sequence[Provenance]) -> str:
    """What the counters said, each kind summed over its jobs and in words of its own.

    A package counts what it shares with others. With several jobs, "(3 of 5 jobs)" where the others could not read that
    kind.
    """
    said = []
    for part, words_for in _ENERGY.items():
        read = [
            joules
            for one in made
            if isinstance(one.energy_parts, Mapping) and is_number(joules := one.energy_parts.get(part))
        ]
        if read:
            of = f" ({len(read)} of {len(made)} jobs)" if len(read) < len(made) else ""
            shared = "; jobs side by side each count the whole" if part == "packages" and len(read) > 1 else ""
            said.append(f"{_watt_hours(sum(read))} {words_for}{shared}{of}")
    return "; ".join(said) or (RESUMED if made and all(one.resumed for one in made) else NO_ENERGY)


def _watt_hours(joules: float) -> str:
    """0.42 Wh, 63 Wh, 1.4 kWh, 1,240 kWh."""
    value, unit = (joules / 3.6e3, "Wh") if joules < 3.6e6 else (joules / 3.6e6, "kWh")
    return f"{hours(value)} {unit}"


def _versions(job_views: Iterable[JobView]) -> dict[str, str]:
    found: dict[str, Counter[str]] = {}
    for job_view in job_views:
        versions = job_view.result.provenance.versions if job_view.result is not None else {}
        for package, version in versions.items() if isinstance(versions, Mapping) else ():
            found.setdefault(str(package), Counter())[str(version)] += 1
    return {package: _words(counts) for package, counts in sorted(found.items())}


def _counted(values: Iterable[object]) -> str:
    return _words(Counter(str(value) for value in values))


def _words(counts: Counter[str]) -> str:
    """One value as it stands; several with the number of jobs each, the most frequent first."""
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{text} ({count} jobs)" for text, count in counts.most_common())


def _is_gpu(device: object) -> bool:
    return str(device).startswith("cuda")


def _number(value: object) -> float:
    """What a foreign result holds in place of a number counts as nothing."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def saving(views_jobs: Sequence[Sequence[JobView]]) -> str:
    """What sharing jobs between tables saves; "" for one table."""
    alone = sum(len(jobs) for jobs in views_jobs)
    shared = len({job.id for jobs in views_jobs for job in jobs})
    if len(views_jobs) < 2 or not alone:
        return ""
    return (
        f"Table by table these would be {alone:,} jobs; each is run once for all tables that use it, which makes "
        f"{shared:,}."
    )
