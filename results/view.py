"""A table with everything a reader sees: printed and measured values side by side.

A pure function of table and store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import fmean, stdev
from typing import Literal

from bench import plugins
from bench.authors import weights
from bench.planning.scales import Scale
from bench.runs.folder import State
from bench.spec import Evaluate, Pretrain
from results.cells import CellJob, PlannedTable
from results.store import Store
from results.table import Column, Row, Table

Status = Literal[
    "done",
    "partial",
    "pending",
    "running",
    "failed",
    "blocked",
    "stopped",
    "cancelled",
    "not implemented",
    "not asked",
    "not at this size",
    "none",
]
Verdict = Literal["match", "within noise", "below", "above", "not run"]


@dataclass(frozen=True, kw_only=True)
class CellView:
    """One cell. Values are in the column's unit."""

    published: str  # as printed, "" where the paper has none
    measured: tuple[float, ...]  # one value per finished seed
    digits: int
    status: Status
    jobs: tuple[str, ...]  # one per seed
    message: str = ""  # why it failed
    doubt: str = ""  # why the printed value is not certain
    verdict: Verdict | None = None  # only at the published scale

    @property
    def mean(self) -> float | None:
        """Over the finished seeds."""
        return fmean(self.measured) if self.measured else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation; None below two seeds."""
        return stdev(self.measured) if len(self.measured) > 1 else None

    @property
    def n(self) -> int:
        """Finished seeds."""
        return len(self.measured)

    @property
    def text(self) -> str:
        """The measured side: "95.8", "95.8 ± 0.2 (n=3)", or the status in words."""
        if self.mean is None:
            return "" if self.status == "none" else self.status
        spread = "" if self.sd is None else f" ± {self.sd:.{self.digits}f} (n={self.n})"
        # A mean over the seeds that survived is biased: it never stands without the word for the others.
        rest = "" if self.status == "done" else f" ({self.n} of {len(self.jobs)} seeds, {self.status})"
        return f"{self.mean:.{self.digits}f}{spread}{rest}"


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Kendall's tau-b between the printed and the measured order of the rows of one column."""

    column: str
    rows: int  # that have both values
    tau: float | None  # None below two rows


@dataclass(frozen=True, kw_only=True)
class TableView:
    """The regenerated table, rows and columns in the paper's order."""

    table: Table
    scale: str
    caveat: str
    overrides: str  # what bench.toml changed in all recipes, or ""
    precision: str  # of the pretrainings, and whose batch norm sees groups, in sentences, or ""
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    anchors: tuple[Row, ...]
    cells: Mapping[tuple[str, str], CellView]  # (row name, column name)
    protocols: Mapping[str, str]  # column name -> sentence
    stand_ins: Mapping[str, str]  # column name -> what is read in place of its data set, or ""
    agreement: tuple[Agreement, ...]
    problems: tuple[str, ...]

    def cell(self, row: Row, column: Column) -> CellView:
        """The cell of a row and a column."""
        return self.cells[row.name, column.name]

    def heading(self, column: Column) -> str:
        """The column's name, with what stands in for its data set: "Places205 (here: digits1797)"."""
        here = self.stand_ins[column.name]
        return f"{column.name} (here: {here})" if here else column.name

    @property
    def failed(self) -> list[tuple[str, str]]:
        """(row, column) of the cells that failed or are blocked."""
        return [key for key, cell in self.cells.items() if cell.status in ("failed", "blocked")]


def view(planned: PlannedTable, store: Store) -> TableView:
    """Read the state of every cell, asked for or not; rows that take the authors' weights say so in their notes."""
    table, scale, released = planned.table, planned.scale, planned.released
    by_cell: dict[tuple[str, str], list[CellJob]] = {}
    for job in planned.cells:
        by_cell.setdefault((job.row.name, job.column.name), []).append(job)
    cells = {}
    for row in (*table.rows, *table.anchors):
        for column in table.columns:
            jobs = by_cell.get((row.name, column.name), [])
            cell = _cell(row, column, jobs, store, scale, is_asked=planned.is_asked(row, column))
            if reason := planned.refused.get((row.name, column.name)):
                cell = replace(cell, status="not asked", message=reason)
            if reason := planned.too_large.get((row.name, column.name)):
                cell = replace(cell, status="not at this size", message=reason)
            cells[row.name, column.name] = cell
    compared = [c for c in table.columns if c.printed and c.higher_is_better is not None and scale.ordered]
    return TableView(
        table=table,
        scale=scale.name,
        caveat=scale.caveat({row.dataset for row in table.rows} | {column.dataset for column in table.columns}),
        overrides=scale.overrides.sentence(),
        precision=" ".join(filter(None, (_precision(planned.cells), _norm_groups(planned.cells)))),
        columns=table.columns,
        rows=tuple(_with_source(row, released) for row in table.rows),
        anchors=tuple(_with_source(row, released) for row in table.anchors),
        cells=cells,
        protocols=planned.protocols,
        stand_ins=planned.stand_ins,
        agreement=tuple(_agreement(table, column, cells) for column in compared),
        problems=tuple(store.problems),
    )


def _precision(cells: Iterable[CellJob]) -> str:
    """In which precision the methods are trained; "" when none is."""
    methods: dict[str, set[str]] = {}
    for pretrain in _pretrainings(cells):
        methods.setdefault(pretrain.precision, set()).add(plugins.name_of(pretrain.method))
    if len(methods) < 2:
        return "".join(f"Pretraining in {precision}." for precision in methods)
    named = (f"{precision} ({', '.join(sorted(names))})" for precision, names in sorted(methods.items()))
    return f"Pretraining in {' and '.join(named)}."


def _norm_groups(cells: Iterable[CellJob]) -> str:
    """Which methods' batch norm sees groups of images, of how many; "" when none's does."""
    methods: dict[int, set[str]] = {}
    for pretrain in _pretrainings(cells):
        if pretrain.norm_group is not None:
            methods.setdefault(pretrain.norm_group, set()).add(plugins.name_of(pretrain.method))
    named = (f"{group} images ({', '.join(sorted(names))})" for group, names in sorted(methods.items()))
    return f"Batch norm over groups of {' and '.join(named)}." if methods else ""


def _pretrainings(cells: Iterable[CellJob]) -> Iterator[Pretrain]:
    for cell in cells:
        encoder = cell.spec.encoder if isinstance(cell.spec, Evaluate) else cell.spec
        if isinstance(encoder, Pretrain):
            yield encoder


def _with_source(row: Row, released: Mapping[str, str] | None) -> Row:
    """The row as it is, or with a note on the released weights that stand in for its pretraining."""
    if released is None:
        return row
    if row.released not in released:
        return replace(row, note="; ".join(filter(None, (row.note, "no released weights: not run"))))
    entry = weights(row.released)
    by_authors = f", linear top-1 {entry.top1:g} by their own account" if entry.top1 is not None else ""
    note = (
        f"not pretrained here: weights {row.released} of {entry.paper}, sha256 "
        f"{released[row.released][:12]}{by_authors}"
    )
    return replace(row, note="; ".join(filter(None, (row.note, note))))


def _cell(row: Row, column: Column, jobs: Sequence[CellJob], store: Store, scale: Scale, *, is_asked: bool) -> CellView:
    published = row.printed.get(column.name, "")
    values, states, message = [], [], ""
    for job in jobs:
        result = store.result(job.job)
        if result is not None and column.metric in result.metrics:
            values.append(result.metrics[column.metric])
            states.append(State.DONE)
            continue
        state = State.FAILED if result is not None else store.state(job.job)
        if state is State.FAILED:
            message = f"no metric {column.metric!r}" if result is not None else store.failure(job.job).message
        states.append(state)
    status = _status(row, states, store, jobs, is_asked=is_asked, has_protocol=column.protocol is not None)
    return CellView(
        published=published,
        measured=tuple(values),
        digits=column.digits,
        status=status,
        jobs=tuple(job.job for job in jobs),
        message=message,
        doubt=row.doubts.get(column.name, ""),
        verdict=verdict(published, values) if scale.published and number(published) is not None else None,
    )


def _status(
    row: Row, states: Sequence[State], store: Store, jobs: Sequence[CellJob], *, is_asked: bool, has_protocol: bool
) -> Status:
    if row.method is None and not states:
        return "not implemented" if has_protocol else "none"
    if not states:
        return "none"
    if all(state is State.DONE for state in states):
        return "done"
    for job, state in zip(jobs, states, strict=True):
        if state is State.FAILED:
            return "blocked" if store.result(job.job) is None and store.failure(job.job).kind == "blocked" else "failed"
    for state, word in ((State.RUNNING, "running"), (State.CANCELLED, "cancelled"), (State.STOPPED, "stopped")):
        if state in states:
            return word  # type: ignore[return-value]
    if State.DONE in states:
        return "partial"
    return "pending" if is_asked else "not asked"


def number(published: str) -> float | None:
    """A printed value as a number; None for a word ("collapse") or nothing."""
    try:
        return float(published)
    except ValueError:
        return None


def verdict(published: str, measured: Sequence[float]) -> Verdict:
    """How a measured cell stands to the printed value.

    match: rounds to what is printed. within noise: at most two sample standard deviations away (needs two seeds).
    """
    if not measured:
        return "not run"
    digits = len(published.partition(".")[2])
    target, mean = float(published), fmean(measured)
    if f"{mean:.{digits}f}" == f"{target:.{digits}f}":
        return "match"
    if len(measured) > 1 and abs(mean - target) <= 2 * stdev(measured):
        return "within noise"
    return "below" if mean < target else "above"


def _agreement(table: Table, column: Column, cells: Mapping[tuple[str, str], CellView]) -> Agreement:
    pairs = []
    for row in table.rows:
        cell = cells[row.name, column.name]
        printed = number(cell.published)
        if printed is not None and cell.mean is not None:
            pairs.append((printed, cell.mean))
    return Agreement(column=column.name, rows=len(pairs), tau=kendall_tau(pairs))


def kendall_tau(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Kendall's tau-b: (concordant - discordant) / sqrt(pairs untied in a x pairs untied in b).

    None below two pairs or where one side is constant. Written out because importing scipy.stats would take a third
    of the time in which an up-to-date table must be printed; a test holds it against scipy.
    """
    signs = [(_sign(a - c), _sign(b - d)) for i, (a, b) in enumerate(pairs) for c, d in pairs[:i]]
    untied_a, untied_b = sum(a != 0 for a, _ in signs), sum(b != 0 for _, b in signs)
    if not untied_a or not untied_b:
        return None
    return float(sum(a * b for a, b in signs) / sqrt(untied_a * untied_b))


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
