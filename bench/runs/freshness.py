"""Whether done jobs still are what would be computed now: their data, the weights below them, code and packages.

Data that changed, and a pretraining that ran anew with other digits, make a done job run again. Code and packages are
said and decide nothing. What a result does not say, because it is older than that, counts as unchanged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Protocol

from bench.data.fingerprint import DataHere, Fingerprint
from bench.errors import BenchError
from bench.files import make_folder
from bench.runs import inputs
from bench.runs.folder import RunFolder, Runs
from bench.runs.inputs import Inputs
from bench.runs.result import Result
from bench.wording import printable

NAMED = 3  # of many jobs


class Known(Protocol):
    """A job of a graph, or as a plan remembers it."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def needs(self) -> tuple[str, ...]: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class Change:
    """Data that differ from what some done jobs read, all of them the same."""

    data: str
    difference: str  # "3 files differ, e.g. ..."
    jobs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """What a comparison came to. `outdated` says of each done job that runs again why, in a few words."""

    outdated: Mapping[str, str] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    accepted: Mapping[str, Mapping[str, Fingerprint]] = field(default_factory=dict)  # kept though data differ, by job
    results: Mapping[str, Result] = field(default_factory=dict)  # of the done jobs, as they were compared
    unknown: int = 0  # results that do not say which data they read
    labels: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()  # why data that are here could not be looked at

    def lines(self) -> Iterator[str]:
        """What a command prints."""
        for change in self.changes:
            what = f"data changed: {change.data}: {change.difference}"
            kept = [job for job in change.jobs if job in self.accepted]
            again = [job for job in change.jobs if job in self.outdated]
            if kept:
                yield f"{what}; kept on purpose (--accept-data): {self._named(kept)}"
            if again:
                yield f"{what}; these jobs run again: {self._named(again)}"
        for problem in self.problems:
            yield f"data cannot be compared: {problem}"
        said = {job for change in self.changes for job in change.jobs}
        rest = [job for job in self.outdated if job not in said]
        if rest:
            named = self._named(rest)
            yield f"weights changed: these stand on a pretraining that runs or ran anew, and run again: {named}"
        if self.unknown:
            yield (
                f"{self.unknown:,} {'result does' if self.unknown == 1 else 'results do'} not say which data "
                f"{'it' if self.unknown == 1 else 'they'} read (made before results did) and "
                f"{'counts' if self.unknown == 1 else 'count'} as unchanged"
            )

    def _named(self, jobs: Sequence[str]) -> str:
        named = ", ".join(printable(self.labels[job]) for job in jobs[:NAMED])
        return f"{named} and {len(jobs) - NAMED:,} more" if len(jobs) > NAMED else named


def compare(jobs: Sequence[Known], runs: Runs, here: DataHere, *, accept: bool = False) -> Freshness:
    """Look at the results of done jobs; `jobs` with parents first. With `accept` no change of data counts.

    Each data set is looked at once, and only if a result names it.
    """
    results = {job.id: result for job in jobs if (result := _result(runs[job.id])) is not None}
    outdated: dict[str, str] = {}
    accepted: dict[str, dict[str, Fingerprint]] = {}
    groups: dict[tuple[str, Fingerprint], list[str]] = {}
    unknown = 0
    for job in jobs:
        if job.id not in results:
            continue
        read = results[job.id].provenance.inputs
        unknown += not read.data
        for name, then in _changed(read, here).items():
            groups.setdefault((name, then), []).append(job.id)
            if accept:
                accepted.setdefault(job.id, {})[name] = here.known(name)
            else:
                outdated[job.id] = f"{name} changed"
        if job.id not in outdated and any(need in outdated for need in job.needs):
            outdated[job.id] = "what it stands on runs again"
        elif job.id not in outdated and read.encoder and _weights(job, results) not in (read.encoder, ""):
            outdated[job.id] = "the weights below it were trained anew"
    changes = tuple(
        Change(data=name, difference=here.difference(name, then), jobs=tuple(found))
        for (name, then), found in groups.items()
    )
    return Freshness(
        outdated=outdated,
        changes=changes,
        accepted=accepted,
        results=results,
        unknown=unknown,
        labels={job.id: job.label for job in jobs if job.id in results},
        problems=tuple(here.problems.values()),
    )


def accept(fresh: Freshness, runs: Runs, here: DataHere) -> None:
    """Write into the results of done jobs for which other data they were kept."""
    for job, data in fresh.accepted.items():
        result = fresh.results[job]
        read = result.provenance.inputs
        noted = replace(read, accepted={**read.accepted, **data})
        replace(result, provenance=replace(result.provenance, inputs=noted)).write(runs[job].result_file)
        for name in data:
            here.remember(name)


def put_aside(run: RunFolder, compared: Result) -> None:
    """Keep what an outdated job left below `earlier/`, unless another process was faster and has a newer result."""
    if _result(run) != compared:
        return
    read = compared.provenance.inputs
    name = next((one.short for one in read.data.values() if one.short.isalnum()), "unknown")
    places = (run.path / "earlier" / f"{name}-{number}" for number in count(1))
    folder = next(place for place in places if not place.exists())
    make_folder(folder)
    for file in (run.result_file, run.weights, run.metrics):  # the result first: without it the job is not done
        try:
            file.replace(folder / file.name)
        except FileNotFoundError:
            continue
    run.forget_result()


def goes_on(run: RunFolder, data: str, here: DataHere) -> bool:
    """Whether the checkpoint of a stopped job is of the data that are here; True when one of the two is not known."""
    then, now = inputs.noted(run.path).data.get(data), here.fingerprint(data)
    return then is None or now is None or then.digest == now.digest


def notes(fresh: Freshness, installed: Mapping[str, str]) -> Iterator[str]:
    """A line for results made by other versions of packages, and a line a file of a plug-in that changed since."""
    others: Counter[str] = Counter()
    differing = 0
    done = [result for job, result in fresh.results.items() if job not in fresh.outdated]
    for result in done:
        then = result.provenance.versions
        differ = [name for name in installed if name in then and then[name] != installed[name]]
        others.update(f"{name} {then[name]} (here {installed[name]})" for name in differ)
        differing += bool(differ)
    if others:
        named = ", ".join(text for text, _ in others.most_common())
        yield f"{differing:,} of {len(done):,} done jobs ran with other versions of packages: {named}"
    yield from _code(done)


def _code(done: Sequence[Result]) -> Iterator[str]:
    from bench.runs import sources

    seen: dict[tuple[str, sources.Source], int] = Counter(
        item for result in done for item in result.provenance.inputs.code.items()
    )
    changed: Counter[str] = Counter()
    for (name, then), times in seen.items():
        file = sources.file_of(name)
        if file is not None and sources.text_of(file) != then.text and sources.tree_of(file) != then.tree:
            changed[name] += times
    for name, times in sorted(changed.items()):
        yield (
            f"{name} changed since {times:,} of these results {'was' if times == 1 else 'were'} made, and its VERSION "
            "did not rise: raise VERSION, or run them again with --force"
        )


def _changed(read: Inputs, here: DataHere) -> dict[str, Fingerprint]:
    """Data that a result names and that differ now, with what it read; those that are not here cannot be compared."""
    found = {}
    for name, then in read.data.items():
        now = here.fingerprint(name)
        if now is not None and now.digest != then.digest and now != read.accepted.get(name):
            found[name] = then
    return found


def _weights(job: Known, results: Mapping[str, Result]) -> str:
    """The sha256 of the weights that a job stands on, as they are now; "" when that is not known."""
    parents = [results[need].details.get("weights_sha256") for need in job.needs if need in results]
    return next((sha for sha in parents if isinstance(sha, str)), "")


def _result(run: RunFolder) -> Result | None:
    """None when it is not done or cannot be read, which is said elsewhere."""
    try:
        return run.result()
    except (OSError, BenchError):
        return None
