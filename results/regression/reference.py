"""Reference values of regenerated tables, and the ledger of known deviations: CSV files under results/reference.

results/reference/<scale>/<table>.csv     row, column, mean, sd, n, higher_is_better, protocol: one line a measured cell
results/reference/<scale>/deviations.csv  table, row, column, reason, date: cells that differ, and why that is accepted
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import fmean

from bench import ROOT as PROJECT
from bench.errors import BenchError
from bench.files import write_atomic
from bench.identity import digest
from results.view import TableView

ROOT = PROJECT / "results" / "reference"
COLUMNS = ("row", "column", "mean", "sd", "n", "higher_is_better", "protocol")
LEDGER = ("table", "row", "column", "reason", "date")
DEVIATIONS = "deviations"
_SIGNS = {True: "yes", False: "no", None: ""}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One measured cell: mean over `n` seeds and their sample standard deviation (None for one seed)."""

    row: str
    column: str
    mean: float
    sd: float | None
    n: int
    higher_is_better: bool | None
    protocol: str  # digest of the protocol's sentence, which carries its version
    values: tuple[float, ...] = field(default=(), compare=False)  # of seed 0, 1, ...; a reference does not keep them

    def mean_of_first(self, seeds: int) -> float | None:
        """Over the first so many seeds; None when they are not known."""
        return fmean(self.values[:seeds]) if 0 < seeds <= len(self.values) else None

    @property
    def text(self) -> str:
        """As people read it."""
        return f"{self.mean:.4g}" + ("" if self.sd is None else f" ± {self.sd:.2g}") + f" (n={self.n})"


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """A cell that is known to differ from its reference."""

    table: str
    row: str
    column: str
    reason: str
    date: str  # ISO 8601


def measured(view: TableView) -> list[Measured]:
    """The cells of a table of which every seed has finished, in the table's order."""
    found = []
    for row in (*view.rows, *view.anchors):
        for column in view.columns:
            cell = view.cell(row, column)
            if cell.mean is not None and cell.status == "done":
                found.append(
                    Measured(
                        row=row.name,
                        column=column.name,
                        mean=cell.mean,
                        sd=cell.sd,
                        n=cell.n,
                        higher_is_better=column.higher_is_better,
                        protocol=digest(view.protocols[column.name]),
                        values=cell.measured,
                    )
                )
    return found


def path_of(table: str, scale: str, root: Path = ROOT) -> Path:
    """Where the reference of a table is kept."""
    return root / scale / f"{table}.csv"


def write(path: Path, cells: Iterable[Measured]) -> None:
    """Replace a reference. Numbers keep their full precision, so that an unchanged cell is equal to the last bit."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    for m in cells:
        lines.writerow(
            [
                m.row,
                m.column,
                repr(m.mean),
                "" if m.sd is None else repr(m.sd),
                m.n,
                _SIGNS[m.higher_is_better],
                m.protocol,
            ]
        )
    write_atomic(path, text.getvalue())


def read(path: Path) -> list[Measured]:
    """Raises BenchError when there is none or a line is damaged."""
    lines = _lines(path, COLUMNS, "`bench check --update` writes it from finished results")
    try:
        return [_cell(line) for line in lines]
    except (ValueError, KeyError) as error:
        raise BenchError(f"{path} holds a value that is no number or no sign ({error}).") from error


def _cell(line: dict[str, str]) -> Measured:
    signs = {text: value for value, text in _SIGNS.items()}
    return Measured(
        row=line["row"],
        column=line["column"],
        mean=float(line["mean"]),
        sd=float(line["sd"]) if line["sd"] else None,
        n=int(line["n"]),
        higher_is_better=signs[line["higher_is_better"]],
        protocol=line["protocol"],
    )


def read_others(table: str, scale: str, root: Path = ROOT) -> list[Measured]:
    """The cells of every other table's reference at the scale. Raises BenchError when one is damaged."""
    paths = sorted((root / scale).glob("[!.]*.csv"))
    return [cell for path in paths if path.stem not in (table, DEVIATIONS) for cell in read(path)]


def deviations(table: str, scale: str, root: Path = ROOT) -> list[Deviation]:
    """The ledger's entries for a table. Raises BenchError for one without a reason or a date."""
    path = root / scale / f"{DEVIATIONS}.csv"
    if not path.exists():
        return []
    found = [Deviation(**line) for line in _lines(path, LEDGER, "")]
    for entry in found:
        try:
            date.fromisoformat(entry.date)
        except ValueError as error:
            raise BenchError(
                f"{path}: {entry.table}, {entry.row}, {entry.column}: the date is {entry.date!r}, expected one like "
                "2026-01-31."
            ) from error
        if not entry.reason.strip():
            raise BenchError(f"{path}: {entry.table}, {entry.row}, {entry.column}: a known deviation needs a reason.")
    return [entry for entry in found if entry.table == table]


def _lines(path: Path, columns: tuple[str, ...], advice: str) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            lines = list(reader)
    except FileNotFoundError as error:
        raise BenchError(f"there is no reference at {path}: {advice}.") from error
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise BenchError(f"{path} cannot be read: {error}.") from error
    if tuple(reader.fieldnames or ()) != columns:
        raise BenchError(f"{path} has the columns {', '.join(reader.fieldnames or ())}; expected {', '.join(columns)}.")
    for number, line in enumerate(lines, start=2):
        if None in line or None in line.values():
            raise BenchError(f"{path}, line {number}: expected {len(columns)} values.")
    return lines
